"""`multiverse keys …` and `multiverse claim`: who may use the gateway, over its HTTP API.

A secret is printed once, alone on a line of stdout, so that it can be piped; everything else about it goes to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from multiverse.cli_client import GatewayClient, segment
from multiverse.cli_options import Command, as_admin, as_client
from multiverse.cli_output import Column, as_csv, field, one_line, show_json, show_record, show_table

ROLES = click.Choice(["student", "reader", "admin"])
CLAIMED_ROLES = click.Choice(["student", "reader"])
KEY_COLUMNS = (
    Column("ID", field("key_id")),
    Column("NAME", field("name"), least_width=12),
    Column("ROLE", field("role")),
    Column("STATUS", field("status")),
    Column("ENDS IN", lambda row: f"…{row.get('hint') or ''}", optional=True),
    Column("E-MAIL", field("email"), least_width=12, optional=True),
    Column("EXPIRES", field("expires_at"), optional=True),
)
CODE_COLUMNS = (
    Column("ID", field("code_id")),
    Column("USED", lambda row: f"{row.get('used')} of {row.get('uses')}"),
    Column("ROLE", field("role")),
    Column("UNTIL", field("expires_at")),
)
ROSTER_COLUMNS = ("name", "email", "key_id", "key")


def _key_fields(command: Command) -> Command:
    """What keys can be given when they are made."""
    options = (
        click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeat it for more."),
        click.option("--expires", "expires_at", metavar="DATE", help="Last day (2027-06-30), or a time with its zone."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """Make, list and revoke API keys (needs the admin's key).

    \b
    Examples:
      multiverse keys create "Ada Lovelace" --email ada@example.org
      multiverse keys import roster.csv > keys.csv
      multiverse keys code --uses 30 --minutes 60
      multiverse keys revoke key-0b9d4c52a1f3
    """


@keys.command("create")
@click.argument("name")
@click.option("--role", type=ROLES, help="student (the default) may register servers, reader may only ask.")
@click.option("--email", metavar="ADDRESS", help="How to reach the person.")
@_key_fields
@click.option("--requests-per-minute", type=int, metavar="COUNT", help="A limit of its own.")
@click.option("--tokens-per-day", type=int, metavar="COUNT", help="A limit of its own.")
@click.option("--requests-at-once", type=int, metavar="COUNT", help="A limit of its own.")
@click.option("--weight", type=int, metavar="COUNT", help="Its share while others wait: 2 counts double.")
@as_admin
def create_key(client: GatewayClient, json_wanted: bool, **fields: Any) -> None:
    """Make a key for NAME and print it, once."""
    _show_secret(client.call("POST", "/admin/keys", body=_sent(fields)), "key", json_wanted)


@keys.command("list")
@as_admin
def list_keys(client: GatewayClient, json_wanted: bool) -> None:
    """Show all keys, revoked ones included, without their secrets."""
    answer = client.call("GET", "/admin/keys")
    if json_wanted:
        show_json(answer)
    elif answer["keys"]:
        show_table(KEY_COLUMNS, answer["keys"])
    else:
        click.echo("No key has been made yet. `multiverse keys create --help` shows how.", err=True)


@keys.command("revoke")
@click.argument("key_id")
@as_admin
def revoke_key(key_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Revoke a key: it works no more when the command ends."""
    record = client.call("DELETE", f"/admin/keys/{segment(key_id)}")
    if json_wanted:
        show_json(record)
        return
    click.echo(one_line(f"{record['message']} {record['name']} ({record['key_id']})"))


@keys.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--role", type=CLAIMED_ROLES, help="Role of all these keys.")
@_key_fields
@as_admin
def import_keys(file: str, client: GatewayClient, json_wanted: bool, **fields: Any) -> None:
    """Make a key for everybody in FILE, a CSV of `name,email`, and print name, email, id and key as CSV.

    Nobody gets a key when a line is wrong. `-` reads standard input.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError('The roster must be UTF-8 text; save it as "CSV UTF-8".') from None
    answer = client.call("POST", "/admin/keys/import", body={"csv": text, **_sent(fields)})
    if json_wanted:
        show_json(answer)
    else:
        click.echo(as_csv(ROSTER_COLUMNS, answer["keys"]), nl=False)


@keys.command("export")
@as_admin
def export_keys(client: GatewayClient, json_wanted: bool) -> None:
    """Print all keys as CSV, without their secrets."""
    answer = client.call("GET", "/admin/keys")
    if json_wanted:
        show_json(answer)
        return
    columns = ("key_id", "name", "email", "role", "status", "expires_at", "created_at", "revoked_at")
    click.echo(as_csv(columns, answer["keys"]), nl=False)


@keys.command("code")
@click.option("--uses", type=int, metavar="COUNT", help="How many people can use it (40 if not given).")
@click.option("--minutes", "lifetime_minutes", type=int, metavar="COUNT", help="How long (90 if not given).")
@click.option("--role", type=CLAIMED_ROLES, help="Role of the keys that come of it.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeat it for more.")
@click.option("--expires", "key_expires_at", metavar="DATE", help="Last day of the keys that come of it.")
@as_admin
def make_code(client: GatewayClient, json_wanted: bool, **fields: Any) -> None:
    """Make a claim code, which each student trades for a key with `multiverse claim`."""
    _show_secret(client.call("POST", "/admin/claim-codes", body=_sent(fields)), "code", json_wanted)


@keys.command("codes")
@as_admin
def list_codes(client: GatewayClient, json_wanted: bool) -> None:
    """Show the claim codes and how often they were used, without the codes themselves."""
    answer = client.call("GET", "/admin/claim-codes")
    if json_wanted:
        show_json(answer)
    elif answer["claim_codes"]:
        show_table(CODE_COLUMNS, answer["claim_codes"])
    else:
        click.echo("There is no claim code. `multiverse keys code --help` shows how to make one.", err=True)


@keys.command("withdraw")
@click.argument("code_id")
@as_admin
def withdraw_code(code_id: str, client: GatewayClient, json_wanted: bool) -> None:
    """Let nobody claim with a code any more; keys that were claimed stay."""
    answer = client.call("DELETE", f"/admin/claim-codes/{segment(code_id)}")
    if json_wanted:
        show_json(answer)
    else:
        click.echo(one_line(str(answer["message"])))


@click.command()
@click.argument("code")
@click.argument("name")
@click.option("--email", metavar="ADDRESS", help="How to reach you.")
@as_client
def claim(code: str, name: str, email: str | None, client: GatewayClient, json_wanted: bool) -> None:
    """Trade a claim CODE for a key of your own and print it, once.

    \b
    Example:
      multiverse claim K7QM3-XWPA9 "Ada Lovelace"
    """
    body = _sent({"code": code, "name": name, "email": email})
    _show_secret(client.call("POST", "/claim", body=body), "key", json_wanted)


def _sent(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given, as the API takes them."""
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {name: value for name, value in given.items() if value not in (None, [])}


def _show_secret(record: dict[str, Any], name: str, json_wanted: bool) -> None:
    """The secret alone on stdout, the rest for people."""
    if json_wanted:
        show_json(record)
        return
    click.echo(one_line(str(record.pop(name))))
    click.echo(one_line(str(record.pop("message", ""))), err=True)
    if sys.stdout.isatty():
        show_record(record)
