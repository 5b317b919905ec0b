"""Open connections that wait for their next request, by server.

Only connections in perfect order come in here; what "in order" means is connection.py's business. The last one in is
the first one out, so that the others grow old and are closed. A server that closes one while it could still be used
teaches how long it keeps them: a request that meets such an end on its way is lost, for nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiverse.transport.connection import Connection

MAX_IDLE_PER_ENDPOINT = 64
REAP_SECONDS = 1.0
# Of the time after which a server has closed a connection, how much the next ones are kept; the rest is for the way.
SAFE_FRACTION = 0.5
# Servers are also closed by hand; what is learned of that shall not cost every request a connection of its own.
SHORTEST_LESSON_SECONDS = 0.25
LESSON_SECONDS = 900.0
MAX_LESSONS = 1024
# A connection that ends so soon after a request was written, without an answer, was being closed already.
CROSSING_SECONDS = 1.0

PoolKey = tuple[str, str, int]


class Pool:
    """Idle connections, each kept for at most `idle_seconds`. `connections` are all open ones, idle or not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, idle_seconds: float) -> None:
        self._loop = loop
        self._idle_seconds = idle_seconds
        self._idle: dict[PoolKey, list[Connection]] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self._lessons: dict[PoolKey, tuple[float, float]] = {}  # How long to keep them, until when; oldest first.
        self.connections: set[Connection] = set()

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return sum(len(waiting) for waiting in self._idle.values())

    def take(self, key: PoolKey) -> Connection | None:
        """A connection that can be written to now, or None."""
        waiting = self._idle.get(key)
        while waiting:
            connection = waiting.pop()
            if connection.idle_until > self._loop.time():
                if connection.usable and not connection.has_unread_bytes():
                    return connection
                self._learn(connection, self._loop.time())
            connection.close()
        return None

    def keep(self, connection: Connection, *, at_most_seconds: float) -> None:
        """Take `connection` back, or close it when it would not be of use."""
        seconds = min(self._idle_seconds, at_most_seconds)
        if connection.key in self._lessons:
            seconds = min(seconds, self._lesson(connection.key))
        waiting = self._idle.get(connection.key)
        if waiting is None:
            waiting = self._idle[connection.key] = []
        if self._closed or seconds <= 0 or len(waiting) >= MAX_IDLE_PER_ENDPOINT:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        connection.idle_until = connection.idle_since + seconds
        waiting.append(connection)
        if self._reaper is None:
            self._reaper = self._loop.call_later(REAP_SECONDS, self._reap)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        waiting = self._idle.get(connection.key)
        if waiting and connection in waiting:
            waiting.remove(connection)
            self._learn(connection, self._loop.time())

    def crossed(self, connection: Connection, sent_at: float) -> None:
        """`connection`, which had been idle before `sent_at`, has ended before the head of an answer."""
        if self._loop.time() - sent_at < CROSSING_SECONDS:
            self._learn(connection, sent_at)

    def _learn(self, connection: Connection, ended_at: float) -> None:
        """The server has closed `connection`, which was idle until `ended_at`; past its time that means nothing."""
        if ended_at >= connection.idle_until:
            return
        key, seconds = connection.key, (ended_at - connection.idle_since) * SAFE_FRACTION
        seconds = min(max(seconds, SHORTEST_LESSON_SECONDS), self._lesson(key))
        self._lessons.pop(key, None)
        if len(self._lessons) >= MAX_LESSONS:
            del self._lessons[next(iter(self._lessons))]
        self._lessons[key] = seconds, self._loop.time() + LESSON_SECONDS
        for other in self._idle.get(key, ()):
            other.idle_until = min(other.idle_until, other.idle_since + seconds)

    def _lesson(self, key: PoolKey) -> float:
        """For how long connections of `key` are safe to keep, as far as has been learned."""
        seconds, until = self._lessons.get(key, (math.inf, math.inf))
        if until > self._loop.time():
            return seconds
        del self._lessons[key]
        return math.inf

    def close(self) -> None:
        """Close every connection, and those to come as they are given back."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        self._idle.clear()
        for connection in list(self.connections):
            connection.close()

    def _reap(self) -> None:
        self._reaper = None
        now = self._loop.time()
        for key, waiting in list(self._idle.items()):
            for connection in [item for item in waiting if item.idle_until <= now]:
                waiting.remove(connection)
                connection.close()
            if not waiting:
                del self._idle[key]
        if self._idle:
            self._reaper = self._loop.call_later(REAP_SECONDS, self._reap)
