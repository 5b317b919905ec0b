"""Watching all servers: sweep() on a SteadyCallback starts probes that are due, apply() turns findings into verdicts.

A sweep never waits for a probe, so a server that hangs delays nobody. One probe per server at a time; at most
`concurrency` at once; each server has its own jittered moment. Only a changed verdict is logged and written.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from multiverse.clock import Clock
from multiverse.servers.identity import Registration
from multiverse.servers.probe import Finding, Prober, ProbeResult
from multiverse.servers.record import state_row
from multiverse.servers.registry import Registry
from multiverse.servers.server import UNKNOWN, Server
from multiverse.storage.store import Store
from multiverse.ticking import SteadyCallback

LOG = logging.getLogger(__name__)

JITTER = 0.1
BACK_OFF_AFTER_FAILURES = 8
BACK_OFF_MAX_SECONDS = 300.0
DOUBLINGS = 30
TICKS_PER_INTERVAL = 20
SHORTEST_TICK_SECONDS, LONGEST_TICK_SECONDS = 0.02, 1.0
STREAMS_WITHIN_SECONDS = 10.0
UNDECIDED_PROBE_SECONDS = 2.0


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
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        self._turns: WeakKeyDictionary[Server, asyncio.Lock] = WeakKeyDictionary()
        self.probes_total = 0
        self.probes_failed = 0
        self.verdict_changes = 0
        self._changes: WeakKeyDictionary[Server, Counter[str]] = WeakKeyDictionary()
        tick_seconds = interval_seconds / TICKS_PER_INTERVAL
        tick_seconds = min(max(tick_seconds, SHORTEST_TICK_SECONDS), LONGEST_TICK_SECONDS)
        self._ticker = SteadyCallback(self.sweep, tick_seconds * 1000)

    # -- when ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Probe all servers now, and go on."""
        # After a restart nobody gets anything from a server that waits for its turn behind laptops that sleep.
        self._start_probes(best_first(self._registry.servers))
        self._ticker.start()

    async def stop(self) -> None:
        """Stop probing; probes under way are abandoned."""
        self._ticker.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def sweep(self) -> None:
        """Start the probes that are due; returns at once."""
        self._start_probes(self._registry.servers)

    def _start_probes(self, servers: Iterable[Server]) -> None:
        now = self._clock.monotonic()
        for server in servers:
            if server.next_probe_seconds <= now and server not in self._tasks:
                task = self._tasks[server] = asyncio.get_running_loop().create_task(self._probe_when_free(server))
                task.add_done_callback(partial(self._forget_task, server))

    def _forget_task(self, server: Server, task: asyncio.Task[None]) -> None:
        del self._tasks[server]

    async def _probe_when_free(self, server: Server) -> None:
        try:
            async with self._slots, self.turn(server):
                # Meanwhile an admin may have asked it, or deregistered it.
                if server.registered and server.next_probe_seconds <= self._clock.monotonic():
                    await self._probe(server)
        except Exception:
            self.schedule(server)
            LOG.exception("probe failed", extra={"fields": {"server": server.registration_id}})

    def schedule(self, server: Server, *, backing_off: bool = False) -> None:
        """Set the moment of the next probe: one interval on, a little earlier or later, or much later for the lost."""
        seconds = self._interval_seconds
        if server.loading or (server.health_status == UNKNOWN and server.last_checked_at is not None):
            seconds = min(seconds, UNDECIDED_PROBE_SECONDS)  # Nothing is wrong with it, and a class waits for it.
        jitter = 1 - self._chooser.uniform(0, JITTER)
        now = self._clock.monotonic()
        server.next_probe_seconds = server.usual_probe_seconds = now + seconds * jitter
        beyond = server.probe_failures - BACK_OFF_AFTER_FAILURES
        if backing_off and beyond > 0:
            seconds = min(seconds * 2.0 ** min(beyond, DOUBLINGS), max(BACK_OFF_MAX_SECONDS, seconds))
            server.next_probe_seconds = now + seconds * jitter

    # -- probing -------------------------------------------------------------------------------------------------------

    async def probe(self, server: Server) -> ProbeResult:
        """Probe `server` now (after the probe that is under way), counted like any other."""
        async with self.turn(server):
            return await self._probe(server)

    def turn(self, server: Server) -> asyncio.Lock:
        """One probe per server at a time, whoever asks; locked while it is being asked."""
        return self._turns.setdefault(server, asyncio.Lock())

    async def _probe(self, server: Server) -> ProbeResult:
        registration, started = server.registration, self._clock.monotonic()
        # One that comes back may have been started again with other slots.
        wants_slots = server.learned_slots is None or server.probe_failures > 0 or not server.in_rotation
        result = await self._prober.probe(registration, wants_slots=wants_slots)
        if not same_question(server.registration, registration):
            return result  # It was changed while we asked: the answer is about another server, or to another key.
        if result.finding is Finding.FAILED and self._streams(server, started):
            # A laptop with a single slot may be too busy answering to answer us as well.
            reason = f"busy answering a request; {result.reason}"
            result = ProbeResult(Finding.ALIVE, reason, result.response_time_ms)
        self.apply(server, result)
        return result

    def _streams(self, server: Server, started: float) -> bool:
        """Whether bytes of a real request came during the probe, or just before it and more may come."""
        patience_seconds = STREAMS_WITHIN_SECONDS if server.in_flight else 0.0
        return server.last_byte_seconds >= started - patience_seconds

    def apply(self, server: Server, result: ProbeResult) -> None:
        """Let `result` count, and tell the store and whoever waits for the server."""
        changed = self.judge(server, result)
        self.record(server, result, changed=changed)

    def judge(self, server: Server, result: ProbeResult) -> bool:
        """Let `result` count for the verdict and set the moment of the next probe; True when the verdict changed."""
        if result.finding is Finding.NOT_ASKED:
            self._put_off(server, result)
            return False
        self.probes_total += 1
        server.last_checked_at = self._clock.utc_iso()
        server.response_time_ms = result.response_time_ms
        changed = False
        if result.slots_asked:
            server.learned_slots = result.slots
        if result.finding is Finding.GOOD:
            changed = server.note_good_probe(result.model_names)
        elif result.finding is Finding.ALIVE:
            server.note_alive()
        elif result.finding is Finding.LOADING:
            changed = server.note_loading()
        elif result.finding is Finding.BUSY:
            server.note_reason(result.reason or "the server is busy")
        else:
            self.probes_failed += 1
            changed = server.note_failed_probe(result.reason or "the probe failed")
        self.schedule(server, backing_off=result.finding is Finding.FAILED)
        return changed

    def _put_off(self, server: Server, result: ProbeResult) -> None:
        self.schedule(server)
        if server.health_status == UNKNOWN:  # Nobody gets anything from it until it has been asked.
            server.note_reason(result.reason or "the gateway could not ask it")
            soon = self._clock.monotonic() + UNDECIDED_PROBE_SECONDS
            server.next_probe_seconds = min(server.next_probe_seconds, soon)

    def record(self, server: Server, result: ProbeResult, *, changed: bool) -> None:
        """Queue the probe's row, announce a changed verdict, let waiting requests through."""
        if not server.registered or result.finding is Finding.NOT_ASKED:
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

    def changes_of(self, server: Server) -> Mapping[str, int]:
        """How often the verdict of `server` has become which, since the gateway started."""
        return self._changes.get(server, {})

    def _announce(self, server: Server, result: ProbeResult) -> None:
        self.verdict_changes += 1
        fields: dict[str, Any] = {
            "server": server.registration_id,
            "model": server.registration.model_name,
            "verdict": server.availability if server.loading or server.model_missing else server.health_status,
            "reason": result.reason or (server.reason if server.model_missing else "the probe was good"),
        }
        self._changes.setdefault(server, Counter())[str(fields["verdict"])] += 1
        level = logging.INFO if server.offers_model or server.loading else logging.WARNING
        LOG.log(level, "server verdict changed", extra={"fields": fields})
        self._store.queue_server_state(server.registration_id, state_row(server))


def best_first(servers: Iterable[Server]) -> list[Server]:
    """Those first that were not unhealthy when the gateway last saw them; among them, who answered a request last."""
    latest_first = sorted(servers, key=lambda server: server.last_successful_request_at or "", reverse=True)
    return sorted(latest_first, key=lambda server: server.unhealthy_since is not None)


def same_question(one: Registration, other: Registration) -> bool:
    """Whether probes of both would ask the same server in the same words."""
    return (one.endpoint, one.api_key) == (other.endpoint, other.api_key)
