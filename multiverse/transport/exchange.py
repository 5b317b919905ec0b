"""One request and its answer as a future: what it waits for, how long, and how it ends.

Bytes are the business of connection.py; which connection is used is decided in http.py, where the states are drawn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tornado.httpclient import HTTPResponse

from multiverse.transport.answers import STATUSES_WITHOUT_BODY
from multiverse.transport.connection import Connection
from multiverse.transport.failures import (
    Abandoned,
    AnswerTooLarge,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    TotalTimeout,
    TransportError,
)
from multiverse.transport.messages import ResponseHead, ServerRequest, ServerResponse

SECOND_LOOK_SECONDS = 0.001


class Exchange(asyncio.Future[HTTPResponse]):
    """A future of the `ServerResponse`, or of the failure.

    `cancel()` and `abort(error)` close the connection to the server within this turn of the loop. `last_activity` is
    when the server was last heard of, in the loop's time; `received` counts the body's bytes; `reused` tells that the
    connection had served before.
    """

    _asyncio_future_blocking: bool

    def __init__(self, request: ServerRequest, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.loop = loop
        self.request = request
        self.head_bytes = request.head()
        self.connection: Connection | None = None
        self.dial: asyncio.Task[None] | None = None
        self.head: ResponseHead | None = None
        self.reused = False
        self.received = 0
        self.idle_timeout = request.idle_timeout
        self.started_at = self.last_activity = self.sent_at = loop.time()
        self._max_body_size = math.inf if request.max_body_size is None else request.max_body_size
        self._collected: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_moment = math.inf
        self._looked_again = False

    # -- towards the answer --------------------------------------------------------------------------------------------

    def wait_for_dial(self, dialling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `dialling`, which ends in `use()` or `fail()`, for as long as this exchange wants a connection."""
        self.dial = self.loop.create_task(dialling)
        self._arm_timer()
        return self.dial

    def use(self, connection: Connection) -> None:
        """A connection is there: write the request."""
        self.connection = connection
        self.dial = None
        self.sent_at = self.last_activity = self.loop.time()
        connection.start(self)
        self._arm_timer()

    def head_received(self, head: ResponseHead) -> None:
        """The final response head has come."""
        self.head = head
        announced = head.headers.get("content-length", "0")
        has_body = self.request.method != "HEAD" and head.status not in STATUSES_WITHOUT_BODY
        if has_body and int(announced) > self._max_body_size:
            raise AnswerTooLarge()
        if self.request.response_callback is not None:
            self.request.response_callback(head)
        if self.connection is not None:
            self._arm_timer()

    def body_received(self, data: bytes) -> Awaitable[None] | None:
        """Decoded body bytes."""
        self.received += len(data)
        if self.received > self._max_body_size:
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
        """End with `error` and close the connection; harmless when already ended."""
        self._let_go()
        if self.done():
            return
        if isinstance(error, StopIteration):  # A future refuses it, and would never end.
            stopped, error = error, RuntimeError("a callback raised StopIteration")
            error.__cause__ = stopped
        self.set_exception(error)

    def abort(self, error: BaseException | None = None) -> None:
        """End now with `error` (Abandoned, if none is given), in any state, and close the connection.

        Harmless when already ended. Nobody needs to await an exchange after this.
        """
        self.fail(error or Abandoned())
        if not self.cancelled():
            self.exception()  # Who aborts knows: no "exception was never retrieved".

    def discard_rest(self, within_seconds: float) -> None:
        """The caller has all it wants: end well now, and let the connection read on for at most `within_seconds`."""
        connection = self.connection
        if self.done() or connection is None or self.head is None:
            self.abort()
            return
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
            connection.close()
        dial, self.dial = self.dial, None
        if dial is not None and not dial.done():
            dial.cancel()

    # -- time ----------------------------------------------------------------------------------------------------------

    def set_idle_timeout(self, timeout_seconds: float | None) -> None:
        """Change the limit of silence in the body from now on."""
        self.idle_timeout = timeout_seconds
        self.last_activity = self.loop.time()
        if not self.done():
            self._arm_timer()

    def _nearest_deadline(self) -> tuple[float, Callable[[], TransportError]]:
        """When this exchange fails if nothing happens, and how: a failure names the phase it ended."""
        request = self.request
        moment, failure = self._phase_deadline(request)
        if request.request_timeout is not None and self.started_at + request.request_timeout < moment:
            return self.started_at + request.request_timeout, self._total_timeout
        return moment, failure

    def _total_timeout(self) -> TransportError:
        """`request_timeout` is over; the owner reads which phase it ended in."""
        if self.connection is None:
            return ConnectTimeout()
        return FirstByteTimeout() if self.head is None else TotalTimeout()

    def _phase_deadline(self, request: ServerRequest) -> tuple[float, Callable[[], TransportError]]:
        if self.connection is None:
            limit, since, failure = request.connect_timeout, self.started_at, ConnectTimeout
            return (math.inf if limit is None else since + limit), failure
        if self.head is None:
            limit, since = request.first_byte_timeout, self.sent_at
            return (math.inf if limit is None else since + limit), FirstByteTimeout
        # While our own caller holds reading back, the server's silence is not its fault: look again later.
        limit, since = self.idle_timeout, self.loop.time() if self.connection.held else self.last_activity
        return (math.inf if limit is None else since + limit), IdleTimeout

    def _arm_timer(self) -> None:
        """See to it that a timer looks at the deadlines no later than the nearest of them.

        One that looks too early costs less than moving it at every step: a chunk only moves `last_activity`.
        """
        moment, _ = self._nearest_deadline()
        if self._timer_moment <= moment:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(moment, self._on_timer)
        self._timer_moment = moment

    def _on_timer(self) -> None:
        self._timer, self._timer_moment = None, math.inf
        moment, failure = self._nearest_deadline()
        if moment > self.loop.time():
            self._looked_again = False
            self._arm_timer()
        elif self._may_have_stood_still():
            self._looked_again = True
            self._timer = self.loop.call_later(SECOND_LOOK_SECONDS, self._on_timer)
        else:
            self.fail(failure())

    def _may_have_stood_still(self) -> bool:
        """Whether something waits to be read that may have come in time, once for each deadline.

        After a standstill of the machine all timers are due, and uvloop calls them before it reads.
        """
        connection = self.connection
        return connection is not None and connection.usable and not self._looked_again and connection.has_unread_bytes()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_moment = None, math.inf
