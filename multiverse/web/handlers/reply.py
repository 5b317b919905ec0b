"""The client's end of the wire: a handler as the `Reply` that the proxy writes to, with back-pressure.

Whoever takes no byte at all for the write timeout is disconnected; whoever reads slowly is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from tornado.iostream import StreamClosedError

from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.wire import wire_of


class HandlerReply:
    """A `Reply` on a handler. `write_timeout_seconds` is how long a client may take not a single byte."""

    def __init__(self, handler: GatewayHandler, *, write_timeout_seconds: float) -> None:
        self._handler = handler
        self._wire = wire_of(handler.request.connection)
        self._write_timeout_seconds = write_timeout_seconds
        self._watching = False
        self._head_is_out = False
        self._is_whole = False

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Status and headers; they go out with the first bytes."""
        self._handler.set_status(status)
        self._handler.set_headers(headers)
        self._is_whole = "Content-Length" in headers

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send now; an awaitable while the client does not keep up."""
        if self._head_is_out:
            flushed = self._wire.write(data)
        elif self._wire.closed:
            return None
        else:
            self._head_is_out = True
            self._handler.write(data)
            flushed = self._handler.flush()
        if flushed.done():
            return None  # It is written, or the client has left, of which `on_connection_close` tells.
        self._watch()
        return _quietly(flushed)

    def finish(self, data: bytes = b"") -> None:
        """Send the rest and end the response."""
        if self._wire.closed:
            return
        if self._is_whole:
            self._handler.finish_whole(data)
        else:
            self._handler.finish(data)
        if self._wire.congested:
            self._watch()

    def _watch(self) -> None:
        """Close on a client that reads nothing at all for the write timeout."""
        if not self._watching:
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._write_timeout_seconds, self._look, self._wire.taken_bytes)

    def _look(self, taken_before: int) -> None:
        self._watching = False
        if self._wire.closed or not self._wire.congested:
            return
        if self._wire.taken_bytes == taken_before:
            self._wire.abort()
        else:
            self._watch()


async def _quietly(flushed: Awaitable[None]) -> None:
    """A client that leaves is told by `on_connection_close`, not by a failed write."""
    try:
        await flushed
    except StreamClosedError:
        return
