"""Which servers a command is about: one by its id, or with `--endpoint` all at one address.

A laptop is one address and often several registrations, one for each model. Whose servers they are, the gateway says: a
student's key sees its own only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from multiverse.cli_client import CallFailed, GatewayAddress, GatewayClient, Query, segment
from multiverse.cli_options import Command
from multiverse.cli_output import show_json

PAGE = 200


@dataclass(frozen=True)
class Chosen:
    """The servers that a command is about, by their ids; `at_address` when they were chosen by it."""

    client: GatewayClient
    registration_ids: tuple[str, ...]
    at_address: bool

    def each(
        self,
        method: str,
        route: str,
        show: Callable[[dict[str, Any]], None],
        *,
        json_wanted: bool,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """Call `/admin/servers/{registration_id}` and `route` for each of them; show what is answered.

        Raises CallFailed at the first that fails; those before are done and shown.
        """
        answers = []
        for registration_id in self.registration_ids:
            path = f"/admin/servers/{segment(registration_id)}{route}"
            answers.append(self.client.call(method, path, query=query, body=body))
            if not json_wanted:
                show(answers[-1])
        if json_wanted:
            show_json({"servers": answers} if self.at_address else answers[0])


def on_servers(command: Command) -> Command:
    """Add [REGISTRATION_ID] and --endpoint, one of which is needed; the command is called with `chosen`."""

    @click.argument("registration_id", required=False)
    @click.option("--endpoint", metavar="URL", help="All servers at this address that the key may change, not one.")
    @functools.wraps(command)
    def with_chosen(
        *arguments: Any, client: GatewayClient, registration_id: str | None, endpoint: str | None, **options: Any
    ) -> Any:
        if (registration_id is None) == (endpoint is None):
            raise click.UsageError("Give the id of one server, or --endpoint and the address of all that are meant.")
        ids = (registration_id,) if registration_id is not None else _ids_at(client, str(endpoint))
        return command(*arguments, chosen=Chosen(client, ids, registration_id is None), **options)

    return with_chosen


def all_servers(client: GatewayClient) -> list[dict[str, Any]]:
    """The records of all servers that the key may see, oldest first. Raises CallFailed."""
    found: list[dict[str, Any]] = []
    while True:
        query: Query = {"sort": "created_at", "limit": PAGE, "offset": len(found)}
        page = client.call("GET", "/admin/servers", query=query)["servers"]
        found += page
        if len(page) < PAGE:
            return found


def _ids_at(client: GatewayClient, endpoint: str) -> tuple[str, ...]:
    try:
        address = GatewayAddress.parse(endpoint.strip())
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--endpoint") from None
    ids = tuple(row["registration_id"] for row in all_servers(client) if _is_at(row["endpoint_url"], address))
    if not ids:
        raise CallFailed(f"None of your servers is at {address}. `multiverse servers list` shows them.")
    return ids


def _is_at(endpoint_url: str, address: GatewayAddress) -> bool:
    try:
        return GatewayAddress.parse(endpoint_url) == address
    except ValueError:  # Written in letters that addresses have here only in their encoded form.
        return False
