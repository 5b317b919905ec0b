"""What others do on our cores: CPU time is fairly robust against it, times to an answer are not at all.

Everything busy counts, the host's own business (steal) too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set

from benchmarks.processes import core_busy_seconds

LOOK_SECONDS = 0.5
QUIET_SHARE = 0.1


class Noise:
    """How much of our cores others take, from now to `percent()`.

    `own` has for each core a function that gives the CPU seconds which our own processes on it have used so far.
    """

    def __init__(self, own: Mapping[int, Callable[[], float]]) -> None:
        self._own = own
        self._began_seconds = time.monotonic()
        self._before = self._taken()

    def _taken(self) -> dict[int, float]:
        """CPU seconds of others, by core."""
        return {core: core_busy_seconds(core) - own_seconds() for core, own_seconds in self._own.items()}

    def percent(self) -> float | None:
        """Percent of the time, on the core where it was most; None where nothing is pinned."""
        elapsed_seconds = time.monotonic() - self._began_seconds
        if not self._own or elapsed_seconds <= 0:
            return None
        most_seconds = max(taken - self._before[core] for core, taken in self._taken().items())
        return min(100.0, max(0.0, most_seconds / elapsed_seconds * 100))


def wait_for_quiet(cores: Set[int], most_seconds: float) -> None:
    """Returns when all of these cores have been idle for nine tenths of a moment, or when the time is over.

    To be called while nothing of ours runs.
    """
    deadline = time.monotonic() + most_seconds
    while time.monotonic() < deadline:
        before = {core: core_busy_seconds(core) for core in cores}
        time.sleep(LOOK_SECONDS)
        if all(core_busy_seconds(core) - before[core] <= LOOK_SECONDS * QUIET_SHARE for core in cores):
            return
