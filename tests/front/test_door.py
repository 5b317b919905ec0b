"""What the front door does with requests that are in order: ways of sending, ends of answers, holding back, the end."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from collections.abc import Awaitable
from typing import ClassVar

import pytest
import tornado.web
from tornado.httputil import HTTPServerRequest

from tests.front.conftest import TIMER_SECONDS, OpenDoor
from tests.front.talking import talk
from tests.waiting import soon

HOST = b"Host: gateway.test\r\n"
LARGE = 3_000_000


class Echo(tornado.web.RequestHandler):
    """Tornado's plain kind of handler: the body is read before it runs."""

    async def get(self) -> None:
        await asyncio.sleep(float(self.get_query_argument("wait", "0")))
        self.write(f"{self.request.method} {self.request.uri} ".encode() + self.request.body)

    post = put = get

    def head(self) -> None:
        self.write("never sent")


class Large(tornado.web.RequestHandler):
    """An answer that no socket buffer holds, in pieces, written as fast as the client reads."""

    pieces = 0

    async def get(self) -> None:
        for _number in range(LARGE // 100_000):
            self.write(b"x" * 100_000)
            type(self).pieces += 1
            await self.flush()


class Left(tornado.web.RequestHandler):
    """Waits until the client leaves."""

    left = False

    def initialize(self) -> None:
        self.told = asyncio.Event()

    async def get(self) -> None:
        await self.told.wait()

    def on_connection_close(self) -> None:
        type(self).left = True
        self.told.set()


@tornado.web.stream_request_body
class Sink(tornado.web.RequestHandler):
    """Takes its body slowly, piece by piece, and counts it."""

    async def prepare(self) -> None:
        self.count = 0
        await asyncio.sleep(0.01)

    async def data_received(self, chunk: bytes) -> None:
        self.count += len(chunk)
        await asyncio.sleep(0.001)

    def put(self) -> None:
        self.write(str(self.count))


RULES = [("/large", Large), ("/left", Left), ("/sink", Sink), ("/.*", Echo)]


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
async def test_requests_that_are_sent_ahead_are_answered_in_order(open_door: OpenDoor, connection: bytes) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        for number in range(100):
            body = b"x" * number
            client.send(b"POST /%d?wait=%s HTTP/1.1\r\n" % (number, b"0.02" if number % 30 == 0 else b"0"))
            client.send(HOST + connection + b"Content-Length: %d\r\n\r\n" % number + body)
        for number in range(100):
            answer = await client.answer()
            wait = "0.02" if number % 30 == 0 else "0"
            assert answer.body == f"POST /{number}?wait={wait} ".encode() + b"x" * number
            assert "connection" not in answer.headers


async def test_what_is_sent_ahead_is_held_back(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (door, port), talk(port) as client:
        client.send(b"GET /?wait=0.3 HTTP/1.1\r\n" + HOST + b"\r\n")
        client.send((b"PUT /sink HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % 8_000_000) + b"x" * 8_000_000)
        await asyncio.sleep(0.2)
        (connection,) = door.connections
        assert len(connection._buffer) < 1_000_000, "the rest waits in the sockets"
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b"8000000"


class Count(tornado.web.RequestHandler):
    """Answers at once, and counts."""

    handled = 0

    def get(self) -> None:
        type(self).handled += 1
        self.write(b"x" * int(self.get_query_argument("size", "1")))


async def test_who_sends_much_ahead_takes_turns(open_door: OpenDoor) -> None:
    Count.handled = 0
    async with open_door([("/count", Count), *RULES]) as (_door, port), talk(port) as eager, talk(port) as other:
        eager.send((b"GET /count HTTP/1.1\r\n" + HOST + b"\r\n") * 3000)
        await eager.answer()
        other.send(b"GET /other HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await other.answer()).body == b"GET /other "
        assert Count.handled < 3000, "others are not kept waiting for all of it"
        for _number in range(2999):
            assert (await eager.answer()).body == b"x"


async def test_who_does_not_read_is_not_read(open_door: OpenDoor) -> None:
    Count.handled = 0
    async with open_door([("/count", Count)]) as (_door, port), talk(port) as client:
        client.writer.transport.pause_reading()
        client.send((b"GET /count?size=100000 HTTP/1.1\r\n" + HOST + b"\r\n") * 1000)
        stopped_at, before = Count.handled, -1
        while stopped_at != before:
            await asyncio.sleep(0.1)
            before, stopped_at = stopped_at, Count.handled
        assert Count.handled < 500, "answers wait in the sockets, not in memory"
        client.writer.transport.resume_reading()
        for _number in range(1000):
            assert len((await client.answer()).body) == 100_000


async def test_who_stops_reading_and_closes_its_side_is_let_go(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (door, port), talk(port) as client:
        client.writer.transport.pause_reading()
        client.send(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
        await asyncio.sleep(0.1)
        client.writer.write_eof()
        await soon(lambda: not door.connections, "it is gone")


async def test_a_request_is_freed_with_its_answer(open_door: OpenDoor) -> None:
    class Remembered(tornado.web.RequestHandler):
        requests: ClassVar[list[weakref.ref[HTTPServerRequest]]] = []

        def put(self) -> None:
            self.requests.append(weakref.ref(self.request))

    async with open_door([("/", Remembered)]) as (_door, port), talk(port) as client:
        gc.disable()  # It counts objects, not the bytes that a body has.
        try:
            for _number in range(3):
                client.send(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi")
                assert (await client.answer()).status == 200
            await asyncio.sleep(0)
            assert [reference() for reference in Remembered.requests[:2]] == [None, None]
        finally:
            gc.enable()


async def test_byte_by_byte(open_door: OpenDoor) -> None:
    chunks = b"3\r\nabc\r\n002;name=value\r\nde\r\n0\r\nTrailer: dropped\r\n\r\n"
    data = b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    data += b"\r\nPUT /b HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.writer.get_extra_info("socket").setsockopt(6, 1, 1)
        for byte in data:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"POST /a abcde"
        assert (await client.answer()).body == b"PUT /b hi"


async def test_an_upgrade_that_nobody_wants_is_an_ordinary_request(open_door: OpenDoor) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    async with open_door(RULES) as (_door, port), talk(port) as client:
        for _number in range(2):
            client.send(b"POST / HTTP/1.1\r\n" + HOST + upgrade + b"Content-Length: 4\r\n\r\nbody")
            assert (await client.answer()).body == b"POST / body"


@pytest.mark.parametrize(
    ("version", "said", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: TE, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
async def test_who_stays(open_door: OpenDoor, version: bytes, said: bytes, stays: bool) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.send(b"GET /a HTTP/" + version + b"\r\n" + HOST + said + b"\r\n")
        answer = await client.answer()
        assert answer.headers.get("connection", "keep-alive") == ("keep-alive" if stays else "close")
        client.send(b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n")
        if stays:
            assert (await client.answer()).body == b"GET /b "
        else:
            assert await client.at_end()


async def test_head_has_no_body(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        for _number in range(2):
            client.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = await client.answer(to_head=True)
            assert answer.headers["content-length"] == "10"
        client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).body == b"GET / "


async def test_a_body_is_asked_for(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.send(b"PUT /sink HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.answer(skip_interim=False)).status == 100
        client.send(b"hello")
        assert (await client.answer(skip_interim=False)).body == b"5"
        client.send(b"PUT /sink HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert (await client.answer(skip_interim=False)).body == b"5", "nobody asks for what is there"


async def test_an_old_client_reads_to_the_end(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.send(b"GET /large HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert "transfer-encoding" not in answer.headers
        assert len(answer.body) == LARGE


async def test_a_slow_reader_holds_the_handler_back(open_door: OpenDoor) -> None:
    Large.pieces = 0
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.writer.transport.pause_reading()
        client.send(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /after HTTP/1.1\r\n" + HOST + b"\r\n")
        stopped_at, before = Large.pieces, -1
        while stopped_at != before:
            await asyncio.sleep(0.1)
            before, stopped_at = stopped_at, Large.pieces
        client.writer.transport.resume_reading()
        assert len((await client.answer()).body) == LARGE
        assert (await client.answer()).body == b"GET /after "
    assert Large.pieces == LARGE // 100_000


async def test_the_last_answer_may_be_read_slowly_but_not_never(open_door: OpenDoor) -> None:
    async with open_door([("/large", Whole)]) as (door, port), talk(port) as reading, talk(port) as stuck:
        for client in (reading, stuck):
            client.send(b"GET /large HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        stuck.writer.transport.pause_reading()
        received = 0
        started_at = time.monotonic()
        while piece := await reading.reader.read(65_536):
            received += len(piece)
            await asyncio.sleep(TIMER_SECONDS * 2.5 / (Whole.size / 65_536))
        assert received > Whole.size
        assert time.monotonic() - started_at > TIMER_SECONDS * 1.5
        await soon(lambda: not door.connections, "it is gone")


class Whole(tornado.web.RequestHandler):
    """An answer at once that no socket buffer holds."""

    size = 20_000_000

    def get(self) -> None:
        self.write(b"x" * self.size)


@pytest.mark.parametrize("ahead", [0, 100_000], ids=["waiting", "held back"])
@pytest.mark.parametrize("how", ["closes its side", "resets"])
async def test_who_leaves_is_reported(open_door: OpenDoor, how: str, ahead: int) -> None:
    Left.left = False
    async with open_door(RULES) as (door, port), talk(port) as client:
        client.send(b"GET /left HTTP/1.1\r\n" + HOST + b"\r\n" + b"x" * ahead)
        await asyncio.sleep(0.05)
        if how == "resets":
            client.writer.transport.abort()
        else:
            client.writer.write_eof()
        await soon(lambda: Left.left, "it is reported")
        await soon(lambda: not door.connections, "it is gone")


async def test_a_half_closed_connection_gets_the_answers_that_are_ready(open_door: OpenDoor) -> None:
    class AtOnce(tornado.web.RequestHandler):
        def get(self) -> None:
            self.finish("here")

    async with open_door([("/", AtOnce)]) as (_door, port), talk(port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        client.writer.write_eof()
        assert (await client.answer()).body == b"here"
        assert await client.at_end()


async def test_who_is_being_answered_is_waited_for(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (door, port), talk(port) as client, talk(port) as idle:
        idle.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await idle.answer()
        client.send(b"GET /?wait=0.1 HTTP/1.1\r\n" + HOST + b"\r\n")
        await asyncio.sleep(0.03)
        door.stop()
        await door.wait_until_idle(2.0)
        closing: Awaitable[None] = asyncio.ensure_future(door.close_all_connections())
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.at_end()
        assert await idle.at_end()
        await closing


@pytest.mark.parametrize("sent", [b"GET / HT", b"PUT /sink HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhe"])
async def test_who_does_not_go_on_is_dropped(open_door: OpenDoor, sent: bytes) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.answer()
        started_at = time.monotonic()
        client.send(sent)
        assert await client.at_end()
        assert TIMER_SECONDS - 0.1 < time.monotonic() - started_at < TIMER_SECONDS + 1


@pytest.mark.parametrize("ends", [True, False])
async def test_what_came_while_the_machine_stood_still_came_in_time(open_door: OpenDoor, ends: bool) -> None:
    loop = asyncio.get_running_loop()
    bell, button = socket.socketpair()

    def stand_still() -> None:
        """Here while something is read: of what comes meanwhile the loop hears after its timers."""
        bell.recv(1)
        client.sendall(b"GET /late HTTP/1.1\r\n" + HOST + (b"\r\n" if ends else b"X: "))
        time.sleep(TIMER_SECONDS + 0.1)

    async with open_door(RULES) as (door, port):
        with bell, button, socket.create_connection(("127.0.0.1", port)) as client:
            await soon(lambda: door.connections, "it is accepted")
            loop.add_reader(bell, stand_still)
            button.send(b"x")
            client.setblocking(False)
            async with asyncio.timeout(TIMER_SECONDS * 2):
                try:
                    answer = await loop.sock_recv(client, 10_000)
                except ConnectionResetError:
                    answer = b""
            loop.remove_reader(bell)
            assert answer.endswith(b"GET /late ") if ends else answer == b"", "half a head gains nothing"
