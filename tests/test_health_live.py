"""Probes as they go on by themselves: when a verdict changes, what a restart knows, and the gateway's own health.

Probes on demand are in test_admin_servers.py; hanging servers that delay nobody and laptops that sleep in
test_regressions.py.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wire
from tests.answers import assert_error
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerModels, Hold, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually, eventually_equal, never

NEVER = 300
LATE_SECONDS = 1.0  # what a busy machine may add
BAD = wire.error_answer(502, "no")
LOADING = wire.error_answer(503, "Loading model", code=503, type="unavailable_error")


def verdict(gateway: GatewayProcess, registration_id: str) -> str:
    return str(gateway.server(registration_id)["health_status"])


def history(gateway: GatewayProcess, registration_id: str) -> list[tuple[bool, str]]:
    """Every probe so far, oldest first: whether it was good, and the verdict after it."""
    probes = gateway.admin("GET", f"/admin/servers/{registration_id}?limit=100").json()["recent_probes"]
    return [(probe["ok"], probe["health_status"]) for probe in reversed(probes)]


# -- the verdict


def test_falling_and_rising_exactly_as_set(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1, MAX_CONSECUTIVE_FAILURES=3, SUCCESSES_TO_RECOVER=2)
    peer.health.queue(AnswerModels())
    peer.health.queue(BAD, times=2)
    peer.health.queue(AnswerModels())
    peer.health.queue(BAD, times=4)
    registration_id = gateway.register(peer, model)
    eventually(lambda: len(history(gateway, registration_id)) >= 10, "ten probes", within_seconds=4)
    up, down = "healthy", "unhealthy"
    assert history(gateway, registration_id)[:10] == [
        (True, up),
        *[(False, up)] * 2,
        (True, up),
        *[(False, up)] * 2,
        *[(False, down)] * 2,
        (True, down),
        (True, up),
    ]
    eventually_equal(lambda: gateway.output.count("verdict changed"), 3, "only a changed verdict is a line in the log")
    changes = [line for line in gateway.output.splitlines() if "verdict changed" in line]
    assert "status 502" in changes[1], "with its reason"


def test_a_server_that_hangs_is_unhealthy(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(
        HEALTH_CHECK_INTERVAL_SECONDS=0.1, HEALTH_CHECK_TIMEOUT_SECONDS=0.2, MAX_CONSECUTIVE_FAILURES=2
    )
    registration_id = gateway.register(peer, model)
    peer.health.always(Hold())
    eventually_equal(lambda: verdict(gateway, registration_id), "unhealthy", "two probes without an answer are enough")
    assert gateway.server(registration_id)["reason"]
    peer.health.always(AnswerModels())
    eventually_equal(lambda: verdict(gateway, registration_id), "healthy", "one good probe brings it back")


def test_one_that_is_lost_for_long_is_deregistered(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1, AUTO_DEREGISTER_AFTER_HOURS=0.0002)
    good, lost = start_peer(), start_peer()
    gateway.register(good, model)
    gateway.register(lost, model)
    lost.refuse()
    eventually_equal(
        lambda: gateway.admin("GET", "/admin/servers").json()["total"], 1, "the hours are over after 0.7 s"
    )
    assert gateway.chat(model).text == good.name


def test_loading_is_no_failure(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.2, MAX_CONSECUTIVE_FAILURES=2)
    peer.health.always(LOADING)
    registration_id = gateway.register(peer, model)
    eventually(lambda: len(peer.probes) >= 5, "it is probed again and again")
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("loading", 0)
    assert "loading" in record["reason"]
    assert_error(gateway.chat(model), "model_loading")
    peer.health.always(AnswerModels())
    ready_at = time.monotonic()
    eventually(lambda: gateway.chat(model).status == 200, "it answers")
    assert time.monotonic() - ready_at < 0.2 + LATE_SECONDS, "within an interval of being ready"
    assert gateway.server(registration_id)["availability"] == "available"
    peer.health.always(LOADING)
    eventually_equal(lambda: gateway.server(registration_id)["availability"], "loading", "it loads again")
    assert_error(gateway.chat(model), "model_loading")


def test_a_busy_server_that_cannot_answer_its_probe(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str
) -> None:
    gateway = start_gateway(
        HEALTH_CHECK_INTERVAL_SECONDS=0.1, HEALTH_CHECK_TIMEOUT_SECONDS=0.2, MAX_CONSECUTIVE_FAILURES=1
    )
    registration_id = gateway.register(peer, model)
    peer.health.always(Hold())
    piece = wire.chunk(wire.chat_chunk("x"))
    peer.script(wire.STREAM_HEAD, *(piece, Sleep(0.05)) * 30, wire.chunked(wire.finish_chunk() + wire.DONE))
    with gateway.stream(model) as stream:
        stream.read_events(25)
        assert verdict(gateway, registration_id) == "healthy", "what streams is alive"
        assert stream.read_to_end().done
    eventually_equal(lambda: verdict(gateway, registration_id), "unhealthy", "and when it is silent, it is not")
    peer.health.always(AnswerModels())


def test_a_probe_that_is_told_to_wait(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1, MAX_CONSECUTIVE_FAILURES=1)
    registration_id = gateway.register(peer, model)
    peer.health.always(wire.error_answer(429, "slow down"))
    eventually(lambda: len(peer.probes) >= 4, "it is probed")
    record = gateway.server(registration_id)
    assert (record["health_status"], record["consecutive_failures"]) == ("healthy", 0)


OTHER_ROUTE = {
    "404": (wire.error_answer(404, "no such route"), "healthy"),
    "404 as text": (wire.answer("not found", 404, "text/plain"), "healthy"),
    "405": (wire.error_answer(405, "no"), "healthy"),
    "500": (wire.error_answer(500, "not implemented"), "healthy"),
    "501": (wire.error_answer(501, "no"), "healthy"),
    "404 as a page": (wire.html_answer(404), "unhealthy"),
    "502": (wire.error_answer(502, "no"), "unhealthy"),
    "403": (wire.error_answer(403, "no"), "unhealthy"),
    "a redirect": (wire.answer("", 302, headers=[("Location", "/health")]), "unhealthy"),
}


@pytest.mark.parametrize("name", OTHER_ROUTE)
def test_a_server_that_does_not_list_models(gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str) -> None:
    answer, expected = OTHER_ROUTE[name]
    peer.health.queue(answer)
    peer.health.queue(wire.json_answer({"status": "ok"}))
    registration_id = gateway.register(peer, model)
    assert verdict(gateway, registration_id) == expected
    asked = [probe.path for probe in peer.probes]
    assert asked == (["/v1/models", "/health"] if expected == "healthy" else ["/v1/models"])
    if expected == "healthy":
        peer.health.queue(answer)
        peer.health.queue(wire.error_answer(503, "ill"))
        assert not gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()["probe"]["ok"]


def test_changes_of_the_model_list_are_followed(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1)
    peer, other = start_peer(), start_peer()
    registration_id = gateway.register(peer, model)
    peer.model_names.clear()  # such as `ollama rm`
    eventually(lambda: gateway.server(registration_id)["availability"] == "unhealthy", "the owner took it away")
    record = gateway.server(registration_id)
    assert (record["health_status"], record["consecutive_failures"]) == ("healthy", 0), "that is no failure"
    assert "does not list this model any more" in record["reason"]
    assert model not in [entry["id"] for entry in gateway.call("GET", "/v1/models").json()["data"]]
    assert gateway.chat(model).code == "no_server_available"
    gateway.register(other, model)
    assert [gateway.chat(model).text for _number in range(4)] == [other.name] * 4
    assert not peer.requests, "nobody is sent to a server that has said so before"
    peer.model_names.append(model)
    eventually(lambda: gateway.server(registration_id)["availability"] == "available", "it is back")
    assert {gateway.chat(model).text for _number in range(4)} == {peer.name, other.name}


# -- when, and how many


def test_only_gets_and_one_per_cycle(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    interval_seconds = 0.2
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=interval_seconds)
    gateway.register(peer, model)
    eventually(lambda: len(peer.probes) >= 10, "it is probed", within_seconds=4)
    assert not peer.requests, "never a completion"
    assert {(probe.method, probe.path, probe.body) for probe in peer.probes} == {("GET", "/v1/models", b"")}
    assert {probe.header("Authorization") for probe in peer.probes} == {f"Bearer {wire.PLANTED_SERVER_KEY}"}
    gaps = [after.arrived_at - before.arrived_at for before, after in itertools.pairwise(peer.probes)]
    assert min(gaps) > interval_seconds * 0.75, gaps
    assert statistics.median(gaps) < interval_seconds * 1.5, gaps
    assert len({probe.connection for probe in peer.probes}) <= 3, "over one connection"


def test_one_probe_per_server_at_a_time(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1, HEALTH_CHECK_TIMEOUT_SECONDS=5)
    gateway.register(peer, model)
    hold = Hold()
    peer.health.always(hold, AnswerModels())
    before = len(peer.probes)
    eventually(lambda: len(peer.probes) > before, "it is probed")
    never(lambda: len(peer.probes) > before + 1, "no second probe while the first one hangs", for_seconds=0.6)
    hold.release()
    eventually(lambda: len(peer.probes) > before + 1, "and on it goes")


def test_so_many_probes_at_once(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(
        HEALTH_CHECK_INTERVAL_SECONDS=0.1, HEALTH_CHECK_TIMEOUT_SECONDS=0.4, HEALTH_CHECK_CONCURRENCY=2
    )
    hold = Hold()
    hanging = [start_peer() for _number in range(5)]
    for number, peer in enumerate(hanging):
        gateway.register(peer, f"{model}-{number}")
        peer.health.always(hold, AnswerModels())

    def probes_under_way() -> int:
        return sum(connection.playing is not None for peer in hanging for connection in peer.open_connections())

    eventually(lambda: probes_under_way() == 2, "two at once")
    never(lambda: probes_under_way() > 2, "and no more", for_seconds=0.5)
    eventually(lambda: all(len(peer.probes) >= 2 for peer in hanging), "each has its turn", within_seconds=3)
    hold.release()


def test_a_lost_server_is_asked_less_and_less(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.05)
    peer.health.always(BAD)
    registration_id = gateway.register(peer, model)
    eventually(lambda: len(peer.probes) >= 9, "at first as often as any", within_seconds=3)
    time.sleep(1.5)
    assert len(peer.probes) < 18, "it would be over 30 without backing off"
    gaps = [after.arrived_at - before.arrived_at for before, after in itertools.pairwise(peer.probes)]
    assert gaps[-1] > 3 * 0.05
    peer.health.always(AnswerModels())
    assert gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()["health_status"] == "healthy"
    asked = len(peer.probes)
    eventually(lambda: len(peer.probes) >= asked + 3, "often again, as soon as it is back")


# -- a restart


def test_a_restart_knows_nothing_and_asks_at_once(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NEVER, HEALTH_CHECK_TIMEOUT_SECONDS=20)
    hold = Hold()
    hanging = [start_peer() for _number in range(10)]
    ids = [gateway.register(peer, model) for peer in hanging]
    for peer in hanging:
        peer.probes.clear()
        peer.health.always(hold, AnswerModels())
    gateway.kill()
    gateway.start()  # It would not wait for as long as these probes hang.
    assert gateway.call("GET", "/health").json()["status"] == "healthy"
    eventually(lambda: all(peer.probes for peer in hanging), "all are probed at once", within_seconds=1)
    record = gateway.server(ids[0])
    assert (record["health_status"], record["availability"]) == ("unknown", "unknown")
    assert gateway.stats()["servers"] == {"total": 10, "healthy": 0, "unhealthy": 0, "unknown": 10}
    assert gateway.call("GET", "/v1/models").json()["data"] == []
    assert_error(gateway.chat(model), "no_server_available")
    hold.release()
    eventually(lambda: gateway.stats()["servers"]["healthy"] == 10, "and known as soon as they answer")
    assert gateway.chat(model).status == 200


# -- the gateway's own health


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds the database's lock."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


def test_its_own_health(gateway: GatewayProcess) -> None:
    response = gateway.call("GET", "/health")
    document = response.json()
    assert response.status == 200
    named = {name: document[name] for name in ("status", "service", "version", "database")}
    assert named == {
        "status": "healthy",
        "service": "Multiverse Inference Gateway",
        "version": "1.0.0",
        "database": "healthy",
    }


@pytest.mark.parametrize("what", ["locked", "gone"])
def test_a_stream_keeps_its_pace_without_the_database(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, what: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1)
    gateway.register(peer, model)
    piece = wire.chunk(wire.chat_chunk("x"))
    peer.script(wire.STREAM_HEAD, *(piece, Sleep(0.02)) * 90, wire.chunked(wire.finish_chunk() + wire.DONE))
    path = gateway.directory / "gateway.db"
    arrived: list[float] = []

    def read_stream() -> None:
        with gateway.stream(model) as stream:
            stream.read_to_end()
            assert stream.done
            arrived.extend(event.arrived_at for event in stream.events)

    reader = threading.Thread(target=read_stream)
    reader.start()
    peer.wait_for_requests()
    with locked(path) if what == "locked" else moved_away(path):
        started_at = time.monotonic()
        response = gateway.call("GET", "/health")
        assert time.monotonic() - started_at < 3.0
        assert (response.status, response.json()["status"], response.json()["database"]) == (503, *["unhealthy"] * 2)
        assert response.json()["reason"]
        assert gateway.chat(model).status == 200, "requests go on"
        reader.join()
    assert len(arrived) > 90, "the stream came to its end"
    gaps = [after - before for before, after in itertools.pairwise(arrived)]
    assert max(gaps) < 0.5, "and did not wait for the disk"
    eventually(lambda: gateway.call("GET", "/health").status == 200, "healthy again", within_seconds=8)


@contextlib.contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Somebody has taken the database's files away."""
    names = [found.name for found in path.parent.glob(f"{path.name}*")]
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    for name in names:
        (path.parent / name).rename(elsewhere / name)
    yield
    for name in names:
        (elsewhere / name).rename(path.parent / name)
