"""The gauge of the event loop's lag, and the periodic callback that it (and every sweep) hangs on."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from multiverse.clock import Clock
from multiverse.loop_watch import LoopWatch
from multiverse.ticking import SteadyCallback

BLOCKED_SECONDS = 0.3
NO_SCHEDULER = "/nonexistent"


def measured(work: Callable[[], Awaitable[None]], scheduler_path: str = NO_SCHEDULER) -> dict[str, float]:
    """What the watch tells after `work` has run in its loop."""

    async def run() -> dict[str, float]:
        watch = LoopWatch(clock=Clock(), scheduler_path=scheduler_path)
        watch.start()
        await asyncio.sleep(0.12)
        await work()
        await asyncio.sleep(0.3)
        watch.stop()
        watch.stop()
        return {**watch.numbers(), "late_ticks": sum(watch.lags.counts[-3:])}

    return asyncio.run(run())


async def block() -> None:
    time.sleep(BLOCKED_SECONDS)


def test_a_blocking_call_is_a_lag_of_our_own() -> None:
    numbers = measured(block)
    # It may have begun anywhere within a period of 50 ms.
    assert numbers["lag_ms_max"] >= 1000 * BLOCKED_SECONDS - 60
    assert numbers["own_lag_ms_max"] >= 1000 * BLOCKED_SECONDS - 60
    assert numbers["late_ticks"] >= 1, "more than 200 ms late"
    assert numbers["lag_ms_now"] < numbers["lag_ms_max"], "the last lag is not the longest"
    assert numbers["tasks"] in (1, 2), "its own may be one of them"


def test_waiting_without_blocking_is_no_lag() -> None:
    numbers = measured(lambda: asyncio.sleep(0.2), "/proc/thread-self/schedstat")
    assert numbers["own_lag_ms_max"] < 100
    assert numbers["own_lag_ms_max"] <= numbers["lag_ms_max"]


def test_time_without_a_cpu_is_not_our_own(tmp_path: Path) -> None:
    scheduler_file = tmp_path / "schedstat"
    scheduler_file.write_text("1000 2000000000 3\n")

    async def starve() -> None:
        time.sleep(BLOCKED_SECONDS)
        scheduler_file.write_text("1000 2300000000 4\n")

    numbers = measured(starve, str(scheduler_file))
    assert numbers["lag_ms_max"] >= 1000 * BLOCKED_SECONDS - 60, "the lag is there"
    assert numbers["own_lag_ms_max"] < 100, "but no call of ours was in the way"


@pytest.mark.parametrize("content", ["", "1 2", "one two three", "-"])
def test_an_odd_scheduler_file_hurts_nobody(tmp_path: Path, content: str) -> None:
    scheduler_file = tmp_path / "schedstat"
    scheduler_file.write_text(content)
    assert measured(block, str(scheduler_file))["own_lag_ms_max"] >= 1000 * BLOCKED_SECONDS - 60


def calls_of(period_seconds: float, for_seconds: float, on_call: Callable[[int], None]) -> list[float]:
    """When a SteadyCallback called, in seconds since its start."""

    async def run() -> list[float]:
        began = time.monotonic()
        moments: list[float] = []

        def note() -> None:
            moments.append(time.monotonic() - began)
            on_call(len(moments))

        ticker = SteadyCallback(note, period_seconds * 1000)
        ticker.start()
        await asyncio.sleep(for_seconds)
        ticker.stop()
        return moments

    return asyncio.run(run())


@pytest.mark.parametrize("jump_seconds", [-3600.0, 3600.0])
def test_setting_the_clock_neither_stops_nor_hurries_it(monkeypatch: pytest.MonkeyPatch, jump_seconds: float) -> None:
    real_time = time.time

    def jump(count: int) -> None:
        if count == 2:
            monkeypatch.setattr(time, "time", lambda: real_time() + jump_seconds)

    moments = calls_of(0.05, 0.6, jump)
    assert 6 <= len(moments) <= 12, f"one call every 50 ms, whatever the clock says: {moments}"


def test_missed_calls_are_not_made_up_for() -> None:
    moments = calls_of(0.05, 0.6, lambda count: time.sleep(0.23) if count == 2 else None)
    assert 5 <= len(moments) <= 9, "the rest goes on, once per period"
    pauses = [after - before for before, after in itertools.pairwise(moments[2:])]
    assert 0.03 <= statistics.median(pauses) <= 0.12, f"in step again at once: {pauses}"
