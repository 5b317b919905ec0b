"""`POST /admin/lend`: one line, or one click, on the machine that is to be lent, and the gateway finds what it has.

The gateway knows from where it is asked: servers/discovery.py looks there, and every model that is found is registered
like any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from multiverse.errors import GatewayError, InvalidRequest, NoServerAvailable
from multiverse.servers.discovery import Found, behind_a_proxy, host_of_caller, nothing_found, usual_addresses
from multiverse.servers.server import HEALTHY, Server
from multiverse.web.handlers.admin import REGISTER_SCHEMA, OwnerHandler
from multiverse.web.lend_schema import LendSchema
from multiverse.web.schemas import load
from multiverse.web.text_fields import MODEL_NAME, UNSEEN

LEND_SCHEMA = LendSchema()
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._\-:/@+]+")
HEADERS_OF_PROXIES = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP")
NOT_NOW = frozenset({"draining", "paused", "quiet", "capped", "unhealthy"})
TRY_AGAIN_SECONDS = 5
MOST_NAMES_TOLD = 20


class LendHandler(OwnerHandler):
    """`POST /admin/lend`."""

    async def post(self) -> None:
        """Find the servers on the machine that asks, and register every model they have."""
        given, _require_healthy = self.given_fields(load(LEND_SCHEMA, self.read_json() if self.body() else {}))
        wanted = given.pop("models", None)
        addresses = self._addresses(given.pop("endpoint_url", None), given.pop("ports", None))
        for _address in addresses:
            self.count_probe()
        found = await self.gateway.discovery.look(addresses, api_key=given.get("api_key"))
        if all(server.reason for server in found):
            message = nothing_found(found, seen_at=self.client_address)
            raise NoServerAvailable(message, retry_after_seconds=TRY_AGAIN_SECONDS)
        offers = list(_offers(found, wanted))
        if not offers:
            listed = sorted({model for server in found for model in server.models})
            raise InvalidRequest(f"None of these models is there, but {_names(listed)}.", param="models")
        await self._register_all(offers, given)

    def _addresses(self, endpoint_url: str | None, ports: list[int] | None) -> dict[str, str]:
        if endpoint_url is not None:
            return {"the address you sent": endpoint_url}
        if not self.gateway.config.trust_proxy_headers and any(map(self.request.headers.get, HEADERS_OF_PROXIES)):
            raise behind_a_proxy()
        host = host_of_caller(self.client_address)
        return usual_addresses(host, ports) if ports else usual_addresses(host)

    async def _register_all(self, offers: Sequence[tuple[str, str]], given: dict[str, Any]) -> None:
        """One after the other: each asks the laptop again, which may be slow. What cannot be stored ends it."""
        lent: list[Server] = []
        refused: list[dict[str, Any]] = []
        any_created = False
        for endpoint_url, listed in offers:
            try:
                names = load(REGISTER_SCHEMA, {"endpoint_url": endpoint_url, **_names_of(listed)})
                self._check_name(names)
                server, created = await self.register({**given, **names})
            except GatewayError as error:
                if error.status >= 500 and not lent:
                    raise
                refused.append({"endpoint_url": endpoint_url, "model_name": listed, "reason": error.message})
                if error.status >= 500:
                    break
                continue
            lent.append(server)
            any_created = any_created or created
        documents = [self.document(server) for server in lent]
        reply = {"message": _told(documents, refused), "servers": documents, "not_registered": refused}
        self.reply_json(reply, status=201 if any_created else 200)

    def _check_name(self, names: dict[str, Any]) -> None:
        """Raises InvalidRequest where another model of the same server is registered under this name."""
        known = self.gateway.registry.find(names["model_name"], names["endpoint_url"])
        if known is not None and known.registration.served_model_name != names.get("served_model_name"):
            raise InvalidRequest(
                f"Another model of this server is called {names['model_name']} here. Register this one by itself, "
                "under a name of your own (`POST /admin/register` with `model_name` and `served_model_name`).",
                param="models",
            )


def _offers(found: Sequence[Found], wanted: Collection[str] | None) -> Iterator[tuple[str, str]]:
    for server in found:
        # Those that keep their own name go before those that are given one.
        for model in sorted(server.models, key=lambda name: MODEL_NAME.fullmatch(name) is None):
            if wanted is None or model in wanted:
                yield server.endpoint_url, model


def _names_of(listed: str) -> dict[str, str]:
    """What a model is called here and at its server: clients' names have fewer characters than some files'."""
    if MODEL_NAME.fullmatch(listed):
        return {"model_name": listed}
    return {"model_name": NOT_IN_A_NAME.sub("-", listed)[:200], "served_model_name": listed}


def _told(lent: Sequence[dict[str, Any]], refused: Sequence[Any]) -> str:
    sentences = []
    if lent:
        sentences.append(f"Thank you. Lent now: {_names([server['model_name'] for server in lent])}.")
    waiting = sum(server["health_status"] != HEALTHY or server["availability"] in NOT_NOW for server in lent)
    if waiting:
        sentences.append(f"Of these, {waiting} can take no requests yet; `availability` and `reason` say why.")
    if refused:
        sentences.append(f"Not registered: {len(refused)}; `not_registered` says why.")
    return " ".join(sentences)


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES_TOLD
    return ", ".join(UNSEEN.sub("?", name) for name in names[:MOST_NAMES_TOLD]) + (
        f" and {more} more" if more > 0 else ""
    )
