"""Who is picked: in turn, by preference, as the last resort, or nobody and why. No I/O, no waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import pytest

from multiverse.errors import GatewayError, ModelLoading, ModelNotFound, NoServerAvailable, Overloaded
from multiverse.servers.registry import Registry
from multiverse.servers.server import Server
from tests.bench import BREAKER, MODEL, HandClock, begin, build_registration, build_registry, build_server, fail

OTHER_MODEL = "org/another"
NO_ANSWER = "the server did not answer"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def three(clock: HandClock) -> list[Server]:
    """Three healthy servers of one model."""
    return [build_server(clock, name) for name in "abc"]


def picked(registry: Registry, count: int = 1, tried: Collection[Server] = (), model_name: str = MODEL) -> str:
    """The ids of the servers that `count` requests go to."""
    servers = [registry.pick(model_name, tried) for _number in range(count)]
    return "".join(server.registration_id if server else "-" for server in servers)


def make_unhealthy(server: Server) -> None:
    for _number in range(BREAKER.max_failures):
        server.note_failed_probe(NO_ANSWER)


# -- round robin


def test_round_robin_is_fair(three: list[Server]) -> None:
    assert Counter(picked(build_registry(*three), 300)) == {"a": 100, "b": 100, "c": 100}


@pytest.mark.parametrize("lost", range(4))
def test_round_robin_stays_fair_without_one(clock: HandClock, lost: int) -> None:
    four = [build_server(clock, name) for name in "abcd"]
    registry = build_registry(*four)
    picked(registry, 5)
    four[lost].draining = True
    counts = Counter(picked(registry, 300))
    assert sorted(counts.values()) == [100, 100, 100], "nobody gets the turns of the one that is out"
    four[lost].draining = False
    assert set(Counter(picked(registry, 400)).values()) == {100}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("removed", "abc")
def test_a_server_that_is_removed_takes_no_turn_with_it(three: list[Server], turns: int, removed: str) -> None:
    registry = build_registry(*three)
    expected = [name for name in ("abc" * 4)[turns:] if name != removed]
    picked(registry, turns)
    registry.remove(removed)
    assert picked(registry, 6) == "".join(expected[:6])


@pytest.mark.parametrize("turns", range(4))
def test_a_server_that_is_added_takes_its_place_at_the_end(three: list[Server], clock: HandClock, turns: int) -> None:
    registry = build_registry(*three)
    picked(registry, turns)
    registry.add(build_server(clock, "d"), 0.0)
    assert picked(registry, 8) == ("abcd" * 4)[turns : turns + 8]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("renamed", range(3))
def test_a_server_that_is_renamed_changes_over(three: list[Server], clock: HandClock, turns: int, renamed: int) -> None:
    elsewhere = build_server(clock, "x", model_name=OTHER_MODEL)
    registry = build_registry(*three, elsewhere)
    picked(registry, turns)
    server = three[renamed]
    server.registration = build_registration(server.registration_id, OTHER_MODEL)
    registry.rename(server, MODEL, 0.0)
    left = [name for name in ("abc" * 4)[turns:] if name != server.registration_id]
    assert picked(registry, 6) == "".join(left[:6])
    assert Counter(picked(registry, 10, model_name=OTHER_MODEL)) == {"x": 5, server.registration_id: 5}
    assert registry.find(OTHER_MODEL, server.registration.endpoint.url) is server
    assert registry.find(MODEL, server.registration.endpoint.url) is None


def test_the_last_server_takes_its_model_with_it(three: list[Server]) -> None:
    registry = build_registry(three[0])
    assert [(name, created) for name, created, _servers in registry.models()] == [(MODEL, 1_700_000_000.0)]
    assert registry.remove("a") is three[0]
    assert (list(registry.models()), registry.get("a"), three[0].registered) == ([], None, False)
    assert registry.remove("a") is None
    registry.add(three[0], 5.0)
    assert three[0].registered


class CountingServer(Server):
    """Counts how often it is asked whether it is available."""

    asked = 0

    @property
    def available(self) -> bool:
        CountingServer.asked += 1
        return super().available


@pytest.mark.parametrize("lost_among_ten", [0, 5])
def test_picking_costs_the_same_among_many(clock: HandClock, lost_among_ten: int) -> None:
    asked = []
    for count in (10, 1000):
        servers = [CountingServer(build_registration(f"s{number}"), BREAKER, clock) for number in range(count)]
        for number, server in enumerate(servers):
            server.note_good_probe()
            server.draining = number % 10 < lost_among_ten
        registry = build_registry(*servers)
        CountingServer.asked = 0
        for _number in range(3000):
            assert registry.pick(MODEL) is not None
        asked.append(CountingServer.asked / 3000)
    assert asked[0] == pytest.approx(asked[1], rel=0.01)
    assert asked[1] <= 2.1, f"questions for one pick among 10 and among 1000: {asked}"


# -- preference


def test_a_busy_server_comes_last_for_as_long_as_it_said(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    three[1].note_busy(7.0, "busy")
    assert picked(registry, 6) == "acacac"
    clock.pass_time(7)
    assert Counter(picked(registry, 6)) == {"a": 2, "b": 2, "c": 2}


def test_a_server_that_refused_comes_last_for_a_moment(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    three[0].note_connect_failure()
    assert picked(registry, 4) == "bcbc"
    clock.pass_time(2)
    assert "a" in picked(registry, 3)


@pytest.mark.parametrize("least_busy", [False, True])
def test_the_only_server_is_picked_busy_or_not(clock: HandClock, least_busy: bool) -> None:
    server = build_server(clock)
    registry = build_registry(server, least_busy=least_busy)
    server.note_busy(600.0, "busy")
    server.note_connect_failure()
    assert picked(registry, 3) == "aaa"


@pytest.mark.parametrize("least_busy", [False, True])
def test_a_busy_server_is_better_than_one_that_cannot(three: list[Server], least_busy: bool) -> None:
    registry = build_registry(*three, least_busy=least_busy)
    three[0].note_busy(5.0, "busy")
    fail(three[1], 3)
    make_unhealthy(three[2])
    assert picked(registry, 3) == "aaa"


def test_of_busy_servers_the_one_that_is_free_first(three: list[Server]) -> None:
    registry = build_registry(*three)
    for server, seconds in zip(three, (30.0, 7.0, 20.0), strict=True):
        server.note_busy(seconds, "busy")
    assert picked(registry, 3) == "bbb"
    assert picked(registry, 3, tried=[three[1]]) == "ccc"


@pytest.mark.parametrize("least_busy", [False, True])
def test_tried_servers_are_passed_over(three: list[Server], least_busy: bool) -> None:
    registry = build_registry(*three, least_busy=least_busy)
    assert set(picked(registry, 20, tried=three[:2])) == {"c"}
    assert set(picked(registry, 30, tried=three[1:2])) == {"a", "c"}
    with pytest.raises(NoServerAvailable):
        registry.pick(MODEL, three)


def test_an_attempt_elsewhere_does_not_cost_a_turn_twice(three: list[Server]) -> None:
    registry = build_registry(*three)
    counts: Counter[str] = Counter()
    for _number in range(100):
        first = registry.pick(MODEL)
        assert first is not None
        counts[first.registration_id] += 1
        counts[picked(registry, tried=[first])] += 1
    assert max(counts.values()) - min(counts.values()) <= 2, f"retries are spread as well: {counts}"


# -- least busy


def test_least_busy_by_share_of_slots(clock: HandClock) -> None:
    small, large = build_server(clock, "s", max_concurrency=2), build_server(clock, "l", max_concurrency=8)
    registry = build_registry(small, large, least_busy=True)
    for _number in range(3):
        begin(large)
    begin(small)
    assert picked(registry, 5) == "lllll", "three of eight is less than one of two"
    for _number in range(2):
        begin(large)
    assert picked(registry, 5) == "sssss", "five of eight is more"


def test_least_busy_draws_between_equals(three: list[Server]) -> None:
    registry = build_registry(*three, least_busy=True)
    counts = Counter(picked(registry, 3000))
    assert set(counts) == set("abc")
    assert min(counts.values()) > 850, f"a third each: {counts}"
    begin(three[0])
    assert set(picked(registry, 50)) == {"b", "c"}


# -- full, last resort, nobody


@pytest.mark.parametrize("least_busy", [False, True])
def test_nobody_while_all_slots_are_taken(clock: HandClock, least_busy: bool) -> None:
    servers = [build_server(clock, name, max_concurrency=1) for name in "ab"]
    registry = build_registry(*servers, least_busy=least_busy)
    for server in servers:
        begin(server)
    assert registry.pick(MODEL) is None, "worth waiting for"
    assert registry.pick(MODEL, servers[:1]) is None


def test_the_last_resort_is_the_least_recently_failed(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    for server in (three[1], three[0]):
        fail(server, 3)
        clock.pass_time(1)
    make_unhealthy(three[2])
    assert picked(registry) == "b"
    assert picked(registry, tried=[three[1]]) == "a"
    assert picked(registry, tried=three[:2]) == "c"
    clock.pass_time(1)
    fail(three[1])
    assert picked(registry) == "a", "it has failed once more: now it is the turn of the next one"


@pytest.mark.parametrize("spoil", [lambda server: fail(server, 3), make_unhealthy])
def test_no_last_resort_while_one_can(three: list[Server], spoil: Callable[[Server], object]) -> None:
    registry = build_registry(*three)
    spoil(three[0])
    spoil(three[1])
    assert picked(registry, 5) == "ccccc"
    with pytest.raises(NoServerAvailable):
        registry.pick(MODEL, [three[2]])


def test_no_last_resort_while_one_is_only_full(clock: HandClock) -> None:
    full, lost = build_server(clock, "a", max_concurrency=1), build_server(clock, "b")
    registry = build_registry(full, lost)
    begin(full)
    fail(lost, 3)
    assert registry.pick(MODEL) is None
    assert picked(registry, tried=[full]) == "b", "one that has been to the full server has nothing to wait for"


def test_a_last_resort_has_slots_too(clock: HandClock) -> None:
    server = build_server(clock, max_concurrency=1)
    registry = build_registry(server)
    make_unhealthy(server)
    attempt = begin(server)
    assert registry.pick(MODEL) is None, "worth waiting for"
    server.in_flight -= 1
    assert picked(registry) == "a"
    assert not attempt.ended


def test_a_trial_takes_its_turn_like_any_other(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    fail(three[1], 3)
    assert picked(registry, 4) == "acac"
    clock.pass_time(BREAKER.eject_seconds)
    names = []
    for _number in range(4):
        server = registry.pick(MODEL)
        assert server is not None
        begin(server)
        names.append(server.registration_id)
    assert "".join(names) == "abca", "one trial, however many ask"


def spoil_all(*words: str) -> Callable[[list[Server]], None]:
    """Something to do to each of the servers, in their order."""
    spoilers: dict[str, Callable[[Server], object]] = {
        "draining": lambda server: setattr(server, "draining", True),
        "loading": lambda server: server.note_loading(),
        "unknown": lambda server: server.forget_health(),
        "missing": lambda server: server.note_model_missing(),
    }

    def spoil(servers: list[Server]) -> None:
        for server, word in zip(servers, words, strict=True):
            spoilers[word](server)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (spoil_all("draining", "draining", "draining"), NoServerAvailable),
        (spoil_all("unknown", "unknown", "unknown"), NoServerAvailable),
        (spoil_all("missing", "missing", "missing"), NoServerAvailable),
        (spoil_all("loading", "loading", "loading"), ModelLoading),
        (spoil_all("draining", "unknown", "loading"), ModelLoading),
        (spoil_all("draining", "unknown", "missing"), NoServerAvailable),
    ],
)
def test_nobody_and_why(three: list[Server], spoil: Callable[[list[Server]], None], error: type[GatewayError]) -> None:
    registry = build_registry(*three)
    spoil(three)
    with pytest.raises(error) as raised:
        registry.pick(MODEL)
    assert 1 <= int(raised.value.headers()["Retry-After"]) <= 60
    assert "example" not in raised.value.message, "no address"


def test_overloaded_when_the_rest_is_full(clock: HandClock) -> None:
    full, other = build_server(clock, "a", max_concurrency=1), build_server(clock, "b")
    registry = build_registry(full, other)
    begin(full)
    other.draining = True
    with pytest.raises(Overloaded):
        registry.pick(MODEL, [full])


@pytest.mark.parametrize("asked", ["Org/Model:7B", "org/model:7", "orgmodel:7b", "org/model"])
def test_an_unknown_model_brings_close_names(three: list[Server], asked: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        build_registry(*three).pick(asked)
    assert (raised.value.param, raised.value.status) == ("model", 404)
    assert f"'{MODEL}'" in raised.value.message
    assert f"'{asked}'" in raised.value.message


def test_an_unknown_model_far_from_all(three: list[Server]) -> None:
    with pytest.raises(ModelNotFound) as raised:
        build_registry(*three).pick("zzz")
    assert "GET /v1/models" in raised.value.message
    assert MODEL not in raised.value.message


# -- when waiting may be over


def test_who_waits_is_told_of_every_change(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    told: list[str] = []
    registry.watch(told.append)
    registry.changed(three[0])
    three[0].draining = True
    registry.changed(three[0])
    assert told == [MODEL, MODEL], "also when there is one less to wait for"
    told.clear()
    three[1].registration = build_registration("b", OTHER_MODEL)
    registry.rename(three[1], MODEL, 0.0)
    assert set(told) == {MODEL, OTHER_MODEL}
    told.clear()
    registry.remove("c")
    registry.add(build_server(clock, "d"), 0.0)
    assert told == [MODEL, MODEL]


def test_seconds_to_the_next_trial(three: list[Server], clock: HandClock) -> None:
    registry = build_registry(*three)
    assert registry.seconds_to_trial(MODEL) is None
    fail(three[0], 3)
    clock.pass_time(4)
    fail(three[1], 3)
    assert registry.seconds_to_trial(MODEL) == BREAKER.eject_seconds - 4
    three[0].draining = True
    assert registry.seconds_to_trial(MODEL) == BREAKER.eject_seconds, "one that drains will not be tried"
    clock.pass_time(BREAKER.eject_seconds)
    assert registry.seconds_to_trial(MODEL) is None, "due: there is nothing to wait for"
    assert registry.seconds_to_trial("unknown") is None
