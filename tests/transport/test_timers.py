"""Every phase has its own limit: it fires when it should, says what was waited for, and stays silent otherwise."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Iterator

import pytest

from multiverse.transport.failures import (
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    TotalTimeout,
    TransportError,
)
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.operations import Hold, Send, SendForEver, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin
from tests.waiting import Stopwatch, soon

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
TOLERANCE_SECONDS = 0.5  # what else would end them comes seconds later


@pytest.fixture
def swallowing_port() -> Iterator[int]:
    """A port whose queue is full: to dial it is to wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _number in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


async def assert_fails(
    client: StreamingHTTPClient,
    peer: ScriptedPeer | str,
    failure: type[TransportError],
    after_seconds: float,
    **settings: object,
) -> None:
    """The exchange fails with exactly `failure`, in time, and its connection is closed."""
    watch = Stopwatch()
    exchange = begin(client, peer, **settings)
    with pytest.raises(TransportError) as caught:
        await exchange
    assert type(caught.value) is failure
    assert watch.seconds >= after_seconds - 0.01
    assert watch.own_seconds < after_seconds + TOLERANCE_SECONDS
    assert caught.value.reason == str(caught.value)
    await soon(lambda: not client.connections, "the connection is closed")


async def test_connecting_takes_too_long(client: StreamingHTTPClient, swallowing_port: int) -> None:
    url = f"http://127.0.0.1:{swallowing_port}"
    await asyncio.gather(
        assert_fails(client, url, ConnectTimeout, 0.2, connect_timeout=0.2, request_timeout=5.0),
        # A probe has one limit for all: what is said must be what was waited for.
        assert_fails(client, url, ConnectTimeout, 0.2, connect_timeout=0.2, request_timeout=0.2),
        assert_fails(client, url, ConnectTimeout, 0.2, connect_timeout=5.0, request_timeout=0.2),
    )
    assert issubclass(ConnectTimeout, ConnectFailed)


FIRST_BYTE_PLAYS: dict[str, tuple[Step, ...]] = {
    "silence": (Hold(),),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", Hold()),
    "a head that dribbles": (Send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500, 1, pause_seconds=0.01),),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n", Sleep(0.1), b"HTTP/1.1 102 Processing\r\n\r\n", Hold()),
}


@pytest.mark.parametrize("name", FIRST_BYTE_PLAYS)
async def test_the_head_takes_too_long(client: StreamingHTTPClient, peer: ScriptedPeer, name: str) -> None:
    peer.always(*FIRST_BYTE_PLAYS[name])
    limits = {"connect_timeout": 0.15, "idle_timeout": 0.15}
    await asyncio.gather(
        assert_fails(client, peer, FirstByteTimeout, 0.25, first_byte_timeout=0.25, request_timeout=5.0, **limits),
        assert_fails(client, peer, FirstByteTimeout, 0.25, first_byte_timeout=5.0, request_timeout=0.25, **limits),
    )


async def test_the_wait_for_the_head_starts_anew_on_a_connection_that_is_reused(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    await ask(client, peer, first_byte_timeout=0.4)
    await asyncio.sleep(0.45)
    peer.script(Sleep(0.1), wire.answer(b"ok"))
    assert (await ask(client, peer, first_byte_timeout=0.4)).reused_connection


async def test_silence_in_the_body(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(CHUNKED + wire.chunk(b"one"), Hold())
    limits = {"connect_timeout": 0.15, "first_byte_timeout": 0.15}
    await assert_fails(client, peer, IdleTimeout, 0.25, idle_timeout=0.25, request_timeout=5.0, **limits)


async def test_silence_after_the_head_alone(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(CHUNKED, Hold())
    await assert_fails(client, peer, IdleTimeout, 0.25, idle_timeout=0.25, first_byte_timeout=0.15)


async def test_every_byte_puts_the_idle_limit_off(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED, *(Sleep(0.1), wire.chunk(b"x")) * 5, Sleep(0.1), wire.LAST_CHUNK)
    watch = Stopwatch()
    assert (await ask(client, peer, idle_timeout=0.4, first_byte_timeout=0.3, connect_timeout=0.3)).body == b"xxxxx"
    assert watch.seconds > 0.55


async def test_what_came_while_the_machine_stood_still_is_no_silence(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    first, rest = wire.chunk(b"one "), wire.chunked(b"two")
    peer.script(CHUNKED + first, Sleep(0.1), rest)
    exchange = begin(client, peer, idle_timeout=0.3)
    await soon(lambda: exchange.received, "the body begins")
    # Suspended, swapped out, or short of CPUs, here while something is read: afterwards everything is due at once.
    await ask(client, peer, streaming_callback=lambda _data: time.sleep(0.6))
    assert (await exchange).body == b"one two"


async def test_silence_is_silence_after_a_standstill_too(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"one "), Hold())
    exchange = begin(client, peer, idle_timeout=0.3)
    await soon(lambda: exchange.received, "the body begins")
    time.sleep(0.4)
    with pytest.raises(IdleTimeout):
        await exchange


async def test_a_head_that_dribbles_gains_nothing_from_a_standstill(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    peer.always(Send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000, 1, pause_seconds=0.001))
    exchange = begin(client, peer, first_byte_timeout=0.2)
    await soon(lambda: peer.requests, "the request arrives")
    time.sleep(0.3)
    watch = Stopwatch()
    with pytest.raises(FirstByteTimeout):
        await exchange
    assert watch.own_seconds < 0.15, "it has had its time"


async def test_the_total_limit_holds_however_lively_the_server(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(CHUNKED, SendForEver(wire.chunk(b"x")))
    limits = {"connect_timeout": 5.0, "first_byte_timeout": 5.0, "idle_timeout": 5.0}
    await assert_fails(
        client, peer, TotalTimeout, 0.3, request_timeout=0.3, streaming_callback=lambda _data: None, **limits
    )


async def test_the_idle_limit_changes_in_the_middle(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(CHUNKED + wire.chunk(b"one"), Hold())
    for before, after in ((None, 0.2), (5.0, 0.2), (0.15, 0.4)):
        exchange = begin(client, peer, idle_timeout=before)
        await soon(lambda exchange=exchange: exchange.received, "the first chunk comes")
        watch = Stopwatch()
        exchange.set_idle_timeout(after)
        with pytest.raises(IdleTimeout):
            await exchange
        assert watch.seconds >= after - 0.01
        assert watch.own_seconds < after + TOLERANCE_SECONDS


async def test_the_idle_limit_goes_in_the_middle(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"one"), Sleep(0.4), wire.LAST_CHUNK)
    exchange = begin(client, peer, idle_timeout=0.2)
    await soon(lambda: exchange.received, "the first chunk comes")
    exchange.set_idle_timeout(None)
    assert (await exchange).body == b"one"
    exchange.set_idle_timeout(0.01)
    await asyncio.sleep(0.03)
    assert (await exchange).body == b"one", "a limit set too late changes nothing"


async def test_content_may_take_so_long_whatever_comes_before_it(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    peer.script(CHUNKED, SendForEver(wire.chunk(b"x")))
    limits = {"first_byte_timeout": 5.0, "idle_timeout": 5.0, "request_timeout": 5.0}
    await assert_fails(
        client, peer, FirstByteTimeout, 0.25, content_timeout=0.25, streaming_callback=lambda _data: None, **limits
    )


async def test_once_content_came_only_silence_is_limited(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"one"), Sleep(0.2), wire.chunk(b"two"), Sleep(0.2), wire.chunk(b"x"), Hold())
    exchange = begin(client, peer, content_timeout=0.35)
    await soon(lambda: exchange.received, "the first chunk comes")
    watch = Stopwatch()
    exchange.content_came(0.35)
    with pytest.raises(IdleTimeout):
        await exchange
    assert watch.seconds >= 0.74
    assert watch.own_seconds < 0.75 + TOLERANCE_SECONDS


async def test_one_alarm_serves_each_exchange_of_a_connection(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await ask(client, peer, content_timeout=0.2)
    (connection,) = client.connections
    assert connection.alarm.moment < math.inf, "nobody hears it, unless another exchange is under way by then"
    peer.script(Sleep(0.3), wire.answer(b"ok"))
    assert (await ask(client, peer, content_timeout=5.0)).reused_connection
    assert connection.alarm.moment < math.inf, "it has rung too early, and been set again"
    peer.script(Hold())
    await assert_fails(client, peer, FirstByteTimeout, 0.2, content_timeout=0.2)
    assert connection.alarm.moment == math.inf


async def test_a_peer_that_does_not_read(client: StreamingHTTPClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        body = b"x" * 30_000_000
        await assert_fails(client, url, FirstByteTimeout, 0.3, first_byte_timeout=0.3, body=body)
        await assert_fails(client, url, FirstByteTimeout, 0.3, request_timeout=0.3, body=body)


async def test_no_limit_no_timer(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(Sleep(0.1), CHUNKED, Sleep(0.1), wire.chunked(b"ok"))
    exchange = begin(client, peer)
    assert (await exchange).body == b"ok"
    (connection,) = client.connections
    assert connection.alarm.moment == math.inf


async def test_an_end_just_before_the_limit_is_an_end(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    limits = dict.fromkeys(("connect_timeout", "first_byte_timeout", "idle_timeout", "request_timeout"), 0.3)
    exchange = begin(client, peer, **limits)
    response = await exchange
    await asyncio.sleep(0.35)
    assert exchange.result() is response
    assert client.idle_count == 1, "its timer is gone and closes nothing"
