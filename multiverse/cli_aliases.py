"""`multiverse aliases …`: names that stand for models, over the gateway's HTTP API."""

from __future__ import annotations

import click

from multiverse.cli_client import GatewayClient, segment
from multiverse.cli_options import as_admin
from multiverse.cli_output import Column, field, one_line, show_json, show_table

ALIAS_COLUMNS = (
    Column("NAME", field("name"), least_width=12),
    Column("MODELS", lambda row: ", then ".join(map(str, row.get("models", []))), least_width=12),
)


@click.group()
def aliases() -> None:
    """Names that stand for models, and what stands in for a model (needs the admin's key).

    \b
    Examples:
      multiverse aliases set class-default llama-2-7b
      multiverse aliases set llama-2-7b llama-2-7b qwen2.5-7b
      multiverse aliases remove class-default
    """


@aliases.command("list")
@as_admin
def list_aliases(client: GatewayClient, json_wanted: bool) -> None:
    """Show all aliases and what they stand for."""
    answer = client.call("GET", "/admin/aliases")
    if json_wanted:
        show_json(answer)
    elif answer["aliases"]:
        show_table(ALIAS_COLUMNS, answer["aliases"])
    else:
        click.echo("There is no alias. `multiverse aliases set --help` shows how to make one.", err=True)


@aliases.command("set")
@click.argument("name")
@click.argument("models", nargs=-1, required=True)
@as_admin
def set_alias(name: str, models: tuple[str, ...], client: GatewayClient, json_wanted: bool) -> None:
    """Let NAME stand for MODELS: the first of which a server can answer is asked.

    With a model's own name first, the others stand in for it.
    """
    record = client.call("PUT", f"/admin/aliases/{segment(name)}", body={"models": list(models)})
    if json_wanted:
        show_json(record)
    else:
        click.echo(one_line(f"{record['name']} stands for {', then '.join(record['models'])}."))


@aliases.command("remove")
@click.argument("name")
@as_admin
def remove_alias(name: str, client: GatewayClient, json_wanted: bool) -> None:
    """Let NAME stand for nothing else any more."""
    answer = client.call("DELETE", f"/admin/aliases/{segment(name)}")
    if json_wanted:
        show_json(answer)
    else:
        click.echo(one_line(str(answer["message"])))
