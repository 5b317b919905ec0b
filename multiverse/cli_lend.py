"""`multiverse servers lend`: every model on the machine where the command runs, or at an address, in one call.

The gateway looks for them itself, from where it is; what is judged there is not judged here.
"""

from __future__ import annotations

from typing import Any

import click

from multiverse.cli_client import GatewayClient
from multiverse.cli_options import as_admin
from multiverse.cli_output import Column, field, one_line, show_json, show_table
from multiverse.cli_servers import SERVER_COLUMNS, sent_fields, shared_fields
from multiverse.cli_terms import terms_options

REFUSED_COLUMNS = (
    Column("NOT LENT", field("model_name"), least_width=10),
    Column("ENDPOINT", field("endpoint_url"), least_width=14),
    Column("REASON", field("reason"), least_width=16),
)


@click.command("lend")
@click.option("--port", "ports", multiple=True, type=int, metavar="PORT", help="Look at this port; repeat it for more.")
@click.option("--endpoint-url", metavar="URL", help="Look at this address, a tunnel's for example.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeat it for more.")
@shared_fields
@terms_options
@as_admin
def lend_servers(client: GatewayClient, json_wanted: bool, **fields: Any) -> int:
    """Lend every model on this machine.

    The gateway looks for Ollama, LM Studio, llama.cpp and vLLM at the address from which it is asked: run this where
    they run, and let them listen there. The exit code is 1 when nothing was lent.

    \b
    Examples:
      multiverse servers lend
      multiverse servers lend --port 8081 --owner Ada --tags laptop
      multiverse servers lend --endpoint-url https://ada.ngrok.app --model llama3.2:latest
    """
    answer = client.call("POST", "/admin/lend", body=sent_fields(fields))
    lent, refused = answer["servers"], answer["not_registered"]
    if json_wanted:
        show_json(answer)
        return 0 if lent else 1
    click.echo(one_line(str(answer["message"])))
    if lent:
        show_table(SERVER_COLUMNS, lent)
    if refused:
        show_table(REFUSED_COLUMNS, refused)
    return 0 if lent else 1
