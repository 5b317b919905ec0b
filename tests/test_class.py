"""A class, with real processes: five servers with one slot each, twenty-nine students, and one with a loop of 200."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests import wire
from tests.clients import RawClient
from tests.conftest import StartGateway, StartPeer
from tests.peers import PeerConnection, RecordedRequest, ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import bearer
from tests.waiting import eventually_equal

STUDENTS, LAPTOPS, LOOP, AT_ONCE = 29, 5, 200, 40
SERVICE_SECONDS = 0.15
# What two cores shared with thirty clients and five servers add to a figure that is otherwise exact.
MACHINE_SECONDS = 0.5


@dataclass
class Laptop:
    """What one server did: when it worked, for whom, and how many tokens it said it was."""

    seed: int
    spans: list[tuple[float, float]] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most_at_once: int = 0

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        """One answer, of its own length in tokens; a stream when it is asked for."""
        asked = json.loads(request.body)
        prompt, completion = self.seed * 7 + len(self.spans) % 5, 20 + (self.seed + len(self.spans)) % 13
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        began = time.monotonic()
        try:
            if asked.get("stream"):
                await connection.send(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("x")))
            await connection.wait(asyncio.sleep(SERVICE_SECONDS))
            await connection.send(answer_of(asked, prompt, completion))
            self.tokens[asked["user"]] += prompt + completion
        finally:
            self.under_way -= 1
            self.spans.append((began, time.monotonic()))


def answer_of(asked: dict[str, Any], prompt: int, completion: int) -> bytes:
    """The end of a stream, or the whole of a plain answer, with its usage where it was asked for."""
    if not asked.get("stream"):
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return wire.json_answer({**wire.chat_completion(), "usage": usage})
    report = wire.usage_chunk(prompt, completion) if asked.get("stream_options", {}).get("include_usage") else b""
    return wire.chunked(wire.finish_chunk() + report + wire.DONE)


@dataclass
class Class:
    """A gateway with its laptops and a key for everybody."""

    gateway: GatewayProcess
    model: str
    peers: list[ScriptedPeer]
    laptops: list[Laptop]
    keys: dict[str, str]

    def ask(self, name: str, stream: bool) -> tuple[float, int]:
        """One request: the moment at which it was sent, and its status."""
        sent = time.monotonic()
        body = wire.chat_body(self.model, stream or None, user=name)
        with self.gateway.client(30.0) as client:
            client.request("POST", "/v1/chat/completions", body, bearer(self.keys[name]))
            return sent, client.read_response().status

    def started(self, name: str) -> list[float]:
        """When requests of this student reached a server, in order."""
        arrivals = [request for peer in self.peers for request in peer.requests if request.json()["user"] == name]
        return sorted(request.arrived_at for request in arrivals)


def a_class(start_gateway: StartGateway, start_peer: StartPeer, model: str, **settings: object) -> Class:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300, REQUIRE_CLIENT_API_KEY="true", **settings)
    laptops = [Laptop(seed) for seed in range(1, LAPTOPS + 1)]
    peers = [start_peer() for _laptop in laptops]
    for peer, laptop in zip(peers, laptops, strict=True):
        peer.inference.always(laptop)
        gateway.register(peer, model, max_concurrency=1)
    names = ["loop", *(f"student-{number}" for number in range(STUDENTS))]
    roster = "name\n" + "\n".join(names)
    made = gateway.admin("POST", "/admin/keys/import", {"csv": roster}).json()["keys"]
    return Class(gateway, model, peers, laptops, {key["name"]: key["key"] for key in made})


def test_a_class_with_a_loop_in_it(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    lesson = a_class(start_gateway, start_peer, model)
    looped: list[int] = []
    left = iter(range(LOOP))
    lock = threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            looped.append(lesson.ask("loop", number % 2 == 0)[1])

    threads = [threading.Thread(target=loop) for _number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    eventually_equal(lambda: lesson.gateway.stats()["requests"]["queued"] > AT_ONCE // 2, True, "the loop is on")
    sent: dict[str, float] = {}
    statuses: list[int] = []

    def student(name: str, stream: bool) -> None:
        sent[name], status = lesson.ask(name, stream)
        statuses.append(status)

    askers = []
    for number in range(STUDENTS):
        askers.append(threading.Thread(target=student, args=(f"student-{number}", number % 3 == 0)))
        askers[-1].start()
        time.sleep(SERVICE_SECONDS / 2)  # Together the students want less than half of the slots there are.
    for thread in [*askers, *threads]:
        thread.join()
    assert Counter(statuses) == {200: STUDENTS}
    assert Counter(looped) == {200: LOOP}, "the loop comes to its end, too"

    waits = {name: lesson.started(name)[0] - moment for name, moment in sent.items()}
    late = {name: wait for name, wait in waits.items() if wait > 2 * SERVICE_SECONDS + MACHINE_SECONDS}
    assert not late, f"every other student's request starts within two service times: {late}"
    assert [laptop.most_at_once for laptop in lesson.laptops] == [1] * LAPTOPS
    assert_no_slot_idles(lesson)
    assert_figures_are_those_of_the_servers(lesson)


def assert_no_slot_idles(lesson: Class) -> None:
    """While the loop was on somebody waited all the time: between two answers of a laptop lies only the way."""
    last_came = lesson.started("loop")[-LAPTOPS]
    gaps = []
    for laptop in lesson.laptops:
        spans = sorted(laptop.spans)
        pairs = itertools.pairwise(spans)
        gaps += [later[0] - earlier[1] for earlier, later in pairs if later[0] <= last_came]
    assert sum(gaps) / len(gaps) < SERVICE_SECONDS / 5, "no slot idles while someone waits"


def assert_figures_are_those_of_the_servers(lesson: Class) -> None:
    """`/v1/usage` of everybody, and the ledger, to the token."""
    served: Counter[str] = sum((laptop.tokens for laptop in lesson.laptops), Counter())
    for name, key in lesson.keys.items():
        report = lesson.gateway.call("GET", "/v1/usage", None, bearer(key)).json()
        totals = report["totals"]
        assert totals["prompt_tokens"] + totals["completion_tokens"] == served[name], name
        assert (totals["requests"], totals["ok"]) == ((LOOP, LOOP) if name == "loop" else (1, 1))
        assert (totals["estimated_tokens"], report["tokens_taken"]) == (0, served[name])


def test_nothing_leaks_after_random_aborts(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    """Students who leave at any moment: queued, waiting, in the middle. The checker then looks for what is left."""
    lesson = a_class(start_gateway, start_peer, model, QUEUE_SIZE=20)
    chances = random.Random(5)
    moments = [chances.uniform(0.0, 3 * SERVICE_SECONDS) for _number in range(120)]

    def leave(number: int, seconds: float) -> None:
        name = f"student-{number % STUDENTS}"
        client = RawClient(lesson.gateway.port, 30.0)
        body = wire.chat_body(lesson.model, number % 2 == 0 or None, user=name)
        client.request("POST", "/v1/chat/completions", body, bearer(lesson.keys[name]))
        time.sleep(seconds)
        client.abort() if number % 3 else client.close()

    threads = [threading.Thread(target=leave, args=numbered) for numbered in enumerate(moments)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    eventually_equal(lambda: lesson.gateway.stats()["requests"]["in_flight"], 0, "all are over")
    eventually_equal(lambda: sum(laptop.under_way for laptop in lesson.laptops), 0, "and no laptop works for nobody")
    answers = [lesson.ask(f"student-{number}", stream=True)[1] for number in range(LAPTOPS)]
    assert answers == [200] * LAPTOPS, "every slot is free again"
    report = lesson.gateway.admin("GET", "/admin/usage").json()["totals"]
    # Who leaves before the request has been read was never admitted.
    assert report["requests"] == lesson.gateway.stats()["requests"]["total"] <= len(moments) + LAPTOPS
