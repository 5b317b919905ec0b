"""One request on a connection and the answer to it: what handlers know as `request.connection`.

Towards the handler it follows Tornado's `HTTP1Connection`. The head of an answer is written together with the first of
its body: two writes would wait for a delayed ACK in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

from multiverse.web.front.bodies import ChunkedBody, FixedBody
from multiverse.web.front.heads import RequestHead
from multiverse.web.headers import KnownHeaders, known_headers

if TYPE_CHECKING:
    from multiverse.web.front.connection import FrontConnection

SWITCHING_PROTOCOLS = 101
# The rest of a refused body up to this size is awaited, so that the connection can be used again.
SMALL_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Context:
    """What Tornado's `HTTPServerRequest` asks of a connection."""

    remote_ip: str
    protocol: str = "http"

    def __str__(self) -> str:
        return self.remote_ip


class FrontExchange(HTTPConnection):
    """`complete`: the request has been read whole. `finished`: its answer is out, or nobody waits for it any more."""

    complete = started = finished = False
    # There once it is known that the body is handed over in pieces.
    body: ChunkedBody | FixedBody
    _delegate: HTTPMessageDelegate | None = None
    _waiting: asyncio.Future[None] | None = None
    _chunked = False
    _missing: int | None = None
    _close_callback: Callable[[], None] | None = None

    def __init__(self, connection: FrontConnection, head: RequestHead) -> None:
        self._connection = connection
        self.context = connection.context
        self.head = head
        self.keep_alive = head.keep_alive

    # -- the client's end, as handlers see it --------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the client is gone."""
        return self._connection.closed

    @property
    def congested(self) -> bool:
        """Whether the client does not keep up with what is written to it."""
        return self._connection.congested

    @property
    def taken_bytes(self) -> int:
        """How much of what was written on this connection has left this process."""
        return self._connection.taken_bytes

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when the client leaves before its answer is finished."""
        self._close_callback = callback

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Write the head, and `chunk` with it. The future is done when the client has room for more."""
        assert isinstance(start_line, ResponseStartLine)
        self.started = True
        status = start_line.code
        known = headers if isinstance(headers, KnownHeaders) else known_headers(headers)
        lines = [f"HTTP/1.1 {status} {start_line.reason}", *known.lines()]
        self._frame(status, known.fields.get("Content-Length"), lines)
        self._say_whether_it_stays(status, known.fields.get("Connection", "").lower(), lines)
        data = "\r\n".join(lines).encode("latin-1")
        if len(data.translate(None, b"\r\n\0")) != len(data) - 2 * (len(lines) - 1):
            raise ValueError("a header holds a line break or NUL")
        data += b"\r\n\r\n"
        if status == SWITCHING_PROTOCOLS:
            self._connection.write_at_once()
        return self._connection.send(data + self._framed(chunk) if chunk else data)

    def _frame(self, status: int, length: str | None, lines: list[str]) -> None:
        if self.head.method == "HEAD" or status in (204, 304) or 100 <= status < 200:
            self._missing = 0
        elif length is not None:
            self._missing = int(length)
        elif self.head.version == "HTTP/1.1":
            self._chunked = True
            lines.append("Transfer-Encoding: chunked")
        else:
            self.keep_alive = False  # An old client knows the end of such a body by the end of the connection.

    def _say_whether_it_stays(self, status: int, said: str, lines: list[str]) -> None:
        if said == "close" or self._connection.closing or not (self.complete or self._takes_rest):
            self.keep_alive = False
        if status == SWITCHING_PROTOCOLS:
            return
        if not self.keep_alive and said != "close":
            lines.append("Connection: close")
        elif self.keep_alive and self.head.version == "HTTP/1.0":
            lines.append("Connection: keep-alive")

    @property
    def _takes_rest(self) -> bool:
        """Whether the rest of a body that nobody wants is worth waiting for. Who expects a 100 and is refused may send
        the body or not: nobody could tell what follows.
        """
        head = self.head
        return head.length is not None and head.length <= SMALL_BODY_BYTES and not head.expects

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Write some of the body. The future is done when the client has room for more."""
        if not chunk:
            return self._connection.room()
        if self._chunked:  # Runs for every event of every stream.
            return self._connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return self._connection.send(self._framed(chunk))

    def _framed(self, chunk: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if self._missing is not None:
            self._missing -= len(chunk)
            if self._missing < 0:
                self._connection.abort()
                raise HTTPOutputError("Tried to write more data than Content-Length")
        return chunk

    def finish(self) -> None:
        """The answer is whole; go on with the next request, or close."""
        if self.finished:
            return
        self.finished = True
        if self._missing and not self._connection.closed:
            self._connection.abort()
            raise HTTPOutputError(f"Tried to write {self._missing} bytes less than Content-Length")
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
        self._delegate = None  # The handler knows this exchange: without a cycle, its body is freed at once.
        self._connection.answered(self)

    def detach(self) -> IOStream:
        """Take the socket over, as WebSockets do; no HTTP happens on it any more."""
        self.finished = True
        return self._connection.detach()

    def set_body_timeout(self, timeout: float) -> None:
        """Tornado's interface: the time for the rest of this request's body, in seconds."""
        self._connection.deadline.set(timeout)

    def set_max_body_size(self, max_body_size: int) -> None:
        """Tornado's interface. Handlers count their bodies themselves, so that they can answer 413 in their shape."""

    # -- towards the handler -------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the handler takes more of the body now."""
        return self._waiting is None

    def begin(self, delegate: HTTPMessageDelegate) -> None:
        """Hand the head over. Raises HTTPInputError for what only Tornado finds out."""
        self._delegate = delegate
        length = self.head.length
        self.body = ChunkedBody() if length is None else FixedBody(length)
        self.complete = self.body.done
        self._wait_for(delegate.headers_received(self.head.start_line, self.head.headers))
        if self.complete:
            self.deliver_end()
        else:
            self._invite_body()

    def _invite_body(self) -> None:
        """RFC 9110 §10.1.1: who asks before it sends its body is told to go on, unless it has its answer already."""
        if self.head.expects_continue and self.ready and not self.started and not self._connection.has_bytes:
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def deliver(self, data: bytes) -> None:
        """Some of the body; what comes after the answer is dropped."""
        if self._delegate is not None and not self.finished:
            self._wait_for(self._delegate.data_received(data))

    def deliver_end(self) -> None:
        """The body is whole."""
        if self._waiting is None and self._delegate is not None and not self.finished:
            self._delegate.finish()

    def _wait_for(self, awaitable: Awaitable[None] | None) -> None:
        if awaitable is None:
            return
        future = asyncio.ensure_future(awaitable)
        if future.done():
            future.result()
            return
        self._waiting = future
        future.add_done_callback(self._waited)

    def _waited(self, future: asyncio.Future[None]) -> None:
        self._waiting = None
        if future.cancelled() or future.exception() is not None:
            self._connection.abort()  # The handler has logged why; its request cannot go on.
            return
        if self.complete:
            self.deliver_end()
        else:
            self._invite_body()
            self._connection.go_on()

    def client_left(self) -> None:
        """Tell whoever handles this request that nobody waits for the answer."""
        if self.finished:
            return
        self.finished = True
        callback, self._close_callback = self._close_callback, None
        delegate, self._delegate = self._delegate, None
        if callback is not None:
            callback()
        elif delegate is not None:
            delegate.on_connection_close()
