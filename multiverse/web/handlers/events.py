"""`GET /admin/events`: the one stream of server-sent events from which pages learn what changes.

What the events are stands in web/feed.py. A stream ends when its listener is no admin any more, and when the gateway
drains.
"""

from __future__ import annotations

import contextlib

from tornado.iostream import StreamClosedError

from multiverse.errors import Overloaded
from multiverse.web.feed import Feed
from multiverse.web.handlers.base import GatewayHandler

MOST_LISTENERS = 500
LOOK_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 10.0


class EventsHandler(GatewayHandler):
    """One listener."""

    _left = False

    async def get(self) -> None:
        """Changes, until the listener leaves."""
        feed: Feed = self.application.settings["feed"]
        if feed.listeners >= MOST_LISTENERS:
            raise Overloaded("Too many pages listen already. Ask again later.", retry_after_seconds=30)
        self._set_stream_headers()
        with contextlib.suppress(StreamClosedError), feed.listening() as version:
            self.write(feed.greeting())
            await self.flush()
            await self._tell(feed, version)
        if not self._left:
            self.finish()

    def head(self) -> None:
        """As GET, without a stream."""
        self._set_stream_headers()

    def _set_stream_headers(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")

    async def _tell(self, feed: Feed, version: int) -> None:
        clock = self.gateway.clock
        told_seconds = clock.monotonic()
        while self._may_listen() and not (self._left or self.gateway.draining):
            if await feed.wait(version, LOOK_SECONDS):
                version, events = feed.since(version)
            elif clock.monotonic() - told_seconds >= KEEP_ALIVE_SECONDS:
                events = b": keep-alive\n\n"
            else:
                continue
            told_seconds = clock.monotonic()
            self.write(events)
            await self.flush()

    def _may_listen(self) -> bool:
        """Sessions end, keys are revoked, expire and change their role: asked at each look, not at the door only."""
        caller = self.known_caller()
        return caller is not None and caller.is_admin

    def on_connection_close(self) -> None:
        """The listener left."""
        super().on_connection_close()
        self._left = True
