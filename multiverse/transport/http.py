"""The HTTP client through which the gateway reaches servers: streaming, keep-alive, abortable at any moment.

An implementation of Tornado's `AsyncHTTPClient` on `asyncio.Protocol` and httptools. It follows no redirects, keeps no
cookies and never repeats a request: whoever calls decides that. Dialling lives in `dialling.py`, messages in
`messages.py`; every failure is a `TransportError` from `failures.py`.

The life of an `Exchange` (one request and its answer)::

    fetch() ──► DIALLING ──► SENT ──► BODY ──► done: the future holds the ServerResponse
       │ idle       │          │        │
       │ connection │ connect  │ first  │ idle      request_timeout runs over all of them,
       └────────────┼──► SENT  │ byte   │           content_timeout until content_came();
                    ▼          ▼        ▼           cancel() or abort() end it in any state,
                 failed: the future holds a TransportError        and close the connection at once

A connection belongs to one exchange at a time. It goes back to the pool only after a whole answer that allows it
(RFC 9112 §9.3), with nothing unsent and nothing unread. One that closed while idle is never used, and a request whose
bytes were written is never written again. In BODY, an awaitable from `streaming_callback` holds reading back; the end
of the answer waits for it, too.

The parts: `exchange.py` (the future and its deadlines), `connection.py` (flow), `answers.py` (parsing), `decoding.py`,
`pool.py`, `dialling.py` with `resolving.py` and `addresses.py`, `plain.py` (Tornado's own requests).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, cast

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.platform.asyncio import BaseAsyncIOLoop

from multiverse.transport.connection import Connection
from multiverse.transport.dialling import Dialler
from multiverse.transport.exchange import Exchange
from multiverse.transport.failures import Abandoned, BadAnswer, ConnectFailed, TransportError
from multiverse.transport.messages import ServerRequest, ServerResponse
from multiverse.transport.plain import server_request
from multiverse.transport.pool import Pool

__all__ = ["Exchange", "StreamingHTTPClient"]


class StreamingHTTPClient(AsyncHTTPClient):
    """A pool of keep-alive connections per server behind `fetch()`.

    `fetch(ServerRequest)`, or `begin`, is the gateway's way: an `Exchange`, whose failures are `TransportError`s and
    which has the result for every status. `fetch(HTTPRequest | str)` behaves as Tornado documents it, without
    redirects.
    """

    IDLE_SECONDS: ClassVar[float] = 4.0  # Node, uvicorn and llama.cpp close after 5 s: be gone before them.

    def initialize(  # type: ignore[override]
        self, *, dialler: Dialler, idle_seconds: float | None = None, defaults: dict[str, Any] | None = None
    ) -> None:
        """`idle_seconds` is how long an unused connection is kept; `defaults` are Tornado's, for plain requests."""
        super().initialize(defaults)
        self.loop = cast(BaseAsyncIOLoop, self.io_loop).asyncio_loop
        self._dialler = dialler
        self._pool = Pool(self.loop, idle_seconds=self.IDLE_SECONDS if idle_seconds is None else idle_seconds)
        self._dialling: dict[asyncio.Task[None], Exchange] = {}
        self._begun_by_fetch_impl: Exchange | None = None

    def fetch(
        self, request: str | HTTPRequest, raise_error: bool = True, **kwargs: Any
    ) -> asyncio.Future[HTTPResponse]:
        """Send `request`.

        Raises RuntimeError on a closed client and ValueError for a request that cannot be written; for the rest see
        the class.
        """
        if isinstance(request, ServerRequest):
            return self.begin(request)
        self._begun_by_fetch_impl = None
        answer = super().fetch(request, raise_error, **kwargs)
        exchange = self._begun_by_fetch_impl
        if exchange is not None:
            answer.add_done_callback(lambda ended: ended.cancelled() and exchange.cancel())
        return answer

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Send a plain Tornado request; called by `AsyncHTTPClient.fetch`."""
        plain: HTTPRequest = getattr(request, "request", request)
        try:
            wanted = server_request(plain, self.defaults)
            exchange = self.begin(wanted)
        except (ValueError, NotImplementedError) as error:
            callback(HTTPResponse(plain, 599, error=error, request_time=0))
            return

        def finished(future: asyncio.Future[HTTPResponse]) -> None:
            if future.cancelled():
                return
            failure = future.exception()
            if failure is not None:
                callback(HTTPResponse(plain, 599, error=failure, request_time=self.loop.time() - exchange.started_at))
            else:
                response = cast(ServerResponse, future.result())
                callback(response.as_tornado(plain, decompressed=wanted.form.decompress))

        exchange.add_done_callback(finished)
        self._begun_by_fetch_impl = exchange

    def close(self) -> None:
        """Abort every exchange and close every connection."""
        dialling = list(self._dialling.values())
        sent = [connection.exchange for connection in self._pool.connections if connection.exchange is not None]
        for exchange in dialling + sent:
            exchange.abort(Abandoned())
        self._pool.close()
        super().close()

    @property
    def connections(self) -> set[Connection]:
        """All open connections."""
        return self._pool.connections

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return self._pool.idle_count

    # -- finding a connection ------------------------------------------------------------------------------------------

    def begin(self, request: ServerRequest) -> Exchange:
        """Send `request`; as `fetch`, for those who know what they send."""
        if self._closed:
            raise RuntimeError("fetch() called on a closed client")
        exchange = Exchange(request, self.loop)
        connection = self._pool.take(request.form.pool_key)
        if connection is not None:
            exchange.reused = True
            exchange.use(connection)
        else:
            task = exchange.wait_for_dial(self._dial(exchange))
            self._dialling[task] = exchange
            task.add_done_callback(self._dialling.pop)
        return exchange

    async def _dial(self, exchange: Exchange) -> None:
        """Open a connection for `exchange`; its alarm watches over this task."""
        form = exchange.request.form
        try:
            inlet, connection = await self._dialler.dial(
                form.endpoint, lambda: Connection(self._pool, form.pool_key, self.loop)
            )
        except Exception as error:
            exchange.dial = None
            exchange.fail(error.with_traceback(None) if isinstance(error, TransportError) else error)
            return
        connection.inlet = inlet
        exchange.dial = None
        if exchange.done() or self._closed:
            connection.close()
            exchange.abort(Abandoned())
        elif connection.spoke_first:
            exchange.fail(BadAnswer("the server spoke before it was asked; is it an HTTP server?"))
        elif not connection.usable:
            exchange.fail(ConnectFailed("the server closed the connection as soon as it was open"))
        else:
            self._pool.connections.add(connection)
            exchange.use(connection)
