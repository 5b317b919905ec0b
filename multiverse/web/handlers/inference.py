"""`/v1`: models on offer, and requests that are forwarded to a server.

What the proxy writes to is in handlers/reply.py. Picking servers, failing over and reading answers all live in proxy/.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from multiverse.errors import (
    GatewayError,
    InvalidAPIKey,
    LoopDetected,
    ModelNotFound,
    PermissionDenied,
    ShuttingDown,
)
from multiverse.people.allowances import Allowance
from multiverse.people.keys import NOBODY, Caller
from multiverse.proxy.call import Call, read_body
from multiverse.proxy.forwarding import Forwarding
from multiverse.servers.aliases import Aliases
from multiverse.servers.lending import Asker
from multiverse.servers.server import Server
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.handlers.reply import HandlerReply
from multiverse.web.schemas import load_call
from multiverse.web.wrong_paths import is_doubled, no_such_route

VIA_OF_GATEWAY = re.compile(r"1\.[01] multiverse-[0-9a-f]{16}")
MOST_GATEWAYS_IN_VIA = 16
# The story, the log and the usage of each request remember its path: thousands of paths, which anybody may make up.
LONGEST_PATH = 256
FORWARDED_PATH = re.compile(r"/v1(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class ClientHandler(GatewayHandler):
    """A route for clients, other gateways among them."""

    def admit(self) -> None:
        """Refuse what went out from here: a server's registration leads back to this gateway."""
        if self.gateway.gateway_id in self.request.fields.get("Via", ""):
            raise LoopDetected("This request came from this gateway: it is registered at itself. Deregister it.")


class OfferHandler(ClientHandler):
    """What is on offer: models, and names that stand for one of them."""

    @property
    def whose(self) -> Asker:
        """Whoever asks, as the registry knows them."""
        return Asker(self.asker, is_admin=self.caller.is_admin, models=self.caller.models)

    def offers(self) -> dict[str, dict[str, Any]]:
        """The models that at least one healthy server offers the caller, who may ask them, by name, aliases last."""
        asker = self.whose
        records, ready = {}, set()
        for name, created, servers in self.gateway.registry.models():
            lent = [server for server in servers if server.withheld_from(asker) is None]
            if lent:
                records[name] = model_record(name, created, lent)
            if any(server.in_rotation and not server.ejected for server in lent):
                ready.add(name)
        healthy = {name: record for name, record in records.items() if record["healthy_servers"]}
        aliases, caller = self.gateway.aliases, self.caller
        offers = {}
        for name in dict.fromkeys((*healthy, *(alias.name for alias in aliases))):
            models = [model for model in models_for(name, aliases, caller) if model in healthy]
            model_name = next((model for model in models if model in ready), models[0] if models else None)
            alias = aliases.get(name)
            if alias is not None and model_name not in (None, name):
                named = {"id": name, "created": int(alias.created_unix), "alias_of": model_name}
                offers[name] = {**healthy[model_name], **named}
            elif model_name is not None:
                offers[name] = healthy[name]
        return offers


def models_for(name: str, aliases: Aliases, caller: Caller) -> tuple[str, ...]:
    """What `name` stands for, in order, as far as the caller's key may ask it."""
    models, may_ask = aliases.models_of(name), caller.may_ask
    return models if may_ask(name) else tuple(model for model in models if may_ask(model))


class ModelsHandler(OfferHandler):
    """`GET /v1/models`: what can be asked now."""

    def get(self) -> None:
        """List it in OpenAI's shape."""
        self.reply_json({"object": "list", "data": list(self.offers().values())})


class ModelHandler(OfferHandler):
    """`GET /v1/models/{id}`; ids with slashes work raw and as `%2F`."""

    def get(self, model_name: str) -> None:
        """One model."""
        offer = self.offers().get(model_name)
        if offer is not None:
            self.reply_json(offer)
            return
        registry, aliases = self.gateway.registry, self.gateway.aliases
        if self.caller.may_ask(model_name) and not any(map(registry.knows, aliases.models_of(model_name))):
            raise registry.unknown_model(model_name, self.whose)
        raise ModelNotFound(
            f"No healthy server offers the model '{model_name[:200]}'. GET /v1/models lists what is on offer.",
            param="model",
        )


def model_record(model_name: str, created_unix: float, servers: list[Server]) -> dict[str, Any]:
    """A model as `/v1/models` shows it; `created` is when it was first registered here."""
    owners = {server.registration.owner_name for server in servers if server.registration.owner_name}
    return {
        "id": model_name,
        "object": "model",
        "created": int(created_unix),
        "owned_by": owners.pop() if len(owners) == 1 else "multiverse",
        "servers": len(servers),
        "healthy_servers": sum(server.offers_model for server in servers),
        **({"pretend": True} if all(server.registration.pretend for server in servers) else {}),
    }


class QueueHandler(OfferHandler):
    """`GET /v1/queue`: who waits for what; of others only how many, and only for what is on offer to the caller."""

    def get(self) -> None:
        """Each model that somebody waits for, and where one's own requests stand."""
        queue, mine, offers = self.gateway.queue, self.asker, self.offers()
        models, yours = [], []
        for model_name in queue.waiting_models():
            standings = [standing for _place, standing in queue.standings(model_name)]
            if model_name in offers or any(standing.asker == mine for standing in standings):
                models.append({"model": model_name, "waiting": len(standings)})
            yours += [
                {
                    "model": model_name,
                    "place": standing.place,
                    "waited_seconds": round(standing.waited_seconds, 1),
                    "estimated_seconds": _rounded(standing.estimated_seconds),
                }
                for standing in standings
                if standing.asker == mine
            ]
        self.reply_json({"models": models, "yours": yours})


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


class ForwardHandler(ClientHandler):
    """`POST /v1/…`: forwarded to a server of the model that the body names."""

    _forwarding: Forwarding | None = None
    _allowance: Allowance | None = None
    _asker = ""

    def admit(self) -> None:
        """Refuse loops and callers over their limit before the body is read."""
        super().admit()
        self._asker = self.asker
        self._allowance = self.gateway.allowances.of(self.caller, self._asker)
        if self._allowance is not None:
            try:
                self._allowance.count()
            finally:
                self._show_allowance()

    def _show_allowance(self) -> None:
        if self._allowance is not None:
            self.set_headers(self._allowance.headers())

    def post(self, *args: str) -> Awaitable[None]:
        """Forward, and answer with whatever comes of it: decided at once, done by the task that awaits the rest."""
        gateway = self.gateway
        if gateway.draining:
            raise ShuttingDown()  # It began while the body was on its way.
        if self.caller is not NOBODY and not gateway.keys.has(self.caller.key_id):
            raise InvalidAPIKey()  # Revoked meanwhile.
        body = self.body()
        self._chunks.clear()
        wanted = load_call(read_body(body))
        models = models_for(wanted["model"], gateway.aliases, self.caller)
        if not models:
            raise PermissionDenied("Your key may not ask this model. GET /v1/models lists those it may.", param="model")
        if self._allowance is not None:
            # The last thing that may refuse: a story that begins must end, and only a request that is admitted does.
            self._allowance.enter()
        call = Call(
            request_id=self.request_id,
            route=self.request.path,
            body=body,
            model_name=wanted["model"],
            models=models,
            stream=bool(wanted.get("stream")),
            caller=self.caller,
            asker=self._asker,
            allowance=self._allowance,
            client_address=self.client_address,
            via=self._via(),
            started_seconds=gateway.clock.monotonic(),
            story=gateway.stories.begin(self.request.fields.get("Traceparent")),
        )
        reply = HandlerReply(self, write_timeout_seconds=gateway.config.client_write_timeout_seconds)
        self._forwarding = gateway.proxy.begin(call, reply)
        return self._forwarding.run()

    def _via(self) -> str:
        """What the server shall read in `Via`: other gateways before this one, but nothing else that a client sends."""
        inbound, own = self.request.fields.get("Via"), self.gateway.via
        if not inbound:
            return own
        # A tunnel or a PaaS between two gateways adds itself; that must not hide the gateways from each other.
        before = [member for member in map(str.strip, inbound.split(",")) if VIA_OF_GATEWAY.fullmatch(member)]
        return ", ".join([*before[-MOST_GATEWAYS_IN_VIA:], own])

    def on_connection_close(self) -> None:
        """The client left: stop the work at once."""
        super().on_connection_close()
        if self._forwarding is not None:
            self._forwarding.client_left()

    def on_finish(self) -> None:
        """The answer is out. The forwarding knows this handler: without a cycle, the body is freed at once."""
        self._forwarding = None

    def set_default_headers(self) -> None:
        """Tornado clears all headers before an error; the attempts that led to it belong to the answer."""
        if self._allowance is not None:
            self._show_allowance()
        if self._forwarding is not None and self._forwarding.attempts:
            self.set_header("X-Gateway-Attempts", str(self._forwarding.attempts))


class AnyForwardHandler(ForwardHandler):
    """Routes the gateway has no name for: a POST is forwarded, anything else does not exist."""

    def admit(self) -> None:
        """Refuse strange paths as well."""
        path = self.request.path
        if len(path) > LONGEST_PATH or not FORWARDED_PATH.fullmatch(path) or is_doubled(path):
            raise no_such_route(path)
        super().admit()

    def wrong_method(self) -> GatewayError:
        """Nothing is known to be here but for those who forward."""
        return no_such_route(self.request.path)
