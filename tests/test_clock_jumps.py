"""Setting the clock of the machine changes nothing: not when servers are probed, nor how long they are ejected.

Laptops do it when they wake up, fresh virtual machines when they first hear of the time.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wire
from tests.checker import assert_good_end, read_rows, store_usage_now
from tests.conftest import StartPeer, checked
from tests.operations import AnswerChat, AnswerModels, Sleep
from tests.peers import ScriptedPeer
from tests.processes import PROJECT, GatewayProcess
from tests.waiting import eventually

INTERVAL_SECONDS = 0.2
EJECT_SECONDS = 0.8
BACK, FORWARD = signal.SIGUSR1, signal.SIGUSR2


class JumpingGateway(GatewayProcess):
    """A gateway whose wall clock can be set."""

    program = (str(PROJECT / "tests" / "jumping_clock.py"), "serve")

    def set_clock(self, jump: signal.Signals) -> None:
        os.kill(self.process_id, jump)


@pytest.fixture
def jumping_gateway(
    request: pytest.FixtureRequest, tmp_path: Path, peers: list[ScriptedPeer], start_peer: StartPeer
) -> Iterator[JumpingGateway]:
    settings = {"HEALTH_CHECK_INTERVAL_SECONDS": INTERVAL_SECONDS, "EJECT_SECONDS": EJECT_SECONDS}
    gateway = JumpingGateway(tmp_path / "gateway", **settings)
    gateway.start()
    with checked(gateway, request, peers):
        yield gateway
    assert_good_end(gateway)


def shown_hour(gateway: GatewayProcess, registration_id: str) -> str:
    return str(gateway.server(registration_id)["last_checked_at"])[:13]


@pytest.mark.parametrize("jump", [BACK, FORWARD])
def test_probes_keep_their_rhythm(
    jumping_gateway: JumpingGateway, peer: ScriptedPeer, model: str, jump: signal.Signals
) -> None:
    gateway = jumping_gateway
    registration_id = gateway.register(peer, model)
    hour = shown_hour(gateway, registration_id)
    gateway.set_clock(jump)
    eventually(lambda: shown_hour(gateway, registration_id) != hour, "the clock has jumped, and probes go on", 2.0)
    before = len(peer.probes)
    eventually(lambda: len(peer.probes) >= before + 6, "and on", 3.0)
    arrived_at = [probe.arrived_at for probe in peer.probes[before:]]
    gaps = [after - earlier for earlier, after in itertools.pairwise(arrived_at)]
    assert min(gaps) > INTERVAL_SECONDS * 0.5, f"none is made up for: {gaps}"
    assert max(gaps) < INTERVAL_SECONDS * 2.5, f"none is left out: {gaps}"


@pytest.mark.parametrize("jump", [BACK, FORWARD])
def test_an_ejection_lasts_as_long_as_it_should(
    jumping_gateway: JumpingGateway, start_peer: StartPeer, model: str, jump: signal.Signals
) -> None:
    gateway = jumping_gateway
    bad, good = start_peer(), start_peer()
    bad.health.queue(AnswerModels())
    bad.health.always(wire.error_answer(429, "busy"))  # neither good nor bad: no probe ends the wait
    bad.always(wire.error_answer(500, "boom"))
    bad_id, _ = gateway.register(bad, model), gateway.register(good, model)
    while len(bad.requests) < 3:
        assert gateway.chat(model).text == good.name
    assert gateway.server(bad_id)["availability"] == "ejected"
    ejected_at = bad.requests[-1].arrived_at
    gateway.set_clock(jump)
    bad.always(AnswerChat())
    eventually(lambda: gateway.chat(model).status == 200 and len(bad.requests) > 3, "it is tried again", 3.0)
    waited_seconds = bad.requests[3].arrived_at - ejected_at
    assert EJECT_SECONDS - 0.1 < waited_seconds < EJECT_SECONDS + 1.5


@pytest.mark.parametrize("jump", [BACK, FORWARD])
def test_a_stream_neither_ends_nor_falls_silent(
    jumping_gateway: JumpingGateway, peer: ScriptedPeer, model: str, jump: signal.Signals
) -> None:
    gateway = jumping_gateway
    gateway.register(peer, model)
    first, rest = wire.chunk(wire.chat_chunk("one")), wire.chunked(wire.good_stream("two"))
    peer.script(Sleep(0.5), wire.STREAM_HEAD + first, Sleep(0.9), rest)
    with gateway.stream(model) as stream:
        gateway.set_clock(jump)
        stream.read_to_end()
    assert (stream.texts, stream.done) == (["one", "two"], True)
    assert len(stream.comments) >= 3, "kept alive before and between"
    store_usage_now(gateway)
    (row,) = read_rows(gateway, "SELECT * FROM usage")
    assert row["outcome"] == "ok"
    assert 1300 < row["total_ms"] < 5000, "durations are measured, not subtracted from two readings of the clock"
