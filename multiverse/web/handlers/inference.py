"""`/v1`: models on offer, and requests that are forwarded to a server.

What the proxy writes to is in handlers/reply.py. Picking servers, failing over and reading answers all live in proxy/.
"""

from __future__ import annotations

import re
from typing import Any

from multiverse.errors import GatewayError, LoopDetected, ModelNotFound, NotFound, RateLimitExceeded, ShuttingDown
from multiverse.proxy.call import Call, read_body
from multiverse.proxy.forward import Forwarding
from multiverse.servers.server import Server
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.handlers.reply import HandlerReply
from multiverse.web.schemas import load_call

VIA_OF_GATEWAYS = re.compile(r"(?:1\.[01] multiverse-[0-9a-f]{16})(?:, ?1\.[01] multiverse-[0-9a-f]{16}){0,15}")
FORWARDED_PATH = re.compile(r"/v1(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class ModelsHandler(GatewayHandler):
    """`GET /v1/models`: the models that at least one healthy server offers."""

    def get(self) -> None:
        """List them in OpenAI's shape."""
        offered = [model for model in self._models() if model["healthy_servers"]]
        self.reply_json({"object": "list", "data": offered})

    def head(self) -> None:
        """As GET, without the body."""
        self.get()

    def _models(self) -> list[dict[str, Any]]:
        return [model_record(name, created, servers) for name, created, servers in self.gateway.registry.models()]


class ModelHandler(GatewayHandler):
    """`GET /v1/models/{id}`; ids with slashes work raw and as `%2F`."""

    def get(self, model_name: str) -> None:
        """One model."""
        for name, created, servers in self.gateway.registry.models():
            if name == model_name:
                record = model_record(name, created, servers)
                if record["healthy_servers"]:
                    self.reply_json(record)
                    return
        raise ModelNotFound(
            f"No healthy server offers the model '{model_name[:200]}'. GET /v1/models lists what is on offer.",
            param="model",
        )

    def head(self, model_name: str) -> None:
        """As GET, without the body."""
        self.get(model_name)


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
    }


class ForwardHandler(GatewayHandler):
    """`POST /v1/…`: forwarded to a server of the model that the body names."""

    _forwarding: Forwarding | None = None

    def admit(self) -> None:
        """Refuse loops, strange paths and callers over their limit before the body is read."""
        if not FORWARDED_PATH.fullmatch(self.request.path):
            raise NotFound("There is no such route. GET / tells where the API is.")
        if self.gateway.gateway_id in self.request.headers.get("Via", ""):
            raise LoopDetected("This request came from this gateway: it is registered at itself. Deregister it.")
        limit = self.gateway.request_limit
        if limit is not None:
            name = f"key:{self.caller.name}" if self.caller.name != "anonymous" else f"address:{self.client_address}"
            wait_seconds = limit.allow(name)
            if wait_seconds is not None:
                raise RateLimitExceeded(
                    "Your limit of requests per minute is reached. Wait as long as `Retry-After` says.",
                    retry_after_seconds=wait_seconds,
                )

    async def post(self, *args: str) -> None:
        """Forward, and answer with whatever comes of it."""
        gateway = self.gateway
        if gateway.draining:
            raise ShuttingDown()  # It began while the body was on its way.
        body = self.body()
        self._chunks.clear()
        fields = load_call(read_body(body))
        inbound_via = self.request.headers.get("Via", "")
        call = Call(
            request_id=self.request_id,
            route=self.request.path,
            body=body,
            model_name=fields["model"],
            stream=bool(fields.get("stream")),
            key_name=self.caller.name,
            client_address=self.client_address,
            via=f"{inbound_via}, {gateway.via}" if VIA_OF_GATEWAYS.fullmatch(inbound_via) else gateway.via,
            started_seconds=gateway.clock.monotonic(),
            story=gateway.stories.begin(self.request_id),
        )
        reply = HandlerReply(self, write_timeout_seconds=gateway.config.client_write_timeout_seconds)
        self._forwarding = gateway.proxy.begin(call, reply)
        await self._forwarding.run()

    def on_connection_close(self) -> None:
        """The client left: stop the work at once."""
        super().on_connection_close()
        if self._forwarding is not None:
            self._forwarding.client_left()

    def set_default_headers(self) -> None:
        """Tornado clears all headers before an error; the attempts that led to it belong to the answer."""
        super().set_default_headers()
        if self._forwarding is not None and self._forwarding.attempts:
            self.set_header("X-Gateway-Attempts", str(self._forwarding.attempts))


class AnyForwardHandler(ForwardHandler):
    """Routes the gateway has no name for: a POST is forwarded, anything else does not exist."""

    def wrong_method(self) -> GatewayError:
        """Nothing is known to be here but for those who forward."""
        return NotFound("There is no such route. GET / tells where the API is; GET /v1/models lists the models.")
