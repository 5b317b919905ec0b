"""What there is to tell: a server stays unhealthy, or is back. Compares how things stand with what was told last.

Decides in sync code over servers and a clock; no I/O. One message per change and `gap_seconds` per server: what
changes back before then is never told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from multiverse.clock import Clock, unix_from_iso
from multiverse.servers.server import HEALTHY, UNHEALTHY, Server


@dataclass(frozen=True, slots=True)
class News:
    """`server` is `down` since `seconds`, or is back after `seconds`."""

    server: Server
    down: bool
    seconds: float


@dataclass(slots=True)
class _Known:
    """What was told of one server, and since when it is as it is; monotonic seconds."""

    told_down: bool = False
    told_seconds: float = float("-inf")
    bad_since_seconds: float | None = None
    down_since_seconds: float = 0.0


class NewsDesk:
    """Looks at servers again and again. `after_seconds`: how long one is unhealthy before anybody hears of it."""

    def __init__(self, *, clock: Clock, after_seconds: float, gap_seconds: float) -> None:
        self._clock = clock
        self._after_seconds = after_seconds
        self._gap_seconds = gap_seconds
        self._known: WeakKeyDictionary[Server, _Known] = WeakKeyDictionary()

    def recall(self, servers: Iterable[Server]) -> None:
        """To be called once, with the servers as the store has them: what was told before a restart is not repeated."""
        for server in servers:
            if (seconds := _unhealthy_before(server)) >= self._after_seconds:
                since_seconds = self._clock.monotonic() - seconds
                self._known[server] = _Known(told_down=True, down_since_seconds=since_seconds)

    def look(self, servers: Iterable[Server]) -> list[News]:
        """What is to be told now; it counts as told."""
        news = [self._look_at(server) for server in servers]
        return [found for found in news if found is not None]

    def _look_at(self, server: Server) -> News | None:
        now = self._clock.monotonic()
        known = self._known.setdefault(server, _Known())
        down = self._is_down(server, known, now)
        if down is None or down == known.told_down or now - known.told_seconds < self._gap_seconds:
            return None
        if down and known.bad_since_seconds is not None:
            known.down_since_seconds = known.bad_since_seconds
        known.told_down, known.told_seconds = down, now
        return News(server, down, now - known.down_since_seconds)

    def _is_down(self, server: Server, known: _Known, now: float) -> bool | None:
        """None while there is nothing to say: taken out on purpose, loading, not probed, or not unhealthy for long."""
        if server.offers_model:
            known.bad_since_seconds = None  # Also while it is taken out: what comes after that is another outage.
        if server.draining or server.loading or server.lending.closed is not None:
            return None
        if server.offers_model:
            return False
        if server.health_status not in (UNHEALTHY, HEALTHY):
            return None
        if known.bad_since_seconds is None:
            known.bad_since_seconds = now - server.unhealthy_seconds
        return True if now - known.bad_since_seconds >= self._after_seconds else None


def _unhealthy_before(server: Server) -> float:
    """How long the gateway before this one had seen `server` unhealthy, by its last probe; 0 for any other."""
    if server.unhealthy_since is None or server.last_checked_at is None:
        return 0.0
    try:
        return unix_from_iso(server.last_checked_at) - unix_from_iso(server.unhealthy_since)
    except ValueError:
        return 0.0
