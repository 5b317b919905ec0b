"""Register, update, deregister, drain and resume: policy → probe → store first, registry second.

A crash may lose a route until the next start, never invent one; deregistering is the mirror. What fields may hold is
judged by web/schemas.py before; which addresses may be dialled by transport/addresses.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from multiverse.clock import Clock, unix_from_iso
from multiverse.errors import GatewayError, InvalidRequest, NoServerAvailable, PermissionDenied, ServerNotFound
from multiverse.servers.health import HealthChecker, same_question
from multiverse.servers.identity import Registration
from multiverse.servers.probe import Finding, Prober, ProbeResult
from multiverse.servers.record import restore, state_row
from multiverse.servers.registry import Registry
from multiverse.servers.server import BreakerSettings, Server
from multiverse.servers.terms import check_terms
from multiverse.storage.store import Store
from multiverse.transport.addresses import FORBIDDEN_ADDRESS_MESSAGE, Endpoint, parse_endpoint
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import AddressRefused, NameNotResolved, NoRoom

LOG = logging.getLogger(__name__)

ASKS_THE_SERVER_AGAIN = frozenset({"endpoint", "api_key", "served_model_name"})
MOST_MODELS_TOLD = 500
SECONDS_OF_AN_HOUR = 3600
MOST_SERVERS_OF_A_KEY = 25
NAMES_OF_THE_MODEL = ("model_name", "served_model_name")


class RegistrationService:
    """The only writer of registrations. `on_secret` is told each server's key, so that no log line ever shows it."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: Store,
        prober: Prober,
        health: HealthChecker,
        dialler: Dialler,
        clock: Clock,
        breaker: BreakerSettings,
        resolve_timeout_seconds: float,
        on_secret: Callable[[str], None],
        default_slots: int | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._prober = prober
        self._health = health
        self._dialler = dialler
        self._clock = clock
        self._breaker = breaker
        self._default_slots = default_slots
        self._resolve_timeout_seconds = resolve_timeout_seconds
        self._on_secret = on_secret
        # Two owners who register the same pair at once must end up with one id: look up and store under one lock.
        self._writing = asyncio.Lock()

    async def load(self) -> int:
        """Rebuild the registry from the store, everything `unknown`; returns how many servers there are."""
        for row in await self._store.load_registrations():
            try:
                registration = Registration.from_row(row)
                created_unix = unix_from_iso(registration.created_at)
                server = self._new_server(registration)
                restore(server, row)
            except (InvalidRequest, TypeError, ValueError):
                fields = {"server": row["registration_id"]}
                LOG.error("registration skipped: its row cannot be understood", extra={"fields": fields})
                continue
            self._registry.add(server, created_unix)
        return len(self._registry.servers)

    def _new_server(self, registration: Registration) -> Server:
        if registration.api_key is not None:
            self._on_secret(registration.api_key)
        return Server(registration, self._breaker, self._clock, default_slots=self._default_slots)

    def server(self, registration_id: str) -> Server:
        """The server with this id. Raises ServerNotFound."""
        server = self._registry.get(registration_id)
        if server is None:
            raise ServerNotFound("No server has this registration id. GET /admin/servers lists them all.")
        return server

    # -- register ------------------------------------------------------------------------------------------------------

    async def register(
        self, fields: dict[str, Any], *, require_healthy: bool = False, owner_key_id: str | None = None
    ) -> tuple[Server, bool]:
        """Register a server, or update the one registered for the same model and address; (server, created).

        `owner_key_id` is the key of an owner who is no admin. Raises InvalidRequest for an address that is malformed or
        not permitted; PermissionDenied for somebody else's server and for one too many; NoServerAvailable under
        `require_healthy` when the probe is not good; StoreFailed. Nothing is stored then.
        """
        endpoint = await self._permitted_endpoint(fields["endpoint_url"])
        given = {name: value for name, value in fields.items() if name != "endpoint_url"}
        if given.get("api_key") is not None:
            self._on_secret(given["api_key"])
        candidate = self._candidate(endpoint, {**given, "owner_key_id": owner_key_id})
        known = self._find_own(candidate)
        asked = candidate if known is None else replace(known.registration, **given)
        check_terms(asked)
        result = await self._probe_first(asked, known, require_healthy=require_healthy)
        async with self._writing:
            known = self._find_own(candidate)
            if known is not None:
                await self._save_changes(known, given)
                self._take_over(known, asked, result)
                LOG.info("server registered again", extra={"fields": self._log_fields(known)})
                return known, False
            server = self._new_server(candidate)
            changed = self._health.judge(server, result)
            await self._store.save_registration({**candidate.to_row(), **_state(server)})
            self._registry.add(server, unix_from_iso(candidate.created_at))
            self._health.record(server, result, changed=changed)
        LOG.info("server registered", extra={"fields": self._log_fields(server)})
        return server, True

    def _candidate(self, endpoint: Endpoint, given: dict[str, Any]) -> Registration:
        now = self._clock.utc_iso()
        return Registration(
            registration_id=str(uuid.uuid4()), endpoint=endpoint, created_at=now, updated_at=now, **given
        )

    def _find_own(self, candidate: Registration) -> Server | None:
        known = self._registry.find(candidate.model_name, candidate.endpoint.url)
        owner_key_id = candidate.owner_key_id
        if owner_key_id is None:
            return known
        if known is not None and owner_key_id != known.registration.owner_key_id:
            raise PermissionDenied("Somebody else has registered this model at this address. Ask the admin.")
        own = sum(server.registration.owner_key_id == owner_key_id for server in self._registry.servers)
        if known is None and own >= MOST_SERVERS_OF_A_KEY:
            raise PermissionDenied(
                f"{own} servers are registered with your key: it may not have more. Deregister one, or ask the admin."
            )
        return known

    def _take_over(self, server: Server, asked: Registration, result: ProbeResult) -> None:
        """Let the probe of `asked` count for `server`, unless another change came in between."""
        if same_question(server.registration, asked):
            self._health.apply(server, result)
        else:
            server.next_probe_seconds = self._clock.monotonic()

    async def probe_address(self, fields: dict[str, Any]) -> tuple[str, ProbeResult, list[str]]:
        """Probe an address that is not registered (yet): its normal form, what was found, and the models it lists.

        Nothing is stored and nothing counted. Raises InvalidRequest for an address that is malformed or not permitted.
        """
        endpoint = await self._permitted_endpoint(fields["endpoint_url"])
        if fields.get("api_key") is not None:
            self._on_secret(fields["api_key"])
        asked = self._candidate(endpoint, {"model_name": "unregistered", "api_key": fields.get("api_key")})
        result = await self._prober.probe(asked)
        return endpoint.url, result, sorted(result.model_names or ())[:MOST_MODELS_TOLD]

    async def _permitted_endpoint(self, endpoint_url: str) -> Endpoint:
        endpoint = parse_endpoint(endpoint_url)
        try:
            async with asyncio.timeout(self._resolve_timeout_seconds):
                await self._dialler.check(endpoint)
        except AddressRefused as error:
            raise InvalidRequest(FORBIDDEN_ADDRESS_MESSAGE, param="endpoint_url") from error
        except (NameNotResolved, NoRoom, TimeoutError):
            pass  # A tunnel's name may come alive later: registered, unhealthy. The policy is asked at every dial.
        return endpoint

    async def _probe_first(
        self, registration: Registration, known: Server | None, *, require_healthy: bool
    ) -> ProbeResult:
        turn: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()
        if known is not None and known.registration.endpoint == registration.endpoint:
            turn = self._health.turn(known)  # Another address need not wait for this one to answer.
        async with turn:
            result = await self._prober.probe(registration, wants_slots=True)
        if require_healthy and result.finding is not Finding.GOOD:
            raise NoServerAvailable(
                f"Nothing was changed, because the server did not pass its probe ({result.reason}). Start it "
                "and try again, or leave `require_healthy` out.",
                retry_after_seconds=5,
            )
        return result

    # -- update --------------------------------------------------------------------------------------------------------

    async def update(self, registration_id: str, changes: dict[str, Any], *, require_healthy: bool = False) -> Server:
        """Change the fields in `changes` (None clears an optional one).

        Raises ServerNotFound, InvalidRequest, StoreFailed and, under `require_healthy`, NoServerAvailable; nothing is
        changed then.
        """
        server = self.server(registration_id)
        changes = dict(changes)
        if "endpoint_url" in changes:
            changes["endpoint"] = await self._permitted_endpoint(changes.pop("endpoint_url"))
        if changes.get("api_key") is not None:
            self._on_secret(changes["api_key"])
        asked, result = replace(server.registration, **changes), None
        if require_healthy or ASKS_THE_SERVER_AGAIN & changes.keys():
            result = await self._probe_first(asked, server, require_healthy=require_healthy)
        async with self._writing:
            self.server(registration_id)  # It may have been deregistered while we asked.
            await self._save_changes(server, changes)
            if result is not None:
                self._take_over(server, asked, result)
        self._registry.changed(server)  # It may have more slots now.
        LOG.info("server updated", extra={"fields": {**self._log_fields(server), "changed": sorted(changes)}})
        return server

    async def _save_changes(self, server: Server, changes: dict[str, Any]) -> None:
        before = server.registration
        after = replace(before, **changes, updated_at=self._clock.utc_iso())
        check_terms(after)
        twin = self._registry.find(after.model_name, after.endpoint.url)
        if twin is not None and twin is not server:
            raise InvalidRequest(
                "Another registration already offers this model at this address. Update or deregister that one"
                # Of somebody else's, a student learns no more than when registering it.
                + (f" ({twin.registration_id})." if twin.registration.owner_key_id == after.owner_key_id else "."),
                param="endpoint_url",
            )
        await self._store.save_registration({**after.to_row(), **_state(server)})
        server.change(after)
        if after.endpoint != before.endpoint:
            server.forget_health()
        if any(getattr(after, name) != getattr(before, name) for name in NAMES_OF_THE_MODEL):
            server.forget_model()
        if after.model_name != before.model_name and server.registered:
            self._registry.rename(server, before.model_name, unix_from_iso(after.updated_at))

    # -- out and back --------------------------------------------------------------------------------------------------

    async def deregister(self, registration_id: str) -> None:
        """No new request goes there from now on; those under way finish. Raises ServerNotFound, StoreFailed."""
        async with self._writing:
            await self._take_out(self.server(registration_id))

    async def _take_out(self, server: Server) -> None:
        self._registry.remove(server.registration_id)
        try:
            await self._store.delete_registration(server.registration_id)
        except Exception:
            # Still on disk: it would be back after a restart, so say so now rather than then.
            self._registry.add(server, unix_from_iso(server.registration.created_at))
            raise
        LOG.info("server deregistered", extra={"fields": self._log_fields(server)})

    async def set_draining(self, registration_id: str, draining: bool) -> Server:
        """Take a server out of rotation, or put it back. Raises ServerNotFound, StoreFailed."""
        async with self._writing:
            server = self.server(registration_id)
            await self._store.save_registration(
                {**server.registration.to_row(), **_state(server), "draining": int(draining)}
            )
            server.draining = draining
            self._registry.changed(server)
        LOG.info("server draining" if draining else "server resumed", extra={"fields": self._log_fields(server)})
        return server

    async def deregister_lost(self, after_hours: float) -> None:
        """Deregister the servers that have been unhealthy for `after_hours`, but none that is being asked right now."""
        for server in list(self._registry.servers):
            try:
                async with self._writing:
                    # Its owner may be registering it again, or may have done so while others were written.
                    if not server.registered or self._health.turn(server).locked():
                        continue
                    if server.unhealthy_seconds < after_hours * SECONDS_OF_AN_HOUR:
                        continue
                    LOG.warning("server unhealthy for too long", extra={"fields": self._log_fields(server)})
                    await self._take_out(server)
            except GatewayError as error:  # Somebody was faster, or the disk is full: the others still have their turn.
                fields = {**self._log_fields(server), "reason": error.message}
                LOG.warning("server not deregistered", extra={"fields": fields})

    def _log_fields(self, server: Server) -> dict[str, Any]:
        return {"server": server.registration_id, "model": server.registration.model_name}


def _state(server: Server) -> dict[str, Any]:
    return {**state_row(server), "draining": int(server.draining)}
