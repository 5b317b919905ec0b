"""How often somebody may do something: the generic cell rate algorithm, one number per caller.

A few lines of our own, because the libraries for it bring threads or one bucket for all. Exact in a single event loop:
`allow` has no await, and time is counted in whole nanoseconds. GCRA: ITU-T I.371; see RFC 6585 §4 for the 429.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address

from multiverse.clock import Clock

NANOSECONDS = 1_000_000_000
FORGET_ABOVE = 10_000
HOST_BITS = 64
ADDRESSES_REMEMBERED = 1024


def counted_address(address: str) -> str:
    """The name under which a peer is counted: its address without a port, or an IPv6 address' /64.

    So many addresses has everybody who has one (RFC 6177): limits by single ones would limit nobody.
    """
    if ":" not in address:
        return address
    bare = address[1:].partition("]")[0] if address.startswith("[") else address
    if bare.count(":") == 1:
        return bare.partition(":")[0]  # IPv4 with a port, as some proxies write it.
    try:
        return _network(bare.partition("%")[0])
    except ValueError:
        return bare


@lru_cache(ADDRESSES_REMEMBERED)  # Asked for every request; what is no address raises, and is not remembered.
def _network(address: str) -> str:
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> HOST_BITS << HOST_BITS)}/{128 - HOST_BITS}")


class RateLimit:
    """At most `limit` events in `period_seconds` per name: all of them at once, or spread out."""

    def __init__(self, *, limit: int, period_seconds: float, clock: Clock) -> None:
        self._limit = limit
        self._interval = int(period_seconds * NANOSECONDS) // limit
        self._burst = self._interval * (limit - 1)
        self._clock = clock
        # The moment until which a name has used up its events. Whoever asked last stands last; a plain dict would make
        # the way to the first one long.
        self._used_until: OrderedDict[str, int] = OrderedDict()

    def allow(self, name: str) -> float | None:
        """Count one event of `name`. None when it is allowed, else the seconds until the next one will be."""
        now, used_until = int(self._clock.monotonic() * NANOSECONDS), self._used_until
        until = used_until.pop(name, now)
        if until < now:
            until = now
        wait = until - self._burst - now
        used_until[name] = until + self._interval if wait <= 0 else until
        self._forget_some(now)
        return wait / NANOSECONDS if wait > 0 else None

    def state(self, name: str) -> tuple[int, float]:
        """How many events of `name` would be allowed now, and the seconds until all of them are again."""
        now = int(self._clock.monotonic() * NANOSECONDS)
        until = self._used_until.get(name, now)
        if until <= now:
            return self._limit, 0.0
        ahead = until - now  # Never more than the whole of it: what would be is not allowed.
        return (self._burst + self._interval - ahead) // self._interval, ahead / NANOSECONDS

    def _forget_some(self, now: int) -> None:
        """Drop up to two names that are no longer limited, and beyond `FORGET_ABOVE` whoever has not asked for longest.

        Two for each that may be new: the table shrinks without ever being searched.
        """
        for _name in range(2):
            oldest = next(iter(self._used_until))
            if self._used_until[oldest] > now and len(self._used_until) <= FORGET_ABOVE:
                return
            del self._used_until[oldest]
