"""`multiverse servers terms` and `pause`: on which terms a server is lent, through the admin API.

Words are judged by the gateway alone. `resume`, which ends a pause, is in cli_servers.py.
"""

from __future__ import annotations

from typing import Any

import click

from multiverse.cli_client import GatewayClient, segment
from multiverse.cli_options import Command, as_admin
from multiverse.cli_output import one_line, show_json, show_record

TERMS = ("offered_to", "friends", "reserve_slot", "paused", "quiet_hours", "time_zone", "daily_token_cap")
CLEARABLE = tuple(name for name in TERMS if name != "paused")


def terms_options(command: Command) -> Command:
    """The options for the terms of a registration, the same wherever they can be set."""
    options = (
        click.option("--offered-to", metavar="WHOM", help="me, friends or class: who may use it."),
        click.option(
            "--friend", "friends", multiple=True, metavar="KEY", help="A friend's key, by name or id; repeat."
        ),
        click.option("--reserve-slot/--no-reserve-slot", default=None, help="Keep one slot free for its owner."),
        click.option("--quiet-hours", metavar="TIMES", help="When it is not lent, such as 22:00-07:00,12:00-13:00."),
        click.option("--time-zone", metavar="ZONE", help="Whose clock that is, such as Europe/Berlin."),
        click.option(
            "--daily-token-cap", type=int, metavar="TOKENS", help="Tokens after which it is lent no more today."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def sent_terms(fields: dict[str, Any]) -> dict[str, Any]:
    """The terms that were given, as the API takes them: false is a value, no friend is none."""
    sent = {name: fields[name] for name in TERMS if fields.get(name) is not None}
    return {name: list(value) if name == "friends" else value for name, value in sent.items() if value != ()}


@click.command("terms")
@click.argument("registration_id")
@terms_options
@click.option("--clear", multiple=True, type=click.Choice(CLEARABLE), help="Take a term back; repeat it for more.")
@as_admin
def change_terms(
    registration_id: str, clear: tuple[str, ...], client: GatewayClient, json_wanted: bool, **fields: Any
) -> None:
    """Say on which terms a server is lent, or see it.

    Its owner may always use it. Only the terms that are given change; the friends that are given replace those before.

    \b
    Examples:
      multiverse servers terms 0b9d4c52-...
      multiverse servers terms 0b9d4c52-... --quiet-hours 22:00-07:00 --time-zone Europe/Berlin
      multiverse servers terms 0b9d4c52-... --offered-to friends --friend Ben --friend "Grace H."
      multiverse servers terms 0b9d4c52-... --reserve-slot --daily-token-cap 200000
      multiverse servers terms 0b9d4c52-... --clear quiet_hours
    """
    changes = sent_terms(fields)
    both = sorted(set(clear) & set(changes))
    if both:
        raise click.UsageError(f"{', '.join(both)}: give a value or --clear, not both.")
    changes.update(dict.fromkeys(clear))
    path = f"/admin/servers/{segment(registration_id)}"
    record = client.call("PATCH", path, body=changes) if changes else client.call("GET", path, query={"limit": 1})
    _show(record, json_wanted)


@click.command("pause")
@click.argument("registration_id")
@as_admin
def pause_server(registration_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Lend a server to nobody for now.

    Its owner may still use it, requests under way finish, and the gateway goes on watching it; `resume` ends the pause.
    """
    _show(client.call("POST", f"/admin/servers/{segment(registration_id)}/pause"), json_wanted)


def _show(record: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        show_json(record)
        return
    if message := record.get("message"):
        click.echo(one_line(str(message)))
    names = ("registration_id", "model_name", "availability", "reason", *TERMS, "tokens_today")
    show_record({name: record.get(name) for name in names})
