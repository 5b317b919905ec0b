"""Abort and cancel, in every state: the server sees the close at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from multiverse.transport.addresses import AddressPolicy
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import Abandoned, TransportError
from multiverse.transport.http import Exchange, StreamingHTTPClient
from tests import wire
from tests.operations import Hold, SendForEver, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, open_sockets
from tests.transport.conftest import MakeClient
from tests.waiting import Stopwatch, soon

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
AT_ONCE_SECONDS = 2.0  # else 5 s

Leave = Callable[[Exchange], Any]
LEAVES: dict[str, Leave] = {
    "abort": Exchange.abort,
    "abort with a reason": lambda exchange: exchange.abort(TransportError("a reason")),
    "cancel": Exchange.cancel,
}

PLAYS: dict[str, tuple[Step, ...]] = {
    "sent": (Hold(),),
    "half a head": (b"HTTP/1.1 200 OK\r\nX-One:", Hold()),
    "head": (CHUNKED, Hold()),
    "half a chunk": (CHUNKED + b"5\r\nab", Hold()),
    "body": (CHUNKED + wire.chunk(b"ab"), Hold()),
    "lively body": (CHUNKED, SendForEver(wire.chunk(b"x" * 1000))),
}


@pytest.fixture(params=LEAVES)
def leave(request: pytest.FixtureRequest) -> Leave:
    """One way to end an exchange from outside."""
    return LEAVES[request.param]


async def assert_ended(exchange: Exchange, leave: Leave) -> None:
    """It is over now, with what the caller said, and stays so."""
    assert exchange.done()
    with pytest.raises((TransportError, asyncio.CancelledError)) as caught:
        await exchange
    expected = asyncio.CancelledError if leave is Exchange.cancel else TransportError
    assert isinstance(caught.value, expected)
    exchange.abort()
    exchange.cancel()
    exchange.discard_rest(1.0)
    exchange.set_idle_timeout(0.01)
    assert exchange._dial_alarm is None


@pytest.mark.parametrize("name", PLAYS)
async def test_leaving_closes_the_connection_at_once(
    client: StreamingHTTPClient, peer: ScriptedPeer, name: str, leave: Leave
) -> None:
    peer.script(*PLAYS[name])
    exchange = begin(client, peer, request_timeout=5.0, idle_timeout=5.0, streaming_callback=lambda _data: None)
    await soon(lambda: peer.requests, "the request arrives")
    await asyncio.sleep(0.03)
    connection, watch = exchange.connection, Stopwatch()
    assert connection is not None
    assert connection.alarm.moment < math.inf
    leave(exchange)
    assert exchange.done()
    assert connection.alarm.moment == math.inf
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not client.connections, "closed by the next turn of the loop"
    await soon(lambda: not peer.open_connections(), "the server notices")
    assert watch.own_seconds < AT_ONCE_SECONDS
    await assert_ended(exchange, leave)
    assert (await ask(client, peer)).body == b"ok"


async def test_leaving_before_anything_was_dialled(
    client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave
) -> None:
    exchange = begin(client, peer)
    leave(exchange)
    await assert_ended(exchange, leave)
    await asyncio.sleep(0.02)
    assert not peer.connections


async def test_leaving_at_every_turn_of_a_dial(client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave) -> None:
    for turns in range(12):
        exchange = begin(client, peer, method="DELETE")
        for _turn in range(turns):
            await asyncio.sleep(0)
        if not exchange.done():
            leave(exchange)
            await assert_ended(exchange, leave)
    await soon(lambda: len(client.connections) == client.idle_count, "no connection is left but idle ones")
    await soon(lambda: len(peer.open_connections()) == client.idle_count, "nor does the server have any")


@pytest.fixture
def swallowing_port() -> Iterator[int]:
    """A port whose queue is full: to dial it is to wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _number in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for filler in fillers:
            filler.close()


async def test_leaving_while_dialling(client: StreamingHTTPClient, swallowing_port: int, leave: Leave) -> None:
    before = open_sockets()
    exchanges = [begin(client, f"http://127.0.0.1:{swallowing_port}", connect_timeout=5.0) for _number in range(10)]
    await asyncio.sleep(0.02)
    assert open_sockets() >= before + 10
    for exchange in exchanges:
        leave(exchange)
        await assert_ended(exchange, leave)
    await soon(lambda: open_sockets() <= before, "no socket is left")


async def test_leaving_in_the_middle_of_a_tls_handshake(client: StreamingHTTPClient, leave: Leave) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        exchange = begin(client, f"https://127.0.0.1:{silent.getsockname()[1]}")
        connection, _address = await loop.sock_accept(silent)
        with connection:
            hello = await loop.sock_recv(connection, 65536)
            assert hello.startswith(b"\x16\x03")
            watch = Stopwatch()
            leave(exchange)
            await assert_ended(exchange, leave)
            with contextlib.suppress(ConnectionResetError):  # An orderly end will do, too.
                while await loop.sock_recv(connection, 65536):
                    pass
            assert watch.own_seconds < AT_ONCE_SECONDS


async def test_leaving_while_the_name_is_looked_up(make_client: MakeClient, leave: Leave) -> None:
    answered = threading.Event()

    def lookup(*_name: object, **_settings: object) -> list[Any]:
        answered.wait(5)
        return []

    client = make_client(dialler=Dialler(AddressPolicy(allow_private=True), lookup=lookup))
    exchange = begin(client, "http://somewhere.test")
    await asyncio.sleep(0.02)
    watch = Stopwatch()
    leave(exchange)
    await assert_ended(exchange, leave)
    assert watch.own_seconds < AT_ONCE_SECONDS
    answered.set()
    await asyncio.sleep(0.02)


async def test_leaving_while_uploading_to_a_peer_that_does_not_read(client: StreamingHTTPClient, leave: Leave) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        before = open_sockets()
        exchange = begin(client, f"http://127.0.0.1:{deaf.getsockname()[1]}", body=b"x" * 30_000_000)
        await soon(lambda: exchange.connection, "it is connected")
        await asyncio.sleep(0.05)
        leave(exchange)
        await assert_ended(exchange, leave)
        await soon(lambda: open_sockets() <= before, "the socket is closed with megabytes unsent")
        assert not client.connections


async def test_leaving_while_holding_back(client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave) -> None:
    ends: list[str] = []

    async def never_ready(_data: bytes) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    peer.script(CHUNKED, SendForEver(wire.chunk(b"x" * 1000)))
    exchange = begin(client, peer, streaming_callback=never_ready)
    await soon(lambda: exchange.received, "the body has begun")
    leave(exchange)
    await assert_ended(exchange, leave)
    await soon(lambda: ends == ["cancelled"], "the callback's coroutine ends with the exchange")
    await soon(lambda: not peer.open_connections(), "the server notices")


async def test_a_future_that_held_back_still_belongs_to_whoever_made_it(
    client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave
) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    peer.script(CHUNKED, wire.chunk(b"one"), Hold())
    exchange = begin(client, peer, streaming_callback=lambda _data: held)
    await soon(partial(getattr, exchange, "received"), "the body has begun")
    connection = weakref.ref(exchange.connection)
    leave(exchange)
    await assert_ended(exchange, leave)
    assert not held.done()
    await soon(lambda: not peer.open_connections(), "the server notices")
    await soon(lambda: not client.connections, "the connection is gone")
    del exchange
    gc.collect()
    assert connection() is None, "the future keeps nothing alive"
    held.set_exception(ValueError("nobody looks at this"))


async def test_leaving_after_the_end_changes_nothing(
    client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave
) -> None:
    exchange = begin(client, peer)
    response = await exchange
    leave(exchange)
    assert exchange.result() is response
    assert client.idle_count == 1
    assert (await ask(client, peer)).reused_connection


@pytest.mark.parametrize("where", ["response_callback", "streaming_callback"])
async def test_leaving_from_inside_a_callback(
    client: StreamingHTTPClient, peer: ScriptedPeer, where: str, leave: Leave
) -> None:
    exchanges: list[Exchange] = []
    calls: list[object] = []

    def on_call(what: object) -> None:
        calls.append(what)
        leave(exchanges[0])

    peer.script(CHUNKED + wire.chunk(b"one") + wire.chunk(b"two") + wire.LAST_CHUNK)
    exchanges.append(begin(client, peer, **{where: on_call}))
    await soon(exchanges[0].done, "it ends")
    await assert_ended(exchanges[0], leave)
    assert len(calls) == 1
    await soon(lambda: not client.connections, "the connection is closed")


async def test_a_coroutine_returned_behind_the_end_is_no_loose_end(
    client: StreamingHTTPClient, peer: ScriptedPeer, leave: Leave
) -> None:
    exchanges: list[Exchange] = []
    started: list[bytes] = []

    async def work(data: bytes) -> None:
        started.append(data)

    def leave_and_return(data: bytes) -> Any:
        leave(exchanges[0])
        return work(data)

    peer.script(CHUNKED + wire.chunk(b"one"), Hold())
    exchanges.append(begin(client, peer, streaming_callback=leave_and_return))
    await soon(exchanges[0].done, "it ends")
    await assert_ended(exchanges[0], leave)
    await asyncio.sleep(0.01)
    assert not started


async def test_a_task_that_is_cancelled_takes_its_exchange_along(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    peer.script(Hold())
    task = asyncio.create_task(ask(client, peer))
    await soon(lambda: peer.requests, "the request arrives")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: not peer.open_connections(), "the server notices")


async def test_nobody_needs_to_ask_after_an_abort(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(Hold())
    exchange = begin(client, peer)
    await soon(lambda: peer.requests, "the request arrives")
    exchange.abort()
    assert isinstance(exchange.exception(), Abandoned)
    del exchange
    gc.collect()  # The fixture of the loop fails the test if this made asyncio complain.
    await asyncio.sleep(0)


async def test_nothing_leaks_from_hundreds_of_departures(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(CHUNKED + wire.chunk(b"one"), Sleep(30))
    await asyncio.sleep(0)
    before, tasks = open_sockets(), len(asyncio.all_tasks())
    for number in range(150):
        exchange = begin(client, peer, streaming_callback=lambda _data: None)
        for _turn in range(number % 15):
            await asyncio.sleep(0.0002)
        exchange.cancel()
    await soon(lambda: open_sockets() <= before, "no descriptor is left, here or there")
    assert not client.connections
    assert len(asyncio.all_tasks()) == tasks
