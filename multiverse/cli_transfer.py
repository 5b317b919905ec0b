"""`multiverse servers export` and `import`: registrations as a JSON file, to another gateway or through a deploy.

Clients of the admin API like the others. A server's own key never comes out of a gateway, so it is not in the file; who
wants it there writes `api_key` in.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any, TextIO

import click

from multiverse.cli_choice import all_servers
from multiverse.cli_client import CallFailed, GatewayClient
from multiverse.cli_options import as_admin
from multiverse.cli_output import one_line, show_json
from multiverse.cli_servers import OPTIONAL_FIELDS

# What goes without saying.
USUAL = MappingProxyType({"offered_to": "class", "reserve_slot": False, "paused": False})


@click.command("export")
@click.argument("target", type=click.File("w", encoding="utf-8", lazy=True), default="-", metavar="[FILE]")
@as_admin
def export_servers(target: TextIO, client: GatewayClient, json_wanted: bool) -> None:
    """Write all registrations to FILE, or to standard output.

    Servers' own keys are not in it: they never come out of a gateway. `servers import` and SERVERS_FILE read it.

    \b
    Examples:
      multiverse servers export servers.json
    """
    records = all_servers(client)
    target.write(json.dumps({"servers": [_fields(record) for record in records]}, indent=2, ensure_ascii=False) + "\n")
    with_keys = sum(bool(record.get("has_api_key")) for record in records)
    click.echo(f"{len(records)} exported.", err=True)
    if with_keys:
        click.echo(f"{with_keys} of them have a key of their own, which is not in it: add `api_key` there.", err=True)


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    names = ("model_name", "endpoint_url", *OPTIONAL_FIELDS)
    told = [name for name in names if record.get(name) not in (None, []) and record[name] != USUAL.get(name)]
    return {name: record[name] for name in told}


@click.command("import")
@click.argument("source", type=click.File("r", encoding="utf-8"), metavar="FILE")
@as_admin
def import_servers(source: TextIO, client: GatewayClient, json_wanted: bool) -> int:
    """Register every server in FILE; `-` reads standard input.

    Those that are registered already are updated. Each is probed, and registered whatever comes of it.

    \b
    Examples:
      multiverse servers import servers.json
    """
    answers, failed = [], 0
    for entry in _entries(source.read()):
        name = one_line(f"{entry.get('model_name')} at {entry.get('endpoint_url')}")
        try:
            answer = client.call("POST", "/admin/register", body=entry)
        except CallFailed as error:
            failed += 1
            click.echo(one_line(f"{name}: {error}"), err=True)
            continue
        answers.append(answer)
        if not json_wanted:
            click.echo(one_line(f"{name}: {answer['health_status']}"))
    if json_wanted:
        show_json({"servers": answers, "failed": failed})
    click.echo(f"{len(answers)} imported, {failed} refused.", err=True)
    return 1 if failed else 0


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The file is not JSON: {error}.") from None
    entries = document.get("servers") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise click.UsageError('The file must hold {"servers": [...]}, as `multiverse servers export` writes it.')
    return entries
