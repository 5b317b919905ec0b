"""An exchange as a future: with everything asyncio does to futures, and freed as soon as nobody holds it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from multiverse.transport.exchange import Exchange
from multiverse.transport.failures import AnswerTooLarge, BadAnswer, Disconnected
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.operations import Fin, Hold, Reset, SendForEver, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, request_to
from tests.waiting import Stopwatch, soon

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])


# -- asyncio's tools


async def test_it_can_be_awaited_by_several(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    exchange = begin(client, peer)
    assert asyncio.isfuture(exchange)
    assert asyncio.ensure_future(exchange) is exchange
    responses = await asyncio.gather(exchange, exchange, asyncio.shield(exchange))
    assert responses[0] is responses[1] is responses[2] is exchange.result()


async def test_gather_wait_and_as_completed(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(Reset())
    results = await asyncio.gather(*(begin(client, peer) for _number in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Disconnected"] + ["ServerResponse"] * 4
    done, pending = await asyncio.wait([begin(client, peer) for _number in range(5)])
    assert (len(done), len(pending)) == (5, 0)
    for next_one in asyncio.as_completed([begin(client, peer) for _number in range(5)]):
        assert (await next_one).code == 200


async def test_timeouts_of_asyncio_end_it(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(Hold(), times=4)
    waited = begin(client, peer)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waited, 0.05)
    timed = begin(client, peer)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await timed
    gathered = asyncio.gather(begin(client, peer), begin(client, peer))
    await soon(lambda: len(peer.requests) == 4, "they are under way")
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered
    assert waited.cancelled()
    assert timed.cancelled()
    await soon(lambda: not client.connections, "their connections are closed")


async def test_a_shield_keeps_it_alive(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    hold = Hold()
    peer.script(hold, wire.answer(b"late"))
    exchange = begin(client, peer)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(exchange), 0.05)
    hold.release()
    assert (await exchange).body == b"late"


async def test_a_failure_nobody_looks_at_is_reported(
    client: StreamingHTTPClient, peer: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    reports: list[str] = []
    own_handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: reports.append(context["message"]))
    peer.script(Reset())
    begin(client, peer)
    await soon(lambda: peer.requests and not client.connections, "it has failed")
    gc.collect()
    loop.set_exception_handler(own_handler)
    assert len(reports) == 1
    assert "exception was never retrieved" in reports[0]


# -- the rest of an answer


async def test_the_rest_is_read_if_it_comes_soon(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"enough"), Sleep(0.05), wire.chunked(b"never seen"))
    received: list[bytes] = []
    exchange = begin(client, peer, streaming_callback=received.append)
    await soon(lambda: received, "the first chunk comes")
    exchange.discard_rest(1.0)
    assert (await exchange).code == 200
    await soon(lambda: client.idle_count == 1, "the connection is kept")
    assert received == [b"enough"]
    after = await ask(client, peer)
    assert (after.body, after.reused_connection) == (b"ok", True)
    exchange.discard_rest(1.0)
    assert client.idle_count == 1, "to discard the rest again changes nothing"


RESTS: dict[str, tuple[Step, ...]] = {
    "silence": (Hold(),),
    "drops": (SendForEver(wire.chunk(b"x")),),
    "garbage": (b"ZZ\r\n", Hold()),
    "an end": (Fin(),),
    "a reset": (Reset(),),
    "Connection: close": (wire.LAST_CHUNK, Hold()),
}


@pytest.mark.parametrize("name", RESTS)
async def test_the_rest_is_given_up_if_it_does_not(client: StreamingHTTPClient, peer: ScriptedPeer, name: str) -> None:
    head = CHUNKED if name != "Connection: close" else CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    peer.script(head + wire.chunk(b"enough"), Sleep(0.02), *RESTS[name])
    exchange = begin(client, peer, streaming_callback=lambda _data: None, idle_timeout=0.05, request_timeout=5.0)
    await soon(lambda: exchange.received, "the first chunk comes")
    watch = Stopwatch()
    exchange.discard_rest(0.2)
    await exchange
    await soon(lambda: not peer.open_connections(), "the connection is closed")
    assert watch.own_seconds < 2.0
    assert watch.seconds >= 0.19 or name not in ("silence",)
    assert client.idle_count == 0


async def test_a_long_rest_is_not_read(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"enough"), Sleep(0.02), SendForEver(wire.chunk(b"x" * 60_000)))
    exchange = begin(client, peer, streaming_callback=lambda _data: None)
    await soon(lambda: exchange.received, "the first chunk comes")
    watch = Stopwatch()
    exchange.discard_rest(5.0)
    await exchange
    await soon(lambda: not peer.open_connections(), "the connection is closed")
    assert watch.own_seconds < 3.0


@pytest.mark.parametrize("rest", [b"", wire.LAST_CHUNK, wire.chunk(b"more") + wire.LAST_CHUNK])
async def test_enough_may_be_said_inside_a_callback(
    client: StreamingHTTPClient, peer: ScriptedPeer, rest: bytes
) -> None:
    exchanges: list[Exchange] = []
    received: list[bytes] = []

    def consume(data: bytes) -> None:
        received.append(data)
        exchanges[0].discard_rest(1.0)

    peer.script(CHUNKED + wire.chunk(b"enough") + rest, Sleep(0.02), *([wire.LAST_CHUNK] if not rest else []))
    exchanges.append(begin(client, peer, streaming_callback=consume))
    await exchanges[0]
    await soon(lambda: client.idle_count == 1, "the connection is kept")
    assert len(received) == 1
    assert (await ask(client, peer)).reused_connection


async def test_enough_may_be_said_while_holding_back(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    peer.script(CHUNKED + wire.chunk(b"enough"), Sleep(0.02), wire.chunk(b"more"), wire.LAST_CHUNK)
    exchange = begin(client, peer, streaming_callback=lambda _data: held)
    await soon(lambda: exchange.received, "the first chunk comes")
    exchange.discard_rest(1.0)
    await exchange
    await soon(lambda: client.idle_count == 1, "it is read on, and the connection kept")
    held.set_result(None)
    assert (await ask(client, peer)).reused_connection


async def test_enough_of_nothing_is_an_abort(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(Hold())
    exchange = begin(client, peer)
    await soon(lambda: peer.requests, "it is under way")
    exchange.discard_rest(1.0)
    assert exchange.exception() is not None
    await soon(lambda: not peer.open_connections(), "the connection is closed")


# -- memory


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whatever is freed is freed by its reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_an_exchange_that_is_over_is_freed_at_once(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    received: list[bytes] = []
    peer.always(CHUNKED + wire.chunk(b"one"), Sleep(0.01), wire.chunk(b"two") + wire.LAST_CHUNK)
    limits = {"connect_timeout": 5.0, "first_byte_timeout": 5.0, "idle_timeout": 5.0, "request_timeout": 5.0}
    for _number in range(3):
        request = request_to(peer, streaming_callback=received.append, response_callback=id, **limits)
        exchange = client.fetch(request)
        response = await exchange
        watched = [weakref.ref(thing) for thing in (request, exchange, response)]
        del request, exchange, response
        await asyncio.sleep(0)
        assert [reference() for reference in watched] == [None, None, None]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (Reset(), Disconnected),
        (wire.answer(b"hi", headers=[("Content-Length", "7")]), BadAnswer),
        (CHUNKED + b"ZZ", BadAnswer),
        (wire.head(200, [("Content-Encoding", "gzip")]) + b"no gzip", BadAnswer),
        (wire.head(200, [("X", "x" * 70_000)]), BadAnswer),
        (wire.head(200, [("Content-Length", "8000")]), AnswerTooLarge),
    ],
    ids=["reset", "two lengths", "bad chunk", "bad gzip", "long head", "too large"],
)
async def test_so_is_one_that_failed(
    client: StreamingHTTPClient, peer: ScriptedPeer, step: Step, failure: type[Exception]
) -> None:
    peer.always(step)
    exchange = begin(client, peer, request_timeout=5.0, max_body_size=7000)
    await soon(exchange.done, "it fails")
    assert isinstance(exchange.exception(), failure)
    reference = weakref.ref(exchange)
    del exchange
    await asyncio.sleep(0.01)
    assert reference() is None


@pytest.mark.usefixtures("no_collector")
async def test_so_is_one_that_could_not_connect(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.refuse()
    exchange = begin(client, peer, request_timeout=5.0)
    await soon(exchange.done, "it fails")
    assert exchange.exception() is not None
    reference = weakref.ref(exchange)
    del exchange
    await asyncio.sleep(0.01)
    assert reference() is None


@pytest.mark.usefixtures("no_collector")
async def test_so_is_a_connection_with_its_parser(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await ask(client, peer)
    (connection,) = client.connections
    references = [weakref.ref(connection), weakref.ref(connection._reader)]
    peer.close_idle_connections()
    del connection
    await soon(lambda: not client.connections, "the connection is gone")
    await asyncio.sleep(0.01)
    assert [reference() for reference in references] == [None, None]


@pytest.mark.usefixtures("no_collector")
async def test_so_is_one_that_was_cancelled(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(CHUNKED + wire.chunk(b"one"), Hold())
    exchange = begin(client, peer, streaming_callback=lambda _data: asyncio.sleep(60), request_timeout=5.0)
    await soon(lambda exchange=exchange: exchange.received, "it is under way")
    reference, connection = weakref.ref(exchange), weakref.ref(exchange.connection)
    exchange.cancel()
    del exchange
    await soon(lambda: not client.connections, "the connection is gone")
    await asyncio.sleep(0.01)
    assert (reference(), connection()) == (None, None)
