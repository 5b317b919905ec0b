"""The gateway on a machine whose clock is set as it runs: SIGUSR1 sets it an hour back, SIGUSR2 two hours forward.

Run as `python tests/jumping_clock.py serve`. Only `time.time()` jumps, as on a real machine, not `time.monotonic()`.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from multiverse.cli import main

JUMPS_SECONDS = {signal.SIGUSR1: -3600.0, signal.SIGUSR2: 7200.0}


class WallClock:
    """`time.time`, as far off as it has been set."""

    def __init__(self) -> None:
        self._real_time = time.time
        self._offset_seconds = 0.0

    def __call__(self) -> float:
        return self._real_time() + self._offset_seconds

    def jump(self, number: int, _frame: FrameType | None) -> None:
        """Be set."""
        self._offset_seconds += JUMPS_SECONDS[signal.Signals(number)]


if __name__ == "__main__":
    clock = WallClock()
    time.time = clock  # type: ignore[assignment]
    for number in JUMPS_SECONDS:
        signal.signal(number, clock.jump)
    main()
