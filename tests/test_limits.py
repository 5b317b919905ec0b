"""Nothing grows without bound: after two thousand mixed requests a gateway holds what it held after the first thousand.

Limits of a single stream or answer are in test_stream_endings.py, of slots and queues in test_slots.py.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from multiverse.web.handlers.inference import LONGEST_PATH
from tests import wire
from tests.answers import assert_error
from tests.checker import assert_nothing_under_way
from tests.clients import EventStream, RawClient, Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Fin, Reset, Script, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually_equal

REQUESTS = 2000
ROUNDS = 5  # the process is measured after each
CLIENTS_AT_ONCE = 8
MEMORY_DRIFT_BYTES = 4_000_000


# -- two thousand requests of every kind


def plain(client: RawClient, model: str) -> Response:
    client.request("POST", "/v1/chat/completions", wire.chat_body(model))
    return client.read_response()


def streamed(client: RawClient, model: str) -> Response:
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
    return EventStream(client).read_to_end().response


def large(client: RawClient, model: str) -> Response:
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, padding="x" * 200_000))
    return client.read_response()


def no_such_model(client: RawClient, model: str) -> Response:
    client.request("POST", "/v1/chat/completions", wire.chat_body(f"{model}-{random.random()}"))
    return client.read_response()


def no_json(client: RawClient, model: str) -> Response:
    client.request("POST", "/v1/embeddings", b'{"model": ')
    return client.read_response()


def no_route(client: RawClient, model: str) -> Response:
    client.request("GET", f"/{random.random()}")
    return client.read_response()


def listing(client: RawClient, model: str) -> Response:
    client.request("GET", "/v1/models")
    return client.read_response()


KINDS: dict[str, tuple[int, Callable[[RawClient, str], Response], set[int]]] = {
    "plain": (30, plain, {200}),
    "streamed": (30, streamed, {200}),
    "large": (2, large, {200}),
    "no such model": (5, no_such_model, {404}),
    "no JSON": (5, no_json, {400}),
    "no route": (5, no_route, {404}),
    "listing": (5, listing, {200}),
}


def ask(gateway: GatewayProcess, model: str, seed: int, count: int) -> None:
    """`count` requests one after the other, mostly on one connection; now and then the client just leaves."""
    choose = random.Random(seed)
    client = gateway.client()
    for name in choose.choices(list(KINDS), [weight for weight, _ask, _statuses in KINDS.values()], k=count):
        if choose.random() < 0.1:
            with contextlib.closing(gateway.client()) as leaving:
                leaving.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
                time.sleep(choose.uniform(0, 0.01))
        _weight, send, statuses = KINDS[name]
        response = send(client, model)
        assert response.status in statuses, f"{name}: {response.status} {response.body!r}"
        if response.header("Connection") == "close" or choose.random() < 0.05:
            client.close()
            client = gateway.client()
    client.close()


@dataclass(frozen=True)
class Measured:
    """What the process holds."""

    descriptors: int
    threads: int
    tasks: int
    connections: int
    memory_bytes: int


def measure(gateway: GatewayProcess) -> Measured:
    process, stats = Path(f"/proc/{gateway.process_id}"), gateway.stats()
    return Measured(
        descriptors=len(list((process / "fd").iterdir())) - stats["connections"]["idle"],
        threads=len(list((process / "task").iterdir())),
        tasks=stats["event_loop"]["tasks"],
        connections=stats["connections"]["open"] - stats["connections"]["idle"],
        memory_bytes=gateway.resident_bytes,
    )


def test_two_thousand_mixed_requests_leave_nothing_behind(
    start_gateway: StartGateway, start_peer: StartPeer, peers: list[ScriptedPeer], model: str
) -> None:
    gateway = start_gateway(EJECT_SECONDS=0.1, EJECT_MAX_SECONDS=0.2)
    script = Script(AnswerChat())
    for _number in range(3):
        gateway.register(start_peer(script), model)
    for number in range(REQUESTS // 20):
        script.queue(AnswerChat(), times=19)
        script.queue(
            *[(Reset(),), (Fin(),), (wire.error_answer(500, "boom"),), (Sleep(0.05), AnswerChat())][number % 4]
        )
    measured = []
    share = REQUESTS // ROUNDS // CLIENTS_AT_ONCE
    for first in range(0, ROUNDS * CLIENTS_AT_ONCE, CLIENTS_AT_ONCE):
        with ThreadPoolExecutor(CLIENTS_AT_ONCE) as clients:
            list(clients.map(lambda seed: ask(gateway, model, seed, share), range(first, first + CLIENTS_AT_ONCE)))
        assert_nothing_under_way(gateway, peers)
        eventually_equal(lambda: gateway.stats()["store"]["queued"] < 50, True, "usage is written as it comes", 3.0)
        measured.append(measure(gateway))
    assert_flat(measured[ROUNDS // 2 :])


def assert_flat(measured: list[Measured]) -> None:
    """What the process holds does not grow over these."""
    first, last = measured[0], measured[-1]
    for name in ("descriptors", "threads", "tasks", "connections"):
        values = [getattr(each, name) for each in measured]
        assert values[-1] <= values[0] + 2, f"{name} are flat in the last half: {values}"
    drift_bytes = last.memory_bytes - first.memory_bytes
    assert drift_bytes < MEMORY_DRIFT_BYTES, f"memory is flat in the last half: {drift_bytes / 1e6:.1f} MB more"


def test_a_path_that_would_fill_the_memory(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    """Thousands of requests are remembered, each with its path: the checker sees it when long ones are kept."""
    gateway.register(peer, model)
    longest, longer = "/v1/" + "x" * (LONGEST_PATH - 4), "/v1/" + "x" * 60_000
    assert gateway.call("POST", longest, wire.chat_body(model)).status == 200
    with gateway.client() as client:
        for path in [longest + "x", *[longer] * 700]:
            client.request("POST", path, wire.chat_body(model))
            assert_error(client.read_response(), "not_found")
    assert [request.path for request in peer.requests] == [longest]
