"""`multiverse servers …`: list, show, add, update, remove, probe and drain servers through the admin API.

One option for each field of a registration. Values are judged by the gateway alone; here only what cannot be sent at
all is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from multiverse.cli_client import GatewayClient, segment
from multiverse.cli_options import Command, as_admin, check_key
from multiverse.cli_output import Column, field, one_line, show_json, show_record, show_table
from multiverse.cli_terms import TERMS, change_terms, pause_server, resume_server, sent_terms, terms_options

OPTIONAL_FIELDS = (
    "served_model_name",
    "api_key",
    "owner_name",
    "owner_email",
    "description",
    "tags",
    "context_length",
    "max_concurrency",
    *TERMS,
)
SERVER_COLUMNS = (
    Column("REGISTRATION ID", field("registration_id")),
    Column("MODEL", field("model_name"), least_width=10),
    # The availability tells the verdict as well: who is available, busy or draining is healthy.
    Column("STATE", field("availability")),
    Column("ENDPOINT", field("endpoint_url"), least_width=14),
    Column("OWNER", field("owner_name"), least_width=8, optional=True),
    Column("REASON", field("reason"), least_width=16, optional=True),
    Column("IN FLIGHT", field("in_flight"), optional=True),
)
PROBE_COLUMNS = (
    Column("CHECKED AT", field("checked_at")),
    Column("VERDICT", field("health_status")),
    Column("MS", field("response_time_ms")),
    Column("REASON", field("reason"), least_width=16),
)


class ServerKeyOption(click.Option):
    """`--api-key` without a value takes SERVER_API_KEY, or asks; so the key need not stand in the shell's history.

    `add` takes SERVER_API_KEY also where the option is left out; `update` would change a key by that, and `lend` tell
    it to every program on a machine.
    """

    def prompt_for_value(self, ctx: click.Context) -> Any:
        """SERVER_API_KEY if it is set, else what is typed, unseen."""
        return self.resolve_envvar_value(ctx) or super().prompt_for_value(ctx)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """SERVER_API_KEY, where the command may take it unasked."""
        return super().value_from_envvar(ctx) if ctx.info_name == "add" else None


def registration_fields(command: Command) -> Command:
    """The options for the optional fields of a registration, the same for `add` and `update`."""
    return _with_options(
        shared_fields(command),
        click.option("--served-model-name", metavar="NAME", help="What the server itself calls the model."),
        click.option("--context-length", type=int, metavar="TOKENS", help="Length of its context, in tokens."),
        click.option("--require-healthy", is_flag=True, help="Change nothing if the server does not pass its probe."),
    )


def shared_fields(command: Command) -> Command:
    """Those that `lend` takes as well: the same for all models of a machine."""
    return _with_options(
        command,
        click.option(
            "--api-key",
            cls=ServerKeyOption,
            envvar="SERVER_API_KEY",
            prompt="The server's own key",
            prompt_required=False,
            hide_input=True,
            callback=check_key,
            metavar="[KEY]",
            help="The server's own key. Without a value: SERVER_API_KEY, or you are asked for it.",
        ),
        click.option("--owner", "--owner-name", "owner_name", metavar="NAME", help="Who hosts the server."),
        click.option("--email", "--owner-email", "owner_email", metavar="ADDRESS", help="How to reach the owner."),
        click.option("--description", metavar="TEXT", help="Anything worth knowing."),
        click.option("--tag", "--tags", "tags", multiple=True, metavar="TAG", help="Repeat it, or separate by commas."),
        click.option("--max-concurrency", type=int, metavar="COUNT", help="Requests that it takes at a time."),
    )


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def servers() -> None:
    """List, register and look after servers (needs the admin's key, or a student's for their own).

    \b
    Examples:
      export MULTIVERSE_URL=https://gateway.example.org MULTIVERSE_API_KEY=...
      multiverse servers lend
      multiverse servers add llama-2-7b http://192.168.1.20:8080 --owner Ada
      multiverse servers list --status unhealthy
      multiverse servers remove 0b9d4c52-...
    """


servers.add_command(change_terms)
servers.add_command(pause_server)
servers.add_command(resume_server)


@servers.command("list")
@click.option("--model", "model_name", metavar="NAME", help="Only servers of this model.")
@click.option("--status", "health_status", type=click.Choice(["healthy", "unhealthy", "unknown"]), help="Verdict.")
@click.option("--owner", "owner_name", metavar="NAME", help="Only servers of this owner.")
@click.option("--tag", metavar="TAG", help="Only servers with this tag.")
@click.option("--sort", metavar="FIELD", help="Sort by a field of the record; -FIELD turns the order round.")
@click.option("--limit", type=int, metavar="COUNT", help="How many at most.")
@click.option("--offset", type=int, metavar="COUNT", help="How many to leave out first.")
@as_admin
def list_servers(client: GatewayClient, json_wanted: bool, **query: Any) -> None:
    """Show the registered servers.

    \b
    Examples:
      multiverse servers list --model llama-2-7b --sort -response_time_ms
      multiverse servers list --json | python -m json.tool
    """
    answer = client.call("GET", "/admin/servers", query=query)
    if json_wanted:
        show_json(answer)
        return
    found = answer["servers"]
    if found:
        show_table(SERVER_COLUMNS, found)
    if len(found) != answer["total"]:
        click.echo(f"{len(found)} shown of {answer['total']}.", err=True)
    elif not found:
        hint = "No server matches." if answer.get("filters_applied") else "No server is registered yet."
        click.echo(f"{hint} `multiverse servers add --help` shows how to register one.", err=True)


@servers.command("show")
@click.argument("registration_id")
@as_admin
def show_server(registration_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Show everything about one server, with its last probes."""
    record = client.call("GET", f"/admin/servers/{segment(registration_id)}", query={"limit": 10})
    if json_wanted:
        show_json(record)
        return
    probes = record.pop("recent_probes", [])
    show_record(record)
    if probes:
        click.echo("\nLast probes:")
        show_table(PROBE_COLUMNS, probes)


@servers.command("add")
@click.argument("model_name")
@click.argument("endpoint_url")
@registration_fields
@terms_options
@as_admin
def add_server(client: GatewayClient, json_wanted: bool, **fields: Any) -> None:
    """Register a server.

    The gateway probes the server at ENDPOINT_URL, tells whether it is healthy, and from then on asks it for
    MODEL_NAME. It is registered either way, unless --require-healthy is given; if it is there already, it is updated.

    \b
    Examples:
      multiverse servers add llama-2-7b http://192.168.1.20:8080 --owner Ada --tag gpu
      multiverse servers add llama3 https://ada.ngrok.app/v1 --served-model-name llama3:8b
      SERVER_API_KEY=... multiverse servers add qwen https://10.0.0.5:8000
    """
    _show_change(client.call("POST", "/admin/register", body=sent_fields(fields)), json_wanted)


@servers.command("update")
@click.argument("registration_id")
@click.option("--model-name", metavar="NAME", help="Offer the server under this model's name.")
@click.option("--endpoint-url", metavar="URL", help="Where the server is now.")
@registration_fields
@terms_options
@click.option(
    "--clear", multiple=True, type=click.Choice(OPTIONAL_FIELDS), help="Take a field's value away; repeat it for more."
)
@as_admin
def update_server(
    registration_id: str, clear: tuple[str, ...], client: GatewayClient, json_wanted: bool, **fields: Any
) -> None:
    """Change fields of a registration.

    Only the fields that are given change.

    \b
    Examples:
      multiverse servers update 0b9d4c52-... --endpoint-url https://new.ngrok.app
      multiverse servers update 0b9d4c52-... --max-concurrency 2 --clear description
    """
    changes = sent_fields(fields)
    both = sorted(set(clear) & set(changes))
    if both:
        raise click.UsageError(f"{', '.join(both)}: give a value or --clear, not both.")
    changes.update(dict.fromkeys(clear))
    if not changes:
        raise click.UsageError("Nothing to change: give at least one field.")
    _show_change(client.call("PUT", f"/admin/register/{segment(registration_id)}", body=changes), json_wanted)


@servers.command("remove")
@click.argument("registration_id")
@click.option("--yes", is_flag=True, help="Do not ask first; needed where nobody can be asked.")
@as_admin
def remove_server(registration_id: str, yes: bool, client: GatewayClient, json_wanted: bool) -> int:
    """Deregister a server.

    No new request goes there from now on; those under way finish.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Give --yes to remove a server where nobody can be asked.")
        if not click.confirm(f"Remove server {one_line(registration_id)}?", err=True):
            click.echo("Nothing was removed.", err=True)
            return 1
    _show_change(client.call("DELETE", f"/admin/register/{segment(registration_id)}"), json_wanted)
    return 0


@servers.command("probe")
@click.argument("registration_id")
@as_admin
def probe_server(registration_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Probe a server now and tell what it answered."""
    record = client.call("POST", f"/admin/servers/{segment(registration_id)}/probe")
    if json_wanted:
        show_json(record)
        return
    probe = record.pop("probe")
    click.echo("The probe was good." if probe["ok"] else one_line(f"The probe failed: {probe['reason']}"))
    show_record(record)


@servers.command("drain")
@click.argument("registration_id")
@as_admin
def drain_server(registration_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Send a server no new requests.

    It stays registered, and the requests under way finish; `resume` takes it back.
    """
    _show_change(client.call("POST", f"/admin/servers/{segment(registration_id)}/drain"), json_wanted)


def sent_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given, as the API takes them (`require_healthy` only when it is asked for)."""
    tags = [tag.strip() for given in fields.pop("tags") for tag in given.split(",") if tag.strip()]
    terms = sent_terms(fields)
    sent = {name: value for name, value in fields.items() if value is not None and value is not False and value != ()}
    sent = {name: value for name, value in sent.items() if name not in TERMS}
    return {**sent, "tags": tags, **terms} if tags else {**sent, **terms}


def _show_change(record: dict[str, Any], json_wanted: bool) -> None:
    """What the gateway says about a change: its message, then the record as it is now."""
    if json_wanted:
        show_json(record)
        return
    if message := record.pop("message", None):
        click.echo(one_line(str(message)))
    show_record(record)
