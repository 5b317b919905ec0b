"""Keeps what is judged of all servers' terms true: looks again as minutes pass, and counts tokens of the day on disk.

Quiet hours and days begin and end with a minute, in every time zone. Tokens are counted anew from the store's usage
after a start, when a day begins and when a server's time zone changes; from then on each request adds its own.
"""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from multiverse.clock import Clock
from multiverse.errors import StoreFailed
from multiverse.servers.registry import Registry
from multiverse.servers.server import Server
from multiverse.storage.usage_table import UsageTable
from multiverse.ticking import SteadyCallback

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SECONDS_OF_A_MINUTE = 60
LENT = "again"


class TermsWatch:
    """Watches the terms of every server of `registry`."""

    def __init__(self, *, registry: Registry, usage_table: UsageTable, clock: Clock) -> None:
        self._registry = registry
        self._usage_table = usage_table
        self._clock = clock
        self._minute: int | None = None
        self._told: WeakKeyDictionary[Server, str] = WeakKeyDictionary()
        self._ticker = SteadyCallback(self.look, LOOK_SECONDS * 1000)

    def start(self) -> None:
        """Look from now on."""
        self._ticker.start()

    def stop(self) -> None:
        """Look no more."""
        self._ticker.stop()

    async def look(self) -> None:
        """Once in each minute, judge all terms anew; at every look, tell of servers that have opened or closed."""
        minute = int(self._clock.unix_seconds() // SECONDS_OF_A_MINUTE)
        new_minute = minute != self._minute
        self._minute = minute
        for server in list(self._registry.servers):
            if new_minute:
                server.lending.judge()
            self._tell(server)  # A request may have used up the tokens of its day meanwhile.
        if new_minute:
            await self.count()

    def _tell(self, server: Server) -> None:
        """Tell the log, and whoever waits for the server, once for each change."""
        closed = server.lending.closed
        lent = closed.word if closed else LENT
        if lent == self._told.get(server, LENT):
            return
        self._told[server] = lent
        LOG.info("lending changed", extra={"fields": {"server": server.registration_id, "lent": lent}})
        self._registry.changed(server)

    async def count(self) -> None:
        """Read from the store what servers have given today, for those of which it is not known."""
        for day_began_at in {server.lending.day_began_at for server in self._uncounted()}:
            # Asked again for each day: while one was read, somebody else may have counted the others.
            servers = [server for server in self._uncounted() if server.lending.day_began_at == day_began_at]
            # What ends from now on adds itself; what has ended is in the store, or queued before what we read.
            counts = [(server, server.lending.begin_count()) for server in servers]
            try:
                tokens = await self._usage_table.tokens_since(day_began_at)
            except StoreFailed as error:
                LOG.warning("tokens of today not counted", extra={"fields": {"reason": error.message}})
                for server in servers:
                    server.lending.uncounted = True  # In the next minute again.
                continue
            for server, count in counts:
                server.lending.add_counted(count, tokens.get(server.registration_id, 0))
                server.lending.judge()
                self._tell(server)

    def _uncounted(self) -> list[Server]:
        return [server for server in self._registry.servers if server.lending.uncounted]
