"""`multiverse servers terms`, `pause` and `resume`: on which terms a server is lent, through the admin API.

Each may be about one server or about all at one address (cli_choice.py). Words are judged by the gateway alone.
"""

from __future__ import annotations

from typing import Any

import click

from multiverse.cli_choice import Chosen, on_servers
from multiverse.cli_options import Command, as_admin
from multiverse.cli_output import one_line, show_record

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
@terms_options
@click.option("--clear", multiple=True, type=click.Choice(CLEARABLE), help="Take a term back; repeat it for more.")
@as_admin
@on_servers
def change_terms(clear: tuple[str, ...], chosen: Chosen, json_wanted: bool, **fields: Any) -> None:
    """Say on which terms a server is lent, or see it.

    Its owner may always use it. Only the terms that are given change; the friends that are given replace those before.
    A laptop is one registration for each of its models: --endpoint means them all.

    \b
    Examples:
      multiverse servers terms 0b9d4c52-...
      multiverse servers terms 0b9d4c52-... --quiet-hours 22:00-07:00 --time-zone Europe/Berlin
      multiverse servers terms --endpoint http://192.168.1.20:11434 --offered-to friends --friend Ben
      multiverse servers terms 0b9d4c52-... --reserve-slot --daily-token-cap 200000
      multiverse servers terms 0b9d4c52-... --clear quiet_hours
    """
    changes = sent_terms(fields)
    both = sorted(set(clear) & set(changes))
    if both:
        raise click.UsageError(f"{', '.join(both)}: give a value or --clear, not both.")
    changes.update(dict.fromkeys(clear))
    if changes:
        chosen.each("PATCH", "", _show, json_wanted=json_wanted, body=changes)
    else:
        chosen.each("GET", "", _show, json_wanted=json_wanted, query={"limit": 1})


@click.command("pause")
@as_admin
@on_servers
def pause_server(chosen: Chosen, json_wanted: bool) -> None:
    """Lend a server to nobody for now.

    Its owner may still use it, requests under way finish, and the gateway goes on watching it; `resume` ends the pause.

    \b
    Examples:
      multiverse servers pause 0b9d4c52-...
      multiverse servers pause --endpoint http://192.168.1.20:11434
    """
    chosen.each("POST", "/pause", _show, json_wanted=json_wanted)


@click.command("resume")
@as_admin
@on_servers
def resume_server(chosen: Chosen, json_wanted: bool) -> None:
    """Send requests again to a server that was drained or paused.

    \b
    Examples:
      multiverse servers resume 0b9d4c52-...
      multiverse servers resume --endpoint http://192.168.1.20:11434
    """
    chosen.each("POST", "/resume", _show, json_wanted=json_wanted)


def _show(record: dict[str, Any]) -> None:
    if message := record.get("message"):
        click.echo(one_line(str(message)))
    names = ("registration_id", "model_name", "availability", "reason", *TERMS, "tokens_today")
    show_record({name: record.get(name) for name in names})
