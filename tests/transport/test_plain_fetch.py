"""`fetch()` with plain requests, as Tornado documents it; what is not supported is refused, not ignored."""

from __future__ import annotations

import asyncio
import base64
import gzip

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop

from multiverse.transport.addresses import AddressPolicy
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import ConnectFailed, FirstByteTimeout, TransportError
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.operations import Hold, Sleep
from tests.peers import ScriptedPeer
from tests.waiting import Stopwatch, soon


async def test_a_url_is_enough(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.health.always(wire.answer(b"hi", headers=[("Set-Cookie", "a"), ("Set-Cookie", "b")]))
    response = await client.fetch(f"{peer.url}/some/path?query=1#fragment")
    assert isinstance(response, HTTPResponse)
    assert (response.code, response.body, response.reason) == (200, b"hi", "Whatever")
    assert response.headers.get_list("Set-Cookie") == ["a", "b"]
    assert response.effective_url == f"{peer.url}/some/path?query=1#fragment"
    assert response.request.url == response.effective_url
    (request,) = peer.probes
    assert (request.method, request.path) == ("GET", "/some/path?query=1")
    assert request.header("Host") == f"127.0.0.1:{peer.port}"
    assert request.header("Accept-Encoding") == "gzip"


@pytest.mark.parametrize(
    ("tail", "target"), [("", "/"), ("/", "/"), ("?x=/y", "/?x=/y"), ("#a/b?c", "/"), ("/a%20b", "/a%20b")]
)
async def test_what_is_asked_for(client: StreamingHTTPClient, peer: ScriptedPeer, tail: str, target: str) -> None:
    peer.health.always(wire.answer(b""))
    await client.fetch(peer.url + tail)
    assert peer.probes[0].path == target


async def test_a_request_with_everything(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    request = HTTPRequest(
        peer.url,
        "PUT",
        {"X-One": "1", "Host": "elsewhere.test", "Content-Length": "999"},
        "bødy",
        auth_username="user",
        auth_password="pass:wörd",
        user_agent="me/1",
        decompress_response=False,
    )
    assert (await client.fetch(request)).body == b"ok"
    (sent,) = peer.requests
    assert sent.body == "bødy".encode()
    assert sent.headers[0] == ("Host", "elsewhere.test")
    assert [value for name, value in sent.headers if name == "Content-Length"] == ["5"]
    assert sent.header("X-One") == "1"
    assert sent.header("User-Agent") == "me/1"
    assert sent.header("Authorization") == "Basic " + base64.b64encode("user:pass:wörd".encode()).decode()
    assert sent.header("Accept-Encoding") is None


async def test_statuses_are_errors_unless_told_otherwise(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.always(wire.answer(b"no", 404))
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(peer.url, method="POST", body=b"")
    assert (caught.value.code, caught.value.response.body) == (404, b"no")
    response = await client.fetch(peer.url, raise_error=False, method="POST", body=b"")
    assert response.code == 404
    with pytest.raises(HTTPClientError):
        response.rethrow()


async def test_redirects_are_not_followed(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.health.always(wire.answer(b"", 302, headers=[("Location", f"{peer.url}/elsewhere")]))
    with pytest.raises(HTTPClientError, match="302"):
        await client.fetch(peer.url)
    assert len(peer.probes) == 1


async def test_callbacks(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    lines: list[str] = []
    chunks: list[bytes] = []

    async def consume(data: bytes) -> None:
        await asyncio.sleep(0.001)
        chunks.append(data)

    head = wire.head(200, [("X-One", "1"), ("X-One", "2"), ("Transfer-Encoding", "chunked")])
    peer.health.always(head + wire.chunk(b"a"), Sleep(0.02), wire.chunked(b"b"))
    response = await client.fetch(peer.url, header_callback=lines.append, streaming_callback=consume)
    assert lines == [
        "HTTP/1.1 200 Whatever\r\n",
        "x-one: 1\r\n",
        "transfer-encoding: chunked\r\n",
        "x-one: 2\r\n",
        "\r\n",
    ]
    assert (chunks, response.body) == ([b"a", b"b"], b"")


async def test_compressed_answers(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    packed = gzip.compress(b"hello")
    peer.health.always(wire.answer(packed, headers=[("Content-Encoding", "gzip")]))
    response = await client.fetch(peer.url)
    assert response.body == b"hello"
    assert "Content-Encoding" not in response.headers
    assert response.headers["X-Consumed-Content-Encoding"] == "gzip"
    raw = await client.fetch(peer.url, decompress_response=False)
    assert (raw.body, raw.headers["Content-Encoding"]) == (packed, "gzip")


async def test_limits(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.health.always(Sleep(0.1), wire.answer(b"ok"))
    assert (await client.fetch(peer.url, connect_timeout=0, request_timeout=0)).body == b"ok"
    watch = Stopwatch()
    with pytest.raises(FirstByteTimeout):
        await client.fetch(peer.url, request_timeout=0.05)
    with pytest.raises(TransportError):
        await client.fetch(peer.url, raise_error=False, request_timeout=0.05)
    assert watch.own_seconds < 2.0


async def test_failures(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.refuse()
    with pytest.raises(ConnectFailed):
        await client.fetch(peer.url)


async def test_leaving(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    peer.health.always(Hold())
    for end in ("cancel", "wait_for"):
        answer = client.fetch(peer.url)
        await soon(lambda: peer.open_connections(), "the request arrives")
        if end == "cancel":
            answer.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await asyncio.wait_for(answer, 0.02)
        await soon(lambda: not peer.open_connections(), "the connection is closed")


REFUSED: list[dict[str, object]] = [
    {"body_producer": lambda _write: None},
    {"proxy_host": "proxy.test", "proxy_port": 1},
    {"network_interface": "127.0.0.1"},
    {"validate_cert": False},
    {"ca_certs": "/tmp/ca.pem"},
    {"client_cert": "/tmp/cert.pem"},
    {"ssl_options": {"ca_certs": "x"}},
    {"auth_username": "user", "auth_mode": "digest"},
]


@pytest.mark.parametrize("settings", REFUSED, ids=lambda settings: next(iter(settings)))
async def test_what_is_not_supported_is_refused(
    client: StreamingHTTPClient, peer: ScriptedPeer, settings: dict[str, object]
) -> None:
    with pytest.raises(NotImplementedError):
        await client.fetch(peer.url, **settings)
    assert not peer.connections


INVALID: list[tuple[str, dict[str, object]]] = [
    ("ftp://127.0.0.1/", {}),
    ("127.0.0.1", {}),
    ("http://user:password@127.0.0.1/", {}),
    ("http://127.0.0.1:99999/", {}),
    ("http:///path", {}),
    ("http://127.0.0.1/a b", {}),
    ("http://127.0.0.1/\r\nX-One: 1", {}),
    ("http://127.0.0.1", {"method": "POST"}),
    ("http://127.0.0.1", {"body": b"x"}),
    ("http://127.0.0.1", {"method": "BREW"}),
    ("http://127.0.0.1", {"headers": {"Transfer-Encoding": "chunked"}}),
]


@pytest.mark.parametrize(("url", "settings"), INVALID, ids=str)
async def test_what_is_no_valid_request_is_refused(
    client: StreamingHTTPClient, url: str, settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError):
        await client.fetch(url, **settings)


async def test_nonstandard_methods(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    response = await client.fetch(peer.url, method="BREW", allow_nonstandard_methods=True)
    assert response.body == b"ok"
    assert peer.requests[0].method == "BREW"


async def test_it_can_be_configured_as_tornados_client(io_loop: IOLoop, peer: ScriptedPeer) -> None:
    AsyncHTTPClient.configure(
        StreamingHTTPClient,
        dialler=Dialler(AddressPolicy(allow_private=True)),
        defaults={"user_agent": "default/1"},
    )
    try:
        client = AsyncHTTPClient()
        assert isinstance(client, StreamingHTTPClient)
        assert AsyncHTTPClient() is client
        assert (await client.fetch(peer.url, method="POST", body=b"")).body == b"ok"
        assert peer.requests[0].header("User-Agent") == "default/1"
        client.close()
        await soon(lambda: not client.connections, "it is closed")
    finally:
        AsyncHTTPClient.configure(None)
