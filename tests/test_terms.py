"""The terms on which an owner lends a server: who may use it when, and what is told to everybody else. No waiting."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiverse.clock import iso_from_unix
from multiverse.errors import GatewayError, InvalidRequest, ModelNotOffered, ServersWithheld
from multiverse.people.keys import Caller, Keys, digest_of
from multiverse.proxy.queue import Queue
from multiverse.servers.lending import Asker
from multiverse.servers.record import record_of
from multiverse.servers.registry import Registry
from multiverse.servers.server import Blame, Server
from multiverse.servers.terms import QuietHours, find_zone
from multiverse.servers.terms_watch import TermsWatch
from multiverse.storage.store import Store
from multiverse.storage.usage_table import UsageTable
from tests.bench import (
    BREAKER,
    MODEL,
    UNHURRIED,
    HandClock,
    build_record,
    build_registration,
    build_registry,
    build_server,
)
from tests.stores import opened, usage_rows

BERLIN = ZoneInfo("Europe/Berlin")
OWNER, FRIEND, OTHER, ADMIN = Asker("key-ada"), Asker("key-ben"), Asker("key-eve"), Asker("admin", is_admin=True)
ADMINS = {"owner_key_id": None}


def clock_at(text: str, zone: ZoneInfo = BERLIN) -> HandClock:
    """A clock that stands at this time of the zone's clocks; `*` behind it: the second time that it comes."""
    moment = datetime.fromisoformat(text.rstrip("*")).replace(tzinfo=zone, fold=int(text.endswith("*")))
    return HandClock(unix_seconds=moment.timestamp())


def lent(clock: HandClock, name: str = "a", **terms: Any) -> Server:
    """A healthy server of Ada's."""
    return build_server(clock, name, **{"owner_key_id": "key-ada", **terms})


def word(server: Server, asker: Asker) -> str | None:
    """Why the server is closed to the asker."""
    withheld = server.withheld_from(asker)
    return None if withheld is None else withheld.word


# -- who may


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, [None, None, None, None]),
        ({"paused": True}, [None, "paused", "paused", "paused"]),
        ({"paused": True, **ADMINS}, ["paused", "paused", "paused", None]),
        ({"offered_to": "me"}, [None, "not_offered", "not_offered", "not_offered"]),
        ({"offered_to": "friends", "friends": ("key-ben",)}, [None, None, "not_offered", "not_offered"]),
        ({"offered_to": "class", "friends": ("key-ben",)}, [None, None, None, None]),
        ({"offered_to": "friends", "friends": ("key-ben",), "paused": True}, [None, "paused", *["not_offered"] * 2]),
        ({"reserve_slot": True, "max_concurrency": 1}, [None, "reserved", "reserved", "reserved"]),
        ({"reserve_slot": True, "max_concurrency": 2}, [None, None, None, None]),
        ({"reserve_slot": True}, [None, None, None, None]),
        ({"quiet_hours": "22:00-07:00", "time_zone": "Europe/Berlin"}, [None, "quiet", "quiet", "quiet"]),
        ({"quiet_hours": "22:00-07:00", "time_zone": "America/New_York"}, [None, None, None, None]),
        ({"daily_token_cap": 1}, [None, None, None, None]),
    ],
)
def test_who_may_use_a_server(terms: dict[str, Any], expected: list[str | None]) -> None:
    server = lent(clock_at("2026-11-23 23:30"), **terms)
    assert [word(server, asker) for asker in (OWNER, FRIEND, OTHER, ADMIN)] == expected
    registry, least_busy = build_registry(server), build_registry(server, least_busy=True)
    for asker, why in zip((OWNER, FRIEND, OTHER, ADMIN), expected, strict=True):
        if why is None:
            assert registry.pick(MODEL, (), asker) is least_busy.pick(MODEL, (), asker) is server
            continue
        with pytest.raises((ServersWithheld, ModelNotOffered)):
            least_busy.pick(MODEL, (), asker)
        with pytest.raises((ServersWithheld, ModelNotOffered)) as refused:
            registry.pick(MODEL, (), asker)
        reason = server.withheld_from(asker)
        assert reason is not None
        assert reason.reason in refused.value.message
        assert isinstance(refused.value, ModelNotOffered) == (why in ("not_offered", "reserved")), why
        assert record_of(server, asker)["availability"] == why
        assert record_of(server, asker)["reason"] == reason.reason


def test_the_owner_hears_why_nobody_else_may() -> None:
    server = lent(clock_at("2026-11-23 23:30"), quiet_hours="22:00-07:00", time_zone="Europe/Berlin")
    told = record_of(server, OWNER)
    assert (told["availability"], told["reason"]) == ("quiet", "it is in its quiet hours until 07:00 (Europe/Berlin)")
    server.change(build_registration("a", offered_to="me", owner_key_id="key-ada"))
    assert record_of(server, OWNER)["availability"] == "available", "on offer to them"
    server.draining = True
    assert record_of(server, OTHER)["availability"] == "draining", "health and drains come first"
    assert build_registry(server).is_restricted(MODEL)


@pytest.mark.parametrize(
    ("others", "asker", "text"),
    [
        ([{"paused": True}, {"paused": True}], OTHER, "its owner has paused it (2 servers)"),
        ([{"paused": True}, {"offered_to": "me"}], OTHER, "paused it; its owner offers it to nobody else"),
        ([{"offered_to": "me"}, {"offered_to": "me"}], OTHER, "offers it to nobody else (2 servers)"),
    ],
)
def test_an_error_says_why_and_how_often(others: list[dict[str, Any]], asker: Asker, text: str) -> None:
    clock = HandClock()
    registry = build_registry(*(lent(clock, name, **terms) for name, terms in zip("ab", others, strict=True)))
    with pytest.raises(GatewayError) as refused:
        registry.pick(MODEL, (), asker)
    assert text in refused.value.message
    for_now = "paused" in text
    assert refused.value.headers() == ({"Retry-After": "60", "X-Should-Retry": "false"} if for_now else {})


def test_a_server_that_is_down_says_so_beside_one_that_is_kept() -> None:
    clock = HandClock()
    down, kept = lent(clock, "a", healthy=False), lent(clock, "b", paused=True)
    with pytest.raises(GatewayError, match=r"no server can answer now.*its owner has paused it") as refused:
        build_registry(down, kept).pick(MODEL, (), OTHER)
    assert (refused.value.code, refused.value.retry_after_seconds) == ("no_server_available", 5)


def test_not_even_the_last_resort_is_somebody_elses() -> None:
    server = lent(HandClock(), paused=True)
    for _number in range(BREAKER.max_failures):
        server.note_failed_probe("it did not answer")
    registry = build_registry(server)
    assert registry.pick(MODEL, (), OWNER) is server, "better than refusing"
    with pytest.raises(ServersWithheld):
        registry.pick(MODEL, (), OTHER)


def test_a_model_that_is_kept_from_somebody_is_not_named_to_them() -> None:
    registry = build_registry(lent(HandClock(), offered_to="me"))
    for asker, named in ((OTHER, False), (OWNER, True)):
        with pytest.raises(GatewayError) as refused:
            registry.pick(MODEL[:-1], (), asker)
        assert (MODEL in refused.value.message) == named


# -- quiet hours


@pytest.mark.parametrize(
    ("hours", "moment", "until"),
    [
        ("22:00-07:00", "2026-11-23 21:59", None),
        ("22:00-07:00", "2026-11-23 22:00", "07:00"),
        ("22:00-07:00", "2026-11-24 00:00", "07:00"),
        ("22:00-07:00", "2026-11-24 06:59:59", "07:00"),
        ("22:00-07:00", "2026-11-24 07:00", None),
        ("12:00-13:00", "2026-11-24 12:30", "13:00"),
        ("12:00-13:00, 13:00-14:15", "2026-11-24 12:30", "14:15"),
        ("18:00-24:00", "2026-11-24 23:59", "00:00"),
        ("18:00-24:00", "2026-11-25 00:00", None),
        # Clocks go from 02:00 to 03:00 …
        ("02:15-02:45", "2026-03-29 01:59:59", None),
        ("02:15-02:45", "2026-03-29 03:00", None),
        ("01:00-02:30", "2026-03-29 01:59:59", "02:30"),
        ("01:00-02:30", "2026-03-29 03:00", None),
        # … and from 03:00 to 02:00.
        ("02:15-02:45", "2026-10-25 02:30", "02:45"),
        ("02:15-02:45", "2026-10-25 02:50", None),
        ("02:15-02:45", "2026-10-25 02:30*", "02:45"),
        ("02:15-02:45", "2026-10-25 02:50*", None),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(hours: str, moment: str, until: str | None) -> None:
    server = lent(clock_at(moment), quiet_hours=hours, time_zone="Europe/Berlin")
    withheld = server.withheld_from(OTHER)
    told = None if withheld is None else f"it is in its quiet hours until {until} (Europe/Berlin)"
    assert (withheld.reason if withheld else None) == (told if until else None)


@given(st.lists(st.tuples(st.integers(0, 1439), st.integers(0, 1439)), min_size=1, max_size=8), st.integers(0, 1439))
@settings(UNHURRIED, max_examples=40)
def test_quiet_hours_are_those_that_were_written(spans: list[tuple[int, int]], minute: int) -> None:
    text = ",".join(f"{begin // 60}:{begin % 60:02}-{end // 60:02}:{end % 60:02}" for begin, end in spans)
    minutes = {(begin + passed) % 1440 for begin, end in spans for passed in range((end - begin) % 1440)}
    try:
        hours = QuietHours.parse(text)
    except ValueError:
        assert any(begin == end for begin, end in spans) or len(minutes) == 1440
        return
    end = hours.end_of_quiet(minute)
    assert (end is not None) == (minute in minutes)
    assert end is None or end not in minutes, "it really ends then"
    assert QuietHours.parse(str(hours)) == hours


@pytest.mark.parametrize("text", ["", "22-7", "25:00-07:00", "24:30-07:00", "07:00-07:00", "0:00-12:00,12:00-24:00"])
def test_what_are_no_quiet_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r"22:00-07:00|pause"):
        QuietHours.parse(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "Europe/Berlin"),
        ("Europe/Belrin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("Europe", "no time zone has this name"),
        ("../../etc/passwd", "such names are"),
        ("localtime", "time zone"),
        ("UTC+2", "time zone"),
        ("x" * 65, "64 characters"),
    ],
)
def test_what_is_no_time_zone(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        find_zone(name)


# -- tokens of the day


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Taipei", None])
def test_the_cap_closes_when_it_is_reached_and_opens_at_midnight(zone: str | None) -> None:
    clock = clock_at("2026-11-23 23:59:50", ZoneInfo(zone or "UTC"))
    server = lent(clock, daily_token_cap=100, time_zone=zone)
    began_at = clock.utc_iso()
    server.lending.spend(began_at, 99)
    assert word(server, OTHER) is None
    server.lending.spend(began_at, 1)
    assert (word(server, OTHER), word(server, OWNER)) == ("capped", None)
    assert record_of(server, OTHER)["reason"] == f"its 100 tokens of today are used up until midnight ({zone or 'UTC'})"
    with pytest.raises(ServersWithheld) as refused:
        build_registry(server).pick(MODEL, (), OTHER)
    assert refused.value.retry_after_seconds == 10
    clock.pass_time(10)
    assert server.lending.judge(), "that is news"
    assert (word(server, OTHER), server.lending.tokens_today) == (None, 0)
    server.lending.spend(began_at, 500)
    assert server.lending.tokens_today == 0, "tokens count on the day on which their request began"


async def test_tokens_of_today_are_counted_from_the_store(tmp_path: Path, io_loop: object) -> None:
    clock = clock_at("2026-11-23 00:30")
    berlin = lent(clock, "berlin", daily_token_cap=100, time_zone="Europe/Berlin")
    utc = lent(clock, "utc", daily_token_cap=100)
    registry = build_registry(berlin, utc)
    async with opened(tmp_path / "gateway.db") as store:
        watch = TermsWatch(registry=registry, usage_table=UsageTable(store), clock=clock)
        for seconds, name in ((1200, "berlin"), (1200, "utc"), (2400, "berlin"), (2400, "utc")):
            began_at = iso_from_unix(clock.unix_now - seconds)
            fields = {"registration_id": name, "started_at": began_at, "prompt_tokens": 30, "completion_tokens": 20}
            store.queue_usage(build_record(**fields).row())
        await watch.count()
        assert (berlin.lending.tokens_today, utc.lending.tokens_today) == (50, 100), "by each server's own midnight"
        assert (word(berlin, OTHER), word(utc, OTHER)) == (None, "capped")
        await watch.count()
        assert utc.lending.tokens_today == 100, "each once"
        utc.change(build_registration("utc", daily_token_cap=100, time_zone="Europe/Berlin", owner_key_id="key-ada"))
        await watch.count()
        assert (utc.lending.tokens_today, word(utc, OTHER)) == (50, None), "another zone, another day"
        clock.pass_time(86_400)
        await watch.look()
        assert (berlin.lending.tokens_today, utc.lending.tokens_today) == (0, 0)


@dataclass(frozen=True, slots=True)
class Noon:
    """Noon with one capped server, its terms watched over a store of its own."""

    store: Store
    clock: HandClock
    server: Server
    watch: TermsWatch
    now: str

    def queue_usage(self) -> None:
        """A request of 50 tokens to the server, which begins and ends now, is to be written."""
        fields = {"registration_id": "a", "started_at": self.now, "prompt_tokens": 30, "completion_tokens": 20}
        self.store.queue_usage(build_record(**fields).row())


@asynccontextmanager
async def noon(path: Path) -> AsyncIterator[Noon]:
    clock = clock_at("2026-11-23 12:00")
    server = lent(clock, daily_token_cap=1000)
    async with opened(path) as store:
        watch = TermsWatch(registry=build_registry(server), usage_table=UsageTable(store), clock=clock)
        yield Noon(store, clock, server, watch, clock.utc_iso())


async def test_what_opens_and_closes_is_logged_and_told_once(
    tmp_path: Path, io_loop: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with noon(tmp_path / "gateway.db") as at:
        with caplog.at_level(logging.INFO):
            await at.watch.look()
            at.server.lending.spend(at.now, 1000)
            for _second in range(2):
                await at.watch.look()
            at.clock.pass_time(86_400)
            await at.watch.look()
        assert [record.__dict__["fields"] for record in caplog.records if record.msg == "lending changed"] == [
            {"server": "a", "lent": "capped"},
            {"server": "a", "lent": "again"},
        ]


async def test_tokens_that_are_spent_while_they_are_counted_count_once(tmp_path: Path, io_loop: object) -> None:
    async with noon(tmp_path / "gateway.db") as at:
        at.queue_usage()
        busy = asyncio.create_task(at.store.write(lambda database: time.sleep(0.05)))
        await asyncio.sleep(0)
        counting = asyncio.create_task(at.watch.count())
        await asyncio.sleep(0)
        at.server.lending.spend(at.now, 50)  # A request that ends now.
        at.queue_usage()
        await asyncio.gather(busy, counting)
        assert at.server.lending.tokens_today == 100
        assert len(await usage_rows(at.store)) == 2


async def test_tokens_are_counted_later_when_the_disk_does_not_let_them(tmp_path: Path, io_loop: object) -> None:
    path = tmp_path / "gateway.db"
    async with noon(path) as at:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            at.queue_usage()
            await at.watch.count()
            assert at.server.lending.uncounted, "what waits for the disk would be missing"
        await at.watch.count()
        assert at.server.lending.tokens_today == 50


async def test_time_passing_tells_who_waits(tmp_path: Path, io_loop: object) -> None:
    clock = clock_at("2026-11-23 21:59:59")
    server = lent(clock, quiet_hours="22:00-07:00", time_zone="Europe/Berlin", max_concurrency=1)
    queue, registry = queue_for(server)
    async with opened(tmp_path / "gateway.db") as store:
        watch = TermsWatch(registry=registry, usage_table=UsageTable(store), clock=clock)
        await watch.look()
        running = queue.place(MODEL, (), OTHER)
        assert running is not None
        waiting = queue.join(MODEL, (), OTHER)
        clock.pass_time(1)
        await watch.look()
        with pytest.raises(ServersWithheld, match="quiet hours until 07:00"):
            waiting.result()
        running.end(Blame.SUCCESS)
        clock.pass_time(9 * 3600)
        await watch.look()
        free = queue.place(MODEL, (), OTHER)
        assert free is not None
        free.end(Blame.NONE)


# -- the reserved slot


def queue_for(*servers: Server) -> tuple[Queue, Registry]:
    """A queue that is told of changes, as the gateway wires it."""
    registry = build_registry(*servers)
    queue = Queue(registry=registry, size=64, timeout_seconds=60.0)
    registry.watch(queue.serve)
    return queue, registry


async def test_the_reserved_slot_is_the_owners_or_free() -> None:
    server = lent(HandClock(), reserve_slot=True, max_concurrency=2)
    queue, _registry = queue_for(server)
    others = queue.place(MODEL, (), OTHER)
    assert others is not None
    assert (record_of(server, OTHER)["availability"], record_of(server, OWNER)["availability"]) == ("busy", "available")
    assert queue.place(MODEL, (), FRIEND) is None
    waiting = [queue.join(MODEL, (), asker) for asker in (FRIEND, OTHER)]
    owners = queue.place(MODEL, (), OWNER)
    assert owners is not None, "whoever waits, it is free for its owner"
    second = queue.join(MODEL, (), OWNER)
    owners.end(Blame.SUCCESS)
    assert second.done(), "what the owner leaves is the owner's next"
    second.result().end(Blame.SUCCESS)
    assert [place.done() for place in waiting] == [False, False], "and nobody else's"
    others.end(Blame.SUCCESS)
    assert [place.done() for place in waiting] == [True, False]
    server.change(build_registration("a", max_concurrency=2))
    queue.serve(MODEL)
    assert waiting[1].done()
    for place in waiting:
        place.result().end(Blame.NONE)
    assert (server.in_flight, server.owners_in_flight) == (0, 0)


@pytest.mark.parametrize(("owner", "whose"), [(OWNER, {}), (ADMIN, ADMINS)])
async def test_among_those_who_wait_the_owner_goes_first(owner: Asker, whose: dict[str, Any]) -> None:
    server = lent(HandClock(), reserve_slot=True, max_concurrency=2, **whose)
    queue, _registry = queue_for(server)
    busy = [queue.place(MODEL, (), asker) for asker in (OTHER, owner)]
    waiting = [queue.join(MODEL, (), asker) for asker in (FRIEND, owner)]
    assert busy[0] is not None
    busy[0].end(Blame.SUCCESS)
    assert [place.done() for place in waiting] == [False, True], "on what is theirs"
    for attempt in (busy[1], waiting[1].result()):
        assert attempt is not None
        attempt.end(Blame.SUCCESS)
    waiting[0].result().end(Blame.SUCCESS)
    assert (server.in_flight, server.owners_in_flight) == (0, 0)


async def test_who_may_not_have_what_is_free_lets_the_others_pass() -> None:
    clock = HandClock()
    everybodys = lent(clock, "a", max_concurrency=1)
    friends = lent(clock, "b", max_concurrency=2, offered_to="friends", friends=("key-ben",))
    queue, _registry = queue_for(everybodys, friends)
    attempts = [queue.place(MODEL, tried, asker) for tried, asker in (((), OTHER), ((), FRIEND), ((), FRIEND))]
    newcomer, friend = (queue.join(MODEL, (), asker) for asker in (Asker("key-new"), FRIEND))
    for attempt in reversed(attempts):
        assert attempt is not None
        attempt.end(Blame.SUCCESS)
        assert friend.done(), "it is the newcomer's turn, but not the newcomer's server"
        assert newcomer.done() == (attempt is attempts[0])
    for place in (newcomer, friend):
        place.result().end(Blame.SUCCESS)


@given(st.lists(st.tuples(st.sampled_from([OWNER, FRIEND, OTHER]), st.integers(0, 9)), max_size=60))
@settings(UNHURRIED, max_examples=60)
def test_others_never_have_the_last_slot(steps: list[tuple[Asker, int]]) -> None:
    server = lent(HandClock(), reserve_slot=True, max_concurrency=3)
    registry = build_registry(server)
    under_way = []
    for asker, choice in steps:
        if choice > 5 and under_way:
            under_way.pop(choice % len(under_way)).end(Blame.SUCCESS)
        elif registry.pick(MODEL, (), asker) is not None:
            under_way.append(server.attempt(lambda _server: None, asker))
        assert server.in_flight == len(under_way) <= 3
        assert server.in_flight - server.owners_in_flight <= 2


# -- friends


def test_friends_are_found_by_name_or_id() -> None:
    keys = Keys(admin_key="an-admin-key-0123456789")
    for number, name in enumerate(("Ben", "Grace", "Grace", "Hopper, Grace")):
        keys.put(digest_of(str(number)), Caller(name, "student", key_id=f"key-{number}"))
    assert keys.ids_of(["ben", "key-2", "key-0"], param="friends") == ("key-0", "key-2")
    assert keys.names_of(["key-0", "key-2", "key-9"]) == ["Ben", "key-2"], "those gone are left out"
    assert keys.names_of(["key-3"]) == ["key-3"], "the form has commas between names"
    keys.put(digest_of("4"), Caller("key-0", "student", key_id="key-4"))
    assert keys.names_of(["key-4"]) == ["key-4"], "who is named like somebody's id is not that one"
    for name, text in (("Eve", "Nobody's key here is named 'Eve'"), ("Grace", "2 keys are named 'Grace'")):
        with pytest.raises(InvalidRequest, match=text) as refused:
            keys.ids_of([name], param="friends")
        assert refused.value.param == "friends"
