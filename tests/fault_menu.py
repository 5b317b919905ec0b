"""What a server may do with a request, drawn by seed: the plays of the chaos test, and what the client may see of each.

Every play answers with the nonce of the request that reached it and with its own number, so that whoever reads an
answer knows whose request and which attempt it belongs to. Judging is done in history.py.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests import wire
from tests.operations import Fin, Hold, Operation, Reset, Send, SendForEver, Sleep, Step, as_play
from tests.peers import PeerConnection, RecordedRequest, ScriptedPeer

# The gateway of the chaos test runs with these limits; plays reach them or stay well below.
MAX_EVENT_SIZE = 65_536
MAX_RESPONSE_BODY_SIZE = 262_144
LONGEST_PAUSE_SECONDS = 0.4

JSON_TYPE = ("Content-Type", "application/json")
EVENT_TYPE = ("Content-Type", "text/event-stream")
CHUNKED = ("Transfer-Encoding", "chunked")


class Ending(Enum):
    """What an attempt is to the client, if nothing else disturbs it."""

    WHOLE = "the client gets its content, whole"
    JSON = "the client gets its content, a plain answer to a stream, unless keep-alives have gone out"
    MOVES_ON = "the client sees nothing of it: the next server is asked"
    BREAKS = "the client gets its content, then one error event"
    ERROR_EVENT = "the client gets its content, which ends in the server's own error event"
    GIVES_UP = "the client sees nothing of it but an error, and no other server is asked"
    REFUSES = "the client gets the server's own 4xx, and no other server is asked"


@dataclass(frozen=True)
class Plot:
    """The steps of one attempt; `content` is what of it may reach the client, in this order."""

    steps: tuple[Step, ...]
    ending: Ending
    content: bytes = b""
    status: int = 200


def server_name(peer: ScriptedPeer) -> str:
    """A peer that is registered anew is another server."""
    return f"{peer.name}, registration {getattr(peer, 'registrations', 1)}"


class Attempt:
    """One request's meeting with one server, as the server saw it: an operation that plays a fault of the menu."""

    def __init__(self, name: str, number: int, choose: random.Random) -> None:
        self.name = name
        self.number = number
        self.choose = choose
        self.stream = False
        self.texts: list[str] = []
        self.plot = Plot((), Ending.MOVES_ON)
        self.request: RecordedRequest | None = None
        self.server = ""
        self.ended_at = float("inf")

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        """Be that fault."""
        self.request = request
        self.server = server_name(request.peer)
        asked = request.json()
        self.stream = bool(asked.get("stream"))
        self.texts = [f"<{asked['nonce']}|{self.number}|{place}> 北京🌍" for place in range(self.choose.randint(1, 5))]
        self.plot = MENU[self.name][1](self)
        try:
            for operation in as_play(self.plot.steps):
                await operation.play(connection, request)
            while connection._transport.get_write_buffer_size():
                await connection.wait(asyncio.sleep(0.005))
        finally:
            self.ended_at = time.monotonic()

    @property
    def good_body(self) -> bytes:
        """A whole answer to what was asked."""
        if self.stream:
            return wire.good_stream(*self.texts)
        return json.dumps(wire.chat_completion("".join(self.texts)), ensure_ascii=False).encode()

    @property
    def begun(self) -> bytes:
        """The events of a stream that will not come to its end."""
        return b"".join(map(wire.chat_chunk, self.texts))

    def in_slices(self, data: bytes) -> Operation:
        """`data` in random pieces, unless it is large."""
        return Send(data, seed=self.choose.randrange(2**32) if len(data) < 4000 else None)


# -- good answers


def _answer(attempt: Attempt, body: bytes) -> bytes:
    kind = EVENT_TYPE if attempt.stream else JSON_TYPE
    if not attempt.stream and attempt.choose.random() < 0.5:
        return wire.answer(body)
    return wire.head(200, [kind, CHUNKED]) + _cut(attempt, body)


def _cut(attempt: Attempt, body: bytes, last_chunk: bool = True) -> bytes:
    return wire.chunked(body, attempt.choose.choice([None, 7, 100]), last_chunk)


def good(attempt: Attempt) -> Plot:
    body = attempt.good_body
    return Plot((attempt.in_slices(_answer(attempt, body)),), Ending.WHOLE, body)


def good_until_close(attempt: Attempt) -> Plot:
    body = attempt.good_body
    kind = EVENT_TYPE if attempt.stream else JSON_TYPE
    return Plot((wire.head(200, [kind, ("Connection", "close")]) + body, Fin()), Ending.WHOLE, body)


def slow_head(attempt: Attempt) -> Plot:
    later = good(attempt)
    return Plot((Sleep(attempt.choose.uniform(0.05, LONGEST_PAUSE_SECONDS)), *later.steps), Ending.WHOLE, later.content)


def slow_events(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return slow_head(attempt)
    steps: list[Step] = [wire.STREAM_HEAD]
    for text in attempt.texts:
        event, pause = wire.chat_chunk(text), Sleep(attempt.choose.uniform(0.01, LONGEST_PAUSE_SECONDS))
        steps += [wire.chunk(event[:20]), pause, wire.chunk(event[20:])]
    steps.append(wire.chunked(wire.finish_chunk() + wire.DONE))
    return Plot(tuple(steps), Ending.WHOLE, attempt.good_body)


def compressed(attempt: Attempt) -> Plot:
    body, kind = attempt.good_body, EVENT_TYPE if attempt.stream else JSON_TYPE
    packed = gzip.compress(body)
    fields = [kind, ("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))]
    return Plot((attempt.in_slices(wire.head(200, fields) + packed),), Ending.WHOLE, body)


def without_done(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    body = attempt.begun + wire.finish_chunk("length")
    return Plot((wire.stream_answer(body),), Ending.WHOLE, body + wire.DONE)


def more_after_done(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    body = attempt.good_body
    after: Operation = attempt.choose.choice([Hold(), Reset(), SendForEver(wire.chunk(b"data: more\n\n"))])
    return Plot((wire.STREAM_HEAD + wire.chunk(body), Sleep(0.02), after), Ending.WHOLE, body)


def malformed_event(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    body = attempt.begun + b'data: {"choices": [{"del\n\n' + wire.finish_chunk() + wire.DONE
    return Plot((attempt.in_slices(wire.stream_answer(body, 9)),), Ending.WHOLE, body)


def plain_for_stream(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    body = json.dumps(wire.chat_completion("".join(attempt.texts)), ensure_ascii=False).encode()
    return Plot((wire.answer(body),), Ending.JSON, body)


def large(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    attempt.texts = [f"{text}{'y' * 8000}" for text in attempt.texts] * 30
    body = attempt.good_body
    return Plot((wire.stream_answer(body, 5000),), Ending.WHOLE, body)


# -- failures before the commit


def _moves_on(*steps: Step) -> Plot:
    return Plot(steps, Ending.MOVES_ON)


def reset(attempt: Attempt) -> Plot:
    begun = attempt.choose.choice([b"", b"HTTP/1.1 200 OK\r\nConte"])
    return _moves_on(begun, Sleep(attempt.choose.choice([0, 0.05])), Reset())


def closed(attempt: Attempt) -> Plot:
    return _moves_on(*attempt.choose.choice([(Fin(),), (b"HTTP/1.1 200 OK\r\nContent-Ty", Fin())]))


def garbage(attempt: Attempt) -> Plot:
    noise = attempt.choose.choice([b"SSH-2.0-OpenSSH_9.6\r\n", bytes(range(256)), b"\x15\x03\x01\x00\x02\x02\x46"])
    return _moves_on(noise, Hold())


def html(attempt: Attempt) -> Plot:
    status = attempt.choose.choice([200, 404, 502, 530])
    return _moves_on(wire.html_answer(status, "ERR_NGROK_3200" if status == 404 else "It works!"))


def server_error(attempt: Attempt) -> Plot:
    status = attempt.choose.choice([500, 502, 504, *range(520, 531)])
    answers = [wire.error_answer(status, "boom"), wire.answer("boom", status, "text/plain"), wire.answer("", status)]
    return _moves_on(attempt.choose.choice(answers))


def busy(attempt: Attempt) -> Plot:
    headers = attempt.choose.choice([[], [("Retry-After", "1")], [("Retry-After", "nonsense")]])
    message = attempt.choose.choice(["slow down", "Loading model"])
    return _moves_on(wire.error_answer(attempt.choose.choice([429, 503]), message, headers))


def wrong_key(attempt: Attempt) -> Plot:
    return _moves_on(wire.error_answer(attempt.choose.choice([401, 403]), "invalid key"))


def model_missing(attempt: Attempt) -> Plot:
    return _moves_on(wire.error_answer(404, "The model does not exist", code="model_not_found"))


def route_missing(attempt: Attempt) -> Plot:
    return _moves_on(wire.error_answer(404, "Not Found"))


def redirect(attempt: Attempt) -> Plot:
    return _moves_on(wire.answer("", 302, headers=[("Location", "http://127.0.0.1:1/v1")]))


def short_body(attempt: Attempt) -> Plot:
    if attempt.stream:
        fields = [EVENT_TYPE, ("Content-Length", "99999")]
        return Plot((wire.head(200, fields) + attempt.begun, Fin()), Ending.BREAKS, attempt.begun)
    return _moves_on(wire.head(200, [JSON_TYPE, ("Content-Length", "9999")]) + attempt.good_body, Fin())


def bad_chunk(attempt: Attempt) -> Plot:
    if attempt.stream:
        head = wire.STREAM_HEAD + wire.chunk(attempt.begun)
        return Plot((head, Sleep(0.02), b"ZZ\r\nabc\r\n", Hold()), Ending.BREAKS, attempt.begun)
    return _moves_on(wire.head(200, [JSON_TYPE, CHUNKED]) + b"ZZ\r\n{}\r\n", Hold())


def corrupt_gzip(attempt: Attempt) -> Plot:
    kind = EVENT_TYPE if attempt.stream else JSON_TYPE
    body = b"\x1f\x8b" + b"?" * 28
    return _moves_on(wire.head(200, [kind, ("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]) + body)


def wrong_form(attempt: Attempt) -> Plot:
    if attempt.stream:
        return _moves_on(wire.answer("never mind", content_type="text/plain"))
    return _moves_on(wire.stream_answer(wire.good_stream(*attempt.texts)))


# -- failures after the commit, and those that no other server shall repeat


def truncated(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return _moves_on(wire.head(200, [JSON_TYPE, CHUNKED]) + wire.chunk(attempt.good_body), Fin())
    half = attempt.choose.choice([b"", wire.chat_chunk("half")[:30]])
    last_chunk = attempt.choose.random() < 0.5
    body = wire.STREAM_HEAD + _cut(attempt, attempt.begun + half, last_chunk)
    end: Operation = Sleep(0) if last_chunk else attempt.choose.choice([Fin(), Reset()])
    return Plot((body, Sleep(0.05), end), Ending.BREAKS, attempt.begun)


def stall(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return Plot((wire.head(200, [JSON_TYPE, ("Content-Length", "999")]) + b"{", Hold()), Ending.GIVES_UP)
    return Plot((wire.STREAM_HEAD + wire.chunk(attempt.begun), Hold()), Ending.BREAKS, attempt.begun)


def hang(attempt: Attempt) -> Plot:
    return Plot((Hold(),), Ending.GIVES_UP)


def huge(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return Plot((_answer(attempt, b'"' + b"x" * MAX_RESPONSE_BODY_SIZE + b'"'), Hold()), Ending.GIVES_UP)
    event = wire.chat_chunk("x" * MAX_EVENT_SIZE)
    if attempt.choose.random() < 0.5:
        return Plot((wire.STREAM_HEAD + wire.chunk(event), Hold()), Ending.GIVES_UP)
    head = wire.STREAM_HEAD + wire.chunk(attempt.begun)
    return Plot((head, Sleep(0.02), wire.chunk(event), Hold()), Ending.BREAKS, attempt.begun)


def error_event(attempt: Attempt) -> Plot:
    if not attempt.stream:
        return good(attempt)
    error = {"message": f"out of memory {attempt.texts[0]}", "type": "server_error", "param": None, "code": "oom"}
    events = attempt.choose.choice([b"", attempt.begun])
    body = events + wire.sse(json.dumps({"error": error}, ensure_ascii=False))
    return Plot((wire.stream_answer(body, 50),), Ending.ERROR_EVENT, body)


def refusal(attempt: Attempt) -> Plot:
    status = attempt.choose.choice([400, 405, 409, 413, 422])
    error = {"message": attempt.texts[0], "type": "invalid_request_error", "param": None, "code": "no"}
    body = json.dumps({"error": error}, ensure_ascii=False).encode()
    return Plot((wire.answer(body, status),), Ending.REFUSES, body, status)


# Name of the fault: how often it is drawn, and what it is.
MENU: dict[str, tuple[int, Callable[[Attempt], Plot]]] = {
    "good": (40, good),
    "good_until_close": (5, good_until_close),
    "slow_head": (6, slow_head),
    "slow_events": (5, slow_events),
    "compressed": (4, compressed),
    "without_done": (3, without_done),
    "more_after_done": (4, more_after_done),
    "malformed_event": (3, malformed_event),
    "plain_for_stream": (2, plain_for_stream),
    "large": (4, large),
    "reset": (4, reset),
    "closed": (3, closed),
    "garbage": (3, garbage),
    "html": (3, html),
    "server_error": (6, server_error),
    "busy": (4, busy),
    "wrong_key": (2, wrong_key),
    "model_missing": (2, model_missing),
    "route_missing": (2, route_missing),
    "redirect": (1, redirect),
    "short_body": (3, short_body),
    "bad_chunk": (3, bad_chunk),
    "corrupt_gzip": (2, corrupt_gzip),
    "wrong_form": (2, wrong_form),
    "truncated": (5, truncated),
    "stall": (2, stall),
    "hang": (1, hang),
    "huge": (3, huge),
    "error_event": (4, error_event),
    "refusal": (6, refusal),
}


def draw(choose: random.Random, count: int) -> list[Attempt]:
    """`count` attempts, in the order in which requests will arrive anywhere; early on there is one of each fault."""
    weights = [weight for weight, _fault in MENU.values()]
    names = [*MENU, *choose.choices(list(MENU), weights, k=count - len(MENU))]
    early = names[: 4 * len(MENU)]
    choose.shuffle(early)
    names[: len(early)] = early
    return [Attempt(name, number, random.Random(choose.random())) for number, name in enumerate(names)]
