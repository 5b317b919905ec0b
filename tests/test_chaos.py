"""Everything at once: 300 requests over the fault menu for each seed, judged by their history; and the judge, judged.

A failure names its seed; running that seed again plays the same faults, plans and disturbances (chaos.py).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from tests import chaos
from tests.clients import Response
from tests.conftest import GatewayShelf, checked
from tests.fault_menu import MENU, Attempt, draw
from tests.history import Asked, History, judge
from tests.peers import PeerLoop, RecordedRequest, ScriptedPeer
from tests.processes import GatewayProcess
from tests.wire import DONE, chat_body

SEEDS = (1, 2, 3)


@pytest.fixture
def chaotic_gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer], start_peer: object
) -> Iterator[GatewayProcess]:
    """A shared gateway whose every timer is reached within the test."""
    shared = shelf.get("chaotic", **chaos.SETTINGS)
    with checked(shared, request, peers):
        yield shared


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(
    chaotic_gateway: GatewayProcess, peer_loop: PeerLoop, peers: list[ScriptedPeer], model: str, seed: int
) -> None:
    history = chaos.run(chaotic_gateway, peer_loop, peers, model, seed)
    wrong = judge(history)
    assert not wrong, f"seed {seed}, {len(wrong)} faults:\n" + "\n".join(wrong)
    met = {attempt.name for attempt in history.attempts}
    assert met == set(MENU), f"seed {seed}: every fault of the menu is met: {set(MENU) - met}"


def test_a_seed_says_it_all() -> None:
    first, again, other = (chaos.draw_plans(seed, "model") for seed in (1, 1, 2))
    assert first == again
    assert [plan.manner for plan in first] != [plan.manner for plan in other]
    one, two = (draw(random.Random(1), 100) for _number in range(2))
    assert [(attempt.name, attempt.choose.random()) for attempt in one] == [
        (attempt.name, attempt.choose.random()) for attempt in two
    ]


# -- the judge


def asked_for(nonce: str, body: bytes, status: int = 200, stream: bool = False) -> Asked:
    """A client that stayed and got `body`."""
    content_type = "text/event-stream" if stream else "application/json"
    response = Response(status, "Whatever", [("Content-Type", content_type)], body, "orderly")
    return Asked(nonce, chat_body("model", stream, nonce=nonce), stream, "stayed", response)


def met(asked: Asked, name: str, number: int, server: str) -> Attempt:
    """The attempt of `asked` at a server that played the fault `name`."""
    attempt = Attempt(name, number, random.Random(number))
    peer = SimpleNamespace(name=server)
    attempt.request = RecordedRequest(peer, None, "POST", "/", [], asked.body, arrived_at=1.0)  # type: ignore[arg-type]
    attempt.server, attempt.stream, attempt.ended_at = server, asked.stream, 2.0
    attempt.texts = [f"<{asked.nonce}|{number}|0>"]
    attempt.plot = MENU[name][1](attempt)
    return attempt


def row_of(asked: Asked, outcome: str, status: int, attempts: int) -> dict[str, object]:
    return {
        "request_id": asked.nonce,
        "outcome": outcome,
        "status": status,
        "attempts": attempts,
        "stream": int(asked.stream),
    }


def true_history() -> History:
    """A plain answer after a failover, a whole stream, a broken one, and a server's own 400."""
    plain, whole, broken, refused = (asked_for(f"n0x{number}y", b"", stream=number in (1, 2)) for number in range(4))
    attempts = [
        met(plain, "server_error", 0, "a"),
        met(plain, "good", 1, "b"),
        met(whole, "good", 2, "a"),
        met(broken, "stall", 3, "b"),
        met(refused, "refusal", 4, "a"),
    ]
    error = b'data: {"error":{"message":"m","type":"server_error","param":null,"code":"server_timeout"}}\n\n'
    bodies = [attempt.plot.content for attempt in attempts[1:]]
    bodies[2] += error
    for asked, body in zip((plain, whole, broken, refused), bodies, strict=True):
        assert asked.response is not None
        asked.response.body = body
    refused.response.status = attempts[-1].plot.status
    rows = [
        row_of(plain, "ok", 200, 2),
        row_of(whole, "ok", 200, 1),
        row_of(broken, "failed", 504, 1),
        row_of(refused, "rejected", refused.response.status, 1),
    ]
    counted = {"total": 4, "ok": 2, "failed": 2, "client_closed": 0, "in_flight": 0}
    return History([plain, whole, broken, refused], attempts, rows, {}, counted)


def set_body(history: History, number: int, body: bytes) -> None:
    response = history.asked[number].response
    assert response is not None
    response.body = body


def replay(history: History) -> None:
    """Another server is asked after a stream has begun."""
    broken = history.asked[2]
    history.attempts.append(met(broken, "good", 9, "c"))
    history.rows[2]["attempts"] = 2


def refuse_and_go_on(history: History) -> None:
    """A 400 is tried elsewhere."""
    refused = history.asked[3]
    history.attempts.append(met(refused, "good", 9, "c"))
    set_body(history, 3, history.attempts[-1].plot.content)
    assert refused.response is not None
    refused.response.status = 200
    history.rows[3].update(attempts=2, outcome="ok", status=200)


def cut(history: History) -> None:
    response = history.asked[1].response
    assert response is not None
    response.ended = "cut"


LIES: dict[str, tuple[Callable[[History], object], str]] = {
    "a stream without its end": (
        lambda history: set_body(history, 1, history.attempts[2].plot.content.removesuffix(DONE)),
        "ends neither whole nor with an error event",
    ),
    "a cut answer": (cut, "cut off"),
    "[DONE] after an error": (
        lambda history: set_body(history, 2, history.asked[2].seen + DONE),
        "ends neither whole",
    ),
    "half of an event": (
        lambda history: set_body(history, 2, history.asked[2].seen.replace(b'data: {"id', b'data: {"', 1)),
        "is not what the server sent",
    ),
    "another client's answer": (
        lambda history: set_body(history, 0, history.attempts[2].plot.content),
        "reads the answer of n0x1y",
    ),
    "a changed plain answer": (
        lambda history: set_body(history, 0, history.asked[0].seen + b" "),
        "is not what the server said",
    ),
    "a replay after content": (replay, "content of an attempt has gone out"),
    "a 400 that is retried": (refuse_and_go_on, "another server was asked after 'refusal'"),
    "a changed request": (
        lambda history: setattr(history.attempts[1].request, "body", history.attempts[1].request.body + b" "),
        "another body",
    ),
    "a server asked twice": (lambda history: setattr(history.attempts[1], "server", "a"), "asked a server twice"),
    "four attempts": (
        lambda history: history.attempts.extend(
            met(history.asked[0], "reset", number, f"server {number}") for number in (7, 8)
        ),
        "asked 4 servers",
    ),
    "a 401 for the client": (
        lambda history: setattr(history.asked[3].response, "status", 401),
        "a server's 401 reached the client",
    ),
    "another status than the server's": (
        lambda history: setattr(history.asked[3].response, "status", 418),
        "came out as 418",
    ),
    "no usage row": (lambda history: history.rows.pop(0), "0 usage rows"),
    "two usage rows": (lambda history: history.rows.append(dict(history.rows[0])), "2 usage rows"),
    "a wrong outcome": (lambda history: history.rows[2].update(outcome="ok"), "the outcome 'ok'"),
    "too few attempts told": (lambda history: history.rows[0].update(attempts=1), "tells 1 attempts"),
    "wrong counts": (lambda history: history.counted.update(ok=3), "/admin/stats counts"),
    "something left in flight": (lambda history: history.counted.update(in_flight=1), "/admin/stats counts"),
    "no answer": (
        lambda history: setattr(history.asked[0], "trouble", "TimeoutError()"),
        "the client got no answer",
    ),
}


def test_the_judge_believes_the_truth() -> None:
    assert judge(true_history()) == []


@pytest.mark.parametrize("name", LIES)
def test_the_judge_finds(name: str) -> None:
    lie, words = LIES[name]
    history = true_history()
    lie(history)
    found = judge(history)
    assert any(words in fault for fault in found), f"{name} is found: {found}"


def test_a_server_that_went_away_excuses_what_follows() -> None:
    history = true_history()
    broken = dataclasses.replace(history, away={"a": [(0.5, 1.5)]})
    set_body(broken, 1, broken.asked[2].seen.replace(b"n0x2y", b"n0x1y").replace(b"|3|", b"|2|"))
    broken.rows[1].update(outcome="failed")
    broken.counted.update(ok=1, failed=3)
    assert judge(broken) == []
    assert judge(dataclasses.replace(broken, away={}))
