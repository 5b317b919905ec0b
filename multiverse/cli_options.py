"""Options that commands share: where the gateway is, which key to show it, whether the answer is for a program.

A command that is decorated here gets a ready GatewayClient. What is not given comes from the environment, else from
`.env` in the current directory. What the commands do lives in cli.py and cli_servers.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from multiverse.cli_client import GatewayAddress, GatewayClient
from multiverse.dotenv_file import DotenvFailed, read_dotenv

DEFAULT_GATEWAY = "http://127.0.0.1:8000"
# One's own first: on a teacher's machine both may be there.
KEY_VARIABLES = ("MULTIVERSE_API_KEY", "ADMIN_API_KEY")

Command = Callable[..., Any]


class SettingOption(click.Option):
    """An option that comes from its variables in the environment, else from those in `.env` in the current directory.

    scripts/lib.sh goes by the same order.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of the first variable that has one. Raises click.UsageError for a `.env` that cannot be read."""
        value = super().resolve_envvar_value(ctx)
        if (value and value.strip()) or ctx.resilient_parsing:
            return value
        names = [self.envvar] if isinstance(self.envvar, str) else list(self.envvar or ())
        try:
            written = read_dotenv(Path(".env"))
        except DotenvFailed as error:
            raise click.UsageError(f"{error}.") from None
        return next((written[name] for name in names if name in written), None)


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
        cls=SettingOption,
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
        cls=SettingOption,
        envvar=KEY_VARIABLES,
        show_envvar=True,
        metavar="KEY",
        callback=check_key,
        help="Key to show the gateway. A variable keeps it out of the shell's history.",
    )
    @click.option("--json", "json_wanted", is_flag=True, help="Print the API's JSON, for programs.")
    @functools.wraps(command)
    def with_client(*arguments: Any, address: GatewayAddress, key: str | None, **options: Any) -> Any:
        if key_needed and key is None:
            raise click.UsageError(
                "A key is needed, yours or the admin's: set MULTIVERSE_API_KEY (or ADMIN_API_KEY) in the environment "
                "or in .env, or give --key."
            )
        return command(*arguments, client=GatewayClient(address, key), **options)

    return with_client
