"""WebSockets: a handler takes the socket over from the front door, and nothing of HTTP is left behind."""

from __future__ import annotations

import asyncio

import pytest
import tornado.websocket

from tests.front.conftest import OpenDoor
from tests.front.talking import talk


class EchoSocket(tornado.websocket.WebSocketHandler):
    """Greets, and says everything once more."""

    def open(self, *args: str, **kwargs: str) -> None:
        self.write_message("hello")

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


RULES = [("/socket", EchoSocket)]


async def test_a_conversation(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (door, port):
        client = await tornado.websocket.websocket_connect(f"ws://127.0.0.1:{port}/socket")
        assert await client.read_message() == "hello", "written at once, behind the 101"
        for message in ("one", b"\0\xff", "x" * 300_000, "last"):
            await client.write_message(message, binary=isinstance(message, bytes))
            assert await client.read_message() == message
        assert not door.connections, "the connection is the handler's now"
        client.close(1000, "done")
        assert await client.read_message() is None
        assert client.close_code == 1000


@pytest.mark.parametrize("count", [20])
async def test_many_side_by_side(open_door: OpenDoor, count: int) -> None:
    async with open_door(RULES) as (_door, port):
        url = f"ws://127.0.0.1:{port}/socket"
        clients = await asyncio.gather(*[tornado.websocket.websocket_connect(url) for _number in range(count)])
        for number, client in enumerate(clients):
            await client.write_message(str(number))
        for number, client in enumerate(clients):
            assert [await client.read_message(), await client.read_message()] == ["hello", str(number)]
            client.close()
            assert await client.read_message() is None


async def test_a_refused_upgrade_leaves_the_connection_as_it_was(open_door: OpenDoor) -> None:
    async with open_door(RULES) as (_door, port), talk(port) as client:
        for _number in range(2):
            client.send(b"GET /socket HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
            assert (await client.answer()).status == 400
