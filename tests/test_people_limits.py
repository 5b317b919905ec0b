"""The limit of a caller, to the event, by a clock that is moved by hand. What clients see is in test_rate_limit.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.people.limits import FORGET_ABOVE, RateLimit, counted_address
from tests.bench import UNHURRIED, HandClock

MINUTE = 60.0


def build(limit: int, clock: HandClock) -> RateLimit:
    return RateLimit(limit=limit, period_seconds=MINUTE, clock=clock)


@pytest.mark.parametrize("limit", [1, 3, 7, 25, 60, 997, 50_000])
@pytest.mark.parametrize("monotonic_seconds", [0.0, 5000.123, 9e6 + 1 / 3])
def test_exactly_so_many_at_once(limit: int, monotonic_seconds: float) -> None:
    limiter = build(limit, HandClock(monotonic_seconds))
    allowed = sum(limiter.allow("somebody") is None for _number in range(limit + 25))
    assert allowed == limit


def test_fifty_at_once_on_a_limit_of_twenty_five() -> None:
    limiter = build(25, HandClock())
    answers = [limiter.allow("somebody") for _number in range(50)]
    assert [answer is None for answer in answers] == [True] * 25 + [False] * 25
    assert answers[25:] == [pytest.approx(MINUTE / 25)] * 25, "who is refused is not counted"


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_the_wait_is_honest(limit: int) -> None:
    clock = HandClock()
    limiter = build(limit, clock)
    for _number in range(limit):
        assert limiter.allow("somebody") is None
    for _number in range(3 * limit):
        wait_seconds = limiter.allow("somebody")
        assert wait_seconds is not None
        clock.pass_time(wait_seconds * 0.99)
        assert limiter.allow("somebody") is not None, "not earlier"
        clock.pass_time(wait_seconds * 0.01 + 1e-6)
        assert limiter.allow("somebody") is None, "not later"


def test_a_quiet_minute_brings_everything_back() -> None:
    clock = HandClock()
    limiter = build(10, clock)
    for _round in range(3):
        assert [limiter.allow("somebody") is None for _number in range(11)] == [True] * 10 + [False]
        clock.pass_time(MINUTE)


def test_everybody_has_a_limit_of_their_own() -> None:
    limiter = build(2, HandClock())
    assert [limiter.allow(name) is None for name in "aaabbbab"] == [True, True, False, True, True, False, False, False]


def test_the_machines_clock_does_not_matter() -> None:
    clock = HandClock()
    limiter = build(1, clock)
    limiter.allow("somebody")
    for seconds in (1e9, -2e9):
        clock.set_machine_clock(seconds)
        assert limiter.allow("somebody") == pytest.approx(MINUTE)


@UNHURRIED
@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.floats(0, 30, allow_subnormal=False), min_size=1, max_size=150),
    window=st.floats(0.5, 200),
)
def test_never_more_than_the_bound_in_any_window(limit: int, steps: list[float], window: float) -> None:
    clock = HandClock()
    limiter = build(limit, clock)
    allowed: list[float] = []
    for step in steps:
        clock.pass_time(step / limit)
        if limiter.allow("somebody") is None:
            allowed.append(clock.monotonic())
    for start in allowed:
        inside = sum(start <= moment < start + window for moment in allowed)
        assert inside <= limit + window * limit / MINUTE + 1e-6, "a full burst, and what comes back meanwhile"


@UNHURRIED
@given(steps=st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=100))
def test_who_keeps_the_pace_is_never_refused(steps: list[float]) -> None:
    clock = HandClock()
    limiter = build(10, clock)
    for step in steps:
        clock.pass_time(MINUTE / 10 + step + 1e-6)
        assert limiter.allow("somebody") is None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:50001", "192.0.2.7"),
        ("2001:db8:0:7::1", "2001:db8:0:7::/64"),
        ("2001:DB8:0:7:ffff:0:0:2", "2001:db8:0:7::/64"),
        ("[2001:db8:0:8::1]:50001", "2001:db8:0:8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("a:b:c", "a:b:c"),
        ("unknown", "unknown"),
    ],
)
def test_whose_address_counts_as_one(address: str, name: str) -> None:
    assert counted_address(address) == name


def test_memory_is_bounded() -> None:
    clock = HandClock()
    limiter = build(5, clock)
    for number in range(3 * FORGET_ABOVE):
        limiter.allow(f"address {number}")
    assert len(limiter._used_until) <= FORGET_ABOVE
    clock.pass_time(MINUTE)
    for _number in range(FORGET_ABOVE):
        limiter.allow("somebody")
    assert len(limiter._used_until) == 1, "those who are no longer limited are forgotten bit by bit"


def test_a_crowd_does_not_free_who_goes_on_asking() -> None:
    limiter = build(1, HandClock())
    assert limiter.allow("eager") is None
    for number in range(3 * FORGET_ABOVE):
        limiter.allow(f"address {number}")
        if number % 1000 == 0:
            assert limiter.allow("eager") is not None
