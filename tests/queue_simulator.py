"""The fair queue's decision tried without a gateway: hours in milliseconds, first come first served beside it.

`python -m tests.queue_simulator` draws the picture in docs/fairness.md. Slots, arrivals and lengths are given; the only
thing that differs between two runs is who is next.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multiverse.proxy.fairness import Share, Waiting, ranking

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "fairness.svg"
Chooser = Callable[[Sequence[Waiting], Mapping[str, Share], float], int]


@dataclass(frozen=True)
class Request:
    """What somebody asks, when, and what it takes."""

    asker: str
    arrives: float
    seconds: float
    tokens: int = 200


@dataclass(frozen=True)
class Served:
    """How it went. `waited` is the time to its slot."""

    request: Request
    started: float
    slot: int

    @property
    def waited(self) -> float:
        return self.started - self.request.arrives

    @property
    def ended(self) -> float:
        return self.started + self.request.seconds


def fair(waiting: Sequence[Waiting], shares: Mapping[str, Share], now: float) -> int:
    """The gateway's own decision."""
    return ranking(waiting, shares, now)[0]


def first_come(waiting: Sequence[Waiting], shares: Mapping[str, Share], now: float) -> int:
    """What it is compared with."""
    return 0


def simulate(
    requests: Sequence[Request], slots: int, choose: Chooser = fair, weights: Mapping[str, int] | None = None
) -> list[Served]:
    """Every request in the order in which it got its slot. Nobody gives up and the queue has no end."""
    arrivals = sorted(requests, key=lambda request: request.arrives)
    free = list(range(slots))
    running: list[tuple[float, int, str, int]] = []
    waiting: list[tuple[Waiting, Request]] = []
    shares = {asker: Share(weight) for asker, weight in (weights or {}).items()}
    served: list[Served] = []
    now, number = 0.0, 0
    while number < len(arrivals) or waiting or running:
        moments = [arrivals[number].arrives] if number < len(arrivals) else []
        now = min([*moments, *(running[0][:1] if running else ())])
        while running and running[0][0] <= now:
            _ended, slot, asker, tokens = heapq.heappop(running)
            shares[asker].spend(tokens, now)
            shares[asker].in_flight -= 1
            shares[asker].free_since = now
            free.append(slot)
        while number < len(arrivals) and arrivals[number].arrives <= now:
            waiting.append((Waiting(arrivals[number].asker, now), arrivals[number]))
            number += 1
        while free and waiting:
            position = choose([who for who, _request in waiting], shares, now)
            _who, request = waiting.pop(position)
            slot = free.pop()
            shares.setdefault(request.asker, Share()).in_flight += 1
            heapq.heappush(running, (now + request.seconds, slot, request.asker, request.tokens))
            served.append(Served(request, now, slot))
    return served


# -- the picture


def a_lesson() -> list[Request]:
    """Thirty students and five slots of four seconds: one pastes a loop of 200, the others ask now and then."""
    flood = [Request("flood", 30.0, 4.0) for _number in range(200)]
    others = [
        Request(f"student-{student}", 7.0 * student + 60.0 * turn, 4.0) for student in range(29) for turn in range(3)
    ]
    return flood + others


def draw(served: Mapping[str, Sequence[Served]]) -> str:
    """An SVG of the waits of everybody but the flood, over the time of their asking."""
    width, height, left, bottom = 760, 300, 56, 40
    others = {name: [one for one in run if one.request.asker != "flood"] for name, run in served.items()}
    last = max(one.request.arrives for run in others.values() for one in run)
    longest = max(one.waited for run in others.values() for one in run)
    colours = {"first come, first served": "#c2410c", "fair queue": "#1d4ed8"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]

    def across(seconds: float) -> float:
        return left + seconds / last * (width - left - 20)

    def up(seconds: float) -> float:
        return height - bottom - seconds / longest * (height - bottom - 40)

    for share in range(5):
        wait = longest * share / 4
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{up(wait):.1f}" y2="{up(wait):.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{left - 8}" y="{up(wait) + 4:.1f}" text-anchor="end">{wait:.0f} s</text>')
    for minute in range(int(last // 60) + 1):
        parts.append(f'<text x="{across(60 * minute):.1f}" y="{height - 18}" text-anchor="middle">{minute} min</text>')
    for place, (name, run) in enumerate(others.items()):
        colour = colours[name]
        parts.append(f'<circle cx="{left + 14 + 200 * place}" cy="18" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 24 + 200 * place}" y="22">{name}</text>')
        points = [(across(one.request.arrives), up(one.waited)) for one in run]
        parts += [f'<circle cx="{right:.1f}" cy="{high:.1f}" r="3" fill="{colour}"/>' for right, high in points]
    return "\n".join([*parts, "</svg>"]) + "\n"


def picture() -> str:
    """The picture, as it should be."""
    runs = {"first come, first served": simulate(a_lesson(), 5, first_come), "fair queue": simulate(a_lesson(), 5)}
    return draw(runs)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.name} written\n")
