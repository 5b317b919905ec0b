"""Where requests wait when every server of their model is full: one bounded line per model, first come, first served.

A freed slot is handed to exactly one waiter in the same turn of the loop, so nobody can take it in between. What a slot
is, and who may take one, the registry says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from multiverse.errors import GatewayError, Overloaded
from multiverse.servers.registry import Registry
from multiverse.servers.server import Attempt, Server

QUEUE_FULL = "Every server of this model is busy and its queue is full. Send the request again later."
WAITED_TOO_LONG = "Every server of this model stayed busy while the request was waiting. Send it again later."


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits; `place` becomes its attempt, or the error that ends the wait."""

    tried: Collection[Server]
    place: asyncio.Future[Attempt]


@dataclass(slots=True)
class Line:
    """Those who wait for one model. `trial` fires when an ejected server may be tried again: no request tells then."""

    waiters: list[Waiter] = field(default_factory=list)
    trial: asyncio.TimerHandle | None = None

    def forget_trial(self) -> None:
        """Nobody waits for it any more."""
        if self.trial is not None:
            self.trial.cancel()
            self.trial = None


class Queue:
    """Hands out attempts. `size` requests may wait per model, each for at most `timeout_seconds`; 0 = none waits."""

    def __init__(self, *, registry: Registry, size: int, timeout_seconds: float) -> None:
        self._registry = registry
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._lines: dict[str, Line] = {}

    @property
    def length(self) -> int:
        """How many requests wait, over all models."""
        return sum(len(line.waiters) for line in self._lines.values())

    def place(self, model_name: str, tried: Collection[Server]) -> Attempt | None:
        """An attempt on the server whose turn it is; None when the request has to wait.

        Raises what `Registry.pick` raises. There is no await between picking and counting: that is the lock.
        """
        if model_name in self._lines:
            self.serve(model_name)
            if self._somebody_waits_for_any(model_name):
                return None  # Those who came before go first.
        server = self._registry.pick(model_name, tried)
        return None if server is None else server.attempt(self.on_freed)

    def join(self, model_name: str, tried: Collection[Server]) -> asyncio.Future[Attempt]:
        """Wait for a place; cancelling the future leaves the queue.

        Raises Overloaded when the queue is full. The future fails with Overloaded after the timeout, or with what
        `Registry.pick` raises when the last server goes. Whoever takes its result must end that attempt.
        """
        line = self._lines.get(model_name)
        if self._timeout_seconds <= 0 or len(line.waiters if line else ()) >= self._size:
            raise Overloaded(QUEUE_FULL, retry_after_seconds=5)
        loop = asyncio.get_running_loop()
        waiter = Waiter(tried, loop.create_future())
        self._lines.setdefault(model_name, Line()).waiters.append(waiter)
        timer = loop.call_later(self._timeout_seconds, _give_up, waiter.place)

        def left(place: asyncio.Future[Attempt]) -> None:
            timer.cancel()
            self._forget(model_name, waiter)

        waiter.place.add_done_callback(left)
        self._await_trial(model_name)
        return waiter.place

    def on_freed(self, server: Server) -> None:
        """A request on `server` has ended: its slot goes to the next who waits."""
        if self._lines:
            self.serve(server.registration.model_name)

    def serve(self, model_name: str) -> None:
        """Hand out what is free now to those who wait for `model_name`, in their order."""
        line = self._lines.get(model_name)
        if line is None:
            return
        waiting = [waiter for waiter in line.waiters if not waiter.place.done()]
        line.waiters = []
        for position, waiter in enumerate(waiting):
            if self._serve_one(model_name, waiter):
                continue
            line.waiters.append(waiter)
            if not waiter.tried:
                # Nothing is free at all. One who has been to the free server already only lets the others pass.
                line.waiters += waiting[position + 1 :]
                break
        self._await_trial(model_name)

    def _serve_one(self, model_name: str, waiter: Waiter) -> bool:
        try:
            server = self._registry.pick(model_name, waiter.tried)
        except GatewayError as error:
            waiter.place.set_exception(error)
            return True
        if server is None:
            return False
        waiter.place.set_result(server.attempt(self.on_freed))
        return True

    def _somebody_waits_for_any(self, model_name: str) -> bool:
        line = self._lines.get(model_name)
        return line is not None and any(not waiter.tried for waiter in line.waiters)

    def _forget(self, model_name: str, waiter: Waiter) -> None:
        line = self._lines.get(model_name)
        if line is not None and waiter in line.waiters:
            line.waiters.remove(waiter)
            self._await_trial(model_name)

    def _await_trial(self, model_name: str) -> None:
        """Look again when the next ejection ends; drop a line in which nobody is left."""
        line = self._lines[model_name]
        line.forget_trial()
        if not line.waiters:
            del self._lines[model_name]
            return
        seconds = self._registry.seconds_to_trial(model_name)
        if seconds is not None:
            line.trial = asyncio.get_running_loop().call_later(max(seconds, 0.001), self.serve, model_name)


def _give_up(place: asyncio.Future[Attempt]) -> None:
    if not place.done():
        place.set_exception(Overloaded(WAITED_TOO_LONG, retry_after_seconds=5))
