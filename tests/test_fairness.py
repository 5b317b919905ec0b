"""Whose turn it is: tried by simulation against first come first served, and by properties that hold for any class."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.proxy.fairness import (
    AGEING_TOKENS_PER_SECOND,
    HEAVIEST_TOKENS,
    Pace,
    Share,
    Waiting,
    ranking,
    whom_to_drop,
)
from multiverse.proxy.queue import Standing
from multiverse.proxy.shares import FORGET_ABOVE, Shares
from multiverse.proxy.sse import queued_comment
from tests.bench import UNHURRIED, HandClock
from tests.queue_simulator import PICTURE, Request, Served, a_lesson, first_come, picture, simulate


def waits(served: list[Served], asker: str = "") -> list[float]:
    """How long everybody waited but the flood, or one of them."""
    return [one.waited for one in served if one.request.asker == asker or (not asker and one.request.asker != "flood")]


def idle_seconds(served: list[Served], slots: int) -> float:
    """For how long at least one slot was free while somebody waited."""
    ends = sorted((one.ended, one.started) for one in served)
    moments = sorted({one.started for one in served} | {one.ended for one in served})
    idle = 0.0
    for begin, end in itertools.pairwise(moments):
        busy = sum(started <= begin < ended for ended, started in ends)
        queued = sum(one.request.arrives <= begin < one.started for one in served)
        idle += end - begin if busy < slots and queued else 0.0
    return idle


# -- simulated


@pytest.mark.parametrize("seconds", [0.5, 4.0, 40.0, 300.0])
@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("tokens", [1, 200, 100_000])
def test_a_light_user_beside_a_flood_waits_one_turn_of_a_slot(seconds: float, slots: int, tokens: int) -> None:
    flood = [Request("flood", 0.0, seconds, tokens) for _number in range(200)]
    light = [Request("light", seconds * (3.7 + 11 * turn), seconds, tokens) for turn in range(3)]
    served = simulate(flood + light, slots)
    assert max(waits(served, "light")) <= seconds
    assert max(waits(simulate(flood + light, slots, first_come), "light")) > 20 * seconds / slots, (
        "which is not a given"
    )


def test_a_lesson_with_a_loop_in_it() -> None:
    served = simulate(a_lesson(), 5)
    assert max(waits(served)) <= 4.0, "one service time"
    assert max(waits(simulate(a_lesson(), 5, first_come))) > 100.0


REQUESTS = st.lists(
    st.builds(
        Request,
        asker=st.sampled_from(["a", "b", "c", "flood"]),
        arrives=st.floats(0, 60),
        seconds=st.floats(0.1, 10),
        tokens=st.integers(0, 3000),
    ),
    min_size=1,
    max_size=60,
)


@UNHURRIED
@given(requests=REQUESTS, slots=st.integers(1, 4))
def test_no_slot_idles_while_somebody_waits(requests: list[Request], slots: int) -> None:
    served = simulate(requests, slots)
    assert len(served) == len(requests), "everybody has a turn, once"
    assert idle_seconds(served, slots) == 0.0


@UNHURRIED
@given(requests=REQUESTS, slots=st.integers(1, 4))
def test_throughput_is_that_of_first_come_first_served(requests: list[Request], slots: int) -> None:
    alike = [Request(request.asker, request.arrives, 3.0, request.tokens) for request in requests]
    assert max(one.ended for one in simulate(alike, slots)) == pytest.approx(
        max(one.ended for one in simulate(alike, slots, first_come))
    )


@UNHURRIED
@given(requests=REQUESTS, slots=st.integers(1, 4))
def test_an_askers_own_requests_keep_their_order(requests: list[Request], slots: int) -> None:
    served = simulate(requests, slots)
    for asker in {request.asker for request in requests}:
        arrivals = [one.request.arrives for one in served if one.request.asker == asker]
        assert arrivals == sorted(arrivals)


def test_ageing_bounds_every_wait() -> None:
    """Ever new light users, enough to keep the slot busy for good: the heavy one still has turns."""
    bound = HEAVIEST_TOKENS / AGEING_TOKENS_PER_SECOND
    heavy = [Request("heavy", 0.0, 1.0, 100_000) for _number in range(5)]
    newcomers = [Request(f"new-{number}", 0.9 * number, 1.0, 10) for number in range(400)]
    served = [one for one in simulate(heavy + newcomers, 1) if one.request.asker == "heavy"]
    turns = [one.started for one in served]
    # Who waits for longest does not only pass those who are new, but also those who have aged beside it.
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert max(gaps) <= 2 * bound
    assert max(gaps) > 5.0, "light users do go before"


def test_weight_counts() -> None:
    flood = [Request(asker, 0.0, 1.0, 300) for asker in ("one", "three") for _number in range(100)]
    served = simulate(flood, 1, weights={"three": 3})[:20]
    mine = sum(one.request.asker == "three" for one in served)
    assert 11 <= mine <= 17, "about three of four"


# -- the decision


def test_owners_go_first_on_what_is_theirs() -> None:
    waiting = [Waiting("a", 0.0), Waiting("owner", 9.0)]
    shares = {"owner": Share(used=1000.0, moment=10.0)}
    assert ranking(waiting, shares, 10.0) == [0, 1]
    assert ranking(waiting, shares, 10.0, owners={"owner"}) == [1, 0]


def test_a_turn_that_is_coming_counts() -> None:
    waiting = [Waiting("a", 0.0), Waiting("a", 0.0), Waiting("a", 0.0), Waiting("b", 0.0), Waiting("b", 0.0)]
    assert [waiting[position].asker for position in ranking(waiting, {}, 0.0)] == ["a", "b", "a", "b", "a"]


def test_what_was_used_is_forgotten_by_halves() -> None:
    share = Share()
    share.spend(800, 100.0)
    assert (share.used_at(100.0), share.used_at(160.0), share.used_at(280.0)) == (800.0, 400.0, 100.0)
    share.spend(100, 160.0)
    assert share.used_at(160.0) == 500.0
    assert Share(used=1e9, moment=0.0).cost(0.0) == HEAVIEST_TOKENS


def test_a_full_queue_has_room_for_who_has_little_there() -> None:
    waiting = [Waiting(asker, 0.0) for asker in ("flood", "a", "flood", "flood", "b")]
    assert whom_to_drop(waiting, "new") == 3, "the last of the heaviest"
    assert whom_to_drop(waiting, "a") == 3
    assert whom_to_drop(waiting, "flood") is None
    assert whom_to_drop([Waiting("a", 0.0), Waiting("b", 0.0)], "new") is None, "nobody has more than one"
    assert whom_to_drop([], "new") is None


def test_a_decision_is_quick() -> None:
    waiting = [Waiting(f"asker-{number % 30}", float(number)) for number in range(64)]
    shares = {f"asker-{number}": Share(used=number * 10.0) for number in range(30)}
    fastest = min(_timed(waiting, shares) for _try in range(20))
    assert fastest < 0.001, "a full queue of 64 does not hold up the loop"


def _timed(waiting: list[Waiting], shares: dict[str, Share]) -> float:
    began = time.perf_counter()
    ranking(waiting, shares, 100.0)
    return time.perf_counter() - began


# -- what is counted and told


def test_shares_are_forgotten() -> None:
    clock = HandClock()
    shares = Shares(clock)
    shares.begin("busy", 1)
    for number in range(FORGET_ABOVE + 10):
        asker = f"asker-{number}"
        shares.begin(asker, 1)
        shares.spend(asker, 100)
        shares.end(asker)
    assert len(shares.by_asker) > FORGET_ABOVE, "who has used something is remembered"
    clock.pass_time(3600)
    for number in range(2 * FORGET_ABOVE):
        shares.begin(f"later-{number}", 1)
        shares.end(f"later-{number}")
    assert len(shares.by_asker) <= 2 * FORGET_ABOVE + 20
    assert shares.by_asker["busy"].in_flight == 1


def test_a_pace_is_measured_not_guessed() -> None:
    pace = Pace()
    for moment in (0.0, 2.0, 4.0):
        assert pace.seconds_per_slot(moment) is None
        pace.note(moment)
    pace.note(6.0)
    assert (pace.seconds_per_slot(6.0), pace.seconds_per_slot(11.0)) == (2.0, 5.0), "a pause counts"
    assert pace.seconds_per_slot(60.0) is None, "that is too long ago"
    for moment in range(7, 100):
        pace.note(float(moment))
    assert pace.seconds_per_slot(99.0) == 1.0
    assert len(pace.ends) == 16


@pytest.mark.parametrize(
    ("place", "seconds", "text"),
    [(1, None, "1st"), (2, 19.6, "2nd, about 20 s"), (3, 0.2, "3rd, about 1 s"), (11, None, "11th"), (21, None, "21st"),
     (112, None, "112th"), (4, 60.4, "4th, about 60 s")],
)  # fmt: skip
def test_the_comment(place: int, seconds: float | None, text: str) -> None:
    assert queued_comment(Standing("a", place, 1.0, seconds)) == f": queued {text}\n".encode()
    assert queued_comment(None) == b""


def test_the_picture_is_what_the_simulator_draws() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture()
