"""The application on Tornado's plain `HTTPServer`, where an embedding program or a test of its own would put it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import tornado.netutil
from tornado.httpclient import HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.web.app import make_app
from tests import wire
from tests.operations import Hold
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY
from tests.waiting import soon

Post = Callable[[str, bytes], Awaitable[HTTPResponse]]
Serving = Callable[[], AbstractAsyncContextManager[tuple[Gateway, Post, int]]]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """`async with serving() as (gateway, post, port)`: a gateway there, and what sends it a request."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[tuple[Gateway, Post, int]]:
        environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
        async with Gateway(load_config(environ, dotenv_path=None)) as gateway:
            server = HTTPServer(await asyncio.to_thread(make_app, gateway))  # It may be made outside of the loop.
            (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
            server.add_sockets([listener])
            client, port = SimpleAsyncHTTPClient(force_instance=True), listener.getsockname()[1]

            async def post(path: str, body: bytes) -> HTTPResponse:
                headers = {"X-API-Key": ADMIN_KEY, "Content-Type": "application/json"}
                url = f"http://127.0.0.1:{port}{path}"
                return await client.fetch(url, method="POST", headers=headers, body=body, raise_error=False)

            try:
                yield gateway, post, port
            finally:
                client.close()
                server.stop()
                await server.close_all_connections()

    return serving


async def register(post: Post, peer: ScriptedPeer) -> None:
    peer.model_names.append("model")
    body = {"model_name": "model", "endpoint_url": peer.url}
    assert (await post("/admin/register", msgspec.json.encode(body))).code == 201


async def test_answers_plain_and_streamed(serving: Serving, peer: ScriptedPeer) -> None:
    async with serving() as (_gateway, post, _port):
        await register(post, peer)
        plain = await post("/v1/chat/completions", wire.chat_body("model"))
        assert (plain.code, plain.headers["X-Gateway-Attempts"]) == (200, "1")
        streamed = await post("/v1/chat/completions", wire.chat_body("model", True))
        assert streamed.code == 200
        assert streamed.body.endswith(wire.DONE)
        assert (await post("/v1/chat/completions", wire.chat_body("nobody's"))).code == 404


async def test_a_client_that_leaves_is_noticed(serving: Serving, peer: ScriptedPeer) -> None:
    async with serving() as (gateway, post, port):
        await register(post, peer)
        peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("x")), Hold())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = wire.chat_body("model", True)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"data: ")
        writer.close()
        await soon(lambda: gateway.usage.requests()["client_closed"] == 1, "its request ends")
