"""An awaitable from the streaming callback holds the server back: memory bounded, no byte lost, silence not blamed."""

from __future__ import annotations

import asyncio
import random
import resource
from typing import Any

import pytest

from multiverse.transport.failures import Disconnected, IdleTimeout, TotalTimeout
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.operations import Fin, Hold, Reset, Send, SendForEver, Sleep
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin
from tests.waiting import soon

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
LARGEST_READ_BYTES = 262144


def peak_memory_bytes() -> int:
    """The most this process has ever used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_a_peer_that_pushes_is_held_back(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    gate = asyncio.Event()
    received = 0
    calls_while_held = 0

    async def consume(data: bytes) -> None:
        nonlocal received, calls_while_held
        received += len(data)
        calls_while_held += not gate.is_set()
        await gate.wait()

    block = random.Random(1).randbytes(500_000)
    peer.script(wire.head(200, [("Content-Length", str(100 * len(block)))]), *(Send(block),) * 100)
    before = peak_memory_bytes()
    exchange = begin(client, peer, streaming_callback=consume, idle_timeout=0.2)
    await asyncio.sleep(0.5)
    assert calls_while_held == 1, "one piece is all that is handed over"
    assert received <= LARGEST_READ_BYTES
    sent_bytes = peer.connections[0].sent_bytes
    assert sent_bytes < 20_000_000, "the peer is stuck long before its 50 MB are out"
    assert not exchange.done(), "silence is not the server's fault meanwhile"
    gate.set()
    await exchange
    assert received == 50_000_000
    assert peak_memory_bytes() - before < 30_000_000


async def test_every_byte_arrives_in_order_whoever_is_slow(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    for seed in range(20):
        dice = random.Random(seed)
        body = dice.randbytes(3000)
        received: list[bytes] = []

        async def consume(data: bytes, received: list[bytes] = received, dice: random.Random = dice) -> None:
            for _turn in range(dice.randint(0, 3)):
                await asyncio.sleep(0)
            received.append(data)

        peer.script(Send(CHUNKED + wire.chunked(body, 70), seed=seed))
        await ask(client, peer, streaming_callback=consume)
        assert b"".join(received) == body, f"seed {seed}: whole, in order, and before the exchange is over"
    assert len(peer.connections) == 1, "holding back does not cost the connection"


async def test_the_end_waits_for_the_last_piece(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    gate = asyncio.Event()
    finished: list[bytes] = []

    async def consume(data: bytes) -> None:
        await gate.wait()
        finished.append(data)

    peer.script(wire.answer(b"all at once"))
    exchange = begin(client, peer, streaming_callback=consume)
    await soon(lambda: exchange.received, "it is here")
    await asyncio.sleep(0.02)
    assert not exchange.done()
    gate.set()
    await exchange
    assert finished == [b"all at once"]
    assert (await ask(client, peer)).reused_connection


@pytest.mark.parametrize("steps", [(CHUNKED + wire.chunked(b"one"), Fin()), (wire.head(200) + b"one", Fin())])
async def test_a_connection_that_ends_meanwhile_ends_well(
    client: StreamingHTTPClient, peer: ScriptedPeer, steps: tuple[Any, ...]
) -> None:
    gate = asyncio.Event()
    peer.script(*steps)
    exchange = begin(client, peer, streaming_callback=lambda _data: gate.wait())  # type: ignore[arg-type,return-value]
    await soon(lambda: exchange.received, "it is here")
    await asyncio.sleep(0.03)
    gate.set()
    assert (await exchange).code == 200
    assert not (await ask(client, peer)).reused_connection


async def test_a_reset_meanwhile_is_noticed_when_reading_goes_on(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    gate = asyncio.Event()
    peer.script(CHUNKED + wire.chunk(b"one"), Sleep(0.02), Reset())
    exchange = begin(client, peer, streaming_callback=lambda _data: gate.wait())  # type: ignore[arg-type,return-value]
    await asyncio.sleep(0.05)
    gate.set()
    with pytest.raises(Disconnected):
        await exchange


async def test_garbage_waits_for_its_turn_too(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    gate = asyncio.Event()
    received: list[bytes] = []

    async def consume(data: bytes) -> None:
        received.append(data)
        await gate.wait()

    peer.script(CHUNKED + wire.chunk(b"one"), Sleep(0.03), wire.chunk(b"two") + b"ZZ\r\n")
    exchange = begin(client, peer, streaming_callback=consume)
    await asyncio.sleep(0.06)
    assert (received, exchange.done()) == ([b"one"], False)
    gate.set()
    await soon(exchange.done, "the garbage is found")
    assert received == [b"one", b"two"]
    assert exchange.exception() is not None


async def test_the_idle_limit_counts_from_the_moment_reading_goes_on(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    loop = asyncio.get_running_loop()
    peer.script(CHUNKED + wire.chunk(b"one"), Hold())
    released_at = 0.0

    async def consume(_data: bytes) -> None:
        nonlocal released_at
        await asyncio.sleep(0.3)
        released_at = loop.time()

    with pytest.raises(IdleTimeout):
        await ask(client, peer, streaming_callback=consume, idle_timeout=0.2)
    assert loop.time() - released_at >= 0.19


async def test_the_total_limit_holds_even_then(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    peer.script(CHUNKED, SendForEver(wire.chunk(b"x" * 100)))
    with pytest.raises(TotalTimeout):
        await ask(client, peer, streaming_callback=lambda _data: held, request_timeout=0.2, idle_timeout=0.1)


async def test_a_future_that_is_done_holds_nothing(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    received: list[bytes] = []

    def consume(data: bytes) -> asyncio.Future[None]:
        received.append(data)
        return done

    peer.script(CHUNKED + wire.chunk(b"one"), Sleep(0.01), wire.chunk(b"two"), Sleep(0.01), wire.LAST_CHUNK)
    await ask(client, peer, streaming_callback=consume)
    assert received == [b"one", b"two"]


async def test_whoever_gives_up_consuming_gives_up_the_exchange(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    peer.script(CHUNKED + wire.chunk(b"one"), Hold())
    exchange = begin(client, peer, streaming_callback=lambda _data: held)
    await soon(lambda: exchange.received, "it is here")
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    await soon(lambda: not peer.open_connections(), "the server notices")
