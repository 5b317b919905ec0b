"""The HTTP client through which the gateway reaches servers: streaming, keep-alive, abortable at any moment.

An implementation of Tornado's `AsyncHTTPClient` on `asyncio.Protocol` and httptools. It follows no redirects, keeps no
cookies and never repeats a request: whoever calls decides that. Dialling lives in `dialling.py`, messages in
`messages.py`; every failure is a `TransportError` from `failures.py`.

The life of an `Exchange` (one request and its answer)::

    fetch() ──► DIALLING ──► SENT ──► BODY ──► done: the future holds the ServerResponse
       │ idle       │          │        │
       │ connection │ connect  │ first  │ idle      request_timeout runs over all of them;
       └────────────┼──► SENT  │ byte   │           cancel() or abort() end it in any state,
                    ▼          ▼        ▼           and close the connection at once
                 failed: the future holds a TransportError

A connection belongs to one exchange at a time. It goes back to the pool only after a whole answer that allows it
(RFC 9112 §9.3), with nothing unsent and nothing unread. One that closed while idle is never used, and a request whose
bytes were written is never written again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

import httptools
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from multiverse.transport.addresses import Endpoint, parse_endpoint
from multiverse.transport.decoding import ContentDecoder, decoder_for
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import (
    Abandoned,
    AnswerTooLarge,
    BadAnswer,
    ConnectTimeout,
    Disconnected,
    FirstByteTimeout,
    IdleTimeout,
    TotalTimeout,
    TransportError,
)
from multiverse.transport.messages import ResponseHead, ServerRequest, ServerResponse, header_items_of

MAX_HEAD_BYTES = 65536
MAX_HEADER_LINES = 256
MAX_INTERIM_RESPONSES = 16
MAX_IDLE_PER_ENDPOINT = 64
SMALL_BODY_BYTES = 65536

PoolKey = tuple[str, str, int]


class Connection(asyncio.Protocol):
    """One TCP or TLS connection to a server, and the parser of its answers."""

    def __init__(self, client: StreamingHTTPClient, key: PoolKey) -> None:
        self.client = client
        self.key = key
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_until = 0.0
        self.closed = False
        self._discard_timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._header_lines = 0
        self._header_bytes = 0
        self._head_bytes = 0
        self._interim_responses = 0
        self._pieces: list[bytes] = []
        self._head: ResponseHead | None = None
        self._head_delivered = False
        self._complete = False
        self._keep_alive = False
        self._extra_bytes = False
        self._decoder: ContentDecoder | None = None
        self._reading_paused = False
        self._headers_done = False
        self._framed = False
        self._reason = b""

    # -- what asyncio calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dial succeeded."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; then hand over the head, the body bytes and the end, in this order."""
        exchange = self.exchange
        if exchange is None:
            self._unasked_data(data)
            return
        exchange.last_activity = exchange.loop.time()
        try:
            if not self._headers_done:
                self._count_head(len(data))
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            exchange.abort(BadAnswer("the server tried to switch protocols"))
            return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            exchange.abort(cause if isinstance(cause, TransportError) else BadAnswer())
            return
        except (httptools.HttpParserError, TransportError) as error:
            # Whole events that came before the garbage still belong to the client.
            self._deliver_before_failing(exchange)
            exchange.abort(error if isinstance(error, TransportError) else BadAnswer())
            return
        self._deliver(exchange)

    def eof_received(self) -> bool:
        """The server will send no more; half-open connections are of no use to us."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of the connection is the end of the answer only where no length was given (RFC 9112 §6.3)."""
        self.closed = True
        self.client.forget(self)
        exchange = self.exchange
        if exchange is None:
            return
        close_delimited = self._headers_done and not self._framed
        if error is None and close_delimited and self._head is not None:
            self._complete = True
            self._keep_alive = False
            self._deliver(exchange)
        else:
            exchange.fail(Disconnected())

    # -- what httptools calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second message on one exchange is either the final answer after a 1xx, or bytes nobody asked for."""
        if self._complete:
            self._extra_bytes = True
            return
        self._headers = {}
        self._header_lines = 0
        self._headers_done = False
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        """The reason phrase, possibly in pieces; it is read for the log only and never sent on."""
        if len(self._reason) < 200:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; trailers after the body come here too and are dropped (RFC 9110 §6.5.1)."""
        if self._headers_done:
            return
        self._header_lines += 1
        self._header_bytes += len(name) + len(value)
        if self._header_lines > MAX_HEADER_LINES or self._header_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("the server's answer has too many or too long headers")
        self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Final or interim head; framing that could be read in two ways is refused here."""
        if self._extra_bytes:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                raise BadAnswer("the server sent interim responses without end")
            return
        self._headers_done = True
        headers = self._headers
        transfer_encoding = headers.get("transfer-encoding")
        if transfer_encoding is not None and transfer_encoding.strip().lower() != "chunked":
            raise BadAnswer("the server's answer has a transfer encoding other than chunked")
        self._framed = transfer_encoding is not None or "content-length" in headers
        self._head = ResponseHead(status, self._reason.decode("latin-1"), headers)
        self._decoder = decoder_for(headers.get("content-encoding"))

    def on_body(self, data: bytes) -> None:
        """Body bytes without their framing."""
        if not self._extra_bytes:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The end of a message by its own framing."""
        if self._head is not None and not self._complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # -- delivering ----------------------------------------------------------------------------------------------------

    def _count_head(self, size: int) -> None:
        # A first read may hold much of the body as well, so only what came before it counts: this bounds a header line
        # that never ends. Lines that do end are counted in on_header.
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("the head of the server's answer is too large")
        self._head_bytes += size

    def _deliver(self, exchange: Exchange) -> None:
        try:
            self._hand_over(exchange)
        except Exception as error:  # A callback of the caller's: whatever it raised is its answer.
            exchange.abort(error)

    def _deliver_before_failing(self, exchange: Exchange) -> None:
        if self._head_delivered and self._decoder is None:
            with contextlib.suppress(Exception):
                self._hand_over(exchange)

    def _hand_over(self, exchange: Exchange) -> None:
        head = self._head
        if head is None:
            return
        if not self._head_delivered:
            self._head_delivered = True
            exchange.head_received(head)
            if head.status in (204, 304) or exchange.request.method == "HEAD":
                self._complete, self._keep_alive = True, self._keep_alive and head.status in (204, 304)
        pieces = self._pieces
        if pieces and not exchange.done():
            self._pieces = []
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._decoder is None:
                self._body(exchange, data)
            else:
                for piece in self._decoder.decode(data):
                    self._body(exchange, piece)
        if self._complete and not exchange.done():
            if self._decoder is not None and not self._decoder.complete and exchange.received > 0:
                raise Disconnected("the server's compressed answer ends too early")
            exchange.complete(self)

    def _body(self, exchange: Exchange, data: bytes) -> None:
        awaitable = exchange.body_received(data)
        if awaitable is None or exchange.done():
            return
        future = asyncio.ensure_future(awaitable)
        if not future.done():
            self._pause_until(future)
        elif not future.cancelled() and (failure := future.exception()) is not None:
            raise failure

    def _pause_until(self, future: asyncio.Future[None]) -> None:
        exchange = self.exchange
        if exchange is None or self.transport is None:
            return
        if not self._reading_paused and not self.closed:
            self._reading_paused = True
            self.transport.pause_reading()
        exchange.held_back += 1
        future.add_done_callback(self._resume)

    def _resume(self, future: asyncio.Future[None]) -> None:
        failure = None if future.cancelled() else future.exception()
        exchange = self.exchange
        if exchange is None:
            return
        exchange.held_back -= 1
        exchange.last_activity = exchange.loop.time()
        if failure is not None:
            exchange.abort(failure)
        elif exchange.held_back == 0 and self._reading_paused:
            self._reading_paused = False
            if not self.closed and self.transport is not None:
                self.transport.resume_reading()

    # -- one exchange after the other ----------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the whole answer has been read."""
        return self._complete

    @property
    def usable(self) -> bool:
        """Whether a request may be written to this connection now."""
        return not self.closed and self.transport is not None and not self.transport.is_closing()

    def start(self, exchange: Exchange) -> None:
        """Write the request of `exchange` and read its answer."""
        transport = self.transport
        assert transport is not None
        self._reset()
        self.exchange = exchange
        request = exchange.request
        head, payload = exchange.head_bytes, request.payload
        if payload is None:
            transport.write(head)
        elif len(payload) <= SMALL_BODY_BYTES:
            transport.write(head + payload)  # One segment: two writes would wait for a delayed ACK in between.
        else:
            transport.writelines([head, payload])

    def discard_rest(self, within_seconds: float) -> None:
        """Nobody wants the rest of this answer: read it to its end, to use the connection again, but not for long."""
        self.exchange = None
        if self._reading_paused or not self.usable:
            self.close()
        else:
            self._discard_timer = self.client.loop.call_later(within_seconds, self.close)

    def _unasked_data(self, data: bytes) -> None:
        if self._discard_timer is None:
            self.close()  # A late answer must never meet the next request.
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            return
        self._pieces.clear()
        if self._complete:
            self._discard_timer.cancel()
            self._discard_timer = None
            self.release()

    def release(self) -> bool:
        """The answer is whole: give the connection back if it can serve again, else close it. True if it was kept."""
        transport = self.transport
        self.exchange = None
        if (
            transport is None
            or not self.usable
            or not self._keep_alive
            or self._extra_bytes
            or self._reading_paused
            or transport.get_write_buffer_size() > 0
        ):
            self.close()
            return False
        return self.client.keep(self, self._head.headers if self._head else {})

    def close(self) -> None:
        """Close at once; unsent and unread bytes are dropped."""
        self.closed = True
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        if self.transport is not None:
            self.transport.abort()


class Exchange(asyncio.Future[HTTPResponse]):
    """One request and its answer; a future of the `ServerResponse`.

    `cancel()` and `abort(error)` close the connection to the server within this turn of the loop.
    """

    _asyncio_future_blocking: bool

    def __init__(self, client: StreamingHTTPClient, request: ServerRequest, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.loop = loop
        self.client = client
        self.request = request
        self.head_bytes = request.head()
        self.connection: Connection | None = None
        self.dial: asyncio.Task[None] | None = None
        self.head: ResponseHead | None = None
        self.reused = False
        self.received = 0
        self.held_back = 0
        self.started_at = self.last_activity = self.sent_at = loop.time()
        self.idle_timeout = request.idle_timeout
        self._collected: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    # -- towards the answer --------------------------------------------------------------------------------------------

    def begin(self, connection: Connection | None) -> None:
        """Use an idle connection, or dial."""
        if connection is not None:
            self.reused = True
            self.connected(connection)
        else:
            self.dial = self.loop.create_task(self.client.dial_for(self))
        self.arm_timer()

    def connected(self, connection: Connection) -> None:
        """A connection is there: write the request."""
        self.connection = connection
        self.dial = None
        self.sent_at = self.last_activity = self.loop.time()
        connection.start(self)
        self.arm_timer()

    def head_received(self, head: ResponseHead) -> None:
        """The final response head has come."""
        self.head = head
        if self.request.response_callback is not None:
            self.request.response_callback(head)
        self.arm_timer()

    def body_received(self, data: bytes) -> Awaitable[None] | None:
        """Decoded body bytes."""
        self.received += len(data)
        limit = self.request.max_body_size
        if limit is not None and self.received > limit:
            raise AnswerTooLarge()
        if self.request.streaming_callback is not None:
            return self.request.streaming_callback(data)
        self._collected.append(data)
        return None

    # -- ends ----------------------------------------------------------------------------------------------------------

    def complete(self, connection: Connection) -> None:
        """The answer is whole."""
        self._stop_timer()
        self.connection = None
        connection.release()
        if not self.done():
            self.set_result(self._response())

    def _response(self) -> ServerResponse:
        assert self.head is not None
        body = b"".join(self._collected)
        request_time = self.loop.time() - self.started_at
        return ServerResponse(self.request, self.head, body, request_time=request_time, reused=self.reused)

    def fail(self, error: BaseException) -> None:
        """End with `error`; the connection, if any, is already gone or will be closed by `abort`."""
        self._let_go()
        if not self.done():
            self.set_exception(error)

    def abort(self, error: BaseException | None = None) -> None:
        """End now, in any state, and close the connection. Harmless when already ended."""
        self.fail(error or Abandoned())

    def discard_rest(self, within_seconds: float) -> None:
        """The caller has all it wants: end well now, and let the connection read on for at most `within_seconds`."""
        connection = self.connection
        if connection is None or connection.complete or self.done():
            return  # The end is here already, and will be told in this very turn.
        assert self.head is not None
        self._stop_timer()
        self.connection = None
        connection.discard_rest(within_seconds)
        self.set_result(self._response())

    def cancel(self, msg: Any = None) -> bool:
        """As a future's `cancel()`, and the connection is closed."""
        self._let_go()
        return super().cancel(msg)

    def _let_go(self) -> None:
        self._stop_timer()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.exchange = None
            connection.close()
        dial, self.dial = self.dial, None
        if dial is not None and not dial.done():
            dial.cancel()

    # -- time ----------------------------------------------------------------------------------------------------------

    def set_idle_timeout(self, timeout_seconds: float | None) -> None:
        """Change the limit of silence in the body from now on."""
        self.idle_timeout = timeout_seconds
        self.last_activity = self.loop.time()
        self.arm_timer()

    def _deadlines(self) -> list[tuple[float, Callable[[], TransportError]]]:
        request = self.request
        deadlines: list[tuple[float, Callable[[], TransportError]]] = []
        if request.request_timeout is not None:
            deadlines.append((self.started_at + request.request_timeout, self._total_timeout))
        if self.connection is None:
            if request.connect_timeout is not None:
                deadlines.append((self.started_at + request.connect_timeout, ConnectTimeout))
        elif self.head is None:
            if request.first_byte_timeout is not None:
                deadlines.append((self.sent_at + request.first_byte_timeout, FirstByteTimeout))
        elif self.idle_timeout is not None and self.held_back == 0:
            deadlines.append((self.last_activity + self.idle_timeout, IdleTimeout))
        elif self.idle_timeout is not None:
            # Reading is held back by our own caller: the server's silence is not its fault. Look again later.
            deadlines.append((self.loop.time() + self.idle_timeout, IdleTimeout))
        return deadlines

    def _total_timeout(self) -> TransportError:
        """`request_timeout` is over; the owner reads which phase it ended in."""
        if self.connection is None:
            return ConnectTimeout()
        return FirstByteTimeout() if self.head is None else TotalTimeout()

    def arm_timer(self) -> None:
        """One timer per exchange, for the nearest of its deadlines; a chunk only moves `last_activity`."""
        self._stop_timer()
        if self.done():
            return
        deadlines = self._deadlines()
        if deadlines:
            self._timer = self.loop.call_at(min(deadlines, key=_moment)[0], self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        moment, failure = min(self._deadlines(), key=_moment)
        if moment <= self.loop.time():
            self.abort(failure())
        else:
            self.arm_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _moment(deadline: tuple[float, Callable[[], TransportError]]) -> float:
    return deadline[0]


class StreamingHTTPClient(AsyncHTTPClient):
    """A pool of keep-alive connections per server behind `fetch()`.

    `fetch(ServerRequest)` is the gateway's way: an `Exchange`, whose failures are `TransportError`s and which has the
    result for every status. `fetch(HTTPRequest | str)` behaves as Tornado documents it, without redirects.
    """

    IDLE_SECONDS: ClassVar[float] = 4.0  # Node, uvicorn and llama.cpp close after 5 s: be gone before them.

    def initialize(self, *, dialler: Dialler, idle_seconds: float | None = None) -> None:  # type: ignore[override]
        """`idle_seconds` is how long an unused connection is kept."""
        super().initialize()
        self.loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._idle_seconds = self.IDLE_SECONDS if idle_seconds is None else idle_seconds
        self._idle: dict[PoolKey, list[Connection]] = {}
        self.connections: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None

    # -- Tornado's interface -------------------------------------------------------------------------------------------

    def fetch(
        self, request: str | HTTPRequest, raise_error: bool = True, **kwargs: Any
    ) -> asyncio.Future[HTTPResponse]:
        """Send `request`. Raises RuntimeError on a closed client; for the rest see the class."""
        if not isinstance(request, ServerRequest):
            return super().fetch(request, raise_error, **kwargs)
        if self._closed:
            raise RuntimeError("fetch() called on a closed client")
        exchange = Exchange(self, request, self.loop)
        endpoint = request.endpoint
        exchange.begin(self._take_idle((endpoint.scheme, endpoint.host, endpoint.port)))
        return exchange

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Send a plain Tornado request; called by `AsyncHTTPClient.fetch`."""
        plain: HTTPRequest = getattr(request, "request", request)
        exchange = cast(Exchange, self.fetch(_server_request(plain, request)))

        def finished(future: asyncio.Future[HTTPResponse]) -> None:
            if future.cancelled():
                return
            failure = future.exception()
            if failure is not None:
                callback(HTTPResponse(plain, 599, error=failure, request_time=0))
                return
            response = cast(ServerResponse, future.result()).as_tornado(plain)
            if not 200 <= response.code < 300:
                response.error = HTTPClientError(response.code, response.reason, response)
                response._error_is_response_code = True
            callback(response)

        exchange.add_done_callback(finished)

    def close(self) -> None:
        """Abort every exchange and close every connection."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in list(self.connections):
            if connection.exchange is not None:
                connection.exchange.abort(Abandoned())
            connection.close()
        self._idle.clear()
        super().close()

    # -- the pool ------------------------------------------------------------------------------------------------------

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return sum(len(waiting) for waiting in self._idle.values())

    def _take_idle(self, key: PoolKey) -> Connection | None:
        waiting = self._idle.get(key)
        while waiting:
            connection = waiting.pop()
            if connection.usable and connection.idle_until > self.loop.time():
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection, headers: dict[str, str]) -> bool:
        """Take `connection` back; False (and closed) when there is no room for it."""
        waiting = self._idle.setdefault(connection.key, [])
        if self._closed or len(waiting) >= MAX_IDLE_PER_ENDPOINT:
            connection.close()
            return False
        connection.idle_until = self.loop.time() + min(self._idle_seconds, _announced_idle_seconds(headers))
        waiting.append(connection)
        if self._reaper is None:
            self._reaper = self.loop.call_later(1.0, self._reap)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        waiting = self._idle.get(connection.key)
        if waiting and connection in waiting:
            waiting.remove(connection)

    def _reap(self) -> None:
        self._reaper = None
        now = self.loop.time()
        for key, waiting in list(self._idle.items()):
            for connection in [item for item in waiting if item.idle_until <= now]:
                waiting.remove(connection)
                connection.close()
            if not waiting:
                del self._idle[key]
        if self._idle:
            self._reaper = self.loop.call_later(1.0, self._reap)

    async def dial_for(self, exchange: Exchange) -> None:
        """Open a connection for `exchange`; its timers watch over this task."""
        endpoint = exchange.request.endpoint
        key = (endpoint.scheme, endpoint.host, endpoint.port)
        try:
            connection = await self._dialler.dial(endpoint, lambda: Connection(self, key))
        except TransportError as error:
            exchange.dial = None
            exchange.abort(error)
            return
        if not connection.closed:
            # Not in connection_made(): a dial that is cancelled after it never hears of connection_lost() under uvloop.
            self.connections.add(connection)
        if exchange.done() or self._closed:
            connection.close()
            exchange.abort(Abandoned())
        else:
            exchange.connected(connection)


def _announced_idle_seconds(headers: dict[str, str]) -> float:
    """How long the server says it keeps the connection (`Keep-Alive: timeout=5`), less a second for the way."""
    _, found, value = headers.get("keep-alive", "").partition("timeout=")
    seconds = value.split(",")[0].strip()
    return max(float(seconds) - 1.0, 0.0) if found and seconds.isascii() and seconds.isdigit() else float("inf")


def _server_request(plain: HTTPRequest, proxied: HTTPRequest) -> ServerRequest:
    scheme_and_authority, _, _ = plain.url.partition("?")
    origin_end = scheme_and_authority.find("/", scheme_and_authority.find("://") + 3)
    origin = plain.url.partition("#")[0] if origin_end < 0 else plain.url[:origin_end]
    target = "/" if origin_end < 0 else plain.url.partition("#")[0][origin_end:]
    endpoint: Endpoint = parse_endpoint(origin)
    header_callback = plain.header_callback

    def announce(head: ResponseHead) -> None:
        if header_callback is not None:
            header_callback(f"HTTP/1.1 {head.status} {head.reason}\r\n")
            for name, value in head.headers.items():
                header_callback(f"{name}: {value}\r\n")
            header_callback("\r\n")

    return ServerRequest(
        endpoint,
        target,
        method=plain.method,
        header_items=header_items_of(plain),
        body=plain.body,
        response_callback=announce,
        streaming_callback=plain.streaming_callback,
        connect_timeout=proxied.connect_timeout,
        request_timeout=proxied.request_timeout or None,
    )
