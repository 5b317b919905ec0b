"""The load: connections that ask, one request after the other, and check every answer.

Callbacks instead of tasks, because the load shares a machine with what it measures. Times are `time.perf_counter()`.
What a workload is, and whose CPU is counted, is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from benchmarks.answers import PlainAnswer, RequestShape, StreamAnswer, order_number

MOST_FAULTS_KEPT = 5
PLATEAU_SECONDS = 0.25  # after the last lane's start: its first event has come, and no stream has ended yet
MOST_BROKEN = 200  # a contestant that breaks this many is not asked any more


class LoadConnection(asyncio.Protocol):
    """A client's connection. `ended(connection, fault)` is called once for every `ask`, when its answer is complete."""

    def __init__(self, ended: Callable[[LoadConnection, str | None], None]) -> None:
        self._ended = ended
        self._asking = False
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self.closed = False
        self.started_seconds = 0.0
        self.first_event_seconds: float | None = None
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, number: int, request: bytes) -> None:
        """Send one request; the one before must have ended."""
        self.number = number
        self._asking = True
        self._parts.clear()
        self.first_event_seconds = None
        self.started_seconds = time.perf_counter()
        self.transport.write(request)

    @property
    def in_stream(self) -> bool:
        """An answer's first event has come, and its end has not."""
        return self._asking and self.first_event_seconds is not None

    @property
    def body(self) -> bytes:
        """What has come of the answer's body."""
        return b"".join(self._parts)

    def give_up(self, why: str) -> None:
        """Close; a request under way is broken."""
        self.closed = True
        self.transport.abort()
        self._end(why)

    def data_received(self, data: bytes) -> None:
        if not self._asking:
            self.give_up("bytes that nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.give_up(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._end(f"closed before the answer's end: {exc or 'orderly'}")

    def _end(self, fault: str | None) -> None:
        if self._asking:
            self._asking = False
            self._ended(self, fault)

    # -- the parser's callbacks

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        # One event's end may lie across two reads.
        if self.first_event_seconds is None and (b"\n\n" in body or b"\n\n" in self.body):
            self.first_event_seconds = time.perf_counter()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive():
            self.closed = True
            self.transport.close()
        self._end(None if status == 200 else f"status {status}: {self.body[:200]!r}")


@dataclass
class Tally:
    """What came of the requests of one run."""

    requests: int = 0
    broken: int = 0
    faults: list[str] = field(default_factory=list)
    first_event_seconds: list[float] = field(default_factory=list)
    elapsed_seconds: float = 0.0

    def count(self, connection: LoadConnection, fault: str | None) -> None:
        """One request has ended; `fault` says what was wrong with its answer."""
        self.requests += 1
        if fault is not None:
            self.broken += 1
            if len(self.faults) < MOST_FAULTS_KEPT:
                self.faults.append(f"request {connection.number}: {fault}")


class Checker:
    """Says what is wrong with the answers to requests of one shape."""

    def __init__(self, shape: RequestShape) -> None:
        self._answer = StreamAnswer(shape.events) if shape.events else PlainAnswer()

    def fault(self, connection: LoadConnection) -> str | None:
        """What is wrong with the answer that a connection has just got, or None."""
        return self._answer.fault(order_number(connection.number), connection.body)


@dataclass(frozen=True)
class Plan:
    """`lanes` clients that ask side by side, each `requests_each` times (None: until `seconds` are over).

    Lane n starts n × `stagger_seconds` after the first; no request may last beyond `limit_seconds` from the start.
    """

    shape: RequestShape
    lanes: int
    requests_each: int | None = None
    seconds: float = 0.0
    stagger_seconds: float = 0.0
    limit_seconds: float = 60.0


class Drive:
    """One run of a plan against 127.0.0.1:`port`.

    `at_plateau` is called once, a moment after the last lane has started, with the number of streams that are open.
    """

    def __init__(self, plan: Plan, port: int, *, at_plateau: Callable[[int], None] | None = None) -> None:
        self._plan = plan
        self._port = port
        self._at_plateau = at_plateau
        self._checker = Checker(plan.shape)
        self._left = dict[LoadConnection, int | None]()
        self._replacing = set[asyncio.Task[None]]()
        self._asked = 0
        self.tally = Tally()

    async def run(self) -> Tally:
        """Raises OSError when nobody listens."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        for _ in range(self._plan.lanes):
            self._left[await self._connect()] = self._plan.requests_each
        self._started_seconds = time.perf_counter()
        timers = self._set_timers()
        try:
            await self._done
        finally:
            for timer in timers:
                timer.cancel()
            for connection in self._left:
                connection.transport.abort()
        self.tally.elapsed_seconds = time.perf_counter() - self._started_seconds
        return self.tally

    def _set_timers(self) -> list[asyncio.TimerHandle]:
        plan = self._plan
        timers = [
            self._loop.call_later(lane * plan.stagger_seconds, self._next, connection)
            for lane, connection in enumerate(list(self._left))
        ]
        timers.append(self._loop.call_later(plan.limit_seconds, self._give_up))
        if self._at_plateau is not None:
            timers.append(self._loop.call_later(plan.lanes * plan.stagger_seconds + PLATEAU_SECONDS, self._look))
        return timers

    def _look(self) -> None:
        assert self._at_plateau is not None
        self._at_plateau(sum(connection.in_stream for connection in self._left))

    async def _connect(self) -> LoadConnection:
        _, connection = await self._loop.create_connection(lambda: LoadConnection(self._ended), "127.0.0.1", self._port)
        return connection

    def _may_ask(self, left: int | None) -> bool:
        if self.tally.broken >= MOST_BROKEN:
            return False
        if left is not None:
            return left > 0
        return time.perf_counter() - self._started_seconds < self._plan.seconds

    def _next(self, connection: LoadConnection) -> None:
        """The lane asks again, over a new connection where the old one was closed, or is done."""
        left = self._left[connection]
        if not self._may_ask(left):
            self._leave(connection)
        elif connection.closed:
            task = self._loop.create_task(self._replace(connection))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)
        else:
            self._left[connection] = None if left is None else left - 1
            self._asked += 1
            connection.ask(self._asked, self._plan.shape.request(self._asked))

    async def _replace(self, connection: LoadConnection) -> None:
        try:
            fresh = await self._connect()
        except OSError as error:
            self.tally.count(connection, f"cannot connect again: {error}")
            if connection in self._left:
                self._leave(connection)
            return
        if connection not in self._left:  # time was over meanwhile
            fresh.transport.abort()
            return
        self._left[fresh] = self._left.pop(connection)
        self._next(fresh)

    def _leave(self, connection: LoadConnection) -> None:
        del self._left[connection]
        connection.transport.abort()
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def _ended(self, connection: LoadConnection, fault: str | None) -> None:
        self.tally.count(connection, fault or self._checker.fault(connection))
        if connection.first_event_seconds is not None:
            waited_seconds = connection.first_event_seconds - connection.started_seconds
            self.tally.first_event_seconds.append(waited_seconds)
        if connection in self._left:
            self._next(connection)

    def _give_up(self) -> None:
        """Time is over: whatever is under way counts as broken, and nothing new is asked."""
        for connection in list(self._left):
            if connection in self._left:
                self._left[connection] = 0
                connection.give_up(f"no end within {self._plan.limit_seconds:g} s")
                if connection in self._left:
                    self._leave(connection)
