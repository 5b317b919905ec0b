"""TLS: verified always, refused with a reason an owner understands, and as abortable and faithful as plain TCP."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from multiverse.transport.addresses import AddressPolicy
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import BadAnswer, ConnectTimeout, Disconnected, MachineGone, TLSFailed, TotalTimeout
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.packets import drop_all_packets
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, open_sockets
from tests.transport.certificates import Authority
from tests.transport.conftest import MakeClient
from tests.waiting import Stopwatch, soon

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority whose certificates the client trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def good_context(authority: Authority) -> ssl.SSLContext:
    """A server's, with a certificate in order."""
    return authority.server_context("good")


@pytest.fixture
def client(make_client: MakeClient, authority: Authority) -> StreamingHTTPClient:
    """A client that trusts the authority."""
    dialler = Dialler(AddressPolicy(allow_private=True), tls_context=authority.client_context())
    return make_client(dialler=dialler)


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext, serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A TLS server in this loop, for as long as the block lasts; its address."""
    writers: list[asyncio.StreamWriter] = []

    async def begin_serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    server = await asyncio.start_server(begin_serving, host, 0, ssl=context)
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"https://{shown}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with its own body."""
    while True:
        writer.write(wire.answer(await read_request(reader)))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_good_certificate_works(client: StreamingHTTPClient, good_context: ssl.SSLContext, host: str) -> None:
    async with serving(good_context, echo, host) as url:
        for size in (10, 70_000, 3_000_000):
            body = random.Random(size).randbytes(size)
            response = await ask(client, url, body=body, connect_timeout=5.0)
            assert response.body == body
            assert response.reused_connection == (size != 10)


async def test_a_name_is_verified_as_a_name(client: StreamingHTTPClient, good_context: ssl.SSLContext) -> None:
    async with serving(good_context, echo) as url:
        assert (await ask(client, url.replace("127.0.0.1", "localhost"))).body == b"{}"


async def assert_refused(client: StreamingHTTPClient, context: ssl.SSLContext, word: str) -> None:
    requests: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))

    async with serving(context, listen) as url:
        with pytest.raises(TLSFailed) as caught:
            await ask(client, url, connect_timeout=5.0)
        assert word in caught.value.reason
        assert "127.0.0.1" not in caught.value.reason
        await asyncio.sleep(0.02)
        assert not requests, "nothing has been sent"
        assert not client.connections


async def test_a_self_signed_certificate_is_refused(client: StreamingHTTPClient, authority: Authority) -> None:
    await assert_refused(client, authority.self_signed_context(), "self-signed")


async def test_a_certificate_of_others_is_refused(client: StreamingHTTPClient, authority: Authority) -> None:
    context = authority.server_context("other", alt_names="subjectAltName=DNS:other.test,IP:127.0.0.2")
    await assert_refused(client, context, "issued for another address")
    async with serving(context, echo) as url:
        with pytest.raises(TLSFailed, match="issued for another name"):
            await ask(client, url.replace("127.0.0.1", "localhost"))


async def test_an_expired_certificate_is_refused(client: StreamingHTTPClient, authority: Authority) -> None:
    await assert_refused(client, authority.server_context("old", days=-1), "expired")


async def test_an_authority_nobody_knows_is_refused(make_client: MakeClient, good_context: ssl.SSLContext) -> None:
    await assert_refused(make_client(), good_context, "authority nobody knows")


async def test_a_server_without_tls(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    async def talk_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk_plainly, "127.0.0.1", 0) as server:
        with pytest.raises(TLSFailed, match="does not speak TLS"):
            await ask(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(TLSFailed):
        await ask(client, f"https://127.0.0.1:{peer.port}")
    assert not client.connections


async def test_tls_where_none_was_expected(client: StreamingHTTPClient, good_context: ssl.SSLContext) -> None:
    async with serving(good_context, echo) as url:
        with pytest.raises((BadAnswer, Disconnected)):
            await ask(client, url.replace("https", "http"))


async def test_a_handshake_that_never_ends(client: StreamingHTTPClient) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        before = open_sockets()
        watch = Stopwatch()
        with pytest.raises(ConnectTimeout):
            await ask(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_timeout=0.2)
        assert watch.own_seconds < 2.0
        await soon(lambda: open_sockets() <= before, "no socket is left")


async def test_a_handshake_that_is_cut_off(client: StreamingHTTPClient) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        with pytest.raises(TLSFailed):
            await ask(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_timeout=1.0)
    assert not client.connections


@pytest.mark.parametrize("orderly", [True, False])
async def test_only_an_announced_end_ends_an_answer_without_a_length(
    client: StreamingHTTPClient, good_context: ssl.SSLContext, orderly: bool
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(wire.head(200) + b"all of it, or half")
        await writer.drain()
        await asyncio.sleep(0.05)
        if orderly:
            writer.close()
        else:
            writer.transport.abort()

    async with serving(good_context, answer) as url:
        if orderly:
            assert (await ask(client, url)).body == b"all of it, or half"
        else:
            with pytest.raises(Disconnected):  # RFC 9112 §9.8
                await ask(client, url)


@pytest.mark.parametrize("announced", [True, False])
async def test_no_byte_is_lost_when_the_server_ends_while_it_is_held_back(
    client: StreamingHTTPClient, good_context: ssl.SSLContext, announced: bool
) -> None:
    body = random.Random(3).randbytes(40_000)  # It fits into a first TCP window: the server can send all of it.
    sent = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.set_write_buffer_limits(1)  # With 0, drain() under TLS never returns.
        writer.write(wire.head(200, [] if announced else [("Content-Length", str(len(body)))]))
        for start in range(0, len(body), 8_000):
            writer.write(body[start : start + 8_000])
            await writer.drain()
            await asyncio.sleep(0.005)
        sent.set()
        if announced:
            writer.close()
        else:
            writer.transport.abort()  # All has been sent: this is a FIN without close_notify.

    received: list[bytes] = []

    async def consume(data: bytes) -> None:
        received.append(data)
        await sent.wait()
        await asyncio.sleep(0.03)

    async with serving(good_context, answer) as url:
        await ask(client, url, streaming_callback=consume)
    assert b"".join(received) == body


async def test_the_total_limit_holds_even_when_the_server_has_left_while_it_is_held_back(
    client: StreamingHTTPClient, good_context: ssl.SSLContext
) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + wire.chunk(b"one"))
        writer.close()

    async with serving(good_context, answer) as url:
        exchange = begin(client, url, streaming_callback=lambda _data: held, request_timeout=0.3)
        await soon(lambda: exchange.received and not client.connections, "the server has left in the middle")
        assert not exchange.done(), "its caller has not taken what came before"
        await soon(exchange.done, "the limit is for everything")
        assert isinstance(exchange.exception(), TotalTimeout)


async def test_a_peer_that_pushes_is_held_back(client: StreamingHTTPClient, good_context: ssl.SSLContext) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pushed = 0

    async def push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pushed
        await read_request(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(wire.chunk(bytes(100_000)))
            await writer.drain()
            pushed += 100_000

    async with serving(good_context, push) as url:
        exchange = begin(client, url, streaming_callback=lambda _data: held, idle_timeout=0.1)
        await soon(lambda: exchange.received, "the body has begun")
        await asyncio.sleep(0.3)
        stuck_at = pushed
        await asyncio.sleep(0.1)
        assert pushed == stuck_at < 20_000_000
        assert exchange.received < 600_000
        exchange.cancel()
        await soon(lambda: not client.connections, "it is closed at once")


async def test_leaving_in_the_body_closes_at_once(client: StreamingHTTPClient, good_context: ssl.SSLContext) -> None:
    ended = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + wire.chunk(b"one"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with serving(good_context, stream) as url:
        before = open_sockets()
        for leave_inside in (True, False):
            ended.clear()
            leaves: list[Callable[[], object]] = []
            exchange = begin(
                client, url, streaming_callback=lambda _data, leaves=leaves: leaves and leaves[0]() and None
            )
            if leave_inside:
                leaves.append(exchange.cancel)
            await soon(lambda exchange=exchange: exchange.received, "the body has begun")
            exchange.cancel()
            await asyncio.wait_for(ended.wait(), 0.5)
        await soon(lambda: open_sockets() <= before, "no socket is left")
        assert not client.connections


async def test_a_server_that_ends_while_idle(client: StreamingHTTPClient, good_context: ssl.SSLContext) -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.answer(await read_request(reader)))
        await asyncio.sleep(0.02)
        writer.close()

    async with serving(good_context, answer_once) as url:
        for _number in range(5):
            assert not (await ask(client, url)).reused_connection
            await soon(lambda: client.idle_count == 0, "the end is noticed")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")
async def test_a_closed_lid_behind_tls(make_client: MakeClient, authority: Authority) -> None:
    policy = AddressPolicy(allow_private=True)
    client = make_client(dialler=Dialler(policy, tls_context=authority.client_context(), absence_seconds=1.0))
    context, gone = authority.server_context("good"), asyncio.Event()
    context.num_tickets = 0  # Sent again and again for want of our acknowledgement, they would be signs of life.

    async def close_lid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        drop_all_packets(writer.get_extra_info("socket"))
        await gone.wait()

    async with serving(context, close_lid) as url:
        with pytest.raises(MachineGone):
            await ask(client, url, request_timeout=8.0)
        gone.set()
