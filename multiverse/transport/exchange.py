"""One request and its answer as a future: what it waits for, how long, and how it ends.

Bytes are the business of connection.py; which connection is used is decided in http.py, where the states are drawn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from multiverse.alarm import Alarm
from multiverse.transport.absence import bear_with_slow_reading
from multiverse.transport.answers import STATUSES_WITHOUT_BODY
from multiverse.transport.connection import SMALL_BODY_BYTES, Connection
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


class Exchange(asyncio.Future[Any]):
    """A future of the `ServerResponse` (or of None, if the request wants none), or of the failure.

    `cancel()` and `abort(error)` close the connection to the server within this turn of the loop. `last_activity` is
    when the server was last heard of, in the loop's time; `received` counts the body's bytes; `reused` tells that the
    connection had served before.
    """

    # What a future's class keeps in a dictionary takes twice as long to make, and thrice as long to read.
    __slots__ = (
        "_collected",
        "_dial_alarm",
        "_looked_again",
        "_max_body_size",
        "_on_read",
        "connection",
        "content_timeout",
        "dial",
        "head",
        "head_bytes",
        "idle_timeout",
        "last_activity",
        "loop",
        "received",
        "request",
        "reused",
        "sent_at",
        "started_at",
    )
    _asyncio_future_blocking: bool

    def __init__(self, request: ServerRequest, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        form = request.form
        self.loop = loop
        self.request = request
        self.head_bytes = request.head()
        self.connection: Connection | None = None
        self.dial: asyncio.Task[None] | None = None
        self.head: ResponseHead | None = None
        self.reused = False
        self.received = 0
        self.content_timeout = form.content_timeout
        self.idle_timeout = form.idle_timeout
        self.started_at = self.last_activity = self.sent_at = loop.time()
        self._max_body_size = form.max_body_size
        self._collected: list[bytes] = []
        self._dial_alarm: Alarm | None = None
        self._looked_again = False
        self._on_read: Callable[[], None] | None = None

    # -- towards the answer --------------------------------------------------------------------------------------------

    def wait_for_dial(self, dialling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `dialling`, which ends in `use()` or `fail()`, for as long as this exchange wants a connection."""
        self.dial = self.loop.create_task(dialling)
        self._dial_alarm = Alarm(self.loop, self.look_at_deadlines)
        self._set(self._dial_alarm)
        return self.dial

    def use(self, connection: Connection) -> None:
        """A connection is there: write the request."""
        self.connection = connection
        if self._dial_alarm is not None:
            self._end_dial()
            self.sent_at = self.last_activity = self.loop.time()
        payload, inlet = self.request.payload, connection.inlet
        if payload is not None and len(payload) > SMALL_BODY_BYTES and inlet is not None:
            self._on_read = bear_with_slow_reading(inlet.get_extra_info("socket"))
        connection.start(self)
        if connection.alarm.moment > self.started_at + self.request.form.shortest_timeout:
            self._set(connection.alarm)

    def head_received(self, head: ResponseHead) -> None:
        """The final response head has come."""
        self.head = head
        if self._on_read is not None:
            self._on_read()
            self._on_read = None
        request = self.request
        if self._max_body_size != math.inf:
            announced = head.headers.get("content-length", "0")
            has_body = request.form.method != "HEAD" and head.status not in STATUSES_WITHOUT_BODY
            if has_body and int(announced) > self._max_body_size:
                raise AnswerTooLarge()
        if request.response_callback is not None:
            request.response_callback(head)
        if self.idle_timeout is not None and self.connection is not None:
            self._set(self.connection.alarm)

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
        self.connection = None
        connection.release()
        if not self.done():
            self.set_result(self._response())

    def _response(self) -> ServerResponse | None:
        if self.head is None or not self.request.form.wants_response:
            return None
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
        self.connection = None
        connection.discard_rest(within_seconds)
        self.set_result(self._response())

    def cancel(self, msg: Any = None) -> bool:
        """As a future's `cancel()`, and the connection is closed."""
        self._let_go()
        return super().cancel(msg)

    def _let_go(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        dial = self.dial
        self._end_dial()
        if dial is not None and not dial.done():
            dial.cancel()

    def _end_dial(self) -> None:
        self.dial = None
        if self._dial_alarm is not None:
            self._dial_alarm.stop()
            self._dial_alarm = None

    # -- time ----------------------------------------------------------------------------------------------------------

    def content_came(self, idle_timeout: float | None) -> None:
        """What the caller has waited for is there: `content_timeout` is over, from now on silence has a limit."""
        self.content_timeout = None
        self.set_idle_timeout(idle_timeout)

    def set_idle_timeout(self, timeout_seconds: float | None) -> None:
        """Change the limit of silence in the body from now on."""
        self.idle_timeout = timeout_seconds
        self.last_activity = self.loop.time()
        if self.connection is not None:
            self._set(self.connection.alarm)

    def _nearest_deadline(self) -> tuple[float, Callable[[], TransportError]]:
        """When this exchange fails if nothing happens, and how: a failure names the phase it ended."""
        moment, failure = self._phase_deadline()
        if self.content_timeout is not None and self.started_at + self.content_timeout < moment:
            moment, failure = self.started_at + self.content_timeout, FirstByteTimeout
        limit = self.request.form.request_timeout
        if limit is not None and self.started_at + limit < moment:
            moment, failure = self.started_at + limit, self._total_timeout
        return moment, failure

    def _total_timeout(self) -> TransportError:
        """`request_timeout` is over; the owner reads which phase it ended in."""
        if self.connection is None:
            return ConnectTimeout()
        return FirstByteTimeout() if self.head is None else TotalTimeout()

    def _phase_deadline(self) -> tuple[float, Callable[[], TransportError]]:
        if self.connection is None:
            limit, since = self.request.form.connect_timeout, self.started_at
            return (math.inf if limit is None else since + limit), ConnectTimeout
        if self.head is None:
            limit, since = self.request.form.first_byte_timeout, self.sent_at
            return (math.inf if limit is None else since + limit), FirstByteTimeout
        # While our own caller holds reading back, the server's silence is not its fault: look again later.
        limit, since = self.idle_timeout, self.loop.time() if self.connection.held else self.last_activity
        return (math.inf if limit is None else since + limit), IdleTimeout

    def _set(self, alarm: Alarm) -> None:
        """Have `alarm` ring no later than at the nearest deadline.

        That it may ring too early costs less than moving it at every step: a chunk only moves `last_activity`.
        """
        alarm.ring_by(self._nearest_deadline()[0])

    def look_at_deadlines(self, alarm: Alarm) -> None:
        """`alarm` rings: fail if a deadline is over, else see to it that it rings again."""
        moment, failure = self._nearest_deadline()
        if moment > self.loop.time():
            self._looked_again = False
            alarm.ring_by(moment)
        elif self._may_have_stood_still():
            self._looked_again = True
            alarm.ring_by(self.loop.time() + SECOND_LOOK_SECONDS)
        else:
            self.fail(failure())

    def _may_have_stood_still(self) -> bool:
        """Whether something waits to be read that may have come in time, once for each deadline.

        After a standstill of the machine all timers are due, and uvloop calls them before it reads.
        """
        if self._looked_again or self.connection is None or not self.connection.usable:
            return False
        return self.connection.has_unread_bytes()
