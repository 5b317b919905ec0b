"""`/admin`: registrations and statistics, as JSON.

Thin on purpose: schemas judge the input, servers/registration.py does the work, schemas shape the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiverse.clock import iso_from_unix
from multiverse.errors import RateLimitExceeded, ServerNotFound
from multiverse.people.keys import Caller, Keys
from multiverse.servers.identity import CLASS
from multiverse.servers.lending import Asker
from multiverse.servers.record import record_of
from multiverse.servers.server import HEALTHY, UNHEALTHY, UNKNOWN, Server
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.schemas import (
    ProbesQuerySchema,
    RegisterSchema,
    ServerQuerySchema,
    ServerSchema,
    TermsSchema,
    UpdateSchema,
    load,
)

if TYPE_CHECKING:
    from multiverse.gateway import Gateway

REGISTER_SCHEMA, UPDATE_SCHEMA, SERVER_SCHEMA = RegisterSchema(), UpdateSchema(), ServerSchema()
TERMS_SCHEMA = TermsSchema()
WITHOUT: Mapping[str, Any] = MappingProxyType(
    {"tags": (), "friends": (), "offered_to": CLASS, "reserve_slot": False, "paused": False}
)
SERVER_QUERY_SCHEMA, PROBES_QUERY_SCHEMA = ServerQuerySchema(), ProbesQuerySchema()
DEFAULT_PROBES, MOST_PROBES = 20, 100
ASKS_THE_SERVER = frozenset({"endpoint_url", "api_key", "served_model_name"})
MOST_FAILURES, FAILURES_SINCE_SECONDS = 20, 86_400


def server_document(server: Server, caller: Caller, keys: Keys) -> dict[str, Any]:
    """The record of `server` as it goes out to `caller`."""
    record = record_of(server, Asker(caller.key_id, is_admin=caller.is_admin))
    document: dict[str, Any] = SERVER_SCHEMA.dump({**record, "friends": keys.names_of(record["friends"])})
    return document


def registration_fields(loaded: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields of a registration in a loaded body, and whether it asks for a healthy server."""
    require_healthy = bool(loaded.get("require_healthy"))
    given = {name: value for name, value in loaded.items() if name != "require_healthy"}
    return {name: WITHOUT.get(name) if value is None else value for name, value in given.items()}, require_healthy


def with_friends_known(fields: dict[str, Any], keys: Keys) -> dict[str, Any]:
    """The fields of a registration with friends by their ids. Raises InvalidRequest for a friend that nobody is."""
    names = fields.get("friends")
    return {**fields, "friends": keys.ids_of(names, param="friends")} if names else fields


class OwnerHandler(GatewayHandler):
    """Routes on servers: an admin sees all of them, a student those that were registered with the student's key."""

    @property
    def owner_key_id(self) -> str | None:
        """Whose servers these may be; None for anybody's."""
        return None if self.caller.is_admin else self.caller.key_id

    def server_of_caller(self, registration_id: str) -> Server:
        """The server with this id. Raises ServerNotFound, also for somebody else's: that it exists is not told."""
        server = self.gateway.registrations.server(registration_id)
        if self.owner_key_id not in (None, server.registration.owner_key_id):
            raise ServerNotFound("No server of yours has this registration id. GET /admin/servers lists yours.")
        return server

    def count_probe(self) -> None:
        """Who is no admin may send the gateway to an address so often: it is no scanner of the network it stands in.

        Raises RateLimitExceeded.
        """
        if self.owner_key_id is None:
            return
        wait_seconds = self.gateway.owners_probe_limit.allow(self.owner_key_id)
        if wait_seconds is not None:
            raise RateLimitExceeded(
                "Your key has had too many addresses probed within a minute. Wait as long as `Retry-After` says.",
                retry_after_seconds=wait_seconds,
            )

    def document(self, server: Server) -> dict[str, Any]:
        """The record of `server` as the caller sees it."""
        return server_document(server, self.caller, self.gateway.keys)

    def given_fields(self, loaded: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The fields of a registration, friends by their ids, and whether it asks for a healthy server.

        Raises InvalidRequest for a friend that nobody is.
        """
        fields, require_healthy = registration_fields(loaded)
        return with_friends_known(fields, self.gateway.keys), require_healthy

    async def register(self, fields: dict[str, Any], *, require_healthy: bool = False) -> tuple[Server, bool]:
        """Register a server in the caller's name, or update the caller's own; (server, created)."""
        if self.owner_key_id is not None:
            fields = {"owner_name": self.caller.name, **fields}
        server, created = await self.gateway.registrations.register(
            fields, require_healthy=require_healthy, owner_key_id=self.owner_key_id
        )
        if not created:
            await self.gateway.terms_watch.count()
        return server, created

    async def update(self, registration_id: str, fields: dict[str, Any], *, require_healthy: bool = False) -> Server:
        """Change the server, and count its tokens anew if another day goes for it now."""
        server = await self.gateway.registrations.update(registration_id, fields, require_healthy=require_healthy)
        await self.gateway.terms_watch.count()
        return server


class RegisterHandler(OwnerHandler):
    """`POST /admin/register`."""

    async def post(self) -> None:
        """Register a server, or update the one that is registered for the same model and address."""
        fields, require_healthy = self.given_fields(load(REGISTER_SCHEMA, self.read_json()))
        self.count_probe()
        server, created = await self.register(fields, require_healthy=require_healthy)
        message = "Server registered." if created else "This server was registered already; it is updated."
        if server.health_status != HEALTHY:
            message += f" It cannot take requests yet: {server.reason}"
        self.reply_json({**self.document(server), "message": message}, status=201 if created else 200)


class RegistrationHandler(OwnerHandler):
    """`PUT` and `DELETE /admin/register/{registration_id}`."""

    async def put(self, registration_id: str) -> None:
        """Change the fields that are sent; null clears an optional one."""
        self.server_of_caller(registration_id)
        fields, require_healthy = self.given_fields(load(UPDATE_SCHEMA, self.read_json()))
        if require_healthy or ASKS_THE_SERVER & fields.keys():
            self.count_probe()
        server = await self.update(registration_id, fields, require_healthy=require_healthy)
        self.reply_json({**self.document(server), "message": "Registration updated."})

    async def delete(self, registration_id: str) -> None:
        """No new request goes there from now on; those under way finish."""
        self.server_of_caller(registration_id)
        await self.gateway.registrations.deregister(registration_id)
        self.reply_json({"message": "Server deregistered.", "registration_id": registration_id})


class ServersHandler(OwnerHandler):
    """`GET /admin/servers`."""

    def get(self) -> None:
        """All servers that match the filters, sorted and cut as asked."""
        query = load(SERVER_QUERY_SCHEMA, first_values(self.request))
        sort, limit, offset = query.pop("sort", None), query.pop("limit", None), query.pop("offset", 0)
        owner_key_id = self.owner_key_id
        documents = [
            self.document(server)
            for server in self.gateway.registry.servers
            if owner_key_id in (None, server.registration.owner_key_id)
        ]
        matches = [document for document in documents if _matches(document, query)]
        total = len(matches)
        if sort is not None:
            name = sort.removeprefix("-")
            known = [document for document in matches if document[name] is not None]
            known.sort(key=lambda document: document[name], reverse=sort.startswith("-"))
            matches = known + [document for document in matches if document[name] is None]
        end = None if limit is None else offset + limit
        self.reply_json({"servers": matches[offset:end], "total": total, "filters_applied": query})


def _matches(document: dict[str, Any], filters: dict[str, str]) -> bool:
    return all(
        value in document["tags"] if name == "tag" else document[name] == value for name, value in filters.items()
    )


class ServerHandler(OwnerHandler):
    """`GET` and `PATCH /admin/servers/{registration_id}`."""

    async def patch(self, registration_id: str) -> None:
        """Change the terms on which it is lent; null takes one back."""
        self.server_of_caller(registration_id)
        fields, _require_healthy = self.given_fields(load(TERMS_SCHEMA, self.read_json()))
        server = await self.update(registration_id, fields)
        self.reply_json({**self.document(server), "message": "Terms changed."})

    async def get(self, registration_id: str) -> None:
        """One server, with its latest probes."""
        query = load(PROBES_QUERY_SCHEMA, first_values(self.request))
        server = self.server_of_caller(registration_id)
        probes = await self.gateway.store.recent_probes(registration_id, MOST_PROBES)
        wanted = min(query.get("limit", DEFAULT_PROBES), MOST_PROBES)
        self.reply_json(
            {
                **self.document(server),
                "recent_probes": [_probe_document(probe) for probe in probes[:wanted]],
                "uptime_percent": _uptime_percent(probes),
                "recent_failures": await self._recent_failures(registration_id),
            }
        )

    async def _recent_failures(self, registration_id: str) -> list[dict[str, Any]]:
        """The requests that failed here in the last 24 hours, newest first."""
        since = iso_from_unix(self.gateway.clock.unix_seconds() - FAILURES_SINCE_SECONDS)
        return await self.gateway.store.failed_requests(registration_id, since, MOST_FAILURES)


def _probe_document(probe: dict[str, Any]) -> dict[str, Any]:
    names = ("checked_at", "health_status", "reason", "response_time_ms")
    return {"ok": bool(probe["ok"]), **{name: probe[name] for name in names}}


def _uptime_percent(probes: list[dict[str, Any]]) -> float | None:
    """The share of good ones among the probes that are kept, in percent; None before the first."""
    if not probes:
        return None
    return round(100 * sum(bool(probe["ok"]) for probe in probes) / len(probes), 1)


class ProbeHandler(OwnerHandler):
    """`POST /admin/servers/{registration_id}/probe`."""

    async def post(self, registration_id: str) -> None:
        """Probe now, counted like any other probe."""
        server = self.server_of_caller(registration_id)
        self.count_probe()
        result = await self.gateway.health.probe(server)
        probe = {"ok": result.ok, "reason": result.reason, "response_time_ms": result.response_time_ms}
        self.reply_json({**self.document(server), "probe": probe})


class DrainHandler(OwnerHandler):
    """`POST /admin/servers/{registration_id}/drain`."""

    async def post(self, registration_id: str) -> None:
        """Take the server out of rotation without deregistering it."""
        self.server_of_caller(registration_id)
        self.reply_json(self.document(await self.gateway.registrations.set_draining(registration_id, True)))


class PauseHandler(OwnerHandler):
    """`POST /admin/servers/{registration_id}/pause`."""

    async def post(self, registration_id: str) -> None:
        """Lend the server to nobody for now; its owner may still use it."""
        self.server_of_caller(registration_id)
        self.reply_json(self.document(await self.update(registration_id, {"paused": True})))


class ResumeHandler(OwnerHandler):
    """`POST /admin/servers/{registration_id}/resume`."""

    async def post(self, registration_id: str) -> None:
        """End a drain and a pause."""
        self.server_of_caller(registration_id)
        server = await self.gateway.registrations.set_draining(registration_id, False)
        if server.registration.paused:
            server = await self.update(registration_id, {"paused": False})
        self.reply_json(self.document(server))


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
