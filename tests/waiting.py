"""How tests wait: until something holds, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

POLL_SECONDS = 0.01


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
