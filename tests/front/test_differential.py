"""The front door against Tornado's server: the same bytes get the same verdict, or a listed exception with its reason.

A verdict is all that came back until the connection was closed: which requests were seen, with which bodies, what was
refused. Every conversation ends with a sentinel: a body that swallows it, or a request that grows out of a body, shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import tornado.netutil
import tornado.web
import uvloop
from tornado.httpserver import HTTPServer

from multiverse.web.dispatch import GatewayApplication
from multiverse.web.front.door import ClientLimits, FrontDoor
from multiverse.web.front.heads import MAX_HEAD_BYTES
from multiverse.web.handlers.staged import StagedHandler
from multiverse.web.http_server import GatewayHTTPServer
from multiverse.web.route import Route
from tests.front.talking import Talk, talk

CONVERSATIONS = 2_500
AT_ONCE = 50
# Whatever is incomplete is dropped after this by both.
TIMER_SECONDS = 0.4
DIRECT_PATHS = ["/", "/%2e%2e/%00", "/\xe4", "relative", "//a", "/#f", "/sentinel"]
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
REFUSED = (400, b"refused")

# What the front door does otherwise, and why. "refuses": 400 or no answer, and the connection closes. "accepts": as if
# the line in question were not there.
EXCEPTIONS = {
    "bare LF": ("refuses", "RFC 9112 §2.2 allows it either way; others see another end of the line"),
    "a repeated equal length": (
        "refuses",
        "RFC 9112 §6.3 allows it either way; which one counts is a matter of opinion",
    ),
    "a chunk extension": ("accepts", "RFC 9112 §7.1.1: a recipient MUST ignore unrecognized chunk extensions"),
    "a trailer": ("accepts", "RFC 9112 §7.1.2: a recipient may discard them"),
    "options of the connection": ("accepts", "RFC 9110 §7.6.1: Connection is a list, Tornado compares it as a whole"),
    "a higher minor version": ("accepts", "RFC 9110 §2.5: processed as the highest version that is known"),
    "many lines": ("refuses", "a limit of its own, long before the bytes are too many"),
    "an absurd length": (
        "refuses",
        "nothing is too long for the head; the handlers refuse it as 413, or it never comes",
    ),
}


class Echo(tornado.web.RequestHandler):
    """Tells what it has understood."""

    SUPPORTED_METHODS = (*tornado.web.RequestHandler.SUPPORTED_METHODS, "PROPFIND")

    def get(self) -> None:
        fields = sorted((name, value) for name, value in self.request.headers.get_all() if name.startswith("X-"))
        digest = hashlib.sha256(self.request.body).hexdigest()[:16]
        # The gateway turns targets into origin form (RFC 9112 §3.2.2), Tornado does not.
        target = (self.request.uri or "").removeprefix("http://gateway.test")
        self.write(json.dumps([self.request.method, target, fields, digest, len(self.request.body)]))

    post = put = patch = delete = options = propfind = get

    def write_error(self, status_code: int, **kwargs: object) -> None:
        self.finish(str(status_code))

    def prepare(self) -> None:
        self.clear_header("Server")


class StagedEcho(StagedHandler):
    """The same as a handler of the gateway's kind, which gets a request that has come whole without a delegate.

    It would refuse a method before the body comes; so that the body is judged as well, it does so afterwards.
    """

    SUPPORTED_METHODS = (*Echo.SUPPORTED_METHODS, "FROB", "get")
    write_error = Echo.write_error
    served: ClassVar[Counter[str]] = Counter()

    def initialize(self, route: Route) -> None:
        self.served[route.shown] += 1

    def get(self) -> None:
        if self.request.method not in Echo.SUPPORTED_METHODS:
            raise tornado.web.HTTPError(405)
        echo: Any = self
        Echo.get(echo)

    post = put = patch = delete = options = propfind = frob = get

    def data_received(self, chunk: bytes) -> None:
        self.request.body += chunk


@dataclass
class Conversation:
    """Bytes to send, and which of the exceptions they are."""

    data: bytes = b""
    tags: set[str] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)


Verdict = list[tuple[int, bytes]]


# -- what is sent


class Writer:
    """Writes conversations: ordinary requests with, now and then, something wrong or odd about them."""

    def __init__(self, seed: int) -> None:
        self._choose = random.Random(seed)

    def conversation(self) -> Conversation:
        written = Conversation()
        for _number in range(self._choose.choice([1, 1, 2, 3])):
            self._request(written)
        written.data += SENTINEL
        return written

    def _request(self, written: Conversation) -> None:
        choose = self._choose
        method = choose.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "FROB", "get"])
        line = f"{method} {self._target()} HTTP/1.1".encode("latin-1")
        fields = [b"Host: gateway.test"]
        fields += [self._field() for _number in range(choose.randint(0, 4))]
        body = choose.randbytes(choose.choice([0, 0, 1, 5, 300, 5000]))
        framed = b""
        if body or choose.random() < 0.3:
            framing, framed = self._framed(body, written)
            fields += framing
        if choose.random() < 0.5:
            kind = choose.choice(list(ODDITIES))
            written.parts.append(kind)
            line, fields, framed = ODDITIES[kind](choose, line, fields, framed, written.tags)
        choose.shuffle(fields) if choose.random() < 0.3 else None
        end = b"\r\n"
        if choose.random() < 0.02:
            written.tags.add("bare LF")
            end = b"\n"
        written.data += end.join([line, *fields, b"", b""]) + framed

    def _target(self) -> str:
        return self._choose.choice(
            [
                "/",
                "/A/b?c=d&e",
                "/%2e%2e/%00",
                "/ä",
                "*",
                "http://gateway.test/a?b",
                "relative",
                "/?" + "x" * 3000,
                "//a",
                "/#f",
            ]
        )

    def _field(self) -> bytes:
        name = self._choose.choice(["X-A", "x-b", "X-C!#$%&'*+.^_`|~", "X-1"])
        value = self._choose.choice(["", "a", " b ", "\tc\t", "d\te f", "ä\xff", '"q", z', "x" * 2000, ":;:"])
        space = self._choose.choice(["", " ", "  \t"])
        return f"{name}:{space}{value}".encode("latin-1")

    def _framed(self, body: bytes, written: Conversation) -> tuple[list[bytes], bytes]:
        choose = self._choose
        if choose.random() < 0.5:
            return [
                choose.choice([b"Content-Length: %d", b"content-length:%04d", b"CONTENT-LENGTH: \t%d "]) % len(body)
            ], body
        pieces, position = [], 0
        while position < len(body):
            size = choose.randint(1, max(len(body) // 2, 1))
            piece = body[position : position + size]
            extension = b""
            if choose.random() < 0.03:
                written.tags.add("a chunk extension")
                extension = choose.choice([b";a", b";a=b", b' ; a="b"'])
            pieces.append(choose.choice([b"%x", b"%X", b"00%x"]) % len(piece) + extension + b"\r\n" + piece + b"\r\n")
            position += size
        trailer = b""
        if choose.random() < 0.03:
            written.tags.add("a trailer")
            trailer = b"X-Trailer: a\r\n"
        return [choose.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"])], b"".join(
            [*pieces, choose.choice([b"0", b"000"]), b"\r\n", trailer, b"\r\n"]
        )


Parts = tuple[bytes, list[bytes], bytes]
Fields = list[bytes]


def a_wrong_line(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """The request line is not quite one."""
    method, target, version = line.split(b" ")
    wrong = choose.choice(
        [
            method + b"  " + target + b" " + version, line + b" ", b" " + line,
            method + b"\t" + target + b" " + version,
            method + b" " + target, method + b" " + target + b" HTTP/2.0", method + b" " + target + b" http/1.1",
            method + b" " + target + b" HTTP/1.10", method + b" " + target + b" HTTP/01.1", b"(" + line, b"\r\n" + line,
            b"\r\n\r\n" + line, method + b" " + target + b"\x7f " + version, method + b" /a b " + version, b"\0" + line,
            method + b" " + target + b"\x0b " + version, target + b" " + version, b"\x16\x03\x01" + line,
        ]
    )  # fmt: skip
    return wrong, fields, framed


def a_wrong_field(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """A line among the fields is none."""
    wrong = choose.choice(
        [
            b"X-Space : a", b" X-Fold: a", b"\tfold", b"X-No-Colon", b": nameless", b"X(Y): a", b"X\xe4: a",
            b"X-Nul: a\0b",
            b"X-CR: a\rb", b"X-Ctl: \x1b", b"X-Del: \x7f", b"X-VT: a\x0bb", b"X Y: a", b"\0", b"X-Quote\": a", b"",
        ]
    )  # fmt: skip
    place = choose.randint(0, len(fields))
    return line, [*fields[:place], wrong, *fields[place:]], framed


def a_wrong_host(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """The host is missing, repeated, or no host."""
    others = [name for name in fields if not name.lower().startswith(b"host")]
    hosts = choose.choice(
        [[], [b"Host: a", b"Host: a"], [b"Host: a", b"host: b"], [b"Host: a,b"], [b"Host: a b"], [b"Host:"]]
    )
    return line, others + hosts, framed


def wrong_framing(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """Lengths and encodings that contradict each other, or are none."""
    others = [name for name in fields if not name.lower().startswith((b"content-length", b"transfer-encoding"))]
    body = b"4\r\nbody\r\n0\r\n\r\n"
    kinds = [
        [b"Content-Length: 4", b"Transfer-Encoding: chunked"], [b"Content-Length: 4", b"Content-Length: 5"],
        [b"Content-Length: +4"], [b"Content-Length: -4"], [b"Content-Length: 4 4"], [b"Content-Length: 0x4"],
        [b"Content-Length: 4_0"], [b"Content-Length:"], [b"Content-Length: 4.0"], ["Content-Length: ٤".encode()],
        [b"Transfer-Encoding: gzip"], [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: xchunked"], [b"Transfer-Encoding:"], [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding : chunked"], [b"Content-Length : 4"], [b"Content-Length\t: 4"],
        [b"Transfer-Encoding: chunked;q=1"],
        [b"Transfer-Encoding: \"chunked\""], [b"Content-Length: 4", b"Transfer-Encoding: identity"],
    ]  # fmt: skip
    return line, others + choose.choice(kinds), body


def wrong_chunks(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """Chunks that are none."""
    others = [name for name in fields if not name.lower().startswith((b"content-length", b"transfer-encoding"))]
    wrong = choose.choice(
        [
            b"4\nbody\r\n0\r\n\r\n", b"4\r\nbody0\r\n\r\n", b"5\r\nbody\r\n0\r\n\r\n", b"3\r\nbody\r\n0\r\n\r\n",
            b"0x4\r\nbody\r\n0\r\n\r\n", b"4 \r\nbody\r\n0\r\n\r\n", b" 4\r\nbody\r\n0\r\n\r\n",
            b"+4\r\nbody\r\n0\r\n\r\n",
            b"-1\r\n\r\n", b"\r\n", b"G\r\n", b"4\r\nbody\n0\r\n\r\n", b"4\r\nbody\r0\r\n\r\n",
            b"4\r\nbody\r\n0\r\n\rX",
            b"f" * 17 + b"\r\nbody\r\n", b"4_0\r\nbody\r\n0\r\n\r\n", b"4\r\nbody\r\n\r\n0\r\n\r\n", b"0\r\n\n",
        ]
    )  # fmt: skip
    return line, [*others, b"Transfer-Encoding: chunked"], wrong


def an_exception(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """Something that the two servers are known to judge differently."""
    others = [name for name in fields if not name.lower().startswith((b"content-length", b"transfer-encoding"))]
    tag = choose.choice(
        [
            "a repeated equal length",
            "options of the connection",
            "a higher minor version",
            "many lines",
            "an absurd length",
        ]
    )
    tags.add(tag)
    if tag == "a repeated equal length":
        return line, others + choose.choice([[b"Content-Length: 4"] * 2, [b"Content-Length: 4, 4"]]), b"body"
    if tag == "options of the connection":
        return line, [*fields, b"Connection: TE, x-a"], framed
    if tag == "a higher minor version":
        return line[:-1] + b"2", fields, framed
    if tag == "many lines":
        return line, [*fields, *[b"X-Many: a"] * 300], framed
    return line, [*others, b"Content-Length: " + b"9" * choose.choice([19, 30, 3000])], b"body"


def odd_but_right(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """Unusual, and nothing wrong with it."""
    extra = choose.choice(
        [
            b"Connection: keep-alive",
            b"Expect: 100-continue",
            b"Upgrade: h2c",
            b"TE: trailers",
            b"X-Empty:",
            b"Connection: close",
        ]
    )
    return line, [*fields, extra], framed


def an_old_request(choose: random.Random, line: bytes, fields: Fields, framed: bytes, tags: set[str]) -> Parts:
    """HTTP/1.0, which closes by default and has no chunks."""
    return line[:-1] + b"0", fields, framed


ODDITIES = {
    kind.__name__: kind
    for kind in (
        a_wrong_line, a_wrong_field, a_wrong_host, wrong_framing, wrong_chunks, an_exception, odd_but_right,
        an_old_request,
    )
}  # fmt: skip


# -- what comes back


async def verdict_of(port: int, data: bytes, gate: asyncio.Semaphore) -> Verdict:
    """Everything that a server answers to `data`."""
    found: Verdict = []
    async with gate, talk(port) as client:
        client.send(data)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                found.append(await next_answer(client))
    return found


async def next_answer(client: Talk) -> tuple[int, bytes]:
    answer = await client.answer()
    malformed = answer.status == 400 and b"is malformed" in answer.body
    return REFUSED if malformed else (answer.status, answer.body)


def refused(verdict: Verdict) -> bool:
    """A server that closes without a word refuses as well."""
    return not verdict or verdict[-1] == REFUSED or b"/sentinel" not in verdict[-1][1]


def agree(front: Verdict, stock: Verdict) -> bool:
    """The same, but that Tornado now and then closes without the word of a refusal."""
    return front == stock or (front[-1:] == [REFUSED] and front[:-1] == stock)


async def all_verdicts(conversations: list[Conversation]) -> list[tuple[Verdict, Verdict]]:
    """What the front door and Tornado's server say to each."""
    application = tornado.web.Application([("(?s).*", Echo)], log_function=lambda handler: None)
    handler: Any = StagedEcho
    routes = [Route(shown=path, pattern=path, handler=handler, access="anyone", methods={}) for path in DIRECT_PATHS]
    settings = {"default_handler_class": Echo, "log_function": lambda handler: None}
    limits = ClientLimits(
        header_timeout_seconds=TIMER_SECONDS, body_timeout_seconds=TIMER_SECONDS, write_timeout_seconds=TIMER_SECONDS
    )
    door = FrontDoor(GatewayApplication(routes, {}, **settings), limits)
    stock = GatewayHTTPServer(
        application,
        idle_connection_timeout=TIMER_SECONDS,
        body_timeout=TIMER_SECONDS,
        max_header_size=MAX_HEAD_BYTES,
        max_body_size=2**62,
    )
    gate = asyncio.Semaphore(AT_ONCE)
    with contextlib.ExitStack() as listeners:
        ports = []
        for server in (door, stock):
            (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
            listeners.enter_context(listener)
            await server.accept_on([listener])
            ports.append(listener.getsockname()[1])

        async def both(conversation: Conversation) -> tuple[Verdict, Verdict]:
            front, stock = [await verdict_of(port, conversation.data, gate) for port in ports]
            return front, stock

        verdicts = await asyncio.gather(*[both(conversation) for conversation in conversations])
        for number, pair in enumerate(verdicts):
            if not conversations[number].tags and not agree(
                *pair
            ):  # On a busy machine a timer may have run out: once more, alone.
                verdicts[number] = await both(conversations[number])
        await end(door)
        await end(stock)
    return verdicts


async def end(server: FrontDoor | HTTPServer) -> None:
    server.stop()
    await server.close_all_connections()


@pytest.fixture(scope="module")
def judged() -> list[tuple[Conversation, Verdict, Verdict]]:
    """All conversations with both verdicts."""
    writer = Writer(seed=9112)
    conversations = [writer.conversation() for _number in range(CONVERSATIONS)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        verdicts = runner.run(all_verdicts(conversations))
    return [(conversation, *pair) for conversation, pair in zip(conversations, verdicts, strict=True)]


# -- the comparison


def test_the_same_verdict(judged: list[tuple[Conversation, Verdict, Verdict]]) -> None:
    different = [
        (conversation.data[:600], conversation.parts, front, stock)
        for conversation, front, stock in judged
        if not conversation.tags and not agree(front, stock)
    ]
    assert not different, f"{len(different)}, the first: {different[0]}"


@pytest.mark.parametrize("tag", EXCEPTIONS)
def test_an_exception_is_as_listed(judged: list[tuple[Conversation, Verdict, Verdict]], tag: str) -> None:
    kind, _reason = EXCEPTIONS[tag]
    alone = [entry for entry in judged if entry[0].tags == {tag} and len(set(entry[0].parts)) <= (tag not in UNTOLD)]
    assert len(alone) >= 5, "it was tried"
    for conversation, front, _stock in alone:
        assert refused(front) == (kind == "refuses"), (conversation.data[:300], front)


# Tags that are no oddity of their own: an oddity beside them would be judged for itself.
UNTOLD = {"bare LF", "a chunk extension", "a trailer"}


def test_what_was_compared(judged: list[tuple[Conversation, Verdict, Verdict]]) -> None:
    seen: Counter[str] = Counter()
    for conversation, front, _stock in judged:
        seen.update(conversation.parts)
        seen["accepted"] += not refused(front)
        seen["refused"] += refused(front)
    assert min(seen[kind] for kind in ODDITIES) > 100
    assert seen["accepted"] > CONVERSATIONS / 4
    assert seen["refused"] > CONVERSATIONS / 4
    assert min(StagedEcho.served[path] for path in DIRECT_PATHS) > 50
