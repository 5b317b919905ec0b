"""Tornado's PeriodicCallback by the monotonic clock, so that setting the machine's clock does nothing to it.

Tornado counts periods on `time.time()`: when a clock that was an hour ahead is set right, its next call comes an hour
late (`PeriodicCallback._update_next`). Laptops and fresh virtual machines do that.
"""

from __future__ import annotations

import math
import time

from tornado.ioloop import PeriodicCallback


class SteadyCallback(PeriodicCallback):
    """Calls back every `callback_time` milliseconds; calls that are missed are not made up for.

    `due_seconds` (monotonic) is when the call that is under way, or else the next one, should come.
    """

    due_seconds = 0.0

    def start(self) -> None:
        """The first call comes one period from now."""
        self.due_seconds = time.monotonic()
        super().start()

    def _update_next(self, current_time: float) -> None:
        """Called by Tornado for the time of the next call; only its distance from `current_time` matters."""
        now, period_seconds = time.monotonic(), self.callback_time / 1000.0
        periods = math.floor(max(now - self.due_seconds, 0.0) / period_seconds) + 1
        self.due_seconds += periods * period_seconds
        self._next_timeout = current_time + self.due_seconds - now
