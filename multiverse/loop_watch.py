"""How late the event loop runs: everything here shares one thread, so whatever blocks it slows every stream.

A callback that is due every 50 ms notes how late it comes. The part of a lag in which the system gave this thread no
CPU, though it wanted one, is taken off for `own_lag_ms_max`: a busy machine is not a blocking call. Pure measuring:
nothing is logged or decided here.
"""

from __future__ import annotations

import asyncio
import os

from multiverse.clock import Clock
from multiverse.histogram import Histogram
from multiverse.ticking import SteadyCallback

TICK_SECONDS = 0.05
LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Of the thread that opens it: nanoseconds on a CPU, nanoseconds of waiting for one, turns (Linux, sched-stats.rst).
SCHEDULER_FILE = "/proc/thread-self/schedstat"


class LoopWatch:
    """Watches the running loop between `start()` and `stop()`, both called in it."""

    def __init__(self, *, clock: Clock, scheduler_path: str = SCHEDULER_FILE) -> None:
        self._clock = clock
        self._scheduler_path = scheduler_path
        self._ticker = SteadyCallback(self._tick, TICK_SECONDS * 1000)
        self._scheduler_file: int | None = None
        self._waited_seconds = 0.0
        self.lags = Histogram(LAG_BOUNDS)
        self._lag_seconds = self._longest_seconds = self._longest_own_seconds = 0.0

    def start(self) -> None:
        """Begin to measure."""
        try:
            self._scheduler_file = os.open(self._scheduler_path, os.O_RDONLY)
        except OSError:
            self._scheduler_file = None  # Not Linux, or hidden: every lag counts as our own.
        self._waited_seconds = self._waited_for_cpu()
        self._ticker.start()

    def stop(self) -> None:
        """Measure no more; safe twice."""
        self._ticker.stop()
        scheduler_file, self._scheduler_file = self._scheduler_file, None
        if scheduler_file is not None:
            os.close(scheduler_file)

    def numbers(self) -> dict[str, float]:
        """The last lag and the longest since the start, in milliseconds (`own` without waiting for a CPU), and the
        number of tasks in the loop.
        """
        return {
            "tasks": len(asyncio.all_tasks()),
            "lag_ms_now": round(self._lag_seconds * 1000, 1),
            "lag_ms_max": round(self._longest_seconds * 1000, 1),
            "own_lag_ms_max": round(self._longest_own_seconds * 1000, 1),
        }

    def _tick(self) -> None:
        lag_seconds = max(self._clock.monotonic() - self._ticker.due_seconds, 0.0)
        waited_before, self._waited_seconds = self._waited_seconds, self._waited_for_cpu()
        own_seconds = lag_seconds - (self._waited_seconds - waited_before)
        self._lag_seconds = lag_seconds
        self.lags.note(lag_seconds)
        self._longest_seconds = max(self._longest_seconds, lag_seconds)
        self._longest_own_seconds = max(self._longest_own_seconds, own_seconds)

    def _waited_for_cpu(self) -> float:
        """Seconds that this thread has spent ready to run, without a CPU; 0 where the system does not tell."""
        if self._scheduler_file is None:
            return 0.0
        try:
            return int(os.pread(self._scheduler_file, 100, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0
