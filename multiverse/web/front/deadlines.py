"""A deadline that may be moved for every request and costs next to nothing: the loop's timer is only moved forward."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `action` once the time that was last set is over."""

    __slots__ = ("_action", "_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """`seconds` from now, whatever was set before."""
        self._at = at = self._loop.time() + seconds
        timer = self._timer
        if timer is not None and timer.when() > at:
            timer.cancel()
            timer = None
        if timer is None:
            self._timer = self._loop.call_at(at, self._look)

    def set_at_most(self, seconds: float) -> None:
        """`seconds` from now, unless it is sooner already."""
        if self._at is None or self._at > self._loop.time() + seconds:
            self.set(seconds)

    def clear(self) -> None:
        """No deadline for the time being."""
        self._at = None

    def stop(self) -> None:
        """No deadline any more."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        at = self._at
        if at is None:
            return
        if at > self._loop.time():
            self._timer = self._loop.call_at(at, self._look)
        else:
            self._at = None
            self._action()
