"""Waiting for a slot: first come, first served, exactly one for each slot, and nothing lost when somebody leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.errors import GatewayError, ModelNotFound, NoServerAvailable, Overloaded
from multiverse.proxy.queue import Queue
from multiverse.servers.lending import Asker
from multiverse.servers.registry import Registry
from multiverse.servers.server import Attempt, Blame, BreakerSettings, Server
from tests.bench import MODEL, UNHURRIED, HandClock, build_registration, build_registry, build_server

OTHER_MODEL = "org/another"
Place = asyncio.Future[Attempt]


def build_queue(*servers: Server, size: int = 64, timeout_seconds: float = 60.0) -> tuple[Queue, Registry]:
    """A queue that is told of changes, as the gateway wires it."""
    registry = build_registry(*servers)
    queue = Queue(registry=registry, size=size, timeout_seconds=timeout_seconds)
    registry.watch(queue.serve)
    return queue, registry


def take(queue: Queue, *tried: Server) -> Attempt:
    """A place that is free."""
    attempt = queue.place(MODEL, tried)
    assert attempt is not None
    return attempt


def wait(queue: Queue, *tried: Server) -> Place:
    """Join the queue, as a request does: ask first."""
    assert queue.place(MODEL, tried) is None, "nothing is free"
    return queue.join(MODEL, tried)


def done(*places: Place) -> str:
    """Which of the places have been given out."""
    return "".join("x" if place.done() else "." for place in places)


async def turn() -> None:
    """Let the loop run what is ready."""
    for _number in range(3):
        await asyncio.sleep(0)


# -- order


async def test_first_come_first_served() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server)
    attempt = take(queue)
    places = [wait(queue) for _number in range(5)]
    assert queue.length == 5
    for served in range(5):
        assert done(*places) == "x" * served + "." * (5 - served)
        attempt.end(Blame.SUCCESS)
        attempt = places[served].result()
        assert server.in_flight == 1, "handed over in the same turn"
        await turn()
    attempt.end(Blame.SUCCESS)
    assert (server.in_flight, queue.length) == (0, 0)


async def test_each_free_slot_goes_to_exactly_one() -> None:
    server = build_server(HandClock(), max_concurrency=3)
    queue, _ = build_queue(server)
    attempts = [take(queue) for _number in range(3)]
    places = [wait(queue) for _number in range(5)]
    attempts[0].end(Blame.SUCCESS)
    assert (done(*places), server.in_flight) == ("x....", 3)
    attempts[1].end(Blame.NONE)
    attempts[2].end(Blame.FAILURE, "reset")
    assert (done(*places), server.in_flight) == ("xxx..", 3)


async def test_nobody_overtakes() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server)
    take(queue)
    first, second = wait(queue), wait(queue)
    server.registration = build_registration(max_concurrency=2)  # a slot that nobody has told the queue about
    assert queue.place(MODEL, ()) is None, "those who came before go first"
    assert done(first, second) == "x."
    assert server.in_flight == 2


async def test_models_do_not_wait_for_each_other() -> None:
    clock = HandClock()
    full, free = build_server(clock, "a", max_concurrency=1), build_server(clock, "b", model_name=OTHER_MODEL)
    queue, _ = build_queue(full, free, size=1)
    take(queue)
    place = wait(queue)
    assert queue.place(OTHER_MODEL, ()) is not None
    with pytest.raises(Overloaded):
        queue.join(MODEL, ())
    place.cancel()
    await turn()


async def test_who_has_been_to_the_free_server_lets_the_others_pass() -> None:
    clock = HandClock()
    been_to, full = (build_server(clock, name, max_concurrency=1) for name in "ab")
    queue, _ = build_queue(been_to, full)
    attempts = {attempt.server: attempt for attempt in (take(queue), take(queue))}
    picky, later = wait(queue, been_to), wait(queue)
    attempts[been_to].end(Blame.SUCCESS)
    assert done(picky, later) == ".x", "the slot is of no use to the first"
    later.result().end(Blame.SUCCESS)
    newcomer = take(queue)
    assert newcomer.server is been_to, "nor does it keep newcomers from it"
    attempts[full].end(Blame.SUCCESS)
    assert picky.result().server is full, "it is still the first for what it can use"


# -- bounds


async def test_the_queue_is_bounded() -> None:
    queue, _ = build_queue(build_server(HandClock(), max_concurrency=1), size=2)
    take(queue)
    places = [wait(queue), wait(queue)]
    with pytest.raises(Overloaded) as raised:
        queue.join(MODEL, ())
    assert "Retry-After" in raised.value.headers()
    places[0].cancel()
    assert queue.place(MODEL, ()) is None
    assert not queue.join(MODEL, ()).done(), "who leaves makes room at once"
    assert queue.length == 2


@pytest.mark.parametrize(("size", "timeout_seconds"), [(0, 60.0), (64, 0.0)])
async def test_a_queue_that_is_switched_off(size: int, timeout_seconds: float) -> None:
    queue, _ = build_queue(build_server(HandClock(), max_concurrency=1), size=size, timeout_seconds=timeout_seconds)
    take(queue)
    with pytest.raises(Overloaded):
        queue.join(MODEL, ())
    assert queue.length == 0


async def test_waiting_ends_after_the_timeout() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server, timeout_seconds=0.05)
    attempt = take(queue)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Overloaded) as raised:
        await wait(queue)
    assert 0.04 <= loop.time() - began < 5.0
    assert "Retry-After" in raised.value.headers()
    assert queue.length == 0
    attempt.end(Blame.SUCCESS)
    assert server.in_flight == 0, "nothing is given to who has left"


async def test_what_a_request_has_waited_before_counts() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server, timeout_seconds=60)
    attempt = take(queue)
    newcomer, again = wait(queue), queue.join(MODEL, (), waited_seconds=59.98)
    standing = queue.standing(MODEL, again)
    assert standing is not None
    assert 59.98 <= standing.waited_seconds < 60, "also for its turn: nobody waits for ever"
    with pytest.raises(Overloaded):
        await asyncio.wait_for(again, 5)
    assert not newcomer.done()
    newcomer.cancel()
    attempt.end(Blame.SUCCESS)


async def test_nobody_makes_room_for_who_has_waited_long_enough() -> None:
    queue, _ = build_queue(build_server(HandClock(), max_concurrency=1), size=2)
    attempt = take(queue)
    heavy = Asker("heavy")
    places = [queue.join(MODEL, (), heavy), queue.join(MODEL, (), heavy)]
    with pytest.raises(Overloaded, match="stayed busy"):
        queue.join(MODEL, (), Asker("light"), waited_seconds=59.999)
    assert done(*places) == ".."
    assert not queue.join(MODEL, (), Asker("light"), waited_seconds=30).done()
    assert done(*places) == ".x", "but for who has time left"
    for place in places:
        place.cancel() if not place.done() else place.exception()
    attempt.end(Blame.SUCCESS)


# -- leaving


async def test_who_leaves_is_passed_over() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server)
    attempt = take(queue)
    places = [wait(queue) for _number in range(3)]
    places[1].cancel()
    await turn()
    assert queue.length == 2
    attempt.end(Blame.SUCCESS)
    places[0].result().end(Blame.SUCCESS)
    places[2].result().end(Blame.SUCCESS)
    assert server.in_flight == 0


async def test_who_leaves_in_the_turn_of_the_slot_leaks_nothing() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, _ = build_queue(server)
    attempt = take(queue)
    first, second = wait(queue), wait(queue)
    first.cancel()
    attempt.end(Blame.SUCCESS)  # the loop has not run: the queue has not been told
    assert done(first, second) == "xx"
    assert first.cancelled()
    assert server.in_flight == 1, "the slot went to the other one"
    assert not second.cancel(), "who leaves after the slot has come learns that it has one"
    second.result().end(Blame.NONE)
    assert server.in_flight == 0
    await turn()
    assert queue.length == 0
    take(queue)


# -- what ends the wait


class Scene:
    """One full server, one that is out, and a request that waits."""

    def __init__(self, spoil: Callable[[Server], object]) -> None:
        self.clock = HandClock()
        self.full = build_server(self.clock, "a", max_concurrency=1)
        self.out = build_server(self.clock, "b")
        spoil(self.out)
        self.queue, self.registry = build_queue(self.full, self.out)
        self.attempt = take(self.queue)
        assert self.attempt.server is self.full
        self.place = wait(self.queue)


def unhealthy(server: Server) -> None:
    server.forget_health()
    server.note_failed_probe("no answer")


def draining(server: Server) -> None:
    server.draining = True


async def test_woken_when_a_server_becomes_healthy() -> None:
    scene = Scene(unhealthy)
    scene.registry.changed(scene.out)
    assert not scene.place.done(), "a change that does not help"
    scene.out.note_good_probe()
    scene.registry.changed(scene.out)
    assert scene.place.result().server is scene.out


async def test_woken_when_a_server_is_resumed() -> None:
    scene = Scene(draining)
    scene.out.draining = False
    scene.registry.changed(scene.out)
    assert scene.place.result().server is scene.out


async def test_woken_when_a_server_is_registered() -> None:
    scene = Scene(draining)
    new = build_server(scene.clock, "c")
    scene.registry.add(new, 0.0)
    assert scene.place.result().server is new


async def test_woken_when_a_server_changes_over_to_the_model() -> None:
    scene = Scene(draining)
    other = build_server(scene.clock, "c", model_name=OTHER_MODEL)
    scene.registry.add(other, 0.0)
    other.registration = build_registration("c")
    scene.registry.rename(other, OTHER_MODEL, 0.0)
    assert scene.place.result().server is other


async def test_woken_when_an_owner_allows_more() -> None:
    scene = Scene(draining)
    scene.full.registration = build_registration("a", max_concurrency=2)
    scene.registry.changed(scene.full)
    assert scene.place.result().server is scene.full


class LoopClock(HandClock):
    """Real seconds, so that a timer of the loop finds what it waits for."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def test_woken_when_an_ejection_is_over() -> None:
    clock = LoopClock()
    breaker = BreakerSettings(max_failures=1, successes_to_recover=1, eject_seconds=0.05, eject_max_seconds=60.0)
    full, ejected = build_server(clock, "a", max_concurrency=1), build_server(clock, "b", breaker=breaker)
    queue, _ = build_queue(full, ejected)
    attempts = {attempt.server: attempt for attempt in (take(queue), take(queue))}
    attempts[ejected].end(Blame.FAILURE, "reset")
    first, second = wait(queue), wait(queue)
    trial = await asyncio.wait_for(first, 2.0)
    assert trial.server is ejected, "no request ends, no probe comes: time alone makes the trial due"
    await turn()
    assert not second.done(), "one trial"
    second.cancel()
    await turn()


async def test_an_ejection_that_begins_while_others_wait() -> None:
    clock = LoopClock()
    breaker = BreakerSettings(max_failures=1, successes_to_recover=1, eject_seconds=0.05, eject_max_seconds=60.0)
    full = build_server(clock, "a", max_concurrency=1)
    failing = build_server(clock, "b", breaker=breaker, max_concurrency=1)
    queue, _ = build_queue(full, failing)
    attempts = {attempt.server: attempt for attempt in (take(queue), take(queue))}
    place = wait(queue)
    attempts[failing].end(Blame.FAILURE, "reset")
    assert not place.done(), "its slot is free, but it is ejected"
    assert (await asyncio.wait_for(place, 2.0)).server is failing


async def test_a_trial_that_helps_nobody_does_not_keep_the_loop_busy() -> None:
    clock = LoopClock()
    breaker = BreakerSettings(max_failures=1, successes_to_recover=1, eject_seconds=0.01, eject_max_seconds=60.0)
    full, failed = build_server(clock, "a", max_concurrency=1), build_server(clock, "b", breaker=breaker)
    queue, registry = build_queue(full, failed)
    attempts = {attempt.server: attempt for attempt in (take(queue), take(queue))}
    attempts[failed].end(Blame.FAILURE, "reset")
    place = wait(queue, failed)  # this very request has been to the ejected server
    looks = 0
    pick = registry.pick

    def counted(*arguments: object) -> Server | None:
        nonlocal looks
        looks += 1
        return pick(*arguments)  # type: ignore[arg-type]

    registry.pick = counted  # type: ignore[method-assign]
    await asyncio.sleep(0.1)
    assert looks <= 3, "it looks when the trial is due, not all the time"
    place.cancel()
    await turn()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda scene: scene.registry.remove("b"), None),
        (lambda scene: (scene.registry.remove("b"), scene.registry.remove("a")), ModelNotFound),
        (lambda scene: scene.registry.remove("a"), NoServerAvailable),
        (lambda scene: (draining(scene.full), scene.registry.changed(scene.full)), NoServerAvailable),
    ],
)
async def test_nobody_waits_for_servers_that_are_gone(
    end: Callable[[Scene], object], error: type[GatewayError] | None
) -> None:
    scene = Scene(draining)
    end(scene)
    if error is None:
        assert not scene.place.done(), "the other one is still worth waiting for"
        scene.place.cancel()
    else:
        with pytest.raises(error):
            scene.place.result()
    await turn()
    assert scene.queue.length == 0


async def test_who_waits_for_a_last_resort_waits_for_its_slot() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, registry = build_queue(server)
    unhealthy(server)
    attempt = take(queue)
    place = wait(queue)
    registry.changed(server)
    assert not place.done()
    attempt.end(Blame.FAILURE, "reset")
    place.result().end(Blame.SUCCESS)
    assert server.in_flight == 0


async def test_nobody_waits_behind_others_for_what_cannot_help() -> None:
    server = build_server(HandClock(), max_concurrency=1)
    queue, registry = build_queue(server)
    attempt, place = take(queue), wait(queue)
    with pytest.raises(Overloaded):
        queue.place(MODEL, (server,))  # It has been there; it shall be told so now.
    assert queue.place(MODEL, (), last_resort=False) is None
    other = queue.join(MODEL, (), last_resort=False)
    unhealthy(server)
    registry.changed(server)
    assert done(place, other) == ".x", "there is another model for it, which does not wait for a last resort's slot"
    assert isinstance(other.exception(), NoServerAvailable)
    with pytest.raises(NoServerAvailable):
        queue.place(MODEL, (), last_resort=False)
    attempt.end(Blame.FAILURE, "reset")
    place.result().end(Blame.SUCCESS)


# -- whatever happens in whatever order


@UNHURRIED
@given(
    slots=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    actions=st.lists(st.tuples(st.sampled_from(["ask", "ask", "end", "leave", "drain", "turn"]), st.integers(0, 99))),
)
def test_no_slot_is_lost_or_given_twice(slots: list[int], actions: list[tuple[str, int]]) -> None:
    asyncio.run(_play(slots, actions))


async def _play(slots: list[int], actions: list[tuple[str, int]]) -> None:
    clock = HandClock()
    servers = [build_server(clock, f"s{number}", max_concurrency=count) for number, count in enumerate(slots)]
    queue, registry = build_queue(*servers)
    running: list[Attempt] = []
    waiting: list[Place] = []
    for action, number in actions:
        if action == "ask":
            _ask(queue, running, waiting)
        elif action == "end" and running:
            running.pop(number % len(running)).end(Blame.SUCCESS)
        elif action == "leave" and waiting:
            waiting[number % len(waiting)].cancel()
        elif action == "drain" and len(servers) > 1:
            servers[0].draining = not servers[0].draining
            registry.changed(servers[0])
        elif action == "turn":
            await turn()
        _collect(running, waiting)
        assert sum(server.in_flight for server in servers) == len(running)
        for server in servers:
            assert server.in_flight <= (server.registration.max_concurrency or 0)
            assert not (server.available and waiting), "nobody waits while a slot is free"
    while running:
        running.pop().end(Blame.SUCCESS)
        _collect(running, waiting)
    assert not waiting, "everybody was served in the end"
    assert [server.in_flight for server in servers] == [0] * len(servers)
    await turn()
    assert queue.length == 0


def _ask(queue: Queue, running: list[Attempt], waiting: list[Place]) -> None:
    attempt = queue.place(MODEL, ())
    if attempt is None:
        waiting.append(queue.join(MODEL, ()))
    else:
        assert not waiting, "nobody overtakes"
        running.append(attempt)


def _collect(running: list[Attempt], waiting: list[Place]) -> None:
    served = [place.done() and not place.cancelled() for place in waiting]
    still = [place for place in waiting if not place.cancelled()]
    assert [place.done() for place in still] == sorted((place.done() for place in still), reverse=True), "in order"
    running.extend(place.result() for place, is_served in zip(waiting, served, strict=True) if is_served)
    waiting[:] = [place for place in waiting if not place.done()]
