"""`multiverse backup`, `restore` and `doctor`: commands for whoever runs the gateway, on the machine where it runs.

They read the gateway's settings, as `serve` does. Exit codes: 0 done or well, 1 failed or something is at fault, 2
wrong usage or settings.
"""

from __future__ import annotations

from pathlib import Path

import click

from multiverse.cli_options import DEFAULT_GATEWAY
from multiverse.cli_output import one_line, show_json

FAILED, BAD_SETTINGS = 1, 2
SIGNS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> int:
    """Copy the database to FILE, while the gateway runs.

    The copy is whole, one file, and holds the servers' keys: it is readable for you alone. A FILE that is there is
    replaced.

    \b
    Examples:
      multiverse backup "gateway-$(date +%F).db"
    """
    return _copy(file, backwards=False)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Replace a database that is there.")
def restore(file: Path, yes: bool) -> int:
    """Put the backup FILE in the place of the database. Stop the gateway first.

    \b
    Examples:
      multiverse restore gateway-2026-11-23.db --yes
    """
    return _copy(file, backwards=True, replaces=yes)


def _copy(file: Path, *, backwards: bool, replaces: bool = True) -> int:
    # Other commands start faster without these.
    from multiverse.config import ConfigError, load_config
    from multiverse.errors import StoreFailed
    from multiverse.storage import backup as copies

    try:
        database = Path(load_config().database_path)
        if backwards and database.exists() and not replaces:
            raise click.UsageError(f"There is a database at {database}: give --yes to replace it.")
        size = copies.restore(file, database) if backwards else copies.back_up(database, file)
    except ConfigError as error:
        click.echo(f"multiverse: {error}", err=True)
        return BAD_SETTINGS
    except StoreFailed as error:
        click.echo(one_line(f"multiverse: {error}"), err=True)
        return FAILED
    click.echo(one_line(f"{database if backwards else file}: {size} bytes written."))
    return 0


@click.command()
@click.option(
    "--from",
    "--gateway",
    "address",
    envvar="MULTIVERSE_URL",
    metavar="URL",
    show_envvar=True,
    help=f"Where clients reach the gateway, proxies in between included; without it {DEFAULT_GATEWAY} is not asked.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON, for programs.")
def doctor(address: str | None, json_wanted: bool) -> int:
    """Look for what is wrong with this gateway, and say what to do.

    Settings, port, database, disk, clock, and whether each registered server answers; with --from also what proxies
    between that address and the gateway take away, hold back or refuse.

    \b
    Examples:
      multiverse doctor
      multiverse doctor --from https://gateway.example.org
    """
    from multiverse.doctor import examine

    findings = examine(address)
    if json_wanted:
        show_json([{"about": found.about, "state": found.state, "text": found.text} for found in findings])
    else:
        for found in findings:
            click.echo(one_line(f"{SIGNS[found.state]} {found.about}: {found.text}"))
    return FAILED if any(found.state == "fault" for found in findings) else 0
