"""The command `multiverse`: `serve` and `classroom` run a gateway, most others are clients of one's HTTP API.

Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage or settings, 3 the gateway cannot be reached,
130 interrupted. Results go to stdout, everything else to stderr. `servers …` lives in cli_servers.py, what
looks after the gateway's own machine in upkeep.py.
"""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import get_completion_class

from multiverse import __version__
from multiverse.cli_aliases import aliases
from multiverse.cli_client import CallFailed, GatewayClient
from multiverse.cli_keys import claim, keys
from multiverse.cli_lend import lend_servers
from multiverse.cli_options import as_client
from multiverse.cli_output import Column, field, flowing, one_line, show_json, show_table
from multiverse.cli_servers import servers
from multiverse.cli_transfer import export_servers, import_servers
from multiverse.cli_usage import usage
from multiverse.upkeep import backup, doctor, restore

INTERRUPTED = 130  # what shells report for a command that SIGINT ended
USAGE_ERROR = 2
COMPLETION_VARIABLE = "_MULTIVERSE_COMPLETE"

MODEL_COLUMNS = (
    Column("MODEL", field("id"), least_width=12),
    Column("HEALTHY", lambda row: f"{row.get('healthy_servers', '?')} of {row.get('servers', '?')}"),
    Column("OWNED BY", field("owned_by"), least_width=8, optional=True),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="multiverse")
def cli() -> None:
    """Share the AI models that a class hosts on its own machines.

    `multiverse serve` runs the gateway; the other commands talk to one over its API. They find it at --gateway or
    MULTIVERSE_URL, and show it --key, MULTIVERSE_API_KEY (your own) or ADMIN_API_KEY. Variables are taken from the
    environment, else from `.env` in the current directory.

    \b
    Examples:
      multiverse serve --port 8000
      multiverse servers add llama-2-7b http://192.168.1.20:8080 --owner Ada
      multiverse servers list
      multiverse models
      multiverse chat llama-2-7b "Hello! How are you?"

    Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage or settings, 3 the gateway cannot be
    reached, 130 interrupted.
    """


servers.add_command(lend_servers)
servers.add_command(export_servers)
servers.add_command(import_servers)
for command in (servers, keys, claim, usage, aliases, backup, restore, doctor):
    cli.add_command(command)


@cli.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on, instead of HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, instead of PORT; 0 takes a free one.")
def serve(host: str | None, port: int | None) -> int:
    """Run the gateway until SIGTERM or Ctrl-C.

    Settings come from the environment and from `.env` in the working directory; .env.example lists them all.

    \b
    Examples:
      ADMIN_API_KEY=a-key-of-16-characters-or-more multiverse serve
      multiverse serve --host 127.0.0.1 --port 9000
    """
    return _serve(host, port)


@cli.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on, instead of HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, instead of PORT; 0 takes a free one.")
@click.option("--servers", type=click.IntRange(1, 24), default=3, show_default=True, help="How many pretend servers.")
def classroom(host: str | None, port: int | None, servers: int) -> int:
    """Run the gateway with pretend servers, to watch failover live.

    They offer the model pretend/parrot, and say in every answer that it is made up. On the dashboard each can be made
    slow, busy, broken or lying for some minutes. Probes come every 5 s at least.

    \b
    Examples:
      multiverse classroom
      multiverse classroom --servers 5 --port 9000
    """
    return _serve(host, port, variables={"CLASSROOM_SERVERS": str(servers)}, probe_seconds=5.0)


def _serve(
    host: str | None, port: int | None, *, variables: Mapping[str, str] | None = None, probe_seconds: float = math.inf
) -> int:
    """Run the gateway until it ends; `variables` win over the environment, `probe_seconds` is the longest interval."""
    # Only these commands need the gateway; the others start faster without it.
    from multiverse.config import ConfigError, load_config, notify_socket
    from multiverse.web.app import run

    given: dict[str, Any] = {"host": host, "port": port}
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        config = load_config(overriding=variables)
    except ConfigError as error:
        click.echo(f"multiverse: {error}", err=True)
        return USAGE_ERROR
    changes["health_check_interval_seconds"] = min(probe_seconds, config.health_check_interval_seconds)
    return run(dataclasses.replace(config, **changes), notify_socket())


@cli.command()
@as_client
def models(client: GatewayClient, json_wanted: bool) -> None:
    """Show the models that can be asked now.

    \b
    Examples:
      multiverse models
      multiverse models --gateway https://gateway.example.org --json
    """
    answer = client.call("GET", "/v1/models")
    if json_wanted:
        show_json(answer)
    elif answer["data"]:
        show_table(MODEL_COLUMNS, answer["data"])
    else:
        click.echo("No model can be asked now: no healthy server is registered.", err=True)


@cli.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--system", metavar="TEXT", help="What the model is told before the prompt.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 answers the same each time, more varies more.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Length of the answer at most.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete, not as it comes.")
@as_client
def chat(
    model: str,
    prompt: str,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    no_stream: bool,
    client: GatewayClient,
    json_wanted: bool,
) -> None:
    """Ask MODEL and print its answer as it comes. PROMPT `-` reads the prompt from standard input.

    \b
    Examples:
      multiverse chat llama-2-7b "Why is the sky blue?"
      multiverse chat llama-2-7b --system "Answer in one line." --max-tokens 60 "Why?"
      git diff | multiverse chat coder --system "Review this." -
    """
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    options = {"temperature": temperature, "max_tokens": max_tokens}
    body: dict[str, Any] = {"model": model, "messages": messages}
    body.update((name, value) for name, value in options.items() if value is not None)
    if json_wanted:
        show_json(client.complete(body))
    elif no_stream:
        click.echo(flowing(text_of(client.complete(body))))
    else:
        _print_stream(client, body)


def _print_stream(client: GatewayClient, body: dict[str, Any]) -> None:
    """Print an answer as it comes; the cursor is left at the start of a line, also when it breaks off."""
    last = ""
    try:
        for event in client.stream(body):
            if text := text_of(event):
                click.echo(flowing(text), nl=False)
                last = text
    finally:
        if last and not last.endswith("\n"):
            click.echo()


def text_of(event: Any) -> str:
    """The text in a chunk of a chat completion, or in a whole one; empty when there is none (OpenAI API)."""
    choices = event.get("choices") if isinstance(event, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    part = (choice.get("delta") or choice.get("message")) if isinstance(choice, dict) else None
    text = part.get("content") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of your shell.

    \b
    bash: add to ~/.bashrc
      eval "$(multiverse completion bash)"
    zsh: add to ~/.zshrc, after compinit
      eval "$(multiverse completion zsh)"
    fish: run once
      multiverse completion fish > ~/.config/fish/completions/multiverse.fish
    """
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.ClickException(f"This version of click cannot complete in {shell}.")
    click.echo(completion_class(cli, {}, "multiverse", COMPLETION_VARIABLE).source())


def main() -> None:
    """Run the command line with the process's arguments and exit with the code of the result."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show 北京 shows ?? instead of a traceback
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are told in one line on stderr, never in a traceback."""
    try:
        result = cli.main(list(arguments), prog_name="multiverse", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CallFailed as error:
        click.echo(f"multiverse: {one_line(str(error))}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0
