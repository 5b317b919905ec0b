"""Options that commands share: where the gateway is, which key to show it, whether the answer is for a program.

A command that is decorated here gets a ready GatewayClient; environment variables are click's `envvar`. What the
commands do lives in cli.py and cli_servers.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from multiverse.cli_client import GatewayAddress, GatewayClient

DEFAULT_GATEWAY = "http://127.0.0.1:8000"

Command = Callable[..., Any]


def _parse_address(_context: click.Context, _parameter: click.Parameter, text: str) -> GatewayAddress:
    try:
        return GatewayAddress.parse(text.strip())
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def check_key(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """A key goes into a header: printable ASCII only (RFC 9110 §5.5). Blank is none; the text is never repeated."""
    key = (text or "").strip()
    if not key.isascii() or not key.isprintable():
        raise click.BadParameter("a key consists of letters, digits and signs on one line.")
    return key or None


def as_client(command: Command) -> Command:
    """Add --gateway, --key and --json; the command is called with `client` and `json_wanted`."""
    return _with_client(command, key_needed=False)


def as_admin(command: Command) -> Command:
    """Like as_client, for commands that need a key."""
    return _with_client(command, key_needed=True)


def _with_client(command: Command, *, key_needed: bool) -> Command:
    @click.option(
        "--gateway",
        "address",
        envvar="MULTIVERSE_URL",
        default=DEFAULT_GATEWAY,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        callback=_parse_address,
        help="Address of the gateway.",
    )
    @click.option(
        "--key",
        envvar="ADMIN_API_KEY",
        show_envvar=True,
        metavar="KEY",
        callback=check_key,
        help="Key to show the gateway. The variable keeps it out of the shell's history.",
    )
    @click.option("--json", "json_wanted", is_flag=True, help="Print the API's JSON, for programs.")
    @functools.wraps(command)
    def with_client(*arguments: Any, address: GatewayAddress, key: str | None, **options: Any) -> Any:
        if key_needed and key is None:
            raise click.UsageError("A key is needed, the admin's or yours: set ADMIN_API_KEY, or give --key.")
        return command(*arguments, client=GatewayClient(address, key), **options)

    return with_client
