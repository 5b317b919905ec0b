"""What everybody has under way and has used lately, by asker. Counting is all that happens here; fairness.py judges.

A few dictionary look-ups per request, whether anybody waits or not: who has used much is known when the queue forms.
"""

from __future__ import annotations

from collections.abc import Mapping

from multiverse.clock import Clock
from multiverse.proxy.fairness import Share

FORGET_ABOVE = 2000
FORGOTTEN_TOKENS = 1.0


class Shares:
    """The shares of all askers; those who use nothing are forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shares: dict[str, Share] = {}
        self._forget_above = FORGET_ABOVE

    @property
    def by_asker(self) -> Mapping[str, Share]:
        """For the decision."""
        return self._shares

    def begin(self, asker: str, weight: int) -> None:
        """A request of `asker` takes a slot; `end` must follow."""
        share = self._shares.get(asker)
        if share is None:
            if len(self._shares) >= self._forget_above:
                self._forget()
            share = self._shares[asker] = Share()
        share.weight = weight
        share.in_flight += 1

    def end(self, asker: str) -> None:
        """It gives the slot back."""
        share = self._shares[asker]
        share.in_flight -= 1
        share.free_since = self._clock.monotonic()

    def spend(self, asker: str, tokens: int) -> None:
        """A request of `asker` has cost `tokens`; before its slot is free, so that the next turn knows."""
        share = self._shares.get(asker)
        if share is not None:
            share.spend(tokens, self._clock.monotonic())

    def _forget(self) -> None:
        """Drop who has nothing under way and nothing left of what was used; seldom, since it looks at all of them."""
        now = self._clock.monotonic()
        self._shares = {
            asker: share
            for asker, share in self._shares.items()
            if share.in_flight or share.used_at(now) >= FORGOTTEN_TOKENS
        }
        self._forget_above = max(FORGET_ABOVE, 2 * len(self._shares))
