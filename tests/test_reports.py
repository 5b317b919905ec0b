"""Reports on a store that has grown: the ledger equals its sums, no person's page reads it all, nobody waits."""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from multiverse.errors import StoreFailed
from multiverse.storage.migrations import migrate
from multiverse.storage.store import Store
from multiverse.storage.usage_table import GROUPS, UsageTable
from tests.stores import opened, registration, rows_on_disk
from tests.waiting import soon

pytestmark = pytest.mark.usefixtures("io_loop")

DAY = "2026-01-31"
MOMENT = f"{DAY}T12:00:00.000Z"
SUMMED = "giver, taker, sum(requests), sum(prompt_tokens), sum(completion_tokens)"
OF_LEDGER = f"SELECT {SUMMED} FROM token_ledger GROUP BY giver, taker ORDER BY giver, taker"
OF_SUMS = "SELECT giver, taker, requests, prompt_tokens, completion_tokens FROM ledger_sums ORDER BY giver, taker"
GROWS = re.compile(r"SCAN (usage\b|usage_daily|token_ledger|ledger_sums)")
# What a slow disk and years of usage make of a report.
ENDLESS = """
    WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers)
    SELECT max(number) FROM numbers
"""
OLD_LEDGER = f"""
    WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 30000)
    INSERT INTO token_ledger (day, giver, giver_name, taker, taker_name, requests, prompt_tokens, completion_tokens)
    SELECT '{DAY}', 'key-' || (number % 7), 'G', 'key-' || (number % 11), 'T', 1, number, 2 FROM numbers
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.mark.parametrize("seed", range(3))
async def test_the_ledger_equals_its_sums(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    expected: dict[tuple[str, str], list[int]] = {}
    async with opened(path) as store:
        table = UsageTable(store)
        for number in range(300):
            giver, taker = rng.choice(("key-a", "key-b", "the lab")), rng.choice(("key-a", "key-c", "key-d"))
            owner = {"owner_name": giver} if giver == "the lab" else {"owner_key_id": giver, "owner_name": "A name"}
            prompt, answer = rng.choice(((rng.randrange(1, 9000), rng.randrange(900)), (0, 0)))
            server = rng.choice(("reg-1", "reg-1", "reg-1", None))
            store.queue_usage(
                {"started_at": f"2026-01-{rng.randrange(10, 14)}T12:00:00.000Z", "key_id": taker, "outcome": "ok"}
                | {"registration_id": server, "prompt_tokens": prompt, "completion_tokens": answer, **owner}
            )
            if prompt and server is not None:
                sums = expected.setdefault((giver, taker), [0, 0, 0])
                sums[:] = sums[0] + 1, sums[1] + prompt, sums[2] + answer
            if rng.random() < 0.1:
                await store.flush()
            if number in (100, 200):
                await table.forget_before(f"2026-01-{number // 100 + 10}T00:00:00.000Z")
        people = {row["person"]: row for row in await table.people()}
        for person in ("key-a", "the lab", "key-d"):
            assert await table.people(person) == [people[person]]
        gifts = {row["giver"]: row["tokens"] for row in await table.given()}
    assert rows_on_disk(path, OF_SUMS) == rows_on_disk(path, OF_LEDGER)
    assert rows_on_disk(path, OF_SUMS) == [(*pair, *sums) for pair, sums in sorted(expected.items())]
    to_others = sum(sum(sums[1:]) for (giver, taker), sums in expected.items() if (giver, taker) == ("key-a",) * 2)
    assert gifts["key-a"] == people["key-a"]["tokens_given"] - to_others


async def test_an_older_ledger_gets_its_sums(path: Path) -> None:
    with closing(Database(path, execute_plugins=False)) as database:
        migrate(database, stop_before="0009_ledger_sums")
        database.conn.execute(OLD_LEDGER)
        database.conn.commit()
        given = rows_on_disk(path, OF_LEDGER)
    async with opened(path) as store:
        assert len(given) == 77
        assert rows_on_disk(path, OF_SUMS) == given
        owner = {"owner_key_id": "key-1", "registration_id": "reg-1"}
        store.queue_usage({"started_at": MOMENT, "key_id": "key-1", "prompt_tokens": 5, "outcome": "ok", **owner})
        assert (await UsageTable(store).people("key-1"))[0]["name"] == "T"
        assert rows_on_disk(path, OF_SUMS) == rows_on_disk(path, OF_LEDGER)
        assert rows_on_disk(path, OF_SUMS) != given


def questions(store: Store) -> list[Callable[[], Awaitable[Any]]]:
    """What is asked for one person's page, for one server's, and again and again."""
    table = UsageTable(store)
    bounds: list[tuple[str | None, str | None]] = [(None, None), (DAY, None), (None, DAY), (DAY, DAY)]
    reports: list[Callable[[], Awaitable[Any]]] = [
        lambda groups=groups, since=since, until=until, more=more: table.report(
            groups, since=since, until=until, filters={"key_id": "key-1", **more}
        )
        for groups in ([], *([group] for group in GROUPS), list(GROUPS))
        for since, until in bounds
        for more in ({}, {"model_name": "m"})
    ]
    return [
        *reports,
        lambda: table.people("key-1"),
        lambda: table.tokens_on(DAY),
        lambda: table.tokens_since(MOMENT),
        lambda: store.usage_minutes(MOMENT),
        lambda: store.usage_of_day(DAY),
        lambda: store.usage_by_model(MOMENT),
        lambda: store.failed_requests("reg-1", MOMENT, 20),
        lambda: store.recent_probes("reg-1"),
        lambda: table.forget_before(MOMENT),
    ]


async def test_no_page_of_one_person_reads_what_all_have_used(path: Path) -> None:
    asked: list[str] = []
    async with opened(path) as store:
        for run in (store.read, store.report):
            await run(lambda database: database.conn.set_trace_callback(asked.append))
        for question in questions(store):
            await question()
        asked_of_one = [sql for sql in asked if sql.lstrip().upper().startswith(("SELECT", "DELETE FROM USAGE"))]
        assert len(asked_of_one) >= len(questions(store))
        plans = {sql: rows_on_disk(path, f"EXPLAIN QUERY PLAN {sql}") for sql in asked_of_one}
        scans = [(sql, step) for sql, plan in plans.items() for *_ids, step in plan if GROWS.match(step)]
        assert scans == []
        asked.clear()
        table = UsageTable(store)
        await table.people()
        await table.given()
        await table.report(list(GROUPS), since=None, until=None, filters={})
        for_everybody = [sql for sql in asked if "SELECT" in sql]
    assert len(for_everybody) >= 3
    assert not any("token_ledger" in sql for sql in for_everybody), "it has a row for nearly every request"


async def test_nobody_waits_for_a_report(path: Path) -> None:
    async with opened(path) as store:
        began, may_end = threading.Event(), threading.Event()

        def slow(database: Database) -> int:
            began.set()
            assert may_end.wait(10)
            return database.table("servers").count

        reporting = asyncio.ensure_future(store.report(slow))
        try:
            await soon(began.is_set, "the report has begun")
            await asyncio.wait_for(store.save_registration(registration("reg-1")), 2)
            store.queue_usage({"status": 200})
            await asyncio.wait_for(store.flush(), 2)
            assert await store.check() is None
            assert not reporting.done()
        finally:
            may_end.set()
        assert await reporting == 1, "and it sees what was written before it read"


@pytest.mark.parametrize("has_log", [True, False], ids=["write-ahead log", "none, as on a network drive"])
async def test_who_reads_never_locks_out_who_writes(path: Path, monkeypatch: pytest.MonkeyPatch, has_log: bool) -> None:
    if not has_log:
        monkeypatch.setattr(Database, "enable_wal", lambda database: None)
    async with opened(path, lock_wait_seconds=0.1) as store:

        def slow(database: Database) -> int:
            rows = iter(database.query("SELECT name FROM sqlite_master LIMIT 2"))
            next(rows)  # From now on it holds what a reader holds, until the last row.
            began.set()
            may_end.wait(0.3)
            return sum(1 for _row in rows)

        began, may_end = threading.Event(), threading.Event()
        reporting = asyncio.ensure_future(store.report(slow))
        await soon(began.is_set, "the report has begun")
        await store.save_registration(registration("reg-1"))
        assert await reporting == 1


async def test_the_end_cuts_reports_short(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path) as store:
        reports = [
            asyncio.ensure_future(store.report(lambda database: list(database.query(ENDLESS)))) for _number in range(2)
        ]
        await store.flush()
        await asyncio.sleep(0.05)
        await asyncio.wait_for(store.close(), 5)
        for outcome in await asyncio.gather(*reports, return_exceptions=True):
            assert isinstance(outcome, StoreFailed)
            assert outcome.message.startswith("The database is not open")
        assert [file.name for file in path.parent.iterdir()] == [path.name], "the log file was emptied all the same"
    assert caplog.text == ""


async def test_a_report_cannot_write(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"100%? #1 \xff.db")
    async with opened(odd) as store:
        assert (await store.row_counts())["usage"] == 0
        with pytest.raises(StoreFailed, match="read-only"):
            await store.report(lambda database: database.conn.execute("DELETE FROM usage"))


async def test_others_come_in_between_while_much_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiverse.storage.usage_table.FORGOTTEN_AT_ONCE", 2)
    async with opened(path) as store:
        for _number in range(40):
            store.queue_usage({"started_at": "2025-01-01T00:00:00.000Z"})
        store.queue_usage({"started_at": MOMENT})
        await store.flush()
        forgetting = asyncio.ensure_future(UsageTable(store).forget_before(MOMENT))
        await asyncio.sleep(0)
        await store.save_registration(registration("reg-1"))
        ((left,),) = rows_on_disk(path, "SELECT count(*) FROM usage")
        assert left > 1, "it was written before all were forgotten"
        assert await forgetting == 40
        assert (await store.row_counts())["usage"] == 1
