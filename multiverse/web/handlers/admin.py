"""`/admin`: registrations and statistics, as JSON.

Thin on purpose: schemas judge the input, servers/registration.py does the work, schemas shape the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiverse.clock import iso_from_unix
from multiverse.servers.server import HEALTHY, UNHEALTHY, UNKNOWN, Server
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.schemas import (
    ProbesQuerySchema,
    RegisterSchema,
    ServerQuerySchema,
    ServerSchema,
    UpdateSchema,
    load,
)

if TYPE_CHECKING:
    from multiverse.gateway import Gateway

REGISTER_SCHEMA, UPDATE_SCHEMA, SERVER_SCHEMA = RegisterSchema(), UpdateSchema(), ServerSchema()
SERVER_QUERY_SCHEMA, PROBES_QUERY_SCHEMA = ServerQuerySchema(), ProbesQuerySchema()
DEFAULT_PROBES, MOST_PROBES = 20, 100
MOST_FAILURES, FAILURES_SINCE_SECONDS = 20, 86_400


def server_document(server: Server) -> dict[str, Any]:
    """The record of `server` as it goes out."""
    document: dict[str, Any] = SERVER_SCHEMA.dump(server.record())
    return document


def registration_fields(loaded: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields of a registration in a loaded body, and whether it asks for a healthy server."""
    fields = dict(loaded)
    require_healthy = bool(fields.pop("require_healthy", False))
    if "tags" in fields:
        fields["tags"] = fields["tags"] or ()
    return fields, require_healthy


class RegisterHandler(GatewayHandler):
    """`POST /admin/register`."""

    async def post(self) -> None:
        """Register a server, or update the one that is registered for the same model and address."""
        fields, require_healthy = registration_fields(load(REGISTER_SCHEMA, self.read_json()))
        server, created = await self.gateway.registrations.register(fields, require_healthy=require_healthy)
        message = "Server registered." if created else "This server was registered already; it is updated."
        if server.health_status != HEALTHY:
            message += f" It cannot take requests yet: {server.reason}"
        self.reply_json({**server_document(server), "message": message}, status=201 if created else 200)


class RegistrationHandler(GatewayHandler):
    """`PUT` and `DELETE /admin/register/{registration_id}`."""

    async def put(self, registration_id: str) -> None:
        """Change the fields that are sent; null clears an optional one."""
        self.gateway.registrations.server(registration_id)
        fields, require_healthy = registration_fields(load(UPDATE_SCHEMA, self.read_json()))
        server = await self.gateway.registrations.update(registration_id, fields, require_healthy=require_healthy)
        self.reply_json({**server_document(server), "message": "Registration updated."})

    async def delete(self, registration_id: str) -> None:
        """No new request goes there from now on; those under way finish."""
        await self.gateway.registrations.deregister(registration_id)
        self.reply_json({"message": "Server deregistered.", "registration_id": registration_id})


class ServersHandler(GatewayHandler):
    """`GET /admin/servers`."""

    def get(self) -> None:
        """All servers that match the filters, sorted and cut as asked."""
        query = load(SERVER_QUERY_SCHEMA, first_values(self.request))
        sort, limit, offset = query.pop("sort", None), query.pop("limit", None), query.pop("offset", 0)
        documents = [server_document(server) for server in self.gateway.registry.servers]
        matches = [document for document in documents if _matches(document, query)]
        total = len(matches)
        if sort is not None:
            name = sort.removeprefix("-")
            known = [document for document in matches if document[name] is not None]
            known.sort(key=lambda document: document[name], reverse=sort.startswith("-"))
            matches = known + [document for document in matches if document[name] is None]
        end = None if limit is None else offset + limit
        self.reply_json({"servers": matches[offset:end], "total": total, "filters_applied": query})

    def head(self) -> None:
        """As GET, without the body."""
        self.get()


def _matches(document: dict[str, Any], filters: dict[str, str]) -> bool:
    return all(
        value in document["tags"] if name == "tag" else document[name] == value for name, value in filters.items()
    )


class ServerHandler(GatewayHandler):
    """`GET /admin/servers/{registration_id}`."""

    async def get(self, registration_id: str) -> None:
        """One server, with its latest probes."""
        query = load(PROBES_QUERY_SCHEMA, first_values(self.request))
        server = self.gateway.registrations.server(registration_id)
        probes = await self.gateway.store.recent_probes(registration_id, MOST_PROBES)
        wanted = min(query.get("limit", DEFAULT_PROBES), MOST_PROBES)
        self.reply_json(
            {
                **server_document(server),
                "recent_probes": [_probe_document(probe) for probe in probes[:wanted]],
                "uptime_percent": _uptime_percent(probes),
                "recent_failures": await self._recent_failures(registration_id),
            }
        )

    async def _recent_failures(self, registration_id: str) -> list[dict[str, Any]]:
        """The requests that failed here in the last 24 hours, newest first."""
        since = iso_from_unix(self.gateway.clock.unix_seconds() - FAILURES_SINCE_SECONDS)
        return await self.gateway.store.failed_requests(registration_id, since, MOST_FAILURES)

    async def head(self, registration_id: str) -> None:
        """As GET, without the body."""
        await self.get(registration_id)


def _probe_document(probe: dict[str, Any]) -> dict[str, Any]:
    names = ("checked_at", "health_status", "reason", "response_time_ms")
    return {"ok": bool(probe["ok"]), **{name: probe[name] for name in names}}


def _uptime_percent(probes: list[dict[str, Any]]) -> float | None:
    """The share of good ones among the probes that are kept, in percent; None before the first."""
    if not probes:
        return None
    return round(100 * sum(bool(probe["ok"]) for probe in probes) / len(probes), 1)


class ProbeHandler(GatewayHandler):
    """`POST /admin/servers/{registration_id}/probe`."""

    async def post(self, registration_id: str) -> None:
        """Probe now, counted like any other probe."""
        server = self.gateway.registrations.server(registration_id)
        result = await self.gateway.health.probe(server)
        probe = {"ok": result.ok, "reason": result.reason, "response_time_ms": result.response_time_ms}
        self.reply_json({**server_document(server), "probe": probe})


class DrainHandler(GatewayHandler):
    """`POST /admin/servers/{registration_id}/drain`."""

    async def post(self, registration_id: str) -> None:
        """Take the server out of rotation without deregistering it."""
        self.reply_json(server_document(await self.gateway.registrations.set_draining(registration_id, True)))


class ResumeHandler(GatewayHandler):
    """`POST /admin/servers/{registration_id}/resume`."""

    async def post(self, registration_id: str) -> None:
        """Put the server back into rotation."""
        self.reply_json(server_document(await self.gateway.registrations.set_draining(registration_id, False)))


def counts_document(gateway: Gateway) -> dict[str, Any]:
    """What changes all the time: servers by verdict, models, requests, tokens."""
    verdicts = [server.health_status for server in gateway.registry.servers]
    return {
        "servers": {
            "total": len(verdicts),
            **{verdict: verdicts.count(verdict) for verdict in (HEALTHY, UNHEALTHY, UNKNOWN)},
        },
        "models": sum(1 for _ in gateway.registry.models()),
        "requests": {
            **gateway.usage.requests(),
            "in_flight_by_key": gateway.usage.in_flight_by_key(),
            "queued": gateway.queue.length,
        },
        "tokens": gateway.usage.tokens(),
    }


class StatsHandler(GatewayHandler):
    """`GET /admin/stats`: counts since the gateway started, and what is under way now."""

    def get(self) -> None:
        """The counts."""
        gateway = self.gateway
        self.reply_json(
            {
                **counts_document(gateway),
                "probes": {"total": gateway.health.probes_total, "failed": gateway.health.probes_failed},
                "store": {"queued": gateway.store.queued, "dropped": gateway.store.dropped},
                "connections": {"open": len(gateway.transport.connections), "idle": gateway.transport.idle_count},
                "event_loop": gateway.loop_watch.numbers(),
                "uptime_seconds": round(gateway.clock.monotonic() - gateway.started_seconds, 1),
            }
        )

    def head(self) -> None:
        """As GET, without the body."""
        self.get()
