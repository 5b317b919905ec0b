"""`Feed`: what changed since a moment, as server-sent events: verdicts, counts, requests in flight, new log records.

It looks at all servers a few times a second while somebody listens, and not at all otherwise. Every listener says up to
which version it knows everything; who reads slowly gets several changes as one, and nothing piles up for anybody.
Source of the format: HTML Living Standard, §9.2 Server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from multiverse.servers.registry import Registry
from multiverse.servers.server import Server

LOOK_SECONDS = 0.4
MOST_REMOVED = 2_000


class Feed:
    """The changes of `registry` (each server as `document` shows it), of `counts()`, and the latest log record's id."""

    def __init__(
        self,
        *,
        registry: Registry,
        document: Callable[[Server], dict[str, Any]],
        counts: Callable[[], dict[str, Any]],
        last_log_id: Callable[[], int],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._registry = registry
        self._document = document
        self._read_counts = counts
        self._read_last_log_id = last_log_id
        self._look_seconds = look_seconds
        self._version = 1
        self._seen: dict[str, tuple[object, ...]] = {}
        # Id → version of its last change; whatever changed last stands last.
        self._changed: OrderedDict[str, int] = OrderedDict()
        self._removed: OrderedDict[str, int] = OrderedDict()
        self._forgotten_version = 0
        self._counts: dict[str, Any] = {}
        self._counts_version = 0
        self._log_id = 0
        self._log_version = 0
        self._listeners = 0
        self._watching: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._encoded: tuple[int, int, bytes] = (0, 0, b"")

    # -- listening -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        """For as long as somebody listens; gives the version from which on `since` knows everything."""
        self._listeners += 1
        if self._watching is None:
            self.look()
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield self._version
        finally:
            self._listeners -= 1
            if not self._listeners and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    async def wait(self, version: int, timeout_seconds: float) -> bool:
        """Until there is something newer than `version`; False when the time is over."""
        if self._version > version:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._news.wait()
        return self._version > version

    def greeting(self) -> bytes:
        """The first events of a listener: it asks for the servers itself, if it wants them."""
        numbers = event("counts", self._counts) + event("logs", {"last_id": self._log_id})
        return event("hello", {}) + numbers

    def since(self, version: int) -> tuple[int, bytes]:
        """The present version, and the events that lead there from `version`.

        `hello` among them means that too much was forgotten: ask for everything anew.
        """
        if self._encoded[:2] != (version, self._version):
            self._encoded = (version, self._version, self._events(version))
        return self._version, self._encoded[2]

    def _events(self, version: int) -> bytes:
        if version < self._forgotten_version:
            return self.greeting()
        known = [self._registry.get(registration_id) for registration_id in _newer(self._changed, version)]
        changed, removed = [server for server in known if server is not None], list(_newer(self._removed, version))
        events = []
        if changed or removed:
            documents = [self._document(server) for server in changed]
            events.append(event("servers", {"changed": documents, "removed": removed}))
        if self._counts_version > version:
            events.append(event("counts", self._counts))
        if self._log_version > version:
            events.append(event("logs", {"last_id": self._log_id}))
        return b"".join(events)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            self.look()

    def look(self) -> None:
        """Compare everything with how it was; whatever differs gets a new version."""
        version = self._version + 1
        news = self._look_at_servers(version)
        counts = self._read_counts()
        if counts != self._counts:
            self._counts, self._counts_version, news = counts, version, True
        log_id = self._read_last_log_id()
        if log_id != self._log_id:
            self._log_id, self._log_version, news = log_id, version, True
        if news:
            self._version = version
            told, self._news = self._news, asyncio.Event()
            told.set()

    def _look_at_servers(self, version: int) -> bool:
        seen = {server.registration_id: _shown(server) for server in self._registry.servers}
        changed = [name for name, shown in seen.items() if self._seen.get(name) != shown]
        removed = [name for name in self._seen if name not in seen]
        for name in changed:
            self._changed[name] = version
            self._changed.move_to_end(name)
            self._removed.pop(name, None)
        for name in removed:
            self._changed.pop(name, None)
            self._removed[name] = version
            if len(self._removed) > MOST_REMOVED:
                self._forgotten_version = self._removed.popitem(last=False)[1]
        self._seen = seen
        return bool(changed or removed)


def event(name: str, document: dict[str, Any]) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(document) + b"\n\n"


def _shown(server: Server) -> tuple[object, ...]:
    """What tells whether the record of `server` differs from before, without building it."""
    return (
        server.registration,
        server.health_status,
        server.availability,
        server.reason,
        server.in_flight,
        server.lending.closed,
        server.lending.tokens_today,
        server.consecutive_failures,
        server.response_time_ms,
        server.last_checked_at,
        server.last_successful_request_at,
    )


def _newer(versions: OrderedDict[str, int], version: int) -> Iterator[str]:
    for name in reversed(versions):
        if versions[name] <= version:
            return
        yield name
