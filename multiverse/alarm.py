"""A timer that is cheap to keep: one of the loop's serves for request after request, each with limits of its own.

It rings no later than asked for, and may ring too early: whoever hears it looks whether it is time. So it stays as it
is when a request ends, and the next one seldom has to set it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls `action`, if there is one, with itself. `moment` is in the loop's time, infinity while it is not set."""

    __slots__ = ("_loop", "_timer", "action", "moment")

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[Alarm], None] | None = None) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.action = action
        self.moment = math.inf

    def ring_by(self, moment: float) -> None:
        """Ring no later than at `moment`; infinity asks for nothing."""
        if moment < self.moment:
            self.stop()
            self._timer = self._loop.call_at(moment, self._ring)
            self.moment = moment

    def stop(self) -> None:
        """Ring no more, until it is asked for again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.moment = None, math.inf

    def _ring(self) -> None:
        self._timer, self.moment = None, math.inf
        if self.action is not None:
            self.action(self)
