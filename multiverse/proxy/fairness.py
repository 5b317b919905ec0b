"""Whose turn it is: the decision of the fair queue, over plain data, without clocks, locks or I/O.

Fair between askers, not requests: whoever has used least goes first, and whoever has waited long enough goes before.
docs/fairness.md explains why, with a picture; tests/queue_simulator.py tries it. Slots and waiting live in queue.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

# What somebody used counts half after a minute: a class forgets within its hour.
HALF_LIFE_SECONDS = 60.0
# Tokens that a second of waiting outweighs.
AGEING_TOKENS_PER_SECOND = 50.0
# Beyond so many tokens nobody counts as heavier: whoever is, waits at most that long for those who are new.
HEAVIEST_TOKENS = 1500.0
# What a request is taken to cost while it runs, before an asker's own are known.
USUAL_TOKENS = 200.0


@dataclass(slots=True)
class Share:
    """What one asker has used lately, as of `moment`; `in_flight` requests are under way. `free_since` is when the last
    one ended.
    """

    weight: int = 1
    used: float = 0.0
    moment: float = 0.0
    in_flight: int = 0
    free_since: float = float("-inf")
    usual_tokens: float = USUAL_TOKENS

    def spend(self, tokens: int, now: float) -> None:
        """A request has cost `tokens`."""
        self.used = self.used_at(now) + tokens
        self.moment = now
        self.usual_tokens += (tokens - self.usual_tokens) / 4

    def used_at(self, now: float) -> float:
        """What is left of it, half of it gone every half-life."""
        return float(self.used * 0.5 ** ((now - self.moment) / HALF_LIFE_SECONDS)) if self.used else 0.0

    def cost(self, now: float) -> float:
        """Tokens used lately and under way, by weight; never more than the heaviest."""
        return min((self.used_at(now) + self.in_flight * self.usual_tokens) / self.weight, HEAVIEST_TOKENS)


NO_SHARE = Share()


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits since `entered_seconds`."""

    asker: str
    entered_seconds: float


def ranking(
    waiting: Sequence[Waiting], shares: Mapping[str, Share], now: float, owners: Collection[str] = ()
) -> list[int]:
    """The positions in `waiting` in the order of their turns; `waiting` is in the order of arrival.

    `owners` have servers of their own among those that are free, and go first. Each asker's requests keep their order,
    and each turn that somebody gets counts for the next as one request under way.
    """
    lines: dict[str, list[int]] = {}
    for position, request in enumerate(waiting):
        lines.setdefault(request.asker, []).append(position)
    turns: list[tuple[bool, float, int]] = []
    for asker, positions in lines.items():
        share = shares.get(asker, NO_SHARE)
        turn_cost = share.usual_tokens / share.weight
        # Who has a request under way is not starving, however long the others of the same asker wait.
        idle_since = now if share.in_flight else max(waiting[positions[0]].entered_seconds, share.free_since)
        score = share.cost(now) - AGEING_TOKENS_PER_SECOND * (now - idle_since)
        for turn, position in enumerate(positions):
            turns.append((asker not in owners, score + turn * turn_cost, position))
    turns.sort()
    return [position for _nobodys, _score, position in turns]


def whom_to_drop(waiting: Sequence[Waiting], newcomer: str) -> int | None:
    """Whose place in a full queue `newcomer` gets: the last of whoever has most there. None if that is no fairer."""
    counts = Counter(request.asker for request in waiting)
    if not counts:
        return None
    heaviest, count = max(counts.items(), key=lambda item: item[1])
    if count <= counts[newcomer] + 1:
        return None
    return max(position for position, request in enumerate(waiting) if request.asker == heaviest)


@dataclass(slots=True)
class Pace:
    """How fast slots come free, from the moments of the last few ends."""

    ends: list[float] = field(default_factory=list)

    def note(self, now: float) -> None:
        """A slot has come free."""
        self.ends.append(now)
        if len(self.ends) > 16:
            del self.ends[0]

    def seconds_per_slot(self, now: float) -> float | None:
        """The time between two free slots; None before enough is known, or when it was too long ago."""
        if len(self.ends) < 4:
            return None
        usual = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        since = now - self.ends[-1]
        if since > 10 * usual + 1.0:
            return None
        return max(usual, since)
