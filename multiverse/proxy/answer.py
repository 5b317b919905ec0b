"""The client's side of one request: when its answer starts, what keeps it alive, and how it ends.

Knows nothing of servers. A stream may start with keep-alive comments long before any server has answered; from then on
a failure can only be told as an event. Bytes are written in whole events, so a comment never lands inside one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from multiverse.errors import GatewayError
from multiverse.proxy.call import Reply
from multiverse.proxy.sse import KEEP_ALIVE, error_event

EVENT_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class ServerErrorDocument(msgspec.Struct):
    """A server's error document, of which only the error is passed on."""

    error: msgspec.Raw


SERVER_ERROR = msgspec.json.Decoder(ServerErrorDocument)


class Answer:
    """Writes the answer of one request. `keepalive_seconds` is the longest silence of a stream; 0 = no comments."""

    def __init__(self, reply: Reply, loop: asyncio.AbstractEventLoop, keepalive_seconds: float) -> None:
        self._reply = reply
        self._keepalive_seconds = keepalive_seconds
        self._loop = loop
        self._last_written = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked: asyncio.Future[None] | None = None
        self.started = False
        self.finished = False
        self.held_for_json = False
        self.beside_keep_alive: Callable[[], bytes] | None = None

    # -- keeping a stream alive ----------------------------------------------------------------------------------------

    def keep_alive(self) -> None:
        """From now on, never let a stream be silent for longer than `keepalive_seconds`."""
        if self._keepalive_seconds > 0:
            self._last_written = self._loop.time()
            self._timer = self._loop.call_later(self._keepalive_seconds, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        due = self._last_written + self._keepalive_seconds
        blocked = self._blocked is not None and not self._blocked.done()
        if due <= now and not blocked and not self.held_for_json:
            if not self.started:
                self.start_stream({})
            self.write(KEEP_ALIVE + (self.beside_keep_alive() if self.beside_keep_alive else b""))
        if due <= now:
            due = now + self._keepalive_seconds
        self._timer = self._loop.call_at(due, self._on_timer)

    def stop(self) -> None:
        """No more keep-alives; called once, whatever the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- writing -------------------------------------------------------------------------------------------------------

    def start_stream(self, headers: dict[str, str]) -> None:
        """Begin a stream of events; later calls change nothing, since its headers have gone out."""
        if not self.started:
            self.started = True
            self._reply.start(200, {**EVENT_STREAM_HEADERS, **headers})

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send whole events; an awaitable while the client does not keep up."""
        self._last_written = self._loop.time()
        awaitable = self._reply.write(data)
        if awaitable is None:
            return None
        self._blocked = asyncio.ensure_future(awaitable)
        return self._blocked

    def finish_stream(self, data: bytes = b"") -> None:
        """Send the last events and end the stream."""
        self._end()
        self._reply.finish(data)

    def send_whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send a whole answer at once."""
        self._end()
        self._reply.start(status, {**headers, "X-Content-Type-Options": "nosniff", "Content-Length": str(len(body))})
        self._reply.finish(body)

    def finish_with_error(self, error: GatewayError, server_body: bytes | None = None) -> None:
        """End a stream that has started with one error event; `server_body` is a server's own error document."""
        if server_body is not None:
            # In its own words, some of which Python could not hold; without line breaks, which would end the event.
            words = msgspec.json.format(bytes(SERVER_ERROR.decode(server_body).error), indent=-1)
            event = b'data: {"error":' + words + b"}\n\n"
        else:
            event = error_event(error)
        self.finish_stream(event)

    def _end(self) -> None:
        self.stop()
        self.started = self.finished = True
