"""One timer of the loop for all the exchanges of a connection, each with deadlines of its own.

It rings no later than asked for, and may ring too early: whoever hears it looks at the deadlines again. So it stays as
it is when an exchange ends, and the next one seldom has to set it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiverse.transport.exchange import Exchange


class Alarm:
    """Rings for `exchange`, the one under way, at `moment`; nobody hears it while there is none."""

    __slots__ = ("_loop", "_timer", "exchange", "moment")

    def __init__(self, loop: asyncio.AbstractEventLoop, exchange: Exchange | None = None) -> None:
        self._loop = loop
        self.moment = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self.exchange = exchange

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._timer is not None

    def ring_by(self, moment: float) -> None:
        """Ring no later than at `moment`, in the loop's time; infinity asks for nothing."""
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
        if self.exchange is not None:
            self.exchange.look_at_deadlines(self)
