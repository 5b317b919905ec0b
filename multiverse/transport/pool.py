"""Open connections that wait for their next request, by server.

Only connections in perfect order come in here; what "in order" means is connection.py's business. The last one in is
the first one out, so that the others grow old and are closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiverse.transport.connection import Connection

MAX_IDLE_PER_ENDPOINT = 64
REAP_SECONDS = 1.0

PoolKey = tuple[str, str, int]


class Pool:
    """Idle connections, each kept for at most `idle_seconds`. `connections` are all open ones, idle or not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, idle_seconds: float) -> None:
        self._loop = loop
        self._idle_seconds = idle_seconds
        self._idle: dict[PoolKey, list[Connection]] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
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
            if connection.idle_until > self._loop.time() and connection.usable and not connection.has_unread_bytes():
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection, *, at_most_seconds: float) -> None:
        """Take `connection` back, or close it when it would not be of use."""
        seconds = min(self._idle_seconds, at_most_seconds)
        waiting = self._idle.get(connection.key)
        if waiting is None:
            waiting = self._idle[connection.key] = []
        if self._closed or seconds <= 0 or len(waiting) >= MAX_IDLE_PER_ENDPOINT:
            connection.close()
            return
        connection.idle_until = self._loop.time() + seconds
        waiting.append(connection)
        if self._reaper is None:
            self._reaper = self._loop.call_later(REAP_SECONDS, self._reap)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        waiting = self._idle.get(connection.key)
        if waiting and connection in waiting:
            waiting.remove(connection)

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
