"""Watching all servers: sweep() on a PeriodicCallback starts probes that are due, apply() turns findings into verdicts.

A sweep never waits for a probe, so a server that hangs delays nobody. One probe per server at a time; at most
`concurrency` at once; each server has its own jittered moment. Only a changed verdict is logged and written.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from tornado.ioloop import PeriodicCallback

from multiverse.clock import Clock, unix_from_iso
from multiverse.servers.probe import Finding, Prober, ProbeResult
from multiverse.servers.registry import Registry
from multiverse.servers.server import HEALTHY, UNHEALTHY, Server
from multiverse.storage.store import Store

LOG = logging.getLogger(__name__)

JITTER = 0.1
BACK_OFF_AFTER_FAILURES = 8
BACK_OFF_MAX_SECONDS = 300.0
TICKS_PER_INTERVAL = 20
SHORTEST_TICK_SECONDS, LONGEST_TICK_SECONDS = 0.02, 1.0


class HealthChecker:
    """Probes every server of `registry` each `interval_seconds`, less often those that stay unhealthy."""

    def __init__(
        self,
        *,
        registry: Registry,
        prober: Prober,
        store: Store,
        clock: Clock,
        interval_seconds: float,
        concurrency: int,
        chooser: random.Random | None = None,
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._store = store
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._chooser = chooser or random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self.probes_total = 0
        self.probes_failed = 0
        tick_seconds = interval_seconds / TICKS_PER_INTERVAL
        tick_seconds = min(max(tick_seconds, SHORTEST_TICK_SECONDS), LONGEST_TICK_SECONDS)
        self._ticker = PeriodicCallback(self.sweep, tick_seconds * 1000)

    # -- when ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Probe all servers now, and go on."""
        self.sweep()
        self._ticker.start()

    async def stop(self) -> None:
        """Stop probing; probes under way are abandoned."""
        self._ticker.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def sweep(self) -> None:
        """Start the probes that are due; returns at once."""
        now = self._clock.monotonic()
        for server in self._registry.servers:
            if server.next_probe_seconds <= now and not server.probing:
                server.probing = True
                task = asyncio.get_running_loop().create_task(self._probe_when_free(server))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _probe_when_free(self, server: Server) -> None:
        try:
            async with self._slots:
                if server.registered:
                    await self._probe(server)
        except Exception:
            LOG.exception("probe failed", extra={"fields": {"server": server.registration_id}})
        finally:
            server.probing = False

    def schedule(self, server: Server) -> None:
        """Set the moment of the next probe: one interval on, a little earlier or later, or much later for the lost."""
        beyond = server.probe_failures - BACK_OFF_AFTER_FAILURES
        seconds = self._interval_seconds
        if beyond > 0 and not server.loading:
            seconds = min(seconds * 2.0 ** min(beyond, 30), max(BACK_OFF_MAX_SECONDS, seconds))
        seconds *= 1 - self._chooser.uniform(0, JITTER)
        server.next_probe_seconds = self._clock.monotonic() + seconds

    # -- probing -------------------------------------------------------------------------------------------------------

    async def probe(self, server: Server) -> ProbeResult:
        """Probe `server` now, counted like any other probe (the admin asked)."""
        server.probing = True
        try:
            return await self._probe(server)
        finally:
            server.probing = False

    async def _probe(self, server: Server) -> ProbeResult:
        registration, started = server.registration, self._clock.monotonic()
        result = await self._prober.probe(registration)
        if server.registration.endpoint != registration.endpoint:
            return result  # It moved while we asked: the answer is about another server.
        if result.finding is Finding.FAILED and server.last_byte_seconds >= started:
            # A laptop with a single slot may be too busy answering to answer us as well.
            result = ProbeResult(Finding.GOOD, "busy answering a request", result.response_time_ms)
        self.apply(server, result)
        return result

    def apply(self, server: Server, result: ProbeResult) -> None:
        """Let `result` count, and tell the store and whoever waits for the server."""
        changed = self.judge(server, result)
        self.record(server, result, changed=changed)

    def judge(self, server: Server, result: ProbeResult) -> bool:
        """Let `result` count for the verdict and set the moment of the next probe; True when the verdict changed."""
        self.probes_total += 1
        server.last_checked_at = self._clock.utc_iso()
        server.response_time_ms = result.response_time_ms
        if result.finding is Finding.GOOD:
            changed = server.note_good_probe()
        elif result.finding is Finding.LOADING:
            changed = server.note_loading()
        elif result.finding is Finding.BUSY:
            server.note_reason(result.reason or "the server is busy")
            changed = False
        else:
            self.probes_failed += 1
            changed = server.note_failed_probe(result.reason or "the probe failed")
        self.schedule(server)
        return changed

    def record(self, server: Server, result: ProbeResult, *, changed: bool) -> None:
        """Queue the probe's row, announce a changed verdict, let waiting requests through."""
        if not server.registered:
            return
        self._store.queue_probe(
            {
                "registration_id": server.registration_id,
                "checked_at": server.last_checked_at,
                "ok": int(result.ok),
                "health_status": server.health_status,
                "reason": result.reason,
                "response_time_ms": result.response_time_ms,
            }
        )
        if changed:
            self._announce(server, result)
        self._registry.changed(server)

    def _announce(self, server: Server, result: ProbeResult) -> None:
        fields: dict[str, Any] = {
            "server": server.registration_id,
            "model": server.registration.model_name,
            "verdict": server.availability if server.loading else server.health_status,
            "reason": result.reason or "the probe was good",
        }
        level = logging.INFO if server.health_status == HEALTHY or server.loading else logging.WARNING
        LOG.log(level, "server verdict changed", extra={"fields": fields})
        self._store.queue_server_state(server.registration_id, server.state_row())

    # -- the long-lost -------------------------------------------------------------------------------------------------

    def lost_for_hours(self, server: Server) -> float:
        """Hours since the verdict became unhealthy; 0 for any other verdict."""
        if server.health_status != UNHEALTHY or server.unhealthy_since is None:
            return 0.0
        return (self._clock.unix_seconds() - unix_from_iso(server.unhealthy_since)) / 3600
