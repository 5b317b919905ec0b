"""How often somebody may do something: the generic cell rate algorithm, one number per caller.

A few lines of our own, because the libraries for it bring threads or one bucket for all. Exact in a single event loop:
`allow` has no await. GCRA: ITU-T I.371; RFC-free, but see RFC 6585 §4 for the 429 it leads to.
"""

from __future__ import annotations

from multiverse.clock import Clock

FORGET_ABOVE = 10_000


class RateLimit:
    """At most `limit` events in `period_seconds` per name: all of them at once, or spread out."""

    def __init__(self, *, limit: int, period_seconds: float, clock: Clock) -> None:
        self._interval = period_seconds / limit
        self._burst_seconds = period_seconds - self._interval
        self._clock = clock
        self._arrivals: dict[str, float] = {}

    def allow(self, name: str) -> float | None:
        """Count one event of `name`. None when it is allowed, else the seconds until the next one will be."""
        now = self._clock.monotonic()
        arrival = max(self._arrivals.get(name, now), now)
        wait_seconds = arrival - self._burst_seconds - now
        if wait_seconds > 1e-9:
            return wait_seconds
        self._arrivals[name] = arrival + self._interval
        if len(self._arrivals) > FORGET_ABOVE:
            self._forget_the_idle(now)
        return None

    def wait_seconds(self, name: str) -> float | None:
        """As `allow`, without counting."""
        now = self._clock.monotonic()
        wait_seconds = max(self._arrivals.get(name, now), now) - self._burst_seconds - now
        return wait_seconds if wait_seconds > 1e-9 else None

    def _forget_the_idle(self, now: float) -> None:
        self._arrivals = {name: arrival for name, arrival in self._arrivals.items() if arrival > now}
