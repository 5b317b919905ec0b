"""The store with real files: what goes in comes out, in order, and what waits is written.

A second connection of the test's own reads the file where it matters that a row is on disk. What a row may hold is in
test_storage_rows.py; what may go wrong is in test_storage_faults.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from multiverse.errors import StoreFailed
from multiverse.storage.backlog import Backlog
from multiverse.storage.rows import PROBE_COLUMNS, SERVER_COLUMNS, STATE_COLUMNS, USAGE_COLUMNS
from multiverse.storage.store import Store
from tests.stores import FULL_ROW, NEVER_SECONDS, opened, registration, rows_on_disk, store_threads, usage_rows

pytestmark = pytest.mark.usefixtures("io_loop")

MOMENT, DAY = "2026-01-31T12:00:00.123Z", "2026-01-31"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be; its directory does not exist yet."""
    return tmp_path / "data" / "gateway.db"


# -- registrations


async def test_registration_comes_back_as_it_went_in(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(FULL_ROW)
        assert await store.load_registrations() == [FULL_ROW]
    async with opened(path) as store:
        assert await store.load_registrations() == [FULL_ROW], "and again after a restart"


async def test_update_changes_only_the_columns_given(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(FULL_ROW)
        await store.save_registration(registration("reg-2"))
        await store.save_registration({"registration_id": "reg-1", "description": None, "tags": []})
        first, second = await store.load_registrations()
    assert first == {**FULL_ROW, "description": None, "tags": []}
    assert second["registration_id"] == "reg-2", "oldest first, also after an update"
    assert (second["tags"], second["health_status"], second["draining"]) == ([], "unknown", 0), "defaults"


async def test_registration_is_on_disk_before_the_answer(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
        assert rows_on_disk(path, "SELECT registration_id FROM servers") == [("reg-1",)]
        assert await store.delete_registration("reg-1") is True
        assert rows_on_disk(path, "SELECT registration_id FROM servers") == []
        assert await store.delete_registration("reg-1") is False


async def test_same_model_at_same_address_twice_is_refused(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1", endpoint_url="http://same"))
        with pytest.raises(StoreFailed, match="Another registration already has this model_name") as refusal:
            await store.save_registration(registration("reg-2", endpoint_url="http://same"))
        assert "servers" not in refusal.value.message, "no SQL for the client"
        assert str(path) not in refusal.value.message
        await store.save_registration(registration("reg-3"))
        assert [row["registration_id"] for row in await store.load_registrations()] == ["reg-1", "reg-3"]


async def test_tags_edited_by_hand_do_not_stop_the_start(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
        await store.save_registration(registration("reg-2"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE servers SET tags = 'gpu, fast' WHERE registration_id = 'reg-1'")
        connection.execute("UPDATE servers SET tags = '{}' WHERE registration_id = 'reg-2'")
    async with opened(path) as store:
        assert [row["tags"] for row in await store.load_registrations()] == [[], []]


# -- probes, states, usage


async def test_last_hundred_probes_of_each_server_are_kept(path: Path) -> None:
    async with opened(path) as store:
        for registration_id in ("reg-1", "reg-2"):
            await store.save_registration(registration(registration_id))
        for number in range(150):
            store.queue_probe({"registration_id": "reg-1", "ok": False, "response_time_ms": number})
            if number == 120:
                await store.flush()
        store.queue_probe({"registration_id": "reg-2", "ok": True, "checked_at": "2026-01-31T12:00:00.123Z"})
        probes = await store.recent_probes("reg-1", limit=500)
        assert [probe["response_time_ms"] for probe in probes] == list(range(149, 49, -1))
        assert rows_on_disk(path, "SELECT count(*) FROM health_checks") == [(101,)]
        assert len(await store.recent_probes("reg-1", limit=7)) == 7
        assert await store.recent_probes("reg-1", limit=-1) == []
        (probe,) = await store.recent_probes("reg-2")
    assert (probe["ok"], probe["checked_at"], probe["reason"]) == (1, "2026-01-31T12:00:00.123Z", None)


async def test_probe_and_state_of_a_deleted_server_fail_nothing(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
        store.queue_probe({"registration_id": "reg-1", "ok": True})
        await store.flush()
        await store.delete_registration("reg-1")
        assert rows_on_disk(path, "SELECT * FROM health_checks") == [], "its probes went with it"
        store.queue_probe({"registration_id": "reg-1", "ok": True})
        store.queue_server_state("reg-1", {"health_status": "healthy"})
        store.queue_usage({"request_id": "r", "registration_id": "reg-1"})
        await store.flush()
        assert [row["request_id"] for row in await usage_rows(store)] == ["r"], "the rest of the batch is written"
        assert (await store.load_registrations(), store.queued, store.dropped) == ([], 0, 0)


async def test_last_state_of_each_column_wins(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1", reason="new"))
        store.queue_server_state("reg-1", {"health_status": "unhealthy", "consecutive_failures": 3})
        store.queue_server_state("reg-1", {"health_status": "healthy"})
        assert store.queued == 1
        await store.flush()
        (server,) = await store.load_registrations()
    assert (server["health_status"], server["consecutive_failures"], server["reason"]) == ("healthy", 3, "new")


async def test_a_saved_registration_wins_over_older_states_only(path: Path) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
        store.queue_server_state("reg-1", {"reason": "old", "consecutive_failures": 1})
        saving = asyncio.ensure_future(store.save_registration({"registration_id": "reg-1", "reason": "saved"}))
        await asyncio.sleep(0)  # the save is handed over to the thread
        store.queue_server_state("reg-1", {"health_status": "unhealthy"})
        await saving
        await store.flush()
        (server,) = await store.load_registrations()
        assert (server["reason"], server["consecutive_failures"], server["health_status"]) == ("saved", 1, "unhealthy")
        saving = asyncio.ensure_future(store.save_registration({"registration_id": "reg-1", "reason": "saved again"}))
        await asyncio.sleep(0)
        store.queue_server_state("reg-1", {"reason": "newest"})
        await asyncio.gather(saving, store.flush())
        assert [row["reason"] for row in await store.load_registrations()] == ["newest"]


async def test_a_day_counts_each_outcome_and_every_token(path: Path) -> None:
    async with opened(path) as store:
        nothing = dict.fromkeys(("total", "failed", "prompt_tokens", "completion_tokens"), 0)
        assert await store.usage_of_day(DAY) == nothing
        for outcome in ("ok", "ok", "failed", "client_closed", "rejected"):
            store.queue_usage({"started_at": MOMENT, "outcome": outcome, "prompt_tokens": 10})
        store.queue_usage({"started_at": MOMENT, "outcome": "ok", "prompt_tokens": None, "completion_tokens": 5})
        expected = {"total": 6, "failed": 2, "prompt_tokens": 50, "completion_tokens": 5}
        assert await store.usage_of_day(DAY) == expected


async def test_sums_survive_a_server_that_lies(path: Path) -> None:
    async with opened(path) as store:
        for _batch in range(2):
            for _count in range(3):
                store.queue_usage(
                    {"started_at": MOMENT, "model_name": "m", "outcome": "ok", "completion_tokens": 2**63}
                )
            await store.flush()
        assert (await store.usage_of_day(DAY))["completion_tokens"] == 2**63 - 1
        (of_model,) = await store.usage_by_model(MOMENT)
        assert of_model["completion_tokens"] == 2**63 - 1


# -- batches and life


async def test_flush_writes_everything_queued_so_far_in_order(path: Path) -> None:
    async with opened(path) as store:
        for number in range(25_000):  # more than one transaction
            store.queue_usage({"status": number})
        assert store.queued == 25_000
        await store.flush()
        assert rows_on_disk(path, "SELECT status FROM usage ORDER BY id") == [(number,) for number in range(25_000)]
        assert (store.queued, store.dropped) == (0, 0)


async def test_batches_are_written_without_being_asked(path: Path) -> None:
    async with opened(path, flush_interval_seconds=0.02) as store:
        for request_id in ("first", "second"):
            store.queue_usage({"request_id": request_id})
            async with asyncio.timeout(5):
                while store.queued:
                    await asyncio.sleep(0.01)
            assert rows_on_disk(path, "SELECT request_id FROM usage ORDER BY id DESC LIMIT 1") == [(request_id,)]


async def test_close_writes_what_waits_and_leaves_one_file(path: Path) -> None:
    store = Store(str(path), flush_interval_seconds=NEVER_SECONDS)
    store.queue_usage({"request_id": "before open"})
    await store.open()
    store.queue_usage({"request_id": "last"})
    await store.close()
    assert store_threads() == []
    await store.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["gateway.db"]
    assert rows_on_disk(path, "SELECT request_id FROM usage ORDER BY id") == [("before open",), ("last",)]


async def test_close_writes_what_comes_while_the_thread_is_busy(path: Path) -> None:
    async with opened(path) as store:
        busy = asyncio.create_task(store.write(lambda database: time.sleep(0.05)))
        await asyncio.sleep(0)
        closing_store = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        store.queue_usage({"request_id": "late"})
        await asyncio.gather(busy, closing_store)
    assert rows_on_disk(path, "SELECT request_id FROM usage") == [("late",)]


async def test_close_leaves_a_whole_copy_even_if_others_still_read(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("SELECT * FROM usage").fetchall()
            store.queue_usage({"request_id": "last"})
            await store.close()
            (tmp_path / "backup.db").write_bytes(path.read_bytes())
    assert rows_on_disk(tmp_path / "backup.db", "SELECT request_id FROM usage") == [("last",)]


async def test_closed_store_answers_politely(path: Path) -> None:
    store = Store(str(path))
    await store.close()
    for _state in ("never opened", "closed"):
        with pytest.raises(StoreFailed, match="not open"):
            await store.load_registrations()
        with pytest.raises(StoreFailed, match="not open"):
            await store.flush()
        assert await store.check() == "the database is not open"
        await store.open()
        await store.close()
    async with opened(path) as twice:
        with pytest.raises(RuntimeError, match="open already"):
            await twice.open()


async def test_cancelled_caller_leaves_the_store_whole(path: Path) -> None:
    async with opened(path) as store:
        saving = asyncio.ensure_future(store.save_registration(registration("reg-1")))
        await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        await store.save_registration(registration("reg-2"))
        assert [row["registration_id"] for row in await store.load_registrations()][-1] == "reg-2"


async def test_cancelled_close_still_writes(path: Path) -> None:
    store = Store(str(path), flush_interval_seconds=NEVER_SECONDS)
    await store.open()
    store.queue_usage({"request_id": "last"})
    closing_down = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing_down.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_down
    async with asyncio.timeout(5):
        while store_threads():
            await asyncio.sleep(0.01)
    assert rows_on_disk(path, "SELECT request_id FROM usage") == [("last",)]


async def test_database_is_private_and_has_the_columns_we_name(path: Path) -> None:
    async with opened(path):
        assert path.stat().st_mode & 0o777 == 0o600, "it holds the keys of servers"
        assert rows_on_disk(path, "PRAGMA journal_mode") == [("wal",)]
        for table, columns in (
            ("servers", SERVER_COLUMNS),
            ("health_checks", ("id", *PROBE_COLUMNS)),
            ("usage", ("id", *USAGE_COLUMNS)),
        ):
            assert {row[1] for row in rows_on_disk(path, f"PRAGMA table_info({table})")} == set(columns)
    assert set(STATE_COLUMNS) <= set(SERVER_COLUMNS)


def test_a_mark_holds_when_rows_come_back_or_give_way() -> None:
    backlog = Backlog(3)
    for number in range(2):
        backlog.add_usage((number,))
    before = backlog.mark()
    backlog.put_back(backlog.take(2, before))  # The disk was full.
    backlog.add_usage((2,))
    backlog.add_usage((3,))  # Too many: the oldest gives way.
    assert backlog.take(9, before).usage == [(1,)], "what came after the mark is not among them"
    assert backlog.take(9, backlog.mark()).usage == [(2,), (3,)]
