"""Watching servers: when they are probed, what a finding does, what is told of it. Peers are real, time is not."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from multiverse.clock import Clock
from multiverse.servers.health import BACK_OFF_AFTER_FAILURES, HealthChecker
from multiverse.servers.probe import Finding, Prober, ProbeResult
from multiverse.servers.registry import Registry
from multiverse.servers.server import HEALTHY, UNHEALTHY, UNKNOWN, Server
from multiverse.storage.store import Store
from tests import wire
from tests.bench import (
    BREAKER,
    HandClock,
    build_registration,
    build_registry,
    build_server,
    open_transport,
    succeed,
)
from tests.conftest import StartPeer
from tests.operations import AnswerModels, Hold
from tests.peers import ScriptedPeer
from tests.stores import opened
from tests.waiting import soon

INTERVAL = 60.0
GOOD = ProbeResult(Finding.GOOD, None, 1.0)
FAILED = ProbeResult(Finding.FAILED, "it does not answer", 1.0)
LOADING = ProbeResult(Finding.LOADING, "it is loading", 1.0)
BUSY = ProbeResult(Finding.BUSY, "it is busy", 1.0)
LOADING_ANSWER = wire.error_answer(503, "Loading model", code=503)


@dataclass
class Watch:
    """A health checker and what it needs."""

    health: HealthChecker
    registry: Registry
    clock: HandClock
    store: Store

    def add(self, server: Server) -> Server:
        self.registry.add(server, 0.0)
        return server

    def add_peer(self, peer: ScriptedPeer, name: str = "a", **fields: object) -> Server:
        """A server at `peer`, not probed yet."""
        url = f"{peer.url}/{name}"
        return self.add(build_server(self.clock, name, healthy=False, endpoint_url=url, **fields))


@asynccontextmanager
async def watching(
    tmp_path: Path,
    *,
    clock: Clock | None = None,
    store: Store | None = None,
    interval_seconds: float = INTERVAL,
    concurrency: int = 32,
) -> AsyncIterator[Watch]:
    """A health checker that is not started: the test calls sweep(). Its store only queues, unless one is given."""
    clock = clock or HandClock()
    registry = build_registry()
    store = store or Store(str(tmp_path / "unopened.db"))
    async with open_transport() as transport:
        prober = Prober(
            transport=transport, clock=clock, timeout_seconds=2.0, connect_timeout_seconds=2.0, via="1.1 tests"
        )
        health = HealthChecker(
            registry=registry,
            prober=prober,
            store=store,
            clock=clock,
            interval_seconds=interval_seconds,
            concurrency=concurrency,
            chooser=random.Random(5),
        )
        try:
            yield Watch(health, registry, clock, store)  # type: ignore[arg-type]
        finally:
            await health.stop()


async def settle(watch: Watch) -> None:
    """Until no probe of a sweep is under way."""
    await soon(lambda: not watch.health._tasks, "the sweep's probes end")


# -- which probes a sweep starts


async def test_after_a_restart_those_known_good_last_go_first(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    async with watching(tmp_path, concurrency=1) as watch:
        asleep, _unused, early, late = (watch.add_peer(peer, name) for name in ("asleep", "unused", "early", "late"))
        asleep.unhealthy_since = asleep.last_successful_request_at = "2026-01-31T12:00:00.000Z"
        early.last_successful_request_at = "2026-01-31T10:00:00.000Z"
        late.last_successful_request_at = "2026-01-31T11:00:00.000Z"
        watch.health.start()
        await settle(watch)
        order = [request.path.split("/")[1] for request in peer.probes]
        assert order == ["late", "early", "unused", "asleep"]


async def test_a_sweep_starts_only_what_is_due(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    async with watching(tmp_path) as watch:
        new, due, later = (watch.add_peer(peer, name) for name in ("new", "due", "later"))
        due.next_probe_seconds = watch.clock.monotonic()
        later.next_probe_seconds = watch.clock.monotonic() + 0.1
        watch.health.sweep()
        await settle(watch)
        assert sorted(probe.path for probe in peer.probes) == ["/due/v1/models", "/new/v1/models"]
        assert (new.health_status, due.health_status, later.health_status) == (HEALTHY, HEALTHY, UNKNOWN)
        watch.health.sweep()
        await settle(watch)
        assert len(peer.probes) == 2, "nothing is due any more"
        watch.clock.pass_time(INTERVAL)
        watch.health.sweep()
        await settle(watch)
        assert len(peer.probes) == 5


async def test_a_server_is_never_probed_twice_at_once(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        for _number in range(3):
            watch.health.sweep()
        await soon(lambda: peer.probes, "the probe arrives")
        admins = asyncio.create_task(watch.health.probe(server))
        watch.clock.pass_time(1000)
        watch.health.sweep()
        await asyncio.sleep(0.05)
        assert len(peer.probes) == 1, "neither another sweep nor an admin starts a second one"
        hold.release()
        assert (await admins).ok
        await settle(watch)
        assert len(peer.probes) == 2, "the admin's comes after it"


async def test_an_admins_probe_spares_the_one_that_waits(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        admins = asyncio.create_task(watch.health.probe(server))
        await soon(lambda: peer.probes, "the admin's probe arrives")
        watch.health.sweep()
        hold.release()
        await admins
        await settle(watch)
        assert len(peer.probes) == 1, "it is not due any more"
        assert server.health_status == HEALTHY


async def test_only_so_many_at_once(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    async with watching(tmp_path, concurrency=2) as watch:
        servers = [watch.add_peer(peer, f"s{number}") for number in range(6)]
        watch.health.sweep()
        await soon(lambda: len(peer.probes) == 2, "two probes arrive")
        await asyncio.sleep(0.05)
        assert len(peer.probes) == 2
        gone = servers[5]
        watch.registry.remove("s5")
        hold.release()
        await settle(watch)
        assert len(peer.probes) == 5, "then the others, but for the one that has been deregistered meanwhile"
        assert gone.health_status == UNKNOWN


async def test_a_hanging_probe_delays_nobody(tmp_path: Path, start_peer: StartPeer) -> None:
    hanging, good = start_peer(), start_peer()
    hold = Hold()
    hanging.health.always(hold, AnswerModels())
    async with watching(tmp_path) as watch:
        stuck = watch.add_peer(hanging, "stuck")
        others = [watch.add_peer(good, f"s{number}") for number in range(5)]
        for round_number in range(1, 4):
            watch.health.sweep()
            count = 5 * round_number
            await soon(lambda count=count: len(good.probes) == count, "all others are probed")
            await soon(lambda: len(watch.health._tasks) == 1, "and answered")
            watch.clock.pass_time(INTERVAL)
        assert {server.health_status for server in others} == {HEALTHY}
        assert (stuck.health_status, len(hanging.probes)) == (UNKNOWN, 1)
        hold.release()
        await settle(watch)
        assert stuck.health_status == HEALTHY


async def test_it_goes_on_by_itself(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    async with watching(tmp_path, clock=Clock(), interval_seconds=0.2) as watch:
        watch.add_peer(peer)
        watch.health.start()
        await soon(lambda: len(peer.probes) >= 4, "probe after probe")
        arrived = [probe.arrived_at for probe in peer.probes]
        waits = [after - before for before, after in itertools.pairwise(arrived)]
        assert min(waits) >= 0.2 * 0.9 - 0.02, f"never earlier than an interval, less its jitter: {waits}"


async def test_stopping_abandons_what_is_under_way(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    peer.health.always(Hold())
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        watch.health.start()
        await soon(lambda: peer.probes, "the probe arrives")
        await watch.health.stop()
        await soon(lambda: not peer.open_connections(), "its connection is closed")
        assert server.health_status == UNKNOWN
        watch.clock.pass_time(1000)
        await asyncio.sleep(0.1)
        assert len(peer.probes) == 1


async def test_a_probe_that_breaks_does_not_come_back_at_once(
    tmp_path: Path, start_peer: StartPeer, caplog: pytest.LogCaptureFixture
) -> None:
    peer = start_peer()
    async with watching(tmp_path) as watch:
        watch.add_peer(peer, api_key="split\r\nin two")  # edited by hand in the database; no schema lets it in
        for _number in range(3):
            watch.health.sweep()
            await settle(watch)
        assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["probe failed"]
        assert "in two" not in caplog.text
        assert not peer.probes


# -- the moment of the next probe


async def test_probes_spread_out(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        servers = [build_server(watch.clock, f"s{number}") for number in range(300)]
        for server in servers:
            watch.health.schedule(server)
        waits = sorted(server.next_probe_seconds - watch.clock.monotonic() for server in servers)
        assert INTERVAL * 0.9 <= waits[0] < INTERVAL * 0.91, "a little earlier"
        assert INTERVAL * 0.99 < waits[-1] <= INTERVAL, "never later"
        gaps = [after - before for before, after in itertools.pairwise(waits)]
        assert max(gaps) < 0.2, f"300 in 6 s: no two bunches ({max(gaps)})"


@pytest.mark.parametrize(("interval_seconds", "longest_seconds"), [(60.0, 300.0), (1.0, 300.0), (900.0, 900.0)])
async def test_probes_of_the_lost_back_off(tmp_path: Path, interval_seconds: float, longest_seconds: float) -> None:
    async with watching(tmp_path, interval_seconds=interval_seconds) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        waits = []
        for _number in range(30):
            watch.health.apply(server, FAILED)
            waits.append(server.next_probe_seconds - watch.clock.monotonic())
        assert max(waits[:BACK_OFF_AFTER_FAILURES]) <= interval_seconds, "not at once: it may just be restarting"
        assert max(waits) <= longest_seconds
        assert min(waits[20:]) >= longest_seconds * 0.9, "but in the end"
        for result in (LOADING, BUSY, GOOD):
            watch.health.apply(server, FAILED)
            watch.health.apply(server, result)
            waited = server.next_probe_seconds - watch.clock.monotonic()
            assert waited <= interval_seconds, f"{result.finding}: it answers, so back to the usual rhythm"


async def test_a_good_answer_to_a_request_ends_the_back_off(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        for _number in range(20):
            watch.health.apply(server, FAILED)
        watch.clock.pass_time(100)
        succeed(server)
        assert server.next_probe_seconds <= watch.clock.monotonic(), "its usual moment was 40 s ago"
        watch.health.apply(server, FAILED)
        succeed(server)
        assert server.next_probe_seconds - watch.clock.monotonic() >= INTERVAL * 0.9, "one extra probe per interval"


# -- what a finding does


async def refused(watch: Watch, peer: ScriptedPeer) -> Server:
    """A healthy server whose port is closed now."""
    server = watch.add_peer(peer)
    await watch.health.probe(server)
    assert server.health_status == HEALTHY
    peer.refuse()
    return server


async def test_it_falls_after_exactly_so_many_failed_probes(tmp_path: Path, start_peer: StartPeer) -> None:
    async with watching(tmp_path) as watch:
        server = await refused(watch, start_peer())
        verdicts = []
        for _number in range(BREAKER.max_failures + 1):
            assert not (await watch.health.probe(server)).ok
            verdicts.append(server.health_status)
        assert verdicts == [HEALTHY, HEALTHY, UNHEALTHY, UNHEALTHY]
        assert (watch.health.probes_total, watch.health.probes_failed) == (5, 4)


async def test_a_server_that_streams_is_alive(tmp_path: Path, start_peer: StartPeer) -> None:
    async with watching(tmp_path) as watch:
        server = await refused(watch, start_peer())
        for _number in range(10):
            server.last_byte_seconds = watch.clock.monotonic()
            result = await watch.health.probe(server)
            assert result.ok
            assert "busy answering" in (result.reason or "")
            watch.clock.pass_time(INTERVAL)
        assert (server.health_status, server.consecutive_failures) == (HEALTHY, 0)
        assert watch.health.probes_failed == 0
        for _number in range(BREAKER.max_failures):
            assert not (await watch.health.probe(server)).ok
        assert server.health_status == UNHEALTHY, "silent again: the probes count"


@pytest.mark.parametrize(("in_flight", "silent_seconds", "alive"), [(1, 9.0, True), (1, 11.0, False), (0, 1.0, False)])
async def test_tokens_that_come_slowly(
    tmp_path: Path, start_peer: StartPeer, in_flight: int, silent_seconds: float, alive: bool
) -> None:
    async with watching(tmp_path) as watch:
        server = await refused(watch, start_peer())
        server.in_flight = in_flight
        server.last_byte_seconds = watch.clock.monotonic() - silent_seconds
        assert (await watch.health.probe(server)).ok is alive


async def test_streaming_does_not_make_a_lost_server_healthy(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    peer.refuse()
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        await watch.health.probe(server)
        assert server.health_status == UNHEALTHY
        server.last_byte_seconds = watch.clock.monotonic()
        await watch.health.probe(server)
        assert server.health_status == UNHEALTHY


async def test_loading_and_loaded(tmp_path: Path, start_peer: StartPeer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "multiverse.servers.health")
    peer = start_peer()
    peer.health.always(LOADING_ANSWER)
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        for _number in range(5):
            assert (await watch.health.probe(server)).finding is Finding.LOADING
        assert (server.availability, server.consecutive_failures) == ("loading", 0)
        assert watch.health.probes_failed == 0
        peer.health.always(AnswerModels())
        await watch.health.probe(server)
        assert (server.availability, server.reason) == ("available", None)
        assert verdicts_logged(caplog) == [("INFO", "loading"), ("INFO", "healthy")]


@pytest.mark.parametrize("finding", [LOADING, BUSY])
async def test_one_that_is_not_ready_yet_is_asked_again_soon(tmp_path: Path, finding: ProbeResult) -> None:
    async with watching(tmp_path, interval_seconds=60) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        watch.health.apply(server, finding)
        assert server.next_probe_seconds - watch.clock.monotonic() <= 2
        watch.health.apply(server, GOOD)
        assert server.next_probe_seconds - watch.clock.monotonic() > 50


async def test_busy_is_neither_good_nor_bad(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock))
        for _number in range(10):
            watch.health.apply(server, BUSY)
        assert (server.health_status, server.consecutive_failures, server.reason) == (HEALTHY, 0, BUSY.reason)


@pytest.mark.parametrize("changes", [{"endpoint_url": "http://moved.example"}, {"api_key": "sk-new"}])
async def test_what_was_asked_before_a_change_does_not_count(
    tmp_path: Path, start_peer: StartPeer, changes: dict[str, str]
) -> None:
    peer = start_peer()
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    async with watching(tmp_path) as watch:
        server = watch.add_peer(peer)
        watch.health.sweep()
        await soon(lambda: peer.probes, "the probe arrives")
        server.registration = build_registration(**{"endpoint_url": f"{peer.url}/a", **changes})
        hold.release()
        await settle(watch)
        assert (server.health_status, server.last_checked_at) == (UNKNOWN, None), "the answer is about another server"
        assert watch.health.probes_total == 0


# -- what is told of it


def verdicts_logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [record for record in caplog.records if record.message == "server verdict changed"]
    return [(record.levelname, record.fields["verdict"]) for record in records]  # type: ignore[attr-defined]


async def test_a_verdict_is_logged_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "multiverse.servers.health")
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock, healthy=False, api_key="sk-planted"))
        for result in [GOOD] * 3 + [FAILED] * 6 + [GOOD] * 3:
            watch.health.apply(server, result)
        assert verdicts_logged(caplog) == [("INFO", "healthy"), ("WARNING", "unhealthy"), ("INFO", "healthy")]
        assert len(caplog.records) == 3, "and nothing else is"
        record = caplog.records[1]
        assert record.fields["reason"] == FAILED.reason  # type: ignore[attr-defined]
        assert "sk-planted" not in repr(vars(record))


async def test_every_probe_has_its_row(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store, watching(tmp_path, store=store) as watch:
        server = build_server(watch.clock, healthy=False)
        await store.save_registration(server.registration.to_row())
        watch.add(server)
        for result in [GOOD, FAILED, FAILED, FAILED, LOADING]:
            watch.clock.pass_time(1)
            watch.health.apply(server, result)
        rows = await store.recent_probes("a")
        assert [(row["ok"], row["health_status"], row["reason"]) for row in rows] == [
            (0, UNHEALTHY, LOADING.reason),
            (0, UNHEALTHY, FAILED.reason),
            (0, HEALTHY, FAILED.reason),
            (0, HEALTHY, FAILED.reason),
            (1, HEALTHY, None),
        ]
        assert [row["checked_at"] for row in rows] == sorted((row["checked_at"] for row in rows), reverse=True)
        await store.flush()
        (stored,) = await store.load_registrations()
        assert (stored["health_status"], stored["unhealthy_since"]) == (UNHEALTHY, server.unhealthy_since)


async def test_only_a_changed_verdict_is_written(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock))
        watch.health.apply(server, GOOD)
        assert watch.store.queued == 1, "the probe's row"
        for _number in range(BREAKER.max_failures):
            watch.health.apply(server, FAILED)
        assert watch.store.queued == 5, "four rows, and the verdict once"


async def test_a_late_verdict_does_not_undo_a_drain(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store, watching(tmp_path, store=store) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        saving = asyncio.ensure_future(store.save_registration({**server.registration.to_row(), "draining": 1}))
        await asyncio.sleep(0)
        watch.health.apply(server, GOOD)  # before the admin's word has reached the server in memory
        await saving
        await store.flush()
        (row,) = await store.load_registrations()
        assert (row["draining"], row["health_status"]) == (1, HEALTHY)


async def test_nothing_is_told_of_a_server_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "multiverse.servers.health")
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        watch.registry.remove("a")
        watch.health.apply(server, GOOD)
        assert (watch.store.queued, caplog.records) == (0, [])


async def test_who_waits_is_told_of_every_probe(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        told: list[str] = []
        watch.registry.watch(told.append)
        watch.health.apply(server, GOOD)
        assert told == [server.registration.model_name]


async def test_how_long_a_server_has_been_unhealthy(tmp_path: Path) -> None:
    async with watching(tmp_path) as watch:
        server = watch.add(build_server(watch.clock, healthy=False))
        assert server.unhealthy_seconds == 0
        watch.health.apply(server, FAILED)
        watch.clock.pass_time(5400)
        watch.clock.set_machine_clock(1e7)
        assert server.unhealthy_seconds == 5400
        watch.health.apply(server, GOOD)
        assert server.unhealthy_seconds == 0
