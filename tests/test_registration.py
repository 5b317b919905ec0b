"""Registering, changing, deregistering, with a real store and a real server: what is kept, what undone, who is told."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from multiverse.errors import InvalidRequest, NoServerAvailable, ServerNotFound, StoreFailed
from multiverse.servers.health import HealthChecker
from multiverse.servers.probe import Finding, Prober, ProbeResult
from multiverse.servers.record import record_of
from multiverse.servers.registration import RegistrationService
from multiverse.servers.registry import Registry
from multiverse.servers.server import HEALTHY, UNHEALTHY, UNKNOWN, Blame
from multiverse.storage.store import Store
from multiverse.transport.addresses import FORBIDDEN_ADDRESS_MESSAGE, AddressPolicy
from multiverse.transport.dialling import Dialler
from tests import wire
from tests.bench import BREAKER, MODEL, HandClock, begin, fail, open_transport
from tests.conftest import StartPeer
from tests.operations import AnswerModels, Hold
from tests.peers import ScriptedPeer
from tests.stores import opened, rows_on_disk
from tests.waiting import soon

HOUR = 3600.0
ALL_FIELDS: dict[str, Any] = {
    "served_model_name": "/models/llama.gguf",
    "api_key": "sk-planted-server-key",
    "owner_name": "Zoë 北京",
    "owner_email": "zoe@example.org",
    "description": "a laptop\nin the back row",
    "tags": ("gpu", "ünïcode"),
    "context_length": 8192,
    "max_concurrency": 2,
}


@dataclass
class Office:
    """A registration service and what it works on."""

    service: RegistrationService
    registry: Registry
    health: HealthChecker
    store: Store
    clock: HandClock
    path: Path
    secrets: list[str] = field(default_factory=list)

    async def register(self, endpoint_url: str, model_name: str = MODEL, **fields: Any) -> tuple[str, bool]:
        """Register; the id, and whether it is a new one."""
        server, created = await self.service.register(
            {"model_name": model_name, "endpoint_url": endpoint_url, **fields}
        )
        return server.registration_id, created

    def on_disk(self) -> dict[str, dict[str, Any]]:
        """The rows as another process would read them, by id."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return {row["registration_id"]: dict(row) for row in connection.execute("SELECT * FROM servers")}


@asynccontextmanager
async def office(
    tmp_path: Path, *, clock: HandClock | None = None, allow_private: bool = True, **store_options: Any
) -> AsyncIterator[Office]:
    """A service on the database of `tmp_path`; again on the same path is a restart."""
    clock = clock or HandClock()
    path = tmp_path / "gateway.db"
    secrets: list[str] = []
    async with opened(path, **store_options) as store, open_transport(allow_private=allow_private) as transport:
        registry = Registry(chooser=random.Random(3))
        prober = Prober(
            transport=transport, clock=clock, timeout_seconds=2.0, connect_timeout_seconds=2.0, via="1.1 tests"
        )
        health = HealthChecker(
            registry=registry, prober=prober, store=store, clock=clock, interval_seconds=60.0, concurrency=8
        )
        service = RegistrationService(
            registry=registry,
            store=store,
            prober=prober,
            health=health,
            dialler=Dialler(AddressPolicy(allow_private=allow_private)),
            clock=clock,
            breaker=BREAKER,
            resolve_timeout_seconds=2.0,
            on_secret=secrets.append,
        )
        try:
            yield Office(service, registry, health, store, clock, path, secrets)
        finally:
            await health.stop()


# -- registering


async def test_registered_stored_and_ready(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        server, created = await desk.service.register({"model_name": MODEL, "endpoint_url": peer.url, **ALL_FIELDS})
        assert created
        assert (server.health_status, server.available) == (HEALTHY, True)
        assert desk.registry.pick(MODEL) is server
        (row,) = desk.on_disk().values()
        assert row["registration_id"] == server.registration_id
        assert (row["model_name"], row["endpoint_url"], row["health_status"]) == (MODEL, peer.url, HEALTHY)
        record = record_of(server)
        assert {name: record[name] for name in ALL_FIELDS if name not in ("api_key", "tags")} == {
            name: value for name, value in ALL_FIELDS.items() if name not in ("api_key", "tags")
        }
        assert (record["has_api_key"], record["tags"]) == (True, ["gpu", "ünïcode"])
        assert record["created_at"] == record["updated_at"] == desk.clock.utc_iso()
        assert peer.probes[0].header("Authorization") == f"Bearer {ALL_FIELDS['api_key']}"
        (probe,) = await desk.store.recent_probes(server.registration_id)
        assert (probe["ok"], probe["health_status"]) == (1, HEALTHY)


async def test_registered_whatever_the_verdict(tmp_path: Path, start_peer: StartPeer) -> None:
    broken, loading, closed = start_peer(), start_peer(), start_peer()
    broken.health.always(wire.html_answer())
    loading.health.always(wire.error_answer(503, "Loading model"))
    closed.refuse()
    async with office(tmp_path) as desk:
        words = []
        for server_peer in (broken, loading, closed):
            registration_id, created = await desk.register(server_peer.url)
            assert created
            server = desk.service.server(registration_id)
            words.append((server.health_status, server.availability, server.consecutive_failures))
        assert words == [(UNHEALTHY, "unhealthy", 1), (UNKNOWN, "loading", 0), (UNHEALTHY, "unhealthy", 1)]
        assert len(desk.on_disk()) == 3


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/v1//"])
async def test_the_same_pair_keeps_its_id(tmp_path: Path, peer: ScriptedPeer, suffix: str) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, **ALL_FIELDS)
        desk.clock.pass_time(10)
        again = await desk.register(peer.url.upper().replace("HTTP", "http") + suffix, owner_name="Yael")
        assert again == (registration_id, False)
        record = record_of(desk.service.server(registration_id))
        assert (record["owner_name"], record["description"]) == ("Yael", ALL_FIELDS["description"]), "what is sent"
        assert record["updated_at"] > record["created_at"]
        assert [row["owner_name"] for row in desk.on_disk().values()] == ["Yael"]
        assert len(desk.registry.servers) == 1


async def test_registering_again_asks_with_the_key_that_is_known(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, api_key="sk-known")
        await desk.register(peer.url, description="without its key")
        assert [probe.header("Authorization") for probe in peer.probes] == ["Bearer sk-known"] * 2
        assert desk.service.server(registration_id).registration.api_key == "sk-known"
        await desk.register(peer.url, api_key=None)
        assert peer.probes[2].header("Authorization") is None, "null clears it"
        assert not record_of(desk.service.server(registration_id))["has_api_key"]


async def test_the_same_pair_at_the_same_time(tmp_path: Path, peer: ScriptedPeer) -> None:
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    async with office(tmp_path) as desk:
        both = [asyncio.create_task(desk.register(peer.url, owner_name=name)) for name in ("one", "two")]
        await soon(lambda: len(peer.probes) == 2, "both are being probed")
        hold.release()
        (first_id, first_created), (second_id, second_created) = await asyncio.gather(*both)
        assert first_id == second_id
        assert sorted([first_created, second_created]) == [False, True]
        assert len(desk.on_disk()) == len(desk.registry.servers) == 1


async def test_a_failed_probe_of_a_known_server_counts_as_one(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        peer.health.always(wire.error_answer(500, "boom"))
        await desk.register(peer.url)
        server = desk.service.server(registration_id)
        assert (server.health_status, server.consecutive_failures) == (HEALTHY, 1), "thresholds hold for it"


@pytest.mark.parametrize(
    "endpoint_url",
    ["http://169.254.169.254", "http://[::ffff:169.254.169.254]", "http://2130706433", "http://0.0.0.0:80"],
)
async def test_forbidden_addresses_are_refused_in_one_text(tmp_path: Path, endpoint_url: str) -> None:
    async with office(tmp_path) as desk:
        with pytest.raises(InvalidRequest) as raised:
            await desk.register(endpoint_url)
        assert (raised.value.message, raised.value.param) == (FORBIDDEN_ADDRESS_MESSAGE, "endpoint_url")
        assert not desk.registry.servers
        assert not desk.on_disk()


async def test_private_addresses_may_be_forbidden_too(tmp_path: Path, start_peer: StartPeer) -> None:
    listening, closed = start_peer(), start_peer()
    closed.refuse()
    texts = set()
    async with office(tmp_path, allow_private=False) as desk:
        for endpoint_url in (listening.url, closed.url, "http://localhost:1", "http://10.0.0.1"):
            with pytest.raises(InvalidRequest) as raised:
                await desk.register(endpoint_url)
            texts.add((raised.value.message, raised.value.param))
    assert texts == {(FORBIDDEN_ADDRESS_MESSAGE, "endpoint_url")}, "one text for open and closed ports"
    assert not listening.connections


async def test_a_name_that_does_not_resolve_is_registered(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        registration_id, created = await desk.register("https://not-yet-alive.invalid")
        server = desk.service.server(registration_id)
        assert created
        assert (server.health_status, server.reason) == (UNHEALTHY, "the server's host name does not resolve")


# -- require_healthy


@pytest.mark.parametrize("answer", [wire.html_answer(), wire.error_answer(503, "Loading model")])
async def test_require_healthy_stores_nothing(tmp_path: Path, peer: ScriptedPeer, answer: bytes) -> None:
    peer.health.always(answer)
    fields = {"model_name": MODEL, "endpoint_url": peer.url}
    async with office(tmp_path) as desk:
        with pytest.raises(NoServerAvailable) as raised:
            await desk.service.register(fields, require_healthy=True)
        assert "127.0.0.1" not in raised.value.message
        assert not desk.registry.servers
        assert not desk.on_disk()
        peer.health.always(AnswerModels())
        _server, created = await desk.service.register(fields, require_healthy=True)
        assert created


async def test_require_healthy_changes_nothing(tmp_path: Path, start_peer: StartPeer) -> None:
    good, bad = start_peer(), start_peer()
    bad.refuse()
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(good.url, owner_name="before")
        before = record_of(desk.service.server(registration_id))
        with pytest.raises(NoServerAvailable):
            await desk.service.update(
                registration_id, {"endpoint_url": bad.url, "owner_name": "after"}, require_healthy=True
            )
        good.refuse()
        with pytest.raises(NoServerAvailable):
            await desk.service.update(registration_id, {"owner_name": "after"}, require_healthy=True)
        with pytest.raises(NoServerAvailable):
            await desk.service.register(
                {"model_name": MODEL, "endpoint_url": good.url, "owner_name": "after"}, require_healthy=True
            )
        assert record_of(desk.service.server(registration_id)) == before
        assert desk.on_disk()[registration_id]["owner_name"] == "before"


# -- updating


async def test_only_what_is_sent_changes_and_null_clears(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, **ALL_FIELDS)
        before = record_of(desk.service.server(registration_id))
        desk.clock.pass_time(5)
        await desk.service.update(registration_id, {"description": None, "context_length": 4096})
        after = record_of(desk.service.server(registration_id))
        assert {name for name in after if after[name] != before[name]} == {
            "description",
            "context_length",
            "updated_at",
        }
        assert (after["description"], after["context_length"]) == (None, 4096)
        row = desk.on_disk()[registration_id]
        assert (row["description"], row["context_length"], row["api_key"]) == (None, 4096, ALL_FIELDS["api_key"])
        assert len(peer.probes) == 1, "no reason to ask the server again"


async def test_another_address_is_another_server(tmp_path: Path, start_peer: StartPeer) -> None:
    old, new = start_peer(), start_peer()
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(old.url)
        server = desk.service.server(registration_id)
        fail(server, 3)
        running = begin(server)
        await desk.service.update(registration_id, {"endpoint_url": new.url + "/v1"})
        assert desk.registry.find(MODEL, new.url) is server
        assert desk.registry.find(MODEL, old.url) is None
        assert (server.health_status, server.availability, server.consecutive_failures) == (HEALTHY, "available", 0)
        assert len(new.probes) == 1, "asked before the answer"
        assert server.in_flight == 1
        await desk.service.update(registration_id, {"endpoint_url": closed_port(old)})
        assert server.health_status == UNHEALTHY, "the first probe of an address decides at once"
        assert running.server is server


def closed_port(peer: ScriptedPeer) -> str:
    """The address of a peer that listens no more."""
    peer.refuse()
    return peer.url


async def test_a_forbidden_address_changes_nothing(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        with pytest.raises(InvalidRequest):
            await desk.service.update(registration_id, {"endpoint_url": "http://169.254.169.254"})
        assert desk.on_disk()[registration_id]["endpoint_url"] == peer.url


async def test_another_model(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        server = desk.service.server(registration_id)
        server.note_model_missing()
        await desk.service.update(registration_id, {"model_name": "org/renamed"})
        assert [name for name, _created, _servers in desk.registry.models()] == ["org/renamed"]
        assert desk.registry.pick("org/renamed") is server, "what it did not know was the old name"


@pytest.mark.parametrize("good_probe", [True, False])
async def test_another_served_name_is_asked_for_at_once(tmp_path: Path, peer: ScriptedPeer, good_probe: bool) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, served_model_name="wrong")
        server = desk.service.server(registration_id)
        server.note_model_missing()
        if not good_probe:
            peer.health.always(wire.error_answer(502, "hiccup"))
        await desk.service.update(registration_id, {"served_model_name": "right"})
        assert (server.availability, len(peer.probes)) == ("available", 2)


async def test_the_pair_of_another_registration_is_refused(tmp_path: Path, start_peer: StartPeer) -> None:
    one, other = start_peer(), start_peer()
    async with office(tmp_path) as desk:
        first, _ = await desk.register(one.url)
        second, _ = await desk.register(other.url)
        third, _ = await desk.register(one.url, "org/another")
        for registration_id, changes in ((second, {"endpoint_url": one.url}), (third, {"model_name": MODEL})):
            with pytest.raises(InvalidRequest) as raised:
                await desk.service.update(registration_id, changes)
            assert first in raised.value.message
        await desk.service.update(first, {"endpoint_url": one.url, "model_name": MODEL})  # its own pair
        pairs = {(row["model_name"], row["endpoint_url"]) for row in desk.on_disk().values()}
        assert pairs == {(MODEL, one.url), (MODEL, other.url), ("org/another", one.url)}


async def test_more_slots_count_at_once(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, max_concurrency=1)
        told: list[str] = []
        desk.registry.watch(told.append)
        await desk.service.update(registration_id, {"max_concurrency": None})
        assert told, "who waits for a slot is told"
        assert desk.service.server(registration_id).registration.max_concurrency is None


async def test_changes_that_cross_each_other(tmp_path: Path, start_peer: StartPeer) -> None:
    old, new = start_peer(), start_peer()
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(old.url)
        hold = Hold()
        old.health.always(hold, wire.error_answer(401, "who are you"))
        slow = asyncio.create_task(desk.service.update(registration_id, {"api_key": "sk-new"}))
        await soon(lambda: len(old.probes) == 2, "the old address is asked with the new key")
        await desk.service.update(registration_id, {"endpoint_url": new.url})
        hold.release()
        await slow
        server = desk.service.server(registration_id)
        assert (server.registration.endpoint.url, server.registration.api_key) == (new.url, "sk-new"), "both hold"
        assert (server.health_status, server.consecutive_failures) == (HEALTHY, 0), "what the old address said does not"
        assert server.next_probe_seconds <= desk.clock.monotonic(), "the pair is asked in the next sweep"


async def test_deregistered_while_it_was_being_changed(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        hold = Hold()
        peer.health.always(hold, AnswerModels())
        slow = asyncio.create_task(desk.service.update(registration_id, {"api_key": "sk-new"}))
        await soon(lambda: len(peer.probes) == 2, "it is asked")
        await desk.service.deregister(registration_id)
        hold.release()
        with pytest.raises(ServerNotFound):
            await slow
        assert not desk.on_disk(), "it does not come back"


async def test_unknown_ids(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        for attempt in (
            desk.service.update("nobody", {}),
            desk.service.deregister("nobody"),
            desk.service.set_draining("nobody", True),
        ):
            with pytest.raises(ServerNotFound):
                await attempt


# -- out and back


async def test_deregistering(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        server = desk.service.server(registration_id)
        running = begin(server)
        leaving = asyncio.ensure_future(desk.service.deregister(registration_id))
        await asyncio.sleep(0)
        assert not desk.registry.servers, "no new request goes there from now on, however slow the disk is"
        await leaving
        assert not desk.on_disk()
        assert not server.registered
        again, created = await desk.register(peer.url)
        assert created
        assert again != registration_id, "a new life, a new id"
        assert desk.service.server(again).in_flight == 0
        running.end(Blame.SUCCESS)
        assert server.in_flight == 0, "what was under way finishes"


async def test_draining_survives_a_restart(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        server = await desk.service.set_draining(registration_id, True)
        assert server.availability == "draining"
        assert rows_on_disk(desk.path, "SELECT draining FROM servers") == [(1,)], "durable before the answer"
        await desk.service.update(registration_id, {"description": "still draining"})
        await desk.health.probe(server)
    async with office(tmp_path) as desk:
        await desk.service.load()
        server = desk.service.server(registration_id)
        await desk.health.probe(server)
        assert (server.health_status, server.availability) == (HEALTHY, "draining")
        await desk.service.set_draining(registration_id, False)
        assert server.availability == "available"
        assert rows_on_disk(desk.path, "SELECT draining FROM servers") == [(0,)]


# -- the store fails


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Somebody else writes to the database, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_a_store_that_fails_changes_nothing(tmp_path: Path, start_peer: StartPeer) -> None:
    known, new = start_peer(), start_peer()
    async with office(tmp_path, lock_wait_seconds=0.1) as desk:
        registration_id, _ = await desk.register(known.url, owner_name="before")
        server = desk.service.server(registration_id)
        before, disk = record_of(server), desk.on_disk()
        async with locked(desk.path):
            for attempt in (
                desk.register(new.url),
                desk.register(known.url, owner_name="after"),
                desk.service.update(registration_id, {"model_name": "org/another", "endpoint_url": new.url}),
                desk.service.set_draining(registration_id, True),
                desk.service.deregister(registration_id),
            ):
                with pytest.raises(StoreFailed):
                    await attempt
                assert list(desk.registry.servers) == [server]
                assert desk.registry.pick(MODEL) is server
                assert record_of(server) == before
                assert server.registered
        assert desk.on_disk() == disk


# -- a restart


async def test_a_restart_brings_everything_back_unknown(tmp_path: Path, peer: ScriptedPeer) -> None:
    clock = HandClock()
    async with office(tmp_path, clock=clock) as desk:
        ids = [(await desk.register(f"{peer.url}/{name}", **ALL_FIELDS))[0] for name in "abc"]
        records = [record_of(desk.service.server(registration_id)) for registration_id in ids]
        begin(desk.service.server(ids[0]))
    async with office(tmp_path, clock=clock) as desk:
        assert await desk.service.load() == 3
        assert [server.registration_id for server in desk.registry.servers] == ids, "in their order"
        for server, record in zip(desk.registry.servers, records, strict=True):
            assert (server.health_status, server.available, server.in_flight) == (UNKNOWN, False, 0)
            assert server.registration.api_key == ALL_FIELDS["api_key"]
            changed = {name for name, value in record_of(server).items() if value != record[name]}
            assert changed <= {"health_status", "availability", "response_time_ms", "in_flight"}
            assert server.next_probe_seconds <= clock.monotonic(), "probed at once"
        assert desk.secrets == [ALL_FIELDS["api_key"]] * 3
        assert (await desk.register(f"{peer.url}/b"))[1] is False, "and known"


async def test_a_row_that_makes_no_sense_is_skipped(
    tmp_path: Path, peer: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    async with office(tmp_path) as desk:
        ids = [(await desk.register(f"{peer.url}/{name}"))[0] for name in "abcd"]
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("UPDATE servers SET endpoint_url = 'gopher://x' WHERE registration_id = ?", [ids[0]])
        connection.execute("UPDATE servers SET created_at = 'long ago' WHERE registration_id = ?", [ids[1]])
        connection.execute("UPDATE servers SET unhealthy_since = 'never' WHERE registration_id = ?", [ids[2]])
    async with office(tmp_path) as desk:
        assert await desk.service.load() == 2
        assert [server.registration_id for server in desk.registry.servers] == ids[2:]
    errors = [record.fields["server"] for record in caplog.records if record.levelno == logging.ERROR]  # type: ignore[attr-defined]
    assert errors == ids[:2]


# -- the long-lost


async def test_only_the_lost_are_deregistered_and_only_after_their_hours(tmp_path: Path, start_peer: StartPeer) -> None:
    good, lost, again = (start_peer() for _number in range(3))
    async with office(tmp_path) as desk:
        ids = {name: (await desk.register(peer.url))[0] for name, peer in zip("gla", (good, lost, again), strict=True)}
        failed = ProbeResult(Finding.FAILED, "no answer", 1.0)
        for name in "la":
            for _number in range(BREAKER.max_failures):
                desk.health.apply(desk.service.server(ids[name]), failed)
        desk.clock.pass_time(23 * HOUR)
        desk.clock.set_machine_clock(1000 * HOUR)
        await desk.service.deregister_lost(24)
        assert len(desk.registry.servers) == 3, "not yet, whatever the machine's clock says"
        desk.health.apply(desk.service.server(ids["a"]), ProbeResult(Finding.GOOD, None, 1.0))
        desk.clock.pass_time(1 * HOUR)
        await desk.service.deregister_lost(24)
        assert {server.registration_id for server in desk.registry.servers} == {ids["g"], ids["a"]}
        assert set(desk.on_disk()) == {ids["g"], ids["a"]}


async def test_hours_lost_count_over_a_restart(tmp_path: Path, peer: ScriptedPeer) -> None:
    peer.refuse()
    clock = HandClock()
    async with office(tmp_path, clock=clock) as desk:
        registration_id, _ = await desk.register(peer.url)
        clock.pass_time(20 * HOUR)
    clock.monotonic_now = 1.0
    async with office(tmp_path, clock=clock) as desk:
        await desk.service.load()
        await desk.service.deregister_lost(0.0001)
        assert len(desk.registry.servers) == 1, "nobody has asked it since"
        await desk.health.probe(desk.service.server(registration_id))
        await desk.service.deregister_lost(21)
        assert len(desk.registry.servers) == 1
        clock.pass_time(1 * HOUR)
        await desk.service.deregister_lost(21)
        assert not desk.registry.servers


async def test_whoever_is_coming_back_is_not_deregistered(tmp_path: Path, peer: ScriptedPeer) -> None:
    peer.health.queue(wire.html_answer())
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url, owner_name="Ada")
        desk.clock.pass_time(30 * HOUR)
        hold = Hold()
        peer.health.queue(hold, AnswerModels())
        coming_back = asyncio.create_task(desk.register(peer.url))
        await soon(lambda: len(peer.probes) == 2, "the owner registers it again")
        await desk.service.deregister_lost(24)
        hold.release()
        assert await coming_back == (registration_id, False), "it keeps its id"
        server = desk.service.server(registration_id)
        assert (server.health_status, server.registration.owner_name) == (HEALTHY, "Ada")


async def test_registering_again_asks_the_server_in_its_turn(tmp_path: Path, peer: ScriptedPeer) -> None:
    async with office(tmp_path) as desk:
        registration_id, _ = await desk.register(peer.url)
        hold = Hold()
        peer.health.queue(hold, AnswerModels())
        probing = asyncio.create_task(desk.health.probe(desk.service.server(registration_id)))
        await soon(lambda: len(peer.probes) == 2, "it is probed")
        again = asyncio.create_task(desk.register(peer.url, description="again"))
        changing = asyncio.create_task(desk.service.update(registration_id, {"api_key": "sk-new"}))
        await asyncio.sleep(0.1)
        assert len(peer.probes) == 2, "one probe per server at a time, whoever asks"
        hold.release()
        await asyncio.gather(probing, again, changing)
        assert len(peer.probes) == 4


async def test_one_that_cannot_be_deregistered_does_not_save_the_others(
    tmp_path: Path, start_peer: StartPeer, caplog: pytest.LogCaptureFixture
) -> None:
    async with office(tmp_path, lock_wait_seconds=0.05) as desk:
        for number in range(2):
            closed = start_peer()
            closed.refuse()
            await desk.register(closed.url, f"org/model-{number}")
        desk.clock.pass_time(10 * HOUR)
        async with locked(desk.path):
            await desk.service.deregister_lost(1)
        assert len(desk.registry.servers) == 2
        refusals = [record for record in caplog.records if record.message == "server not deregistered"]
        assert len(refusals) == 2, "each had its turn"
        await desk.service.deregister_lost(1)
        assert not desk.registry.servers


# -- secrets


async def test_keys_are_announced_before_they_are_used(
    tmp_path: Path, peer: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with office(tmp_path) as desk:
        hold = Hold()
        peer.health.queue(hold, AnswerModels())
        registering = asyncio.create_task(desk.register(peer.url, api_key="sk-first"))
        await soon(lambda: peer.probes, "the first probe arrives")
        assert desk.secrets == ["sk-first"], "before anything can be logged of it"
        hold.release()
        registration_id, _ = await registering
        await desk.service.update(registration_id, {"api_key": "sk-second"})
        await desk.service.update(registration_id, {"api_key": None})
        await desk.register(peer.url, api_key="sk-third")
        assert list(dict.fromkeys(desk.secrets)) == ["sk-first", "sk-second", "sk-third"]
        assert "sk-" not in "".join(repr(vars(record)) for record in caplog.records)
