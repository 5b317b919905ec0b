"""How tests wait: until something holds, never for a fixed time; and how they measure beside others on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

POLL_SECONDS, LOOP_POLL_SECONDS = 0.01, 0.002


def eventually(question: Callable[[], Value], promise: str, within_seconds: float = 2.0) -> Value:
    """Ask until the answer is true and return it; AssertionError that tells `promise` and the last answer if not."""
    return _ask(question, bool, promise, within_seconds)


def eventually_equal(
    question: Callable[[], object], expected: object, promise: str, within_seconds: float = 2.0
) -> None:
    """Ask until the answer equals `expected`; AssertionError that tells `promise` and the last answer if not."""
    _ask(question, lambda value: value == expected, f"{promise} (should be {expected!r})", within_seconds)


def never(question: Callable[[], object], promise: str, for_seconds: float) -> None:
    """AssertionError that tells `promise` as soon as the answer is true; returns after `for_seconds`."""
    stop_at = time.monotonic() + for_seconds
    while time.monotonic() < stop_at:
        value = question()
        assert not value, f"{promise} (seen: {value!r})"
        time.sleep(POLL_SECONDS)


def _ask(question: Callable[[], Value], accepts: Callable[[Value], bool], promise: str, within_seconds: float) -> Value:
    give_up_at = time.monotonic() + within_seconds
    while True:
        value = question()
        if accepts(value):
            return value
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"{promise}: not within {within_seconds} s (last seen: {value!r})")
        time.sleep(POLL_SECONDS)


async def soon(question: Callable[[], Value], promise: str, within_seconds: float = 3.0) -> Value:
    """As `eventually`, inside a loop that goes on meanwhile."""
    give_up_at = time.monotonic() + within_seconds
    while not (value := question()):
        assert time.monotonic() < give_up_at, f"{promise}: not within {within_seconds} s (last seen: {value!r})"
        await asyncio.sleep(LOOP_POLL_SECONDS)
    return value


class Stopwatch:
    """Seconds since it was made. `others` are processes besides this one that have to work meanwhile."""

    def __init__(self, *others: int) -> None:
        self._processes = ("self", *others)
        self._waited_before = self._waited_for_cpu()
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._started

    @property
    def own_seconds(self) -> float:
        """The same for upper bounds: without those in which a thread was ready to run while others had the CPU."""
        return self.seconds - (self._waited_for_cpu() - self._waited_before)

    def _waited_for_cpu(self) -> float:
        """Over all threads that live; 0 where the system does not tell (Linux, sched-stats.rst)."""
        waited = 0
        for process in self._processes:
            for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # It has ended.
                    waited += int(path.read_text().split()[1])
        return waited / 1e9
