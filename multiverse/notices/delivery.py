"""One way to people: what is posted goes out in order, and again with growing pauses while the way is closed.

Nobody waits here: `post()` returns at once. What waits is bounded in number and age; a failure is logged once, and its
end once. What is sent, and how, is webhook.py's and mail.py's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from multiverse.clock import Clock

LOG = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 600.0
OLDEST_SECONDS = 6 * 3600.0
MOST_WAITING = 200

Message = TypeVar("Message")


class SendingFailed(Exception):
    """The message did not go out; the text says why, without addresses and keys. `for_good`: it never will."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Delivery(Generic[Message]):
    """Sends messages one after the other with `send`, which raises SendingFailed."""

    def __init__(
        self,
        name: str,
        send: Callable[[Message], Awaitable[None]],
        *,
        clock: Clock,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._name = name
        self._send = send
        self._clock = clock
        self._first_pause_seconds = first_pause_seconds
        self._waiting: deque[tuple[float, Message]] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def post(self, message: Message) -> None:
        """Have `message` sent. When too many wait, the oldest is forgotten."""
        self._waiting.append((self._clock.monotonic(), message))
        if self.idle:
            self._task = asyncio.get_running_loop().create_task(self._work())

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is being sent."""
        return self._task is None or self._task.done()

    async def stop(self) -> None:
        """What has not gone out is forgotten."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            posted_seconds, message = self._waiting.popleft()
            try:
                await self._send_at_last(message, posted_seconds + OLDEST_SECONDS)
            except Exception:  # A fault of ours in one message must not keep the others from going out.
                LOG.exception("message not sent", extra={"fields": {"by": self._name}})

    async def _send_at_last(self, message: Message, give_up_seconds: float) -> None:
        pause_seconds = self._first_pause_seconds
        while True:
            try:
                await self._send(message)
            except SendingFailed as error:
                self._note_failure(str(error))
                hopeless = error.for_good or self._clock.monotonic() + pause_seconds > give_up_seconds
            else:
                self._note_success()
                return
            if hopeless:
                LOG.warning("message given up", extra={"fields": {"by": self._name}})
                return
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def _note_failure(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            fields = {"by": self._name, "reason": reason}
            LOG.warning("messages do not go out; they are tried again", extra={"fields": fields})

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            LOG.info("messages go out again", extra={"fields": {"by": self._name}})
