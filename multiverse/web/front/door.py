"""The HTTP/1.1 server side: listens for clients and feeds Tornado's `HTTPServerConnectionDelegate`.

It has Tornado's own interfaces, so that an `Application` and its handlers run on it unchanged, for less than half the
CPU of Tornado's server. TLS is not its business: that is for a proxy in front.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado.httputil import HTTPServerConnectionDelegate

from multiverse.web.front.connection import FrontConnection

if TYPE_CHECKING:
    from multiverse.web.dispatch import DirectRoute

WAITING_CONNECTIONS = 2048
ACCEPTED_AT_ONCE = 1
LOOKS_SECONDS = 0.02
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long a request's head may take, from its first byte or from connecting, and how long its body; how long a
    client may take nothing of the last answer on its connection.
    """

    header_timeout_seconds: float
    body_timeout_seconds: float
    write_timeout_seconds: float


class FrontDoor:
    """Serves `delegate`, usually a Tornado `Application`; where that has a `direct_route(path)`, it is asked first."""

    def __init__(self, delegate: HTTPServerConnectionDelegate, limits: ClientLimits) -> None:
        self.delegate = delegate
        self.limits = limits
        self.direct_route: Callable[[str], DirectRoute | None] = getattr(delegate, "direct_route", lambda path: None)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.done.set_result(None)
        self.connections: set[FrontConnection] = set()
        self.closing = False
        self._servers: list[asyncio.Server] = []

    async def accept_on(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on `sockets`, which stay the caller's to close."""
        for listener in sockets:
            # asyncio tries as many times in a row to accept, also when it has no descriptor left, and each of them
            # tries again a second later.
            server = await self.loop.create_server(self._connect, sock=listener, backlog=ACCEPTED_AT_ONCE)
            listener.listen(WAITING_CONNECTIONS)
            self._servers.append(server)

    def _connect(self) -> FrontConnection:
        return FrontConnection(self)

    def stop(self) -> None:
        """Accept no more connections, and no further request on those that are open."""
        self.closing = True
        for server in self._servers:
            server.close()

    async def wait_until_idle(self, within_seconds: float) -> None:
        """Let answers that are under way go out."""
        give_up_at = self.loop.time() + within_seconds
        while any(connection.busy for connection in self.connections) and self.loop.time() < give_up_at:
            await asyncio.sleep(LOOKS_SECONDS)

    async def close_all_connections(self) -> None:
        """Close every connection once what was written has been sent, at most a second later."""
        for connection in list(self.connections):
            connection.close()
        give_up_at = self.loop.time() + CLOSE_SECONDS
        while self.connections and self.loop.time() < give_up_at:
            await asyncio.sleep(LOOKS_SECONDS)
        for connection in list(self.connections):
            connection.abort()
