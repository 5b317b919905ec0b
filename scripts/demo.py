"""The demo itself; scripts/demo.sh makes the virtual environment that it runs in.

Gateway and llama.cpp server are processes of their own, on 127.0.0.1 alone, and everything between them goes over the
public API, as it would in a class. Nothing outlives the demo: processes and files are gone when it ends.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import openai

from child import Child, ChildFailed, child_environ

MODEL_NAME = "gemma-3-270m"
STOP = "\nuser:"  # Where the model, which continues a transcript, would go on with a question of its own.
EXAMPLE_PROMPT = "What is the capital of France?"
HOST = "127.0.0.1"
PREFERRED_PORT = 8000
SLOTS = 2
READY_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(Exception):
    """Something did not work; the message is for the person at the terminal."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came; not an error, hence not an Exception."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def choose_port(wanted: int | None) -> int:
    """The port asked for, else 8000, else a free one."""
    if wanted is not None:
        return wanted
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


def start_gateway(directory: Path, *, port: int, admin_key: str) -> Child:
    """The gateway, on an embedded database in `directory`."""
    environ = child_environ(
        ADMIN_API_KEY=admin_key,
        HOST=HOST,
        PORT=str(port),
        DATABASE_URL=f"sqlite:///{directory / 'gateway.db'}",
        ENABLE_FILE_LOGGING="false",
        DRAIN_SECONDS="3",
    )
    return Child("gateway", [sys.executable, "-m", "multiverse", "serve"], environ=environ, directory=directory)


def start_llama_server(directory: Path) -> Child:
    """A llama.cpp server on a free port."""
    script = Path(__file__).resolve().parent / "llama_server.py"
    command = [sys.executable, str(script), "--host", HOST, "--port", "0", "--slots", str(SLOTS), "--stop", STOP]
    return Child("llama.cpp", command, environ=child_environ(), directory=directory)


def wait_until_ready(children: list[Child]) -> list[str]:
    """Their addresses, once all listen, with a progress bar meanwhile; raises ChildFailed when one ends or is late."""
    started_at = time.monotonic()
    with click.progressbar(
        length=len(children),
        label="Starting",
        show_eta=False,
        item_show_func=lambda text: text,
    ) as bar:
        while True:
            addresses = [child.address() for child in children]
            waiting = [child for child, address in zip(children, addresses, strict=True) if address is None]
            elapsed_seconds = time.monotonic() - started_at
            bar.pos = len(children) - len(waiting)
            bar.current_item = f"{elapsed_seconds:.1f} s " + " ".join(f"[{child.name}]" for child in waiting)
            bar.render_progress()
            if not waiting:
                return [address for address in addresses if address is not None]
            for child in waiting:
                child.require_alive()
                if elapsed_seconds > READY_TIMEOUT_SECONDS:
                    raise child.failure(f"{child.name} was not ready after {READY_TIMEOUT_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)


def register(gateway_url: str, *, admin_key: str, endpoint_url: str) -> dict[str, Any]:
    """Register the llama.cpp server as any owner would; the record that the gateway answers with."""
    registration = {
        "model_name": MODEL_NAME,
        "endpoint_url": endpoint_url,
        "owner_name": "demo",
        "description": "Gemma 3 270M on llama.cpp",
        "max_concurrency": SLOTS,
        "require_healthy": True,
    }
    request = urllib.request.Request(
        f"{gateway_url}/admin/register",
        data=json.dumps(registration).encode(),
        headers={"X-API-Key": admin_key, "Content-Type": "application/json"},
    )
    # Without a proxy: the way to 127.0.0.1 leads through none.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            record: dict[str, Any] = json.load(response)
            return record
    except urllib.error.HTTPError as answer:
        raise DemoFailed(f"registering was refused with {answer.code}: {answer.read().decode()}") from answer
    except OSError as error:
        raise DemoFailed(f"registering failed: {error}") from error


def stream_answer(gateway_url: str, prompt: str) -> Iterator[openai.types.chat.ChatCompletionChunk]:
    """The chunks of a streamed chat completion; raises openai.OpenAIError."""
    http_client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{gateway_url}/v1", api_key="not-needed", timeout=120, http_client=http_client
    ) as client:
        yield from client.chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
        )


def chat(gateway_url: str, prompt: str) -> None:
    """Ask, print the tokens as they arrive, then how long they took; raises DemoFailed when no answer comes."""
    click.echo(f"\nuser: {prompt}\nassistant:", nl=False)
    started_at = time.monotonic()
    first_token_at = None
    tokens = 0
    try:
        for chunk in stream_answer(gateway_url, prompt):
            if chunk.choices and chunk.choices[0].delta.content:
                first_token_at = first_token_at or time.monotonic()
                click.echo(chunk.choices[0].delta.content, nl=False)
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
    except openai.OpenAIError as error:
        raise DemoFailed(f"the chat completion failed: {error}") from error
    if first_token_at is None:
        raise DemoFailed("the answer was empty")
    ended_at = time.monotonic()
    first_token_ms = (first_token_at - started_at) * 1000
    tokens_per_second = max(tokens - 1, 1) / (ended_at - first_token_at)
    click.echo(
        f"\n\nFirst token after {first_token_ms:.0f} ms, then {tokens_per_second:.0f} tokens/s ({tokens} tokens)"
    )


def addresses_to_try(gateway_url: str, admin_key: str) -> str:
    """What to open, and what to paste."""
    messages = [{"role": "user", "content": EXAMPLE_PROMPT}]
    body = json.dumps({"model": MODEL_NAME, "messages": messages, "temperature": 0})
    return f"""
The gateway stays up until Ctrl-C:

  Dashboard    {gateway_url}/
  OpenAI API   {gateway_url}/v1
  Admin key    {admin_key}

With curl:

  curl {gateway_url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{body}'
  curl {gateway_url}/admin/servers -H 'X-API-Key: {admin_key}'

With Python:

  from openai import OpenAI
  client = OpenAI(base_url="{gateway_url}/v1", api_key="not-needed")
  answer = client.chat.completions.create(
      model="{MODEL_NAME}", temperature=0,
      messages=[{{"role": "user", "content": "{EXAMPLE_PROMPT}"}}])
  print(answer.choices[0].message.content)
"""


def run(directory: Path, stack: contextlib.ExitStack, *, port: int | None, prompt: str, once: bool) -> None:
    """Start, register, ask, stay; `stack` gets what has to be stopped."""
    admin_key = secrets.token_urlsafe(24)
    children: list[Child] = []
    for start in (
        lambda: start_gateway(directory, port=choose_port(port), admin_key=admin_key),
        lambda: start_llama_server(directory),
    ):
        child = start()
        stack.callback(child.stop)
        children.append(child)
    gateway_url, endpoint_url = wait_until_ready(children)
    try:
        record = register(gateway_url, admin_key=admin_key, endpoint_url=endpoint_url)
        click.echo(f"Registered {endpoint_url} as {MODEL_NAME}: {record['health_status']}")
        chat(gateway_url, prompt)
    except DemoFailed as failure:
        raise DemoFailed("\n".join([str(failure), *(child.log_tail() for child in children)])) from failure
    if once:
        return
    click.echo(addresses_to_try(gateway_url, admin_key))
    stay(children)


def stay(children: list[Child]) -> None:
    """Return at the first signal, which is how the demo is meant to end; raises ChildFailed when a process ends."""
    with contextlib.suppress(Interrupted):
        while True:
            time.sleep(1)
            for child in children:
                child.require_alive()


def interrupt(signal_number: int, _frame: object) -> NoReturn:
    """Signal handler: unwinds to `main`, through everything that has to be stopped."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(signal_number)


@click.command(help="Starts a gateway and a real llama.cpp server, and streams an answer through them.")
@click.option("--once", is_flag=True, help="End after the answer.")
@click.option("--port", type=int, help="Port of the gateway; default is 8000, or a free one when that is taken.")
@click.option("--prompt", default="What are the colors of the rainbow?", show_default=True, help="What to ask.")
def main(once: bool, port: int | None, prompt: str) -> None:
    for number in SIGNALS:
        # What is ignored already stays so: nohup and `&` in a script ask for that.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="multiverse-demo-") as directory, contextlib.ExitStack() as stack:
            run(Path(directory), stack, port=port, prompt=prompt, once=once)
    except (DemoFailed, ChildFailed) as failure:
        raise click.ClickException(str(failure)) from failure
    except Interrupted as interruption:
        sys.exit(128 + interruption.signal_number)


if __name__ == "__main__":
    main()
