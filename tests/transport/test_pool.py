"""Which connection serves the next request: kept only in perfect order, never used once it may be stale."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from multiverse.transport import pool
from multiverse.transport.failures import Disconnected
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.conftest import StartPeer
from tests.operations import Fin, Hold, Reset, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, request_to
from tests.transport.conftest import MakeClient
from tests.waiting import soon


async def test_an_idle_connection_is_closed_at_its_limit(make_client: MakeClient, peer: ScriptedPeer) -> None:
    client = make_client(idle_seconds=0.2)
    await ask(client, peer)
    assert client.idle_count == 1
    assert (await ask(client, peer)).reused_connection
    await asyncio.sleep(0.25)
    assert not (await ask(client, peer)).reused_connection, "past the limit it is not used, even if it is still there"
    await soon(lambda: not peer.open_connections(), "both are closed without any further request")
    assert (client.idle_count, len(client.connections)) == (0, 0)


@pytest.mark.parametrize(
    ("keep_alive", "kept"),
    [
        ("timeout=1", False),
        ("timeout=0, max=100", False),
        ("timeout=5", True),
        ("max=7, TIMEOUT=60", True),
        ("timeout=99999999999999999999999999999", True),
        ("timeout=-1", True),
        ("timeout=½", True),
        ("timeout", True),
    ],
)
async def test_what_the_server_says_of_its_patience(
    client: StreamingHTTPClient, peer: ScriptedPeer, keep_alive: str, kept: bool
) -> None:
    peer.always(wire.answer(b"ok", headers=[("Keep-Alive", keep_alive)]))
    await ask(client, peer)
    assert client.idle_count == int(kept)
    assert (await ask(client, peer)).reused_connection == kept


async def test_a_second_before_the_servers_own_limit_it_is_given_up(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    peer.always(wire.answer(b"ok", headers=[("Keep-Alive", "timeout=2")]))
    await ask(client, peer)
    assert (await ask(client, peer)).reused_connection
    await asyncio.sleep(1.05)
    assert not (await ask(client, peer)).reused_connection


@pytest.mark.parametrize("last_step", [Fin(), Reset()])
async def test_a_connection_that_the_server_closed_while_idle_is_not_used(
    client: StreamingHTTPClient, peer: ScriptedPeer, last_step: Step
) -> None:
    peer.script(wire.answer(b"ok"), Sleep(0.02), last_step)
    await ask(client, peer)
    assert client.idle_count == 1
    await soon(lambda: client.idle_count == 0, "the end is noticed")
    response = await ask(client, peer)
    assert (response.body, response.reused_connection) == (b"ok", False)


async def test_nor_is_one_that_closed_in_this_very_turn(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    for _number in range(20):
        await ask(client, peer)
        peer.close_idle_connections()
        time.sleep(0.002)  # The loop stands still: its own books say that the connection is fine.
        assert client.idle_count == 1
        assert not (await ask(client, peer)).reused_connection
        peer.close_idle_connections()
        await soon(lambda: client.idle_count == 0, "the end is noticed")


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_server_s_own_limit_is_learned(
    make_client: MakeClient, peer: ScriptedPeer, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """A request that meets the end of its connection on the way is lost, and may not be sent again."""
    monkeypatch.setattr(pool, "SHORTEST_LESSON_SECONDS", 0.05)
    monkeypatch.setattr(pool, "LESSON_SECONDS", 0.5)
    client = make_client(idle_seconds=60.0)
    await ask(client, peer)
    if noticed:
        peer.script(wire.answer(b"ok"), Sleep(0.2), Fin())
        await ask(client, peer)
        await soon(lambda: client.idle_count == 0, "the server has closed it after 0.2 s")
    else:
        await asyncio.sleep(0.2)
        peer.script(Reset())
        with pytest.raises(Disconnected):
            await ask(client, peer)
    await ask(client, peer)
    assert (await ask(client, f"http://localhost:{peer.port}")).code == 200
    await asyncio.sleep(0.15)
    assert (await ask(client, f"http://localhost:{peer.port}")).reused_connection, (
        "another endpoint may be another server"
    )
    assert not (await ask(client, peer)).reused_connection, "kept for half as long as that"
    assert (await ask(client, peer)).reused_connection
    await asyncio.sleep(0.4)
    await ask(client, peer)
    await asyncio.sleep(0.15)
    assert (await ask(client, peer)).reused_connection, "a lesson is forgotten in the end"


async def test_lessons_are_bounded_and_never_make_connections_useless(
    make_client: MakeClient, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_LESSONS", 2)
    client = make_client(idle_seconds=60.0)
    peers = [start_peer(Script(wire.answer(b"ok"), Fin())) for _number in range(3)]
    for server in peers:
        await ask(client, server)
        await soon(lambda: not server.open_connections(), "it closes at once, and never says so")  # noqa: B023
        server.always(wire.answer(b"ok"))
        await ask(client, server)
        assert (await ask(client, server)).reused_connection, "a restart looks the same: the next ones are kept a while"
    await asyncio.gather(*(ask(client, server) for server in peers))
    await asyncio.sleep(pool.SHORTEST_LESSON_SECONDS + 0.05)
    kept = [(await ask(client, server)).reused_connection for server in peers]
    assert kept == [True, False, False], "of the first it has been forgotten"


async def test_what_ends_in_the_middle_of_an_answer_teaches_nothing(
    make_client: MakeClient, peer: ScriptedPeer
) -> None:
    client = make_client(idle_seconds=60.0)
    await ask(client, peer)
    peer.script(wire.head(200, [("Content-Length", "9")]) + b"x", Reset())
    with pytest.raises(Disconnected):
        await ask(client, peer)
    await ask(client, peer)
    await asyncio.sleep(pool.SHORTEST_LESSON_SECONDS + 0.05)
    assert (await ask(client, peer)).reused_connection


@pytest.mark.parametrize(
    "unasked", [wire.answer(b"late"), b"x", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"]
)
async def test_bytes_while_idle_close_the_connection(
    client: StreamingHTTPClient, peer: ScriptedPeer, unasked: bytes
) -> None:
    peer.script(wire.answer(b"ok"), Sleep(0.02), unasked, Hold())
    await ask(client, peer)
    await soon(lambda: client.idle_count == 0, "a late answer must not meet the next request")
    response = await ask(client, peer)
    assert (response.body, response.reused_connection) == (b"ok", False)


@pytest.mark.parametrize(
    "extra", [wire.answer(b"second"), b"x", b"HTTP/1.1 200 OK\r\nContent-Length: ZZ\r\n\r\n", b"\0"]
)
@pytest.mark.parametrize("headers", [[], [("Connection", "close")]])
async def test_bytes_behind_the_answer_are_nobodys(
    client: StreamingHTTPClient, peer: ScriptedPeer, extra: bytes, headers: list[tuple[str, str]]
) -> None:
    received: list[bytes] = []
    peer.script(wire.answer(b"first", headers=headers) + extra, Hold())
    response = await ask(client, peer, streaming_callback=received.append)
    assert (response.code, b"".join(received)) == (200, b"first")
    response = await ask(client, peer)
    assert (response.body, response.reused_connection) == (b"ok", False)


async def test_a_line_break_behind_the_answer_harms_nobody(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(wire.answer(b"ok") + b"\r\n")
    for _number in range(5):
        assert (await ask(client, peer)).body == b"ok"


async def test_a_request_is_never_written_twice(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await ask(client, peer)
    peer.script(Reset())
    exchange = begin(client, peer, body=b"once")
    with pytest.raises(Disconnected):
        await exchange
    assert exchange.reused
    await asyncio.sleep(0.05)
    assert [request.body for request in peer.requests].count(b"once") == 1


async def test_the_last_one_in_is_the_first_one_out(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    hold = Hold()
    peer.script(hold, wire.answer(b"slow"))
    slow = begin(client, peer)
    await soon(lambda: peer.requests, "the slow one is under way")
    await ask(client, peer)
    hold.release()
    await slow
    for _number in range(3):
        await ask(client, peer)
    slow_connection = peer.requests[0].connection
    assert [request.connection is slow_connection for request in peer.requests] == [True, False, True, True, True]


async def test_servers_do_not_share_connections(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await ask(client, peer)
    response = await ask(client, f"http://localhost:{peer.port}")
    assert not response.reused_connection, "another name may be another server tomorrow"
    assert (await ask(client, f"http://127.0.0.1:{peer.port}/prefix")).reused_connection


async def test_a_connection_with_unsent_bytes_is_not_kept(client: StreamingHTTPClient) -> None:
    early: list[asyncio.StreamWriter] = []

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        early.append(writer)
        await reader.read(10)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(wire.answer(b"too large", 413))

    async with await asyncio.start_server(answer_early, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        exchange = begin(client, f"http://127.0.0.1:{port}", body=b"x" * 30_000_000)
        response = await exchange
        assert (response.code, response.body) == (413, b"too large")
        assert client.idle_count == 0
        await soon(lambda: not client.connections, "it is closed at once")
        for writer in early:
            writer.close()


async def test_close_ends_everything(make_client: MakeClient, peer: ScriptedPeer) -> None:
    client = make_client()
    await asyncio.gather(ask(client, peer), ask(client, peer))
    peer.script(Hold(), times=2)
    peer.script(wire.STREAM_HEAD, Hold())
    waiting = [begin(client, peer) for _number in range(3)]
    await soon(lambda: len(peer.requests) == 5, "three are under way")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        dialling = [begin(client, f"http://127.0.0.1:{port}") for _number in range(6)]
        await asyncio.sleep(0.05)
        client.close()
        client.close()
        assert all(exchange.done() for exchange in waiting + dialling)
        await soon(lambda: not client.connections, "no connection is left")
        await soon(lambda: not peer.open_connections(), "the server notices")
    with pytest.raises(RuntimeError):
        client.fetch(request_to(peer))
    with pytest.raises(RuntimeError):
        client.fetch(peer.url)


async def test_no_more_than_a_few_dozen_wait_for_one_server(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    await asyncio.gather(*(ask(client, peer) for _number in range(100)))
    assert client.idle_count == 64
    await soon(lambda: len(client.connections) == 64, "the others are closed")
