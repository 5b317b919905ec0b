"""One request and its answer when all goes well: what is sent, every way an answer may be framed, every byte of it."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import ResponseHead
from tests import wire
from tests.operations import Fin, Send, Sleep, Step
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, request_to

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
CHUNKED_CLOSE = wire.head(200, [("Transfer-Encoding", "chunked"), ("Connection", "close")])
UNTIL_CLOSE = wire.head(200)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Type: text/hint\r\n\r\n"
BODY = bytes(range(256)) * 3

ANSWERS: dict[str, tuple[bytes, bytes, bool]] = {
    "a length": (wire.answer(BODY), BODY, True),
    "a length of nothing": (wire.answer(b""), b"", True),
    "a length with blanks": (b"HTTP/1.1 200 OK\r\nContent-Length: \t 2 \t\r\n\r\nhi", b"hi", True),
    "chunked": (CHUNKED + wire.chunked(BODY, 100), BODY, True),
    "chunked in odd case": (wire.head(200, [("tRANSFER-eNCODING", "CHUNKED")]) + wire.chunked(b"hi"), b"hi", True),
    "chunked with nothing": (CHUNKED + wire.LAST_CHUNK, b"", True),
    "chunk extensions": (CHUNKED + b'2;a;b=c;d="e;f"\r\nhi\r\n0;last\r\n\r\n', b"hi", True),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nContent-Type: text/trailer\r\n\r\n", b"hi", True),
    "a long chunk size": (CHUNKED + b"00000002\r\nhi\r\n000\r\n\r\n", b"hi", True),
    "204": (wire.head(204), b"", True),
    "304 with a length": (wire.head(304, [("Content-Length", "7")]), b"", True),
    "304 with a coding": (wire.head(304, [("Transfer-Encoding", "chunked")]), b"", True),
    "after interim answers": (INTERIM + wire.answer(BODY), BODY, True),
    "an upgrade on offer": (wire.answer(b"hi", headers=[("Upgrade", "h2c"), ("Connection", "Upgrade")]), b"hi", True),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
    "Connection: close": (wire.answer(BODY, headers=[("Connection", "close")]), BODY, False),
    "Connection: close among others": (wire.answer(b"hi", headers=[("Connection", "x, Close")]), b"hi", False),
    "chunked, then closed": (CHUNKED_CLOSE + wire.chunked(b"hi"), b"hi", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
    "HTTP/1.0 chunked": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + wire.chunked(b"hi"),
        b"hi",
        False,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("segment_bytes", [None, 1])
async def test_every_framing_is_understood(
    client: StreamingHTTPClient, peer: ScriptedPeer, name: str, segment_bytes: int | None
) -> None:
    data, body, reusable = ANSWERS[name]
    peer.script(Send(data, segment_bytes))
    response = await ask(client, peer, request_timeout=5.0)
    assert response.body == body
    assert not response.reused_connection
    assert response.headers.get("Content-Type") not in ("text/trailer", "text/hint")
    peer.script(wire.answer(b"next"))
    after = await ask(client, peer, request_timeout=5.0)
    assert (after.body, after.reused_connection) == (b"next", reusable)
    assert after.headers["Content-Type"] == "application/json", "no trailer leaks into the next answer"
    assert len(peer.connections) == (1 if reusable else 2)


@pytest.mark.parametrize("steps", [(UNTIL_CLOSE + BODY, Fin()), (UNTIL_CLOSE + BODY[:9], Sleep(0.01), BODY[9:], Fin())])
async def test_the_end_of_the_connection_may_be_the_end_of_the_answer(
    client: StreamingHTTPClient, peer: ScriptedPeer, steps: tuple[Step, ...]
) -> None:
    peer.script(*steps)
    assert (await ask(client, peer)).body == BODY
    assert not (await ask(client, peer, body=b'{"model": "x"}')).reused_connection


@pytest.mark.parametrize("headers", [[("Content-Length", "7")], [("Transfer-Encoding", "chunked")]])
async def test_an_answer_to_head_has_no_body(
    client: StreamingHTTPClient, peer: ScriptedPeer, headers: list[tuple[str, str]]
) -> None:
    peer.script(wire.head(200, headers), times=3)
    responses = [await ask(client, peer, method="HEAD", max_body_size=3) for _number in range(3)]
    assert [response.body for response in responses] == [b""] * 3
    assert [response.reused_connection for response in responses] == [False, True, True]
    peer.script(wire.answer(b"with a body"))
    assert (await ask(client, peer)).body == b"with a body"


async def test_a_body_in_answer_to_head_is_nobodys(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(wire.answer(b"wrong"))
    assert (await ask(client, peer, method="HEAD")).body == b""
    peer.script(wire.answer(b"right"))
    after = await ask(client, peer)
    assert (after.body, after.reused_connection) == (b"right", False)


async def test_one_connection_serves_many_requests(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    for number in range(50):
        peer.script(wire.answer(b"%d" % number))
        response = await ask(client, peer, body=b"nonce %d" % number)
        assert (response.body, response.reused_connection) == (b"%d" % number, number > 0)
    assert [request.body for request in peer.requests] == [b"nonce %d" % number for number in range(50)]
    assert len(peer.connections) == 1


async def test_what_is_sent(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    body = bytes(range(256))
    await ask(client, peer, target="/v1/x?y=%20", header_items=[("X-One", "1 é"), ("x-two", "")], body=body)
    await ask(client, peer, body=None)
    await ask(client, peer, method="DELETE")
    with_body, without, delete = peer.requests
    host = ("Host", f"127.0.0.1:{peer.port}")
    assert (with_body.method, with_body.path, with_body.body) == ("POST", "/v1/x?y=%20", body)
    assert with_body.headers == [host, ("X-One", "1 é"), ("x-two", ""), ("Content-Length", "256")]
    assert without.headers == [host, ("Content-Length", "0")], "a POST says so when it has no body"
    assert delete.headers == [host]


@pytest.mark.parametrize("size", [65535, 65536, 65537, 3_000_000])
async def test_large_bodies_arrive_whole_in_both_directions(
    client: StreamingHTTPClient, peer: ScriptedPeer, size: int
) -> None:
    body = random.Random(size).randbytes(size)
    peer.script(wire.answer(body))
    response = await ask(client, peer, body=body)
    assert peer.requests[0].body == body
    assert response.body == body


INJECTIONS = [
    {"header_items": [("X-One", "1\r\nX-Two: 2")]},
    {"own_items": [("X-One", "1\r\nX-Two: 2")]},
    {"own_items": [("X-One:", "1")]},
    {"header_items": [("X-One", "1\nX-Two: 2")]},
    {"header_items": [("X-One", "1\rX-Two: 2")]},
    {"header_items": [("X-One", "1\0")]},
    {"header_items": [("X-One", "\x7f")]},
    {"header_items": [("X-One: 1\r\nX-Two", "2")]},
    {"header_items": [("X-One:", "1")]},
    {"header_items": [("X One", "1")]},
    {"header_items": [("", "1")]},
    {"header_items": [("X-One", "漢")]},
    {"header_items": [("Content-Length", "0")]},
    {"header_items": [("transfer-encoding", "chunked")]},
    {"header_items": [("Host", "elsewhere")]},
    {"host": "elsewhere\r\nX-Two: 2"},
    {"target": "/v1 HTTP/1.1\r\nX-Two: 2"},
    {"target": "/v1 /"},
    {"target": "/é"},
    {"target": "http://elsewhere/"},
    {"target": ""},
    {"method": "GET /"},
    {"method": "GET\r\n"},
    {"method": ""},
]


@pytest.mark.parametrize("settings", INJECTIONS, ids=repr)
async def test_what_would_say_something_else_on_the_wire_is_refused(
    client: StreamingHTTPClient, peer: ScriptedPeer, settings: dict[str, object]
) -> None:
    await ask(client, peer, method="DELETE")
    with pytest.raises(ValueError):
        begin(client, peer, **settings)
    assert len(peer.requests) == 1
    assert client.idle_count == 1, "the idle connection was not touched"


async def test_every_byte_is_faithful_at_every_boundary(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    for seed in range(200):
        dice = random.Random(seed)
        body = dice.randbytes(dice.randint(0, 1500))
        framed = CHUNKED + wire.chunked(body, dice.randint(1, 40)) if seed % 2 else wire.answer(body)
        peer.script(Send(framed, seed=seed))
        received: list[bytes] = []
        response = await ask(client, peer, streaming_callback=received.append)
        assert b"".join(received) == body, f"seed {seed}"
        assert response.body == b""
        assert b"" not in received
    assert len(peer.connections) == 1


async def test_the_head_comes_before_the_body_and_nothing_after_the_end(
    client: StreamingHTTPClient, peer: ScriptedPeer
) -> None:
    events: list[object] = []

    def on_head(head: ResponseHead) -> None:
        events.append((head.status, head.reason, head.headers["x-a"], list(head.repeated)))

    peer.script(
        wire.head(207, [("X-A", "1"), ("x-a", "2"), ("X-A", "3 "), ("Transfer-Encoding", "chunked")], "So so"),
        *(Sleep(0.01), wire.chunk(b"one"), Sleep(0.01), wire.chunk(b"two"), Sleep(0.01), wire.LAST_CHUNK),
    )
    exchange = begin(client, peer, response_callback=on_head, streaming_callback=events.append)
    exchange.add_done_callback(lambda _exchange: events.append("done"))
    response = await exchange
    await asyncio.sleep(0)
    head, *pieces, end = events
    assert (head, end) == ((207, "So so", "1", [("x-a", "2"), ("x-a", "3")]), "done")
    assert b"".join(cast(list[bytes], pieces)) == b"onetwo", "on a busy machine both may come in one"
    assert exchange.received == 6
    assert response.code == 207
    assert response.headers.get_list("X-A") == ["1", "2", "3"]


async def test_an_answer_has_all_that_tornados_has(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.script(wire.answer(b"hi", 201, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    request = request_to(peer, header_items=[("X-One", "1"), ("X-One", "2")])
    response = await client.fetch(request)
    assert response.request is request
    assert (response.code, response.body, response.buffer.read()) == (201, b"hi", b"hi")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (response.effective_url, response.error, response.time_info) == (f"{peer.url}/v1/x", None, {})
    assert 0 <= response.request_time < 5
    response.rethrow()
    assert "201" in repr(response)
    assert (request.url, request.body) == (f"{peer.url}/v1/x", b"{}")
    assert request.headers.get_list("X-One") == ["1", "2"]
    assert request.method == "POST"
    with pytest.raises(AttributeError):
        _ = response.nothing_like_this


async def test_whoever_wants_no_response_gets_none(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    received: list[bytes] = []
    settings = {"streaming_callback": received.append, "wants_response": False}
    assert await begin(client, peer, **settings) is None
    assert received == [b"ok"]


async def test_five_hundred_at_once(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    body = random.Random(5).randbytes(20_000)
    peer.always(Send(CHUNKED + wire.chunked(body, 999)))
    responses = await asyncio.gather(*(ask(client, peer, body=b"%d" % number) for number in range(500)))
    assert all(response.body == body for response in responses)
    assert sorted(int(request.body) for request in peer.requests) == list(range(500)), "each was sent once"
    assert client.idle_count <= 64
