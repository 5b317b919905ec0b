"""The open store when something is wrong with its database: locked by another process, changed under it, or gone.

Whatever it is, `queue_*` return at once, nothing acknowledged is lost, and `check()` says so in time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database

from multiverse.errors import StoreFailed
from multiverse.storage.database import rewrite_header, transaction, what_is_wrong
from tests.bench import HandClock
from tests.stores import opened, registration, rows_on_disk, usage_rows
from tests.waiting import Stopwatch, soon

pytestmark = pytest.mark.usefixtures("io_loop")

AT_ONCE_SECONDS = 0.2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be; its directory does not exist yet."""
    return tmp_path / "data" / "gateway.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process' write transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


# -- locked by another process


async def test_foreign_lock_delays_only_the_disk(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path, flush_interval_seconds=0.01) as store:
        await store.save_registration(registration("reg-1"))
        with locked(path):
            watch = Stopwatch()
            for number in range(100):
                store.queue_usage({"status": number})
                store.queue_probe({"registration_id": "reg-1", "ok": True})
                store.queue_server_state("reg-1", {"health_status": "healthy"})
            assert watch.own_seconds < AT_ONCE_SECONDS
            await asyncio.sleep(0.6)  # the batch is tried twice
            assert store.queued == 201
            assert await store.check(timeout_seconds=1.0) == "the database is locked by another process"
            assert [row["registration_id"] for row in await store.load_registrations()] == ["reg-1"], "it still reads"
        await soon(lambda: not store.queued, "its own batches write everything", 5.0)
        assert await store.check() is None
        assert rows_on_disk(path, "SELECT status FROM usage ORDER BY id") == [(number,) for number in range(100)]
        assert rows_on_disk(path, "SELECT health_status FROM servers") == [("healthy",)]
        assert store.dropped == 0
    changes = [record.getMessage() for record in caplog.records if record.name.startswith("multiverse.storage")]
    assert [message.split(":")[0] for message in changes] == [
        "probes and usage cannot be stored now",
        "probes and usage are stored again",
    ], "one line for each change, not for each try"


async def test_newer_state_wins_over_a_batch_that_failed(path: Path) -> None:
    async with opened(path, lock_wait_seconds=0.3) as store:
        await store.save_registration(registration("reg-1"))
        with locked(path):
            store.queue_server_state("reg-1", {"reason": "old", "health_status": "unhealthy"})
            store.queue_usage({"status": 1})
            flushing = asyncio.ensure_future(store.flush())
            await soon(lambda: store._backlog._taken, "the batch is out, waiting for the lock")
            store.queue_server_state("reg-1", {"reason": "new"})
            store.queue_usage({"status": 2})
            assert store.queued == 4
            with pytest.raises(StoreFailed):
                await flushing
            assert store.queued == 3, "the two states of the server are one again"
        await store.flush()
        (server,) = await store.load_registrations()
        assert (server["reason"], server["health_status"]) == ("new", "unhealthy")
        assert [row["status"] for row in await usage_rows(store)] == [2, 1]


async def test_a_batch_holds_no_state_that_was_queued_after_it(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
        with locked(path):
            saving = asyncio.ensure_future(store.save_registration(registration("reg-2")))
            flushing = asyncio.ensure_future(store.flush())
            await asyncio.sleep(0.01)  # both are handed over, and wait for the lock
            store.queue_server_state("reg-1", {"reason": "later"})
        await asyncio.gather(saving, flushing)
        assert store.queued == 1
        await store.flush()
        assert [row["reason"] for row in await store.load_registrations()] == ["later", None]


async def test_registration_wins_over_a_batch_that_failed(path: Path) -> None:
    async with opened(path, lock_wait_seconds=0.05) as store:
        await store.save_registration(registration("reg-1"))
        with locked(path):
            store.queue_server_state("reg-1", {"reason": "old", "consecutive_failures": 2})
            with pytest.raises(StoreFailed):
                await store.flush()
        await store.save_registration(registration("reg-1", reason="saved"))
        await store.flush()
        (server,) = await store.load_registrations()
    assert (server["reason"], server["consecutive_failures"]) == ("saved", 2)


async def test_registration_waits_for_the_lock(path: Path) -> None:
    async with opened(path) as store:
        with locked(path):
            saving = asyncio.ensure_future(store.save_registration(registration("reg-1")))
            await asyncio.sleep(0.1)
            assert not saving.done()
        await saving
        assert rows_on_disk(path, "SELECT registration_id FROM servers") == [("reg-1",)]


async def test_registrations_give_up_together_when_the_lock_stays(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path, lock_wait_seconds=0.2) as store:
        with locked(path):
            watch = Stopwatch()
            saves = [store.save_registration(registration(f"reg-{number}")) for number in range(5)]
            refusals = await asyncio.gather(*saves, return_exceptions=True)
            assert watch.own_seconds < 0.8, "not one after the other"
        for refusal in refusals:
            assert isinstance(refusal, StoreFailed)
            assert refusal.message.startswith("The database is locked by another process.")
            assert str(path) not in refusal.message
        assert await store.load_registrations() == []
    assert "database is locked" in caplog.text, "the log has SQLite's own words"
    assert "Traceback" not in caplog.text, "and no more, for it is nobody's mistake"


async def test_check_answers_in_time_while_the_thread_is_busy(path: Path) -> None:
    async with opened(path, lock_wait_seconds=1.0) as store:
        with locked(path):
            saving = asyncio.ensure_future(store.save_registration(registration("reg-1")))
            await asyncio.sleep(0.02)
            watch = Stopwatch()
            reasons = await asyncio.gather(*(store.check(timeout_seconds=0.1) for _caller in range(50)))
            assert watch.own_seconds < 0.9, "before the thread is free"
            assert set(reasons) == {"the database did not answer in 0.1 s"}
        await saving
        assert await store.check() is None


async def test_checks_do_not_pile_up(path: Path) -> None:
    async with opened(path) as store:
        with locked(path):
            watch = Stopwatch()
            reasons = await asyncio.gather(*(store.check(timeout_seconds=0.2) for _caller in range(50)))
            assert set(reasons) == {"the database is locked by another process"}
            await store.load_registrations()
            assert watch.own_seconds < 3.0, "one try served all fifty"


async def test_oldest_rows_are_dropped_counted_and_logged_once_a_minute(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = HandClock(monotonic_seconds=1000.0)

    def logged() -> int:
        return caplog.text.count("the oldest were dropped")

    async with opened(path, queued_rows_max=100, lock_wait_seconds=0.01, clock=clock) as store:
        with locked(path):
            for number in range(150):
                store.queue_usage({"status": number})
            assert (store.queued, store.dropped) == (100, 50)
            for second in (0, 1, 59):
                clock.monotonic_now = 1000.0 + second
                await store.row_counts()  # tries to write the batch first
                store.queue_usage({"status": 150 + second})
                assert logged() == 1
            clock.monotonic_now = 1060.0
            await store.row_counts()
            assert logged() == 2
            assert (store.queued, store.dropped) == (100, 53)
        await store.flush()
        kept = [status for (status,) in rows_on_disk(path, "SELECT status FROM usage ORDER BY id")]
    assert kept == [*range(53, 150), 150, 151, 209]


async def test_closing_a_locked_store_says_what_is_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path, lock_wait_seconds=0.01) as store:
        store.queue_usage({"status": 1})
        with locked(path):
            await store.close()
    record = next(record for record in caplog.records if "rows that it could not write" in record.getMessage())
    assert record.__dict__["fields"] == {"queued": 1, "dropped": 0}


# -- damaged, replaced, or refusing


async def test_rows_that_the_database_refuses_do_not_hold_up_the_rest(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "CREATE TRIGGER no_poison BEFORE INSERT ON usage WHEN NEW.outcome = 'poison' "
                "BEGIN SELECT RAISE(ABORT, 'poison'); END"
            )
        store.queue_usage({"outcome": "poison"})
        await store.flush()
        store.queue_usage({"outcome": "ok"})
        await store.flush()
        assert [row["outcome"] for row in await usage_rows(store)] == ["ok"]
        assert (store.queued, store.dropped) == (0, 1)
        assert await store.check() is None
    assert caplog.text.count("rows were dropped: the database cannot hold them") == 1


async def test_a_bad_row_takes_no_other_with_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path)) as connection, connection:
            for table, column in (("usage", "route"), ("health_checks", "reason"), ("servers", "reason")):
                connection.execute(
                    f"CREATE TRIGGER poison_{table} BEFORE {'UPDATE' if table == 'servers' else 'INSERT'} ON {table} "
                    f"WHEN NEW.{column} = 'poison' BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
        for number in range(5):
            await store.save_registration(registration(f"reg-{number}"))
        usage = {"started_at": "2026-01-31T12:00:00.000Z", "key_id": "key-a", "registration_id": "reg-1"}
        for number in range(100):
            poison = "poison" if number in (13, 14, 99) else "fine"
            store.queue_usage({**usage, "status": number, "route": poison, "prompt_tokens": 1, "client_address": "me"})
        for number in range(5):
            reason = "poison" if number == 3 else "fine"
            store.queue_probe({"registration_id": f"reg-{number}", "reason": reason})
            store.queue_server_state(f"reg-{number}", {"reason": reason})
        await store.flush()
        assert (store.queued, store.dropped) == (0, 5)
        kept = [status for (status,) in rows_on_disk(path, "SELECT status FROM usage ORDER BY id")]
        assert kept == [number for number in range(100) if number not in (13, 14, 99)]
        for sums in ("SELECT requests FROM usage_daily", "SELECT requests FROM ledger_sums"):
            assert rows_on_disk(path, sums) == [(97,)], "nothing is counted twice, or for a row that is not there"
        for reasons in ("SELECT reason FROM health_checks", "SELECT reason FROM servers WHERE reason IS NOT NULL"):
            assert rows_on_disk(path, reasons) == [("fine",)] * 4
        assert await store.check() is None
    (told,) = [record for record in caplog.records if "rows were dropped" in record.getMessage()]
    assert told.__dict__["fields"] == {"usage": 3, "probes": 1, "states": 1}
    assert "refused" in caplog.text, "why is told once"
    assert "poison" not in caplog.text
    assert caplog.text.count("Traceback") == 1
    assert "too many" not in caplog.text


@pytest.mark.parametrize("replacement", [None, b""], ids=["removed", "replaced"])
async def test_check_notices_that_the_file_is_gone(path: Path, replacement: bytes | None) -> None:
    async with opened(path) as store:
        path.rename(path.with_name("moved.db"))
        if replacement is not None:
            path.write_bytes(replacement)
        reason = await store.check()
        assert reason == "the database was removed or replaced while it was open; restart the gateway"
        path.with_name("moved.db").replace(path)
        assert await store.check() is None


async def test_a_missing_table_is_an_error_for_the_client_and_a_detail_for_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TABLE usage")
        with pytest.raises(StoreFailed) as refusal:
            await store.row_counts()
        assert refusal.value.message == "The database failed. Nothing was changed; try again in a moment."
    assert "no such table: usage" in caplog.text


def test_the_smallest_write_finds_a_read_only_database(tmp_path: Path) -> None:
    path = tmp_path / "read-only.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE something (id)")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as connection:
        database = Database(connection, execute_plugins=False)
        with transaction(database, wait_seconds=0.0):
            pass  # BEGIN IMMEDIATE alone finds nothing wrong
        with pytest.raises(sqlite3.OperationalError) as refusal, transaction(database, wait_seconds=0.0):
            rewrite_header(database)
        assert what_is_wrong(refusal.value) == "is read-only"
        assert not connection.in_transaction
