"""Where requests wait when every server of their model is full: one bounded queue per model, first come, first served.

A freed slot is handed to exactly one waiter in the same turn of the loop, so nobody can take it in between. What a slot
is, and who may take one, the registry says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from multiverse.errors import GatewayError, Overloaded
from multiverse.servers.registry import Registry
from multiverse.servers.server import Attempt, Server


@dataclass(slots=True)
class Waiter:
    """A request that waits; `place` becomes its attempt, or the error that ends the wait."""

    tried: Collection[Server]
    place: asyncio.Future[Attempt]


class Queue:
    """Hands out attempts. `size` requests may wait per model, each for at most `timeout_seconds`; 0 = none waits."""

    def __init__(self, *, registry: Registry, size: int, timeout_seconds: float) -> None:
        self._registry = registry
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._waiting: dict[str, deque[Waiter]] = {}

    @property
    def length(self) -> int:
        """How many requests wait, over all models."""
        return sum(len(waiting) for waiting in self._waiting.values())

    def place(self, model_name: str, tried: Collection[Server]) -> Attempt | None:
        """An attempt on the server whose turn it is; None when the request has to wait.

        Raises what `Registry.pick` raises. There is no await between picking and counting: that is the lock.
        """
        if model_name in self._waiting:
            return None  # Those who came before go first.
        server = self._registry.pick(model_name, tried)
        return None if server is None else server.attempt(self.on_freed)

    def join(self, model_name: str, tried: Collection[Server]) -> asyncio.Future[Attempt]:
        """Wait for a place; cancelling the future leaves the queue.

        Raises Overloaded when the queue is full. The future fails with Overloaded after the timeout, or with what
        `Registry.pick` raises when the last server goes.
        """
        waiting = self._waiting.get(model_name)
        if self._timeout_seconds <= 0 or len(waiting or ()) >= self._size:
            raise _overloaded()
        loop = asyncio.get_running_loop()
        waiter = Waiter(tried, loop.create_future())
        self._waiting.setdefault(model_name, deque()).append(waiter)
        timer = loop.call_later(self._timeout_seconds, _fail, waiter.place, _overloaded())

        def left(place: asyncio.Future[Attempt]) -> None:
            timer.cancel()
            self._remove(model_name, waiter)

        waiter.place.add_done_callback(left)
        return waiter.place

    def on_freed(self, server: Server) -> None:
        """A request on `server` has ended: its slot goes to the next who waits."""
        if self._waiting:
            self.serve(server.registration.model_name)

    def serve(self, model_name: str) -> None:
        """Hand out what is free now to those who wait for `model_name`, in their order."""
        waiting = self._waiting.get(model_name)
        while waiting:
            waiter = waiting[0]
            if waiter.place.done():
                waiting.popleft()
                continue
            try:
                server = self._registry.pick(model_name, waiter.tried)
            except GatewayError as error:
                waiting.popleft()
                waiter.place.set_exception(error)
                continue
            if server is None:
                break
            waiting.popleft()
            waiter.place.set_result(server.attempt(self.on_freed))
        if not waiting:
            self._waiting.pop(model_name, None)

    def _remove(self, model_name: str, waiter: Waiter) -> None:
        waiting = self._waiting.get(model_name)
        if waiting is not None and waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self._waiting.pop(model_name, None)


def _fail(place: asyncio.Future[Attempt], error: Exception) -> None:
    if not place.done():
        place.set_exception(error)


def _overloaded() -> Overloaded:
    return Overloaded(
        "Every server of this model is busy and its queue is full. Send the request again later.",
        retry_after_seconds=5,
    )
