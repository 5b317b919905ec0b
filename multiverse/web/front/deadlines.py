"""A deadline that may be moved for every request and costs next to nothing: its alarm is only moved forward."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from multiverse.alarm import Alarm


class Deadline:
    """Calls `action` once the time that was last set is over."""

    __slots__ = ("_action", "_alarm", "_at", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._at = math.inf
        self._alarm = Alarm(loop, self._look)

    def set(self, seconds: float) -> None:
        """`seconds` from now, whatever was set before."""
        self._at = at = self._loop.time() + seconds
        if at < self._alarm.moment:  # Most are later than the one before: no call for them.
            self._alarm.ring_by(at)

    def set_at_most(self, seconds: float) -> None:
        """`seconds` from now, unless it is sooner already."""
        if self._at > self._loop.time() + seconds:
            self.set(seconds)

    def clear(self) -> None:
        """No deadline for the time being."""
        self._at = math.inf

    def stop(self) -> None:
        """No deadline any more."""
        self._at = math.inf
        self._alarm.stop()

    def _look(self, alarm: Alarm) -> None:
        at = self._at
        if at > self._loop.time():
            alarm.ring_by(at)
        else:
            self._at = math.inf
            self._action()
