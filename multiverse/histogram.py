"""Histograms with fixed bounds, as Prometheus wants them: noting a value is a search and two additions.

Whoever measures owns one and notes in its own thread; `/metrics` reads it when it is asked. A reader in another thread
may see a value counted and not yet summed, which the next reading mends.
"""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """How many values lie at or below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Bounds as Prometheus writes them, each with the number of values at or below it; the last is `+Inf`."""
        pairs: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            pairs.append((bound, below))
        return pairs
