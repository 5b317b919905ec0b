"""Reading from one client, held back while what it has sent ahead waits for its turn.

Meanwhile nothing tells the event loop that the client has left, so the socket is asked now and then: Linux knows of the
end behind bytes that nobody has read (POLLRDHUP). The end of what does not even fit the sockets has not come yet.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

LOOKS_SECONDS = 0.25
# Elsewhere than on Linux only a reset is noticed, and on Windows nothing until reading goes on.
END_OF_CLIENT: int = getattr(select, "POLLRDHUP", 0)


class Reading:
    """`left` is called once the client turns out to have left while it is held back."""

    __slots__ = ("_left", "_loop", "_timer", "held_back")

    def __init__(self, loop: asyncio.AbstractEventLoop, left: Callable[[], None]) -> None:
        self._loop = loop
        self._left = left
        self._timer: asyncio.TimerHandle | None = None
        self.held_back = False

    def hold_back(self, transport: asyncio.Transport, wanted: bool) -> None:
        """Read no more of `transport`, or again."""
        if wanted and not self.held_back:
            transport.pause_reading()
            self._look_later(transport)
        elif self.held_back and not wanted:
            transport.resume_reading()
            self.stop()
        self.held_back = wanted

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, transport: asyncio.Transport) -> None:
        if hasattr(select, "poll"):
            self._timer = self._loop.call_later(LOOKS_SECONDS, self._look, transport)

    def _look(self, transport: asyncio.Transport) -> None:
        self._timer = None
        if transport.is_closing():
            return
        if _happened(transport, END_OF_CLIENT):
            self._left()
        else:
            self._look_later(transport)


def has_unread_bytes(transport: asyncio.Transport) -> bool:
    """Whether something has come that the event loop has not read yet. Asks the system; on Windows nobody knows."""
    return hasattr(select, "poll") and not transport.is_closing() and _happened(transport, select.POLLIN)


def _happened(transport: asyncio.Transport, events: int) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    return bool(poll.poll(0))
