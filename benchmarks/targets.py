"""What the gateway shall reach beside its peers, and whether a run says that it does.

Each target is one number: a figure of the gateway, or how it compares with a peer's, round by round. What was not
measured is neither held nor missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.medians import Rounds, median_of, median_ratio
from benchmarks.rounds import Results


@dataclass(frozen=True)
class Target:
    """The gateway's `key` in `workload` is at most `limit`; × the peer's where there is a `peer`.

    `cheaper` turns it round: the peer's is at least `limit` × the gateway's.
    """

    text: str
    workload: str
    key: str
    limit: float
    peer: str | None = None
    cheaper: bool = False

    def measured(self, rows: Mapping[str, Rounds], gateway: str) -> float | None:
        """The number that is held against the limit, or None."""
        ours = rows.get(gateway, ())
        if self.peer is None:
            return median_of(ours, self.key)
        theirs = rows.get(self.peer, ())
        return median_ratio(theirs, ours, self.key) if self.cheaper else median_ratio(ours, theirs, self.key)

    def holds(self, measured: float) -> bool:
        """Whether it is reached."""
        return measured >= self.limit if self.cheaper else measured <= self.limit

    @property
    def shown_limit(self) -> str:
        """The limit with its sign."""
        sign, times = ("≥" if self.cheaper else "≤"), (" ×" if self.peer is not None else "")
        return f"{sign} {self.limit:g}{times}"


TARGETS = (
    Target("CPU per request, plain, × sglang-router's", "plain", "cpu_us", 1.1, peer="sglang-router"),
    Target("CPU per event, paced, × sglang-router's", "paced", "cpu_us", 1.1, peer="sglang-router"),
    Target("cheaper than LiteLLM per request, plain", "plain", "cpu_us", 50, peer="litellm", cheaper=True),
    Target("added to a direct call, sequential, mean, ms", "sequential", "added_ms", 0.5),
    Target("first event p99, 200 streams, × nginx's", "paced", "first_p99_ms", 3, peer="nginx"),
)


def target_rows(results: Results) -> list[list[str]]:
    """Heading and rows of the table: a column for each gateway. Empty when no gateway took part."""
    gateways = [name for name in results.requests if is_ours(name)]
    if not gateways:
        return []
    rows = [["", "target", *gateways]]
    for target in TARGETS:
        figures = results.figures.get(target.workload, {})
        rows.append([target.text, target.shown_limit, *(verdict(target, figures, name) for name in gateways)])
    broken = [results.broken.get(name, 0) for name in gateways]
    rows.append(["broken requests", "0", *(f"{count:,}, {'missed' if count else 'held'}" for count in broken)])
    return rows


def verdict(target: Target, figures: Mapping[str, Rounds], gateway: str) -> str:
    """One cell: the number, and whether it holds."""
    measured = target.measured(figures, gateway)
    if measured is None:
        return "–"
    return f"{measured:,.2f}, {'held' if target.holds(measured) else 'missed'}"


def is_ours(name: str) -> bool:
    """Whether a contestant is a gateway, whatever its settings and its tree."""
    return name == "gateway" or name.startswith("gateway ")
