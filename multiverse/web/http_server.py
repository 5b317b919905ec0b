"""Tornado's HTTP server with the manners it lacks, for `HTTP_SERVER=tornado`; handlers are not its business.

Malformed requests are answered in OpenAI's shape, not with a bare 400. An answer that comes before the end of a body is
not lost: the rest is read and dropped for a moment. An idle connection may be silent for longer than a head may take.
Limits that clients see are those of the front door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Sequence
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from multiverse.web.front.connection import IDLE_SECONDS, LINGER_SECONDS
from multiverse.web.front.exchange import SMALL_BODY_BYTES
from multiverse.web.front.heads import MAX_HEAD_BYTES
from multiverse.web.malformed import log_malformed, malformed_answer

LOG = logging.getLogger(__name__)

END_OF_HEAD = rb"\r?\n\r?\n"
# A head over its limit is still read, up to here, so that it can be answered; beyond, the connection is just closed.
MOST_READ_BYTES = 4 * MAX_HEAD_BYTES
IDLE_LOOKS_SECONDS = 0.02
DISCARD_BYTES = 65_536


class RequestConnection(HTTP1Connection):
    """One request and its answer; `first` when it is the first on its connection.

    Follows `HTTP1Connection._read_message` of Tornado 6.6, the server's half of it.
    """

    def __init__(self, stream: IOStream, params: HTTP1ConnectionParameters, context: object, *, first: bool) -> None:
        super().__init__(stream, False, params, context)
        self._loop = asyncio.get_running_loop()
        # Who connects shall speak within the time for a head; who has been answered may take longer.
        self._head_began = first
        self._idle_seconds = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._delegate_waits = False
        self._body_is_small = False
        self._hangs_up = False

    @property
    def busy(self) -> bool:
        """A request has come, and its answer is not out."""
        return self._request_start_line is not None and self._linger_timer is None and not self._finish_future.done()

    async def serve(self, delegate: httputil.HTTPMessageDelegate) -> bool:
        """Read the request and see its answer out; True when another may follow.

        Raises StreamClosedError when the client leaves, UnsatisfiableReadError when its head has no end.
        """
        try:
            await self._read_request(delegate)
            await self._wait_for_answer()
        except httputil.HTTPInputError as error:
            await self._answer_malformed(error)
        finally:
            if self._delegate_waits:
                delegate.on_connection_close()
            self._clear_callbacks()
        return not self.stream.closed()

    # -- the request ---------------------------------------------------------------------------------------------------

    async def _read_request(self, delegate: httputil.HTTPMessageDelegate) -> None:
        start_line, headers = self._parse_head(await self._read_head())
        self._request_start_line, self._request_headers = start_line, headers
        self._disconnect_on_finish = not self._can_keep_alive(start_line, headers)
        length, has_chunks = headers.get("Content-Length", "0"), "Transfer-Encoding" in headers
        self._read_finished = length == "0" and not has_chunks
        # Who expects a 100 and is refused may send the body or not: nobody could tell what follows.
        self._body_is_small = is_small(length) and not has_chunks and "Expect" not in headers
        self._delegate_waits = True
        prepared = delegate.headers_received(start_line, headers)
        if prepared is not None:
            await prepared
        body = self._read_body(0, headers, delegate)
        if body is not None:
            if headers.get("Expect", "").lower() == "100-continue" and not self._write_finished:
                self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._in_time(body)
        self._read_finished = True
        if not self._write_finished:
            self._delegate_waits = False
            delegate.finish()

    async def _read_head(self) -> bytes:
        reading = self.stream.read_until_regex(END_OF_HEAD, max_bytes=MOST_READ_BYTES)
        self._time_head()
        try:
            return await reading
        finally:
            if self._head_timer is not None:
                self._head_timer.cancel()

    def _time_head(self) -> None:
        self._head_timer = self._loop.call_later(self.params.header_timeout or IDLE_SECONDS, self._look_at_head)

    def _look_at_head(self) -> None:
        """Close on a head that takes too long, or on a connection that has been idle for long."""
        self._idle_seconds += self.params.header_timeout or IDLE_SECONDS
        if self._head_began or self._idle_seconds >= IDLE_SECONDS:
            self.stream.close()
            return
        # Tornado has no public word for "some of it has come"; without it, idle ones would have to go as early.
        self._head_began = self.stream._read_buffer_size > 0
        self._time_head()

    def _parse_head(self, head: bytes) -> tuple[httputil.RequestStartLine, httputil.HTTPHeaders]:
        if len(head) > self.params.max_header_size:
            raise httputil.HTTPInputError("head too large")
        line, headers = self._parse_headers(head)
        start_line = httputil.parse_request_start_line(line)
        if start_line.version == "HTTP/1.0" and "Transfer-Encoding" in headers:
            raise httputil.HTTPInputError("Transfer-Encoding in HTTP/1.0")  # RFC 9112 §6.1: its framing is faulty.
        return start_line, headers

    async def _in_time(self, body: Awaitable[None]) -> None:
        """Read the body; close on a client that takes too long."""
        try:
            async with asyncio.timeout(self._body_timeout):
                await body
        except TimeoutError:
            self.close()
            raise StreamClosedError from None

    # -- the answer ----------------------------------------------------------------------------------------------------

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """As Tornado's; an answer before the end of a large body is the last on its connection, and says so."""
        if headers.get("Connection") == "close" or not (self._read_finished or self._body_is_small):
            self._disconnect_on_finish = True
        request, asked = self._request_start_line, self._request_headers
        if getattr(request, "version", "") == "HTTP/1.0" and asked is not None and "Content-Length" not in headers:
            # Only the end of the connection ends such a body; Tornado would promise to keep it.
            self._disconnect_on_finish = True
            asked.pop("Connection", None)
        return super().write_headers(start_line, headers, chunk)

    def finish(self) -> None:
        """As Tornado's, which closes on every body that has not been read."""
        self._hangs_up = self._disconnect_on_finish
        super().finish()
        self._disconnect_on_finish = self._hangs_up

    async def _wait_for_answer(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            if self._hangs_up:
                self.close()
        elif not self._finish_future.done() and not self.stream.closed():
            self.stream.set_close_callback(self._on_connection_close)
            await self._finish_future

    def _finish_request(self, future: asyncio.Future[None] | None) -> None:
        """The answer is out. Closing on a client that still sends would reset the connection, and the answer with it
        (RFC 9112 §9.6): let what comes be dropped for a moment.
        """
        if self._read_finished or self.stream.closed():
            super()._finish_request(future)
        else:
            self._linger()

    def _linger(self) -> None:
        self._linger_timer = self._loop.call_later(LINGER_SECONDS, self.close)
        if self._hangs_up:
            with contextlib.suppress(OSError):  # the client may have left
                self.stream.socket.shutdown(socket.SHUT_WR)

    async def _answer_malformed(self, error: httputil.HTTPInputError) -> None:
        """400, unless an answer has begun already; what else the client sends belongs to no request."""
        log_malformed(str(self.context), str(error))
        self._hangs_up = True
        if self._response_start_line is None:
            self.stream.write(malformed_answer(self._request_headers))
        if self._linger_timer is None:
            self._linger()
        with contextlib.suppress(StreamClosedError):
            while True:
                await self.stream.read_bytes(DISCARD_BYTES, partial=True)
                await asyncio.sleep(0)  # What has arrived already is read without giving way.


def is_small(length: str) -> bool:
    """Whether a `Content-Length` is a number up to SMALL_BODY_BYTES."""
    return length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= SMALL_BODY_BYTES


class ClientConnection(HTTP1ServerConnection):
    """One client's connection: request after request."""

    request: RequestConnection | None = None

    async def _server_request_loop(self, delegate: httputil.HTTPServerConnectionDelegate) -> None:
        try:
            again = True
            while again:
                first = self.request is None
                self.request = RequestConnection(self.stream, self.params, self.context, first=first)
                again = await self.request.serve(delegate.start_request(self, self.request))
                await asyncio.sleep(0)
        except (StreamClosedError, UnsatisfiableReadError, asyncio.CancelledError):
            return  # The client is gone, or never came to an end.
        except Exception:
            LOG.exception("connection failed inside the gateway")
        finally:
            self.stream.close()
            delegate.on_close(self)


class GatewayHTTPServer(HTTPServer):
    """Tornado's `HTTPServer` on these connections. `idle_connection_timeout` is the time for a request's head."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """A client has connected; called by Tornado."""
        context = _HTTPRequestContext(stream, address, self.protocol, self.trusted_downstream)
        connection = ClientConnection(stream, self.conn_params, context)
        self._connections.add(connection)
        connection.start_serving(self)

    async def accept_on(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on `sockets`, which stay the caller's to close."""
        self.add_sockets(sockets)

    async def wait_until_idle(self, within_seconds: float) -> None:
        """Let answers that are under way go out."""
        give_up_at = asyncio.get_running_loop().time() + within_seconds
        while self._busy and asyncio.get_running_loop().time() < give_up_at:
            await asyncio.sleep(IDLE_LOOKS_SECONDS)

    @property
    def _busy(self) -> bool:
        requests = (connection.request for connection in self._connections if isinstance(connection, ClientConnection))
        return any(request is not None and request.busy for request in requests)
