"""`multiverse usage`: who used what, over the gateway's HTTP API. Sums only; what was said is kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from multiverse.cli_client import GatewayClient
from multiverse.cli_options import as_client
from multiverse.cli_output import Column, as_csv, field, show_json, show_table

GROUPS = {
    "day": (Column("DAY", field("day")),),
    "model": (Column("MODEL", field("model_name"), least_width=12),),
    "key": (Column("KEY", field("key_id"), least_width=10), Column("NAME", field("key_name"), least_width=8)),
    "server": (Column("SERVER", field("registration_id"), least_width=8),),
}
SUMS = (
    Column("REQUESTS", field("requests")),
    Column("FAILED", field("failed"), optional=True),
    Column("PROMPT", field("prompt_tokens")),
    Column("COMPLETION", field("completion_tokens")),
)


@click.command()
@click.option(
    "--by", "groups", multiple=True, type=click.Choice(list(GROUPS)), help="Sums by this; repeat it for more."
)
@click.option("--since", metavar="DAY", help="From this day on (2027-01-31, UTC).")
@click.option("--until", metavar="DAY", help="Up to this day.")
@click.option("--model", "model_name", metavar="NAME", help="Only this model.")
@click.option("--mine", is_flag=True, help="Only what the key itself has used; any known key may ask that.")
@click.option("--csv", "csv_wanted", is_flag=True, help="Print CSV, for spreadsheets.")
@as_client
def usage(
    groups: tuple[str, ...], mine: bool, csv_wanted: bool, client: GatewayClient, json_wanted: bool, **query: Any
) -> None:
    """Show how many requests and tokens were used: everybody's (needs the admin's key), or your own with --mine.

    \b
    Examples:
      multiverse usage --by key --since 2027-01-01
      multiverse usage --by day --by model --csv > usage.csv
      multiverse usage --mine
    """
    group_by = groups or ("day",)
    path = "/v1/usage" if mine else "/admin/usage"
    answer = client.call("GET", path, query={"group_by": ",".join(group_by), **query})
    if json_wanted:
        show_json(answer)
    elif csv_wanted:
        rows = answer["rows"]
        click.echo(as_csv(list(rows[0]) if rows else list(answer["totals"]), rows), nl=False)
    else:
        _show(group_by, answer)


def _show(group_by: Sequence[str], answer: dict[str, Any]) -> None:
    rows, totals = answer["rows"], answer["totals"]
    if rows:
        show_table([*(column for name in group_by for column in GROUPS[name]), *SUMS], rows)
    sums = f"{totals['requests']} requests, {totals['prompt_tokens']} + {totals['completion_tokens']} tokens"
    estimated = totals["estimated_tokens"]
    click.echo(sums + (f", {estimated} of them estimated" if estimated else ""), err=True)
    if "tokens_given" in answer:
        click.echo(f"Given {answer['tokens_given']} tokens, taken {answer['tokens_taken']}.", err=True)
