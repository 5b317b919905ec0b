"""Many servers, many streams: probes stay on time, ask nothing of a server, and never come all at once.

How a single server's verdict moves is in test_health_live.py.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from tests import wire
from tests.clients import EventStream
from tests.conftest import StartGateway, StartPeer
from tests.operations import Hold, Sleep
from tests.peers import ScriptedPeer
from tests.waiting import eventually

STREAMS = 60
JITTER = 0.1  # each interval is up to a tenth shorter
# One tick of the sweep, and what two busy cores may add.
LATE_SECONDS = 0.5


def gaps_of(peer: ScriptedPeer, first: int = 0) -> list[float]:
    """Seconds between a peer's probes, from the one with number `first` on."""
    return [later.arrived_at - earlier.arrived_at for earlier, later in itertools.pairwise(peer.probes[first:])]


def test_sixty_open_streams_and_every_probe_on_time(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    interval_seconds = 0.5
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=interval_seconds)
    peers = [start_peer() for _number in range(4)]
    piece = wire.chunk(wire.chat_chunk("x" * 200))
    hold = Hold()
    for peer in peers:
        gateway.register(peer, model)
        peer.always(
            wire.STREAM_HEAD + piece, hold, *(piece, Sleep(0.05)) * 59, wire.chunked(wire.finish_chunk() + wire.DONE)
        )
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(gateway.stream(model)) for _number in range(STREAMS)]
        assert gateway.stats()["requests"]["in_flight"] == STREAMS
        before = [len(peer.probes) for peer in peers]
        hold.release()
        with ThreadPoolExecutor(STREAMS) as readers:
            ended = list(readers.map(EventStream.read_to_end, streams))
    assert all(stream.done and len(stream.texts) == 60 for stream in ended), "every stream comes to its end"
    for peer, first in zip(peers, before, strict=True):
        gaps = gaps_of(peer, first - 1)
        assert len(gaps) >= 3, "it is probed while it streams"
        assert max(gaps) < interval_seconds + LATE_SECONDS, f"and every probe is on time: {gaps}"


def test_twenty_cycles_ask_for_nothing_but_the_list(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    cycles, interval_seconds = 20, 0.1
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=interval_seconds)
    peers = {f"{wire.PLANTED_SERVER_KEY}-{number}": start_peer() for number in range(3)}
    for key, peer in peers.items():
        gateway.register(peer, model, api_key=key)
    began_at = time.monotonic()
    eventually(lambda: all(len(peer.probes) > cycles for peer in peers.values()), "twenty cycles", 6.0)
    passed = (time.monotonic() - began_at) / interval_seconds
    for key, peer in peers.items():
        assert not peer.requests, "a probe costs its owner no token"
        sent = {(probe.method, probe.path, probe.body, probe.header("Authorization")) for probe in peer.probes}
        assert sent == {("GET", "/v1/models", b"", f"Bearer {key}")}, "only GETs, each with its owner's key"
        assert len(peer.probes) <= passed / (1 - JITTER) + 2, "one per cycle"
        assert min(gaps_of(peer)) > interval_seconds * 0.5, "never two in one cycle"


def test_thirty_registered_in_one_second_are_probed_apart(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    interval_seconds, count = 1.0, 30
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=interval_seconds)
    peers = [start_peer() for _number in range(count)]
    with ThreadPoolExecutor(8) as owners:
        list(owners.map(lambda number: gateway.register(peers[number], f"{model}-{number}"), range(count)))
    eventually(lambda: all(len(peer.probes) >= 4 for peer in peers), "all are probed three times more", 6.0)
    cycles = [sorted(peer.probes[cycle].arrived_at for peer in peers) for cycle in (1, 2, 3)]
    # A machine that stands still for a moment makes one cycle narrow, not all of them.
    spread_seconds = max(moments[-1] - moments[0] for moments in cycles)
    together = min(
        max(sum(moment <= other < moment + 0.04 for other in moments) for moment in moments) for moments in cycles
    )
    assert spread_seconds > 0.12, "they are spread out"
    assert together <= count / 2, f"{together} of {count} come within 40 ms"
    for peer in peers:
        assert max(gaps_of(peer)) < interval_seconds + LATE_SECONDS
