"""What is made of the rounds: medians, ranges, and ratios of two contestants, taken round by round.

A ratio within one round compares what ran minutes apart at most; its median over the rounds is robust against a noisy
machine, where the ratio of two medians is not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Rounds = Sequence[dict[str, float]]


def by_round(rounds: Rounds, key: str) -> dict[float, float]:
    """One figure in every round that has it, by the round's number (the place where the number is missing)."""
    return {figures.get("round", place): figures[key] for place, figures in enumerate(rounds, 1) if key in figures}


def values_of(rounds: Rounds, key: str) -> list[float]:
    """One figure in every round that has it."""
    return list(by_round(rounds, key).values())


def median_of(rounds: Rounds, key: str) -> float | None:
    """The median over the rounds, or None when no round has it."""
    values = values_of(rounds, key)
    return statistics.median(values) if values else None


def ratios_of(rounds: Rounds, reference: Rounds, key: str) -> list[float]:
    """How many times the reference's a figure is, in every round that has both; no ratio to what is not positive."""
    references = by_round(reference, key)
    return [
        value / references[number] for number, value in by_round(rounds, key).items() if references.get(number, 0) > 0
    ]


def median_ratio(rounds: Rounds, reference: Rounds, key: str) -> float | None:
    """The median of those ratios, or None when there is none."""
    ratios = ratios_of(rounds, reference, key)
    return statistics.median(ratios) if ratios else None


def spread(values: Sequence[float], digits: int) -> str:
    """Median (least–most); the median alone when there is one value, a dash when there is none."""
    if not values:
        return "–"
    middle, least, most = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least}–{most})" if len(values) > 1 else middle
