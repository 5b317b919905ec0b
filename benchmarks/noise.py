"""What others do on our cores: CPU time is fairly robust against it, times to an answer are not at all.

Everything busy counts, the host's own business (steal) too.
"""

from __future__ import annotations

import time
from collections.abc import Set

from benchmarks.processes import ProcessTree, core_busy_seconds

LOOK_SECONDS = 0.5
QUIET_SHARE = 0.1


class Noise:
    """How much of the contestant's core others take, from now to `percent()`."""

    def __init__(self, tree: ProcessTree | None, core: int | None) -> None:
        self._tree = tree
        self._core = core
        self._before = self._state()

    def _state(self) -> tuple[float, float, float]:
        if self._tree is None or self._core is None:
            return 0.0, 0.0, 0.0
        return time.monotonic(), core_busy_seconds(self._core), self._tree.cpu_seconds()

    def percent(self) -> float | None:
        """Percent of the time; None where nothing is pinned."""
        if self._tree is None or self._core is None:
            return None
        elapsed_seconds, busy_seconds, own_seconds = (
            after - before for after, before in zip(self._state(), self._before, strict=True)
        )
        if elapsed_seconds <= 0:
            return None
        return min(100.0, max(0.0, (busy_seconds - own_seconds) / elapsed_seconds * 100))


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
