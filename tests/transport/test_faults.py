"""Servers that break HTTP, by accident or on purpose: refused in time, with a reason, and never taken for an answer."""

from __future__ import annotations

import asyncio
import gzip
import resource
import zlib

import pytest

from multiverse.transport.failures import AnswerTooLarge, BadAnswer, ConnectFailed, Disconnected, TransportError
from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import ResponseHead
from tests import wire
from tests.operations import Fin, Hold, Reset, Send, SendForEver, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin
from tests.waiting import Stopwatch, soon

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
SMUGGLED = wire.answer(b"smuggled")

NO_ANSWERS: dict[str, bytes] = {
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "tls": bytes.fromhex("15030300020228"),
    "smtp": b"220 mail.test ESMTP\r\n",
    "html": b"<!DOCTYPE html><html>",
    "zeros": b"\0" * 100,
    "blanks first": b"  " + wire.answer(b"hi"),
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/2 in plain": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/0.9 behind an interim answer": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 99": b"HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 2000": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 2x0": b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nhi",
    "length and coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!" + SMUGGLED,
    "twice the same length": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi" + SMUGGLED,
    "two lengths in one": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "negative length": OK + b"Content-Length: -1\r\n\r\nhi",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "empty length": OK + b"Content-Length:\r\n\r\nhi",
    "length in hex": OK + b"Content-Length: 0x2\r\n\r\nhi",
    "enormous length": OK + b"Content-Length: " + b"9" * 50 + b"\r\n\r\nhi",
    "blank before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "gzip as coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked, gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "gzip, then chunked": OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked, then gzip": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "identity as coding": OK + b"Transfer-Encoding: identity\r\n\r\nhi",
    "not quite chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "empty coding": OK + b"Transfer-Encoding:\r\n\r\nhi",
    "folded header": OK + b"X-One: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
    "folded first header": OK + b" X-One: a\r\nContent-Length: 2\r\n\r\nhi",
    "no colon": OK + b"X-One\r\nContent-Length: 2\r\n\r\nhi",
    "no name": OK + b": a\r\nContent-Length: 2\r\n\r\nhi",
    "NUL in a value": OK + b"X-One: a\0b\r\nContent-Length: 2\r\n\r\nhi",
    "NUL in a name": OK + b"X\0One: a\r\nContent-Length: 2\r\n\r\nhi",
    "bare CR": OK + b"X-One: a\rContent-Length: 2\r\n\r\nhi",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "100 KB header": OK + b"X-One: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
    "100 KB name": OK + b"X" * 100_000 + b": a\r\nContent-Length: 2\r\n\r\nhi",
    "100 KB reason": b"HTTP/1.1 200 " + b"O" * 400_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
    "5 000 headers": OK + b"".join(b"X-%d: a\r\n" % number for number in range(5000)) + b"Content-Length: 2\r\n\r\nhi",
    "forty times continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + wire.answer(b"hi"),
    "continue with a body": b"HTTP/1.1 199 So\r\nContent-Length: 2\r\n\r\nhi" + wire.answer(b"ok"),
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi",
    "switching without a word": b"HTTP/1.1 101 Switching Protocols\r\n\r\nhi",
    "brotli": wire.answer(b"hi", headers=[("Content-Encoding", "br")]),
    "gzip twice": wire.answer(b"hi", headers=[("Content-Encoding", "gzip, gzip")]),
    "gzip in two headers": wire.answer(b"hi", headers=[("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
@pytest.mark.parametrize("segment_bytes", [None, 7])
async def test_what_is_no_answer_is_refused(
    client: StreamingHTTPClient, peer: ScriptedPeer, name: str, segment_bytes: int | None
) -> None:
    heads: list[ResponseHead] = []
    received: list[bytes] = []
    large = len(NO_ANSWERS[name]) > 10_000
    peer.script(Send(NO_ANSWERS[name], segment_bytes if not large else segment_bytes and 1000), Hold())
    watch = Stopwatch()
    with pytest.raises(BadAnswer) as caught:
        await ask(client, peer, response_callback=heads.append, streaming_callback=received.append)
    assert watch.own_seconds < 2.0
    assert (heads, received) == ([], []), "nothing of it reaches the caller"
    assert caught.value.reason
    assert (client.idle_count, (await ask(client, peer)).body) == (0, b"ok")


NO_BODIES: dict[str, bytes] = {
    "no hex": b"ZZ\r\nhi\r\n0\r\n\r\n",
    "negative size": b"-1\r\nhi\r\n0\r\n\r\n",
    "size in C": b"0x2\r\nhi\r\n0\r\n\r\n",
    "enormous size": b"f" * 17 + b"\r\nhi\r\n0\r\n\r\n",
    "blank behind the size": b"2 \r\nhi\r\n0\r\n\r\n",
    "no size": b"\r\nhi\r\n0\r\n\r\n",
    "bare LF": b"2\nhi\n0\n\n",
    "bare LF in an extension": b"2;a\nhi\r\n0\r\n\r\n",
    "chunk too long": b"2\r\nhi!\r\n0\r\n\r\n",
    "chunk too short": b"5\r\nhi\r\n0\r\n\r\n0\r\n\r\n",
    "a length in the trailers": b"2\r\nhi\r\n0\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_BODIES)
@pytest.mark.parametrize("apart", [False, True])
async def test_chunks_that_are_none_are_refused(
    client: StreamingHTTPClient, peer: ScriptedPeer, name: str, apart: bool
) -> None:
    received: list[bytes] = []
    good = CHUNKED + wire.chunk(b"good")
    peer.script(*((good, Sleep(0.02), NO_BODIES[name]) if apart else (good + NO_BODIES[name],)), Hold())
    with pytest.raises(BadAnswer):
        await ask(client, peer, streaming_callback=received.append)
    if apart:
        assert b"".join(received).startswith(b"good"), "what came before the fault has been handed over"
    assert b"".join(received) in (b"", b"good", b"goodhi", b"goodhi\r\n0")
    assert client.idle_count == 0


ENDLESS: dict[str, tuple[Step, ...]] = {
    "a header line": (OK + b"X-One: ", SendForEver(b"a" * 1000)),
    "header lines": (OK, SendForEver(b"X-One: a\r\n" * 50)),
    "a status line": (b"HTTP/1.1 200 ", SendForEver(b"a" * 1000)),
    "line breaks": (SendForEver(b"\r\n" * 500),),
    "interim answers": (SendForEver(b"HTTP/1.1 102 Processing\r\nX: " + b"a" * 500 + b"\r\n\r\n"),),
    "a chunk extension": (CHUNKED + b"2;", SendForEver(b"a" * 1000)),
    "a trailer": (CHUNKED + b"2\r\nhi\r\n0\r\nX-One: ", SendForEver(b"a" * 1000)),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\n", SendForEver(b"X-One: a\r\n" * 50)),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_nothing_goes_on_for_ever(client: StreamingHTTPClient, peer: ScriptedPeer, name: str) -> None:
    peer.script(*ENDLESS[name])
    watch = Stopwatch()
    with pytest.raises(BadAnswer):
        await ask(client, peer)
    assert watch.own_seconds < 2.0
    await soon(lambda: not peer.open_connections(), "the server notices")
    assert peer.connections[0].sent_bytes < 20_000_000


CUTS: dict[str, tuple[Step, ...]] = {
    "before a byte": (),
    "in the head": (b"HTTP/1.1 200 OK\r\nContent-Le",),
    "after the head": (wire.head(200, [("Content-Length", "7")]),),
    "in the body": (wire.head(200, [("Content-Length", "7")]) + b"abc",),
    "in a chunk": (CHUNKED + b"5\r\nabc",),
    "between chunks": (CHUNKED + wire.chunk(b"abc"),),
    "in the last chunk": (CHUNKED + wire.chunk(b"abc") + b"0\r\n",),
    "after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n",),
}


@pytest.mark.parametrize("end", [Fin(), Reset()], ids=["fin", "reset"])
@pytest.mark.parametrize("name", CUTS)
async def test_an_answer_that_is_cut_off_is_no_answer(
    client: StreamingHTTPClient, peer: ScriptedPeer, name: str, end: Step
) -> None:
    peer.script(*CUTS[name], Sleep(0.01), end)
    watch = Stopwatch()
    with pytest.raises(Disconnected):
        await ask(client, peer)
    assert watch.own_seconds < 2.0
    assert not client.connections


async def test_a_reset_is_no_end_of_an_answer_without_a_length(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(wire.head(200) + b"half of", Sleep(0.02), Reset())
    with pytest.raises(Disconnected):
        await ask(client, peer)


async def test_a_server_that_speaks_first_is_none(client: StreamingHTTPClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        for _number in range(5):
            with pytest.raises(BadAnswer):
                await ask(client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", request_timeout=1.0)
        await soon(lambda: not client.connections, "no connection is left")


async def test_a_server_that_hangs_up_at_once(client: StreamingHTTPClient) -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.transport.abort(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _number in range(10):
            with pytest.raises((Disconnected, ConnectFailed)):
                await ask(client, url, body=b"x" * 200_000)
    assert not client.connections


async def test_a_refused_port(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await ask(client, peer)
    peer.refuse()
    await soon(lambda: client.idle_count == 0, "the end is noticed")
    with pytest.raises(ConnectFailed) as caught:
        await ask(client, peer)
    assert "refused" in caught.value.reason
    assert str(peer.port) not in caught.value.reason


# -- size


@pytest.mark.parametrize(
    "data",
    [
        wire.answer(b"x" * 1001),
        wire.head(200, [("Content-Length", "1001")]),
        CHUNKED + wire.chunked(b"x" * 1001, 100),
        wire.head(200) + b"x" * 1001,
    ],
)
async def test_a_body_beyond_the_limit_is_cut(client: StreamingHTTPClient, peer: ScriptedPeer, data: bytes) -> None:
    peer.script(data, Hold())
    exchange = begin(client, peer, max_body_size=1000)
    with pytest.raises(AnswerTooLarge):
        await exchange
    assert exchange.received <= 1001
    await soon(lambda: not peer.open_connections(), "the server notices")


async def test_a_body_of_just_the_limit_is_fine(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(wire.answer(b"x" * 1000))
    peer.script(wire.head(304, [("Content-Length", "1001")]))
    assert len((await ask(client, peer, max_body_size=1000)).body) == 1000
    assert (await ask(client, peer, max_body_size=1000)).code == 304


# -- compression


def compressed(body: bytes, encoding: str, wire_body: bytes | None = None) -> bytes:
    """An answer whose body is `body`, compressed."""
    coders = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "DEFLATE": raw_deflate}
    packed = coders[encoding](body) if wire_body is None else wire_body
    return wire.head(200, [("Content-Encoding", encoding), ("Transfer-Encoding", "chunked")]) + wire.chunked(packed, 50)


def raw_deflate(body: bytes) -> bytes:
    """deflate as some servers understand it, without its zlib wrapper."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "DEFLATE"])
@pytest.mark.parametrize("segment_bytes", [None, 1])
async def test_compression_nobody_asked_for_is_undone(
    client: StreamingHTTPClient, peer: ScriptedPeer, encoding: str, segment_bytes: int | None
) -> None:
    body = b"".join(b"data: %d\n\n" % number for number in range(300))
    peer.script(Send(compressed(body, encoding), segment_bytes))
    received: list[bytes] = []
    await ask(client, peer, streaming_callback=received.append)
    assert b"".join(received) == body
    peer.script(compressed(body, encoding))
    assert (await ask(client, peer)).body == body
    peer.script(compressed(body, encoding))
    assert (await ask(client, peer, decompress=False)).body != body
    assert len(peer.connections) == 1


async def test_events_in_a_compressed_stream_arrive_as_they_are_sent(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    pieces = [packer.compress(b"data: %d\n\n" % number) + packer.flush(zlib.Z_SYNC_FLUSH) for number in range(3)]
    head = wire.head(200, [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")])
    hold = Hold()
    peer.script(head, *map(wire.chunk, pieces), hold, wire.chunked(packer.flush()))
    received: list[bytes] = []
    exchange = begin(client, peer, streaming_callback=received.append)
    await soon(lambda: b"".join(received) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n", "all three are here")
    hold.release()
    await exchange


@pytest.mark.parametrize("cut", [1, 5, 10, 11, 60, -1])
async def test_compression_that_breaks_off_is_no_answer(
    client: StreamingHTTPClient, peer: ScriptedPeer, cut: int
) -> None:
    packed = gzip.compress(bytes(range(256)))
    peer.script(compressed(b"", "gzip", packed[:cut]))
    with pytest.raises(Disconnected):
        await ask(client, peer)


async def test_nothing_compressed_is_nothing(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(wire.answer(b"", headers=[("Content-Encoding", "gzip")]))
    peer.script(wire.head(304, [("Content-Encoding", "br"), ("Content-Length", "9")]))
    assert (await ask(client, peer)).body == b""
    assert (await ask(client, peer)).body == b""
    assert len(peer.connections) == 1


CORRUPT = {
    "something else": b"this is not gzip",
    "a wrong checksum": gzip.compress(b"x" * 1000)[:-8] + b"\0" * 8,
    "a broken head": b"\x1f\x8b" * 9,
}


@pytest.mark.parametrize("name", CORRUPT)
async def test_corrupt_compression_is_no_answer(client: StreamingHTTPClient, peer: ScriptedPeer, name: str) -> None:
    peer.script(compressed(b"", "gzip", CORRUPT[name]))
    with pytest.raises(BadAnswer) as caught:
        await ask(client, peer)
    assert "compress" in caught.value.reason


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """200 MB of zeros in about 200 KB."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(1_000_000)) for _number in range(200)) + packer.flush()


async def test_a_bomb_is_cut_at_the_limit(client: StreamingHTTPClient, peer: ScriptedPeer, bomb: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peer.script(wire.answer(bomb, headers=[("Content-Encoding", "gzip")]))
    exchange = begin(client, peer, max_body_size=5_000_000)
    with pytest.raises(AnswerTooLarge):
        await exchange
    assert exchange.received < 5_100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_a_bomb_is_held_back_like_anything_else(
    client: StreamingHTTPClient, peer: ScriptedPeer, bomb: bytes
) -> None:
    gate = asyncio.Event()
    sizes: list[int] = []

    async def consume(data: bytes) -> None:
        sizes.append(len(data))
        await gate.wait()

    peer.script(wire.answer(bomb, headers=[("Content-Encoding", "gzip")]))
    exchange = begin(client, peer, streaming_callback=consume)
    await asyncio.sleep(0.1)
    assert sum(sizes) <= 65536, "one piece is handed over, and no more until it is taken"
    gate.set()
    await exchange
    assert sum(sizes) == 200_000_000
    assert max(sizes) <= 65536


async def test_a_bomb_does_not_stop_the_loop(client: StreamingHTTPClient, peer: ScriptedPeer, bomb: bytes) -> None:
    largest_step = 0
    peer.script(wire.answer(bomb, headers=[("Content-Encoding", "gzip")]))
    exchange = begin(client, peer, streaming_callback=lambda _data: None)
    while not exchange.done():
        before = exchange.received
        await asyncio.sleep(0)
        largest_step = max(largest_step, exchange.received - before)
    assert exchange.received == 200_000_000
    assert largest_step < 3_000_000, "a few milliseconds in one turn of the loop, and others have theirs in between"


# -- callbacks


class OwnError(Exception):
    """A caller's."""


@pytest.mark.parametrize("where", ["response_callback", "streaming_callback"])
async def test_what_a_callback_raises_is_the_outcome(
    client: StreamingHTTPClient, peer: ScriptedPeer, where: str
) -> None:
    def fail(_what: object) -> None:
        raise OwnError("mine")

    peer.always(wire.answer(b"hi"))
    with pytest.raises(OwnError, match="mine") as caught:
        await ask(client, peer, **{where: fail})
    assert [entry.name for entry in caught.traceback][-1] == "fail", "its traceback leads to where it was raised"
    await soon(lambda: not client.connections, "the connection is closed")


async def test_what_a_coroutine_of_a_callback_raises_is_the_outcome(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    async def fail(_data: bytes) -> None:
        await asyncio.sleep(0.01)
        raise OwnError("mine")

    peer.script(CHUNKED + wire.chunk(b"one"), Hold())
    with pytest.raises(OwnError, match="mine"):
        await ask(client, peer, streaming_callback=fail)
    await soon(lambda: not peer.open_connections(), "the server notices")


@pytest.mark.parametrize("failure", [StopIteration("x"), TransportError("mine"), asyncio.CancelledError()])
async def test_even_odd_exceptions_end_it(
    client: StreamingHTTPClient, peer: ScriptedPeer, failure: BaseException
) -> None:
    def fail(_data: bytes) -> None:
        raise failure

    exchange = begin(client, peer, streaming_callback=fail)
    await soon(exchange.done, "it ends")
    if isinstance(failure, asyncio.CancelledError):
        assert exchange.cancelled()
    elif isinstance(failure, StopIteration):
        assert isinstance(exchange.exception(), RuntimeError)
    else:
        assert exchange.exception() is failure
    assert client.idle_count == 0


async def test_a_callback_that_returns_something_else_is_told(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    with pytest.raises(TypeError):
        await ask(client, peer, streaming_callback=len)
