"""The workloads: what is asked of a contestant, and the figures that come of it.

Each runs for a few seconds at most and gives plain numbers by name; rounds, medians and tables are made elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from benchmarks.answers import RequestShape
from benchmarks.contestants import Running
from benchmarks.load import Drive, Plan, Tally
from benchmarks.sequential import Turns

MICRO, MILLI, MEBI, KIBI = 1e6, 1e3, 2**20, 2**10
LARGE_BODY_BYTES = 32 * 1024
FEWEST_PAIRS = 200  # of a contestant too slow for all of them
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Size:
    """How much of everything a run takes."""

    name: str
    settle_seconds: float
    plain_seconds: float
    plain_lanes: int
    paced_streams: int
    paced_each: int
    wide_streams: int
    wide_events: int
    pairs: int
    warm_requests: int


FULL = Size("full", 1.0, 5.0, 32, 200, 4, 1000, 20, 1500, 300)
QUICK = Size("quick", 0.3, 1.5, 32, 200, 2, 1000, 8, 300, 100)


@dataclass(frozen=True)
class Figure:
    """One column: the key of its number, its heading, and the digits worth showing."""

    key: str
    heading: str
    digits: int = 0


@dataclass(frozen=True)
class Measured:
    """What one workload gave for one contestant in one round."""

    figures: dict[str, float]
    requests: int = 0
    broken: int = 0
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """`figures[0]` is the one that ratios are made of."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    run: Callable[[Running, Size], Measured]


def run_idle(subject: Running, size: Size) -> Measured:
    """A contestant that has given one answer and rests."""
    if subject.tree is None:
        return Measured({})
    time.sleep(size.settle_seconds)
    memory = subject.tree.memory()
    return Measured(
        {
            "pss_mib": memory.pss_bytes / MEBI,
            "rss_mib": memory.rss_bytes / MEBI,
            "start_seconds": subject.start_seconds,
        }
    )


def run_plain(subject: Running, size: Size) -> Measured:
    """Small requests, as fast as they are answered."""
    return closed_loop(subject, size, RequestShape())


def run_large(subject: Running, size: Size) -> Measured:
    """The same with a long prompt."""
    return closed_loop(subject, size, RequestShape(body_bytes=LARGE_BODY_BYTES))


def closed_loop(subject: Running, size: Size, shape: RequestShape) -> Measured:
    """So many clients that each ask again when they are answered."""
    warm_up(subject, shape, size)
    plan = Plan(shape, lanes=size.plain_lanes, seconds=size.plain_seconds, limit_seconds=size.plain_seconds + 30)
    tally, cpu_seconds = drive(subject, plan)
    figures = {"requests_per_second": tally.requests / tally.elapsed_seconds}
    if cpu_seconds is not None:
        figures["cpu_us"] = cpu_seconds / tally.requests * MICRO
    return measured(figures, tally)


def run_paced(subject: Running, size: Size) -> Measured:
    """Streams at the pace of a fast model: an event every 20 ms."""
    shape = RequestShape(events=50, interval_ms=20)
    return streams(subject, size, shape, lanes=size.paced_streams, each=size.paced_each, spread=1.0)


def run_wide(subject: Running, size: Size) -> Measured:
    """Many streams at the pace of a slow model: an event every 200 ms; memory is looked at when all are open."""
    shape = RequestShape(events=size.wide_events, interval_ms=200)
    return streams(subject, size, shape, lanes=size.wide_streams, each=1, spread=0.4)


def streams(subject: Running, size: Size, shape: RequestShape, *, lanes: int, each: int, spread: float) -> Measured:
    """Starts lie evenly in the first second, or in that part (`spread`) of a stream's length if it is less."""
    warm_up(subject, shape, size, events=min(3, shape.events))
    lanes = max(1, round(lanes * subject.contestant.scale))
    length_seconds = shape.events * shape.interval_ms / 1000
    plan = Plan(
        shape,
        lanes=lanes,
        requests_each=each,
        stagger_seconds=min(1.0, length_seconds * spread) / lanes,
        limit_seconds=1.0 + length_seconds * each + 30,
    )
    before_bytes = subject.tree.memory().pss_bytes if subject.tree is not None else 0
    at_plateau: list[tuple[int, int]] = []

    def look(open_streams: int) -> None:
        if subject.tree is not None:
            at_plateau.append((open_streams, subject.tree.memory().pss_bytes))

    tally, cpu_seconds = drive(subject, plan, look)
    figures = {"streams": float(lanes)}
    if tally.first_event_seconds:
        figures["first_p50_ms"] = percentile(tally.first_event_seconds, 50) * MILLI
        figures["first_p99_ms"] = percentile(tally.first_event_seconds, 99) * MILLI
    if cpu_seconds is not None:
        figures["cpu_us"] = cpu_seconds / (tally.requests * shape.events) * MICRO
    for open_streams, pss_bytes in at_plateau:
        if open_streams:
            figures["open_streams"] = float(open_streams)
            figures["memory_kib"] = (pss_bytes - before_bytes) / open_streams / KIBI
    return measured(figures, tally)


def run_sequential(subject: Running, size: Size) -> Measured:
    """One request at a time, here and directly in turn."""
    warm_up(subject, RequestShape(), size)
    pairs = max(min(size.pairs, FEWEST_PAIRS), round(size.pairs * subject.contestant.scale))
    turns = Turns(pairs=pairs, direct_port=subject.direct_port, port=subject.port)
    direct_seconds, seconds = on_loop(turns.run)
    figures = {
        "added_ms": (seconds - direct_seconds) * MILLI,
        "mean_ms": seconds * MILLI,
        "direct_ms": direct_seconds * MILLI,
    }
    return measured(figures, turns.tally)


WORKLOADS = (
    Workload(
        "idle",
        "Idle, after the first answer",
        (
            Figure("pss_mib", "PSS, MiB", 1),
            Figure("rss_mib", "RSS, MiB", 1),
            Figure("start_seconds", "start to first answer, s", 2),
        ),
        run_idle,
    ),
    Workload(
        "wide",
        "Wide: 1 000 streams, one event each 200 ms",
        (
            Figure("cpu_us", "CPU µs per event", 1),
            Figure("memory_kib", "memory per stream, KiB", 1),
            Figure("first_p50_ms", "first event p50, ms", 2),
            Figure("first_p99_ms", "p99, ms", 2),
        ),
        run_wide,
    ),
    Workload(
        "plain",
        "Plain: 32 connections",
        (Figure("cpu_us", "CPU µs per request", 1), Figure("requests_per_second", "requests per second")),
        run_plain,
    ),
    Workload(
        "large",
        "Plain with a body of 32 KiB: 32 connections",
        (Figure("cpu_us", "CPU µs per request", 1), Figure("requests_per_second", "requests per second")),
        run_large,
    ),
    Workload(
        "paced",
        "Paced: 200 streams of 50 events, one event each 20 ms",
        (
            Figure("cpu_us", "CPU µs per event", 1),
            Figure("first_p50_ms", "first event p50, ms", 2),
            Figure("first_p99_ms", "p99, ms", 2),
        ),
        run_paced,
    ),
    Workload(
        "sequential",
        "Sequential: one request at a time",
        (
            Figure("added_ms", "added to a direct call, mean, ms", 3),
            Figure("mean_ms", "mean, ms", 3),
            Figure("direct_ms", "direct, mean, ms", 3),
        ),
        run_sequential,
    ),
)


# -- running


def warm_up(subject: Running, shape: RequestShape, size: Size, *, events: int = 0) -> None:
    """A few requests that are not counted: what is made on first use is made, pools have connections."""
    shape = RequestShape(events=events, interval_ms=shape.interval_ms) if events else shape
    requests = max(1, round(size.warm_requests * subject.contestant.scale))
    lanes = min(size.plain_lanes, requests)
    on_loop(Drive(Plan(shape, lanes=lanes, requests_each=math.ceil(requests / lanes)), subject.port).run)


def drive(subject: Running, plan: Plan, at_plateau: Callable[[int], None] | None = None) -> tuple[Tally, float | None]:
    """Carry a plan out; what came of it, and the CPU seconds of the contestant (None for the direct way)."""
    before_seconds = subject.tree.cpu_seconds() if subject.tree is not None else 0.0
    tally = on_loop(Drive(plan, subject.port, at_plateau=at_plateau).run)
    return tally, subject.tree.cpu_seconds() - before_seconds if subject.tree is not None else None


def on_loop(run: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run to the end on an event loop of its own, without the collector's pauses."""
    with without_collector(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """No garbage collection meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measured(figures: dict[str, float], tally: Tally) -> Measured:
    """Figures together with what was broken."""
    return Measured(figures, tally.requests, tally.broken, tuple(tally.faults))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
