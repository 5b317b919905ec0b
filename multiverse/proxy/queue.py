"""Where requests wait when every server of their model is full: a bounded line per model, in the order of fairness.py.

A freed slot is handed to exactly one waiter in the same turn of the loop, so nobody can take it in between. What a slot
is, and who may take one, the registry says; whose turn it is, fairness.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from multiverse.clock import Clock
from multiverse.errors import GatewayError, Overloaded
from multiverse.proxy.fairness import Pace, Waiting, ranking, whom_to_drop
from multiverse.proxy.shares import Shares
from multiverse.servers.lending import ANYBODY, Asker
from multiverse.servers.registry import Registry
from multiverse.servers.server import Attempt, Server

QUEUE_FULL = "Every server of this model is busy and its queue is full. Send the request again later."
WAITED_TOO_LONG = "Every server of this model stayed busy while the request was waiting. Send it again later."
MADE_ROOM = "You have the most requests in this model's full queue: this one has made room for somebody else's."
UNKNOWN_PACE_SECONDS = 5.0
SHORTEST_WAIT_SECONDS = 0.005  # Timers come to within a millisecond or so.


@dataclass(slots=True, eq=False)
class Waiter(Waiting):
    """A request that waits; `place` becomes its attempt, or the error that ends the wait."""

    tried: Collection[Server]
    whose: Asker
    last_resort: bool
    place: asyncio.Future[Attempt]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands: its place from 1 on, how long it has waited, how long it may still; None = unknown."""

    asker: str
    place: int
    waited_seconds: float
    estimated_seconds: float | None


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

    def __init__(self, *, registry: Registry, size: int, timeout_seconds: float, clock: Clock | None = None) -> None:
        self._registry = registry
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._clock = clock or Clock()
        self._lines: dict[str, Line] = {}
        self._paces: dict[str, Pace] = {}
        self.shares = Shares(self._clock)

    @property
    def length(self) -> int:
        """How many requests wait, over all models."""
        return sum(len(line.waiters) for line in self._lines.values())

    def place(
        self, model_name: str, tried: Collection[Server], asker: Asker = ANYBODY, last_resort: bool = True
    ) -> Attempt | None:
        """An attempt on the server whose turn it is; None when the request has to wait. Without `last_resort`, on none
        that is down.

        Raises what `Registry.pick` raises. There is no await between picking and counting: that is the lock.
        """
        if model_name in self._lines:
            self.serve(model_name)
            ordered = self._somebody_waits_for_any(model_name) and not self._registry.is_restricted(model_name)
            if ordered and self._may_wait(model_name, tried, last_resort):
                return None  # Those who came before go first, whoever they are: what is free now is given out.
        # What is free now, although somebody waits, is kept from those who wait; perhaps it is kept for this one.
        server = self._registry.pick(model_name, tried, asker, last_resort)
        return None if server is None else self._attempt(server, asker)

    def _attempt(self, server: Server, asker: Asker) -> Attempt:
        self.shares.begin(asker.name, asker.weight)
        return server.attempt(partial(self._on_freed, asker.name), asker)

    def join(
        self,
        model_name: str,
        tried: Collection[Server],
        asker: Asker = ANYBODY,
        waited_seconds: float = 0.0,
        last_resort: bool = True,
    ) -> asyncio.Future[Attempt]:
        """Wait for a place; cancelling the future leaves the queue. `waited_seconds` it has waited before counts.

        Raises Overloaded when it has waited long enough, and when the queue is full, unless somebody has so many places
        that one is `asker`'s by right. The future fails with Overloaded after the timeout, or when it makes room, or
        with what `Registry.pick` raises when the last server goes. Whoever takes its result must end that attempt.
        """
        line, left_seconds = self._lines.get(model_name), self._timeout_seconds - waited_seconds
        if waited_seconds > 0 and left_seconds < SHORTEST_WAIT_SECONDS:
            raise self._too_long(model_name)  # Nobody shall make room for it in vain.
        if self._timeout_seconds <= 0 or len(line.waiters if line else ()) >= self._size:
            self._make_room(model_name, asker.name)
        loop = asyncio.get_running_loop()
        entered = self._clock.monotonic() - waited_seconds
        waiter = Waiter(asker.name, entered, tried, asker, last_resort, loop.create_future())
        self._lines.setdefault(model_name, Line()).waiters.append(waiter)
        timer = loop.call_later(left_seconds, self._give_up, model_name, waiter.place)

        def left(place: asyncio.Future[Attempt]) -> None:
            timer.cancel()
            self._forget(model_name, waiter)

        waiter.place.add_done_callback(left)
        self._await_trial(model_name)
        return waiter.place

    def _make_room(self, model_name: str, newcomer: str) -> None:
        line = self._lines.get(model_name)
        waiting = [waiter for waiter in line.waiters if not waiter.place.done()] if line else []
        dropped = whom_to_drop(waiting, newcomer) if self._timeout_seconds > 0 else None
        if line is None or dropped is None:
            raise Overloaded(QUEUE_FULL, retry_after_seconds=self._seconds_per_slot(model_name) or UNKNOWN_PACE_SECONDS)
        line.waiters.remove(waiting[dropped])
        waiting[dropped].place.set_exception(
            Overloaded(MADE_ROOM, retry_after_seconds=self._seconds_until(model_name, len(waiting)))
        )

    def _on_freed(self, asker: str, server: Server) -> None:
        """A request of `asker` on `server` has ended: its slot goes to the next who waits."""
        self.shares.end(asker)
        if self._lines:
            model_name = server.registration.model_name
            if model_name in self._lines:
                self._paces.setdefault(model_name, Pace()).note(self._clock.monotonic())
                self.serve(model_name)

    def serve(self, model_name: str) -> None:
        """Hand out what is free now to those who wait for `model_name`, in the order of their turns."""
        line = self._lines.get(model_name)
        if line is None:
            return
        waiting = [waiter for waiter in line.waiters if not waiter.place.done()]
        served: set[Waiter] = set()
        restricted, in_vain = self._registry.is_restricted(model_name), set[str]()
        nothing_free = False
        for position in self._ranking(model_name, waiting):
            waiter = waiting[position]
            passed_over = nothing_free or waiter.asker in in_vain
            if passed_over and self._may_wait(model_name, waiter.tried, waiter.last_resort):
                continue
            if self._serve_one(model_name, waiter):
                served.add(waiter)
            elif not waiter.tried:
                # One who has been to the free server already only lets the others pass. Others wait in vain now: all of
                # them, since nothing is free at all, unless owners keep what is free from some.
                if restricted:
                    in_vain.add(waiter.asker)
                nothing_free = not restricted
        line.waiters = [waiter for waiter in waiting if waiter not in served]
        self._await_trial(model_name)

    def _ranking(self, model_name: str, waiting: list[Waiter]) -> list[int]:
        if len(waiting) == 1:
            return [0]
        askers = {waiter.asker: waiter.whose for waiter in waiting}.values()
        owners = self._registry.owners_of_free(model_name, askers)
        return ranking(waiting, self.shares.by_asker, self._clock.monotonic(), owners)

    def _serve_one(self, model_name: str, waiter: Waiter) -> bool:
        try:
            server = self._registry.pick(model_name, waiter.tried, waiter.whose, waiter.last_resort)
        except GatewayError as error:
            waiter.place.set_exception(error)
            return True
        if server is None:
            return False
        waiter.place.set_result(self._attempt(server, waiter.whose))
        return True

    def _may_wait(self, model_name: str, tried: Collection[Server], last_resort: bool) -> bool:
        """Whether a slot could help such a request. Most may: for them no server has to be looked at."""
        return (last_resort and not tried) or self._registry.has_other(model_name, tried, last_resort)

    def _somebody_waits_for_any(self, model_name: str) -> bool:
        line = self._lines.get(model_name)
        return line is not None and any(not waiter.tried for waiter in line.waiters)

    def _give_up(self, model_name: str, place: asyncio.Future[Attempt]) -> None:
        if not place.done():
            place.set_exception(self._too_long(model_name))

    def _too_long(self, model_name: str) -> Overloaded:
        seconds = self._seconds_per_slot(model_name) or UNKNOWN_PACE_SECONDS
        return Overloaded(WAITED_TOO_LONG, retry_after_seconds=seconds)

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

    # -- what those who wait are told ----------------------------------------------------------------------------------

    def _seconds_per_slot(self, model_name: str) -> float | None:
        pace = self._paces.get(model_name)
        return None if pace is None else pace.seconds_per_slot(self._clock.monotonic())

    def _seconds_until(self, model_name: str, place: int) -> float:
        return (self._seconds_per_slot(model_name) or UNKNOWN_PACE_SECONDS) * place

    def standings(self, model_name: str) -> list[tuple[asyncio.Future[Attempt], Standing]]:
        """Everybody who waits for `model_name`, in the order of their turns."""
        line = self._lines.get(model_name)
        waiting = [waiter for waiter in line.waiters if not waiter.place.done()] if line else []
        now, pace = self._clock.monotonic(), self._seconds_per_slot(model_name)
        found = []
        for place, position in enumerate(self._ranking(model_name, waiting) if waiting else (), 1):
            waiter = waiting[position]
            estimated = None if pace is None else pace * place
            standing = Standing(waiter.asker, place, now - waiter.entered_seconds, estimated)
            found.append((waiter.place, standing))
        return found

    def standing(self, model_name: str, place: asyncio.Future[Attempt]) -> Standing | None:
        """Where the request of `place` stands; None when it waits no more."""
        return next((standing for other, standing in self.standings(model_name) if other is place), None)

    def waiting_models(self) -> Iterator[str]:
        """The models that somebody waits for."""
        yield from self._lines
