"""Opening the store: older schemas are migrated, what is not ours is refused and left as it is."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from multiverse.errors import StoreFailed
from multiverse.storage.migrations import migrate, schema_history
from multiverse.storage.store import Store
from tests.stores import opened, registration, store_threads

pytestmark = pytest.mark.usefixtures("io_loop")


async def refused(path: Path) -> str:
    """The sentence with which the store refuses to open."""
    store = Store(str(path))
    with pytest.raises(StoreFailed) as refusal:
        await store.open()
    assert store_threads() == []
    assert "\n" not in refusal.value.message
    assert refusal.value.message.startswith("DATABASE_URL: the database ")
    assert str(path) in refusal.value.message
    await store.close()
    return refusal.value.message


async def test_paths_that_cannot_hold_a_database(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "a directory on its path is a file" in await refused(tmp_path / "file" / "gateway.db")
    assert "a directory on its path is a file" in await refused(tmp_path / "file" / "deeper" / "gateway.db")
    assert "it is not a file" in await refused(tmp_path)
    assert "it is not a file" in await refused(Path("/dev/full"))
    assert "cannot be opened" in await refused(Path("/proc/gateway.db"))


async def test_a_file_that_is_not_a_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    content = b"Dear class, this is not a database.\n" * 100
    path.write_bytes(content)
    assert "is not a SQLite database" in await refused(path)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


async def test_tables_of_another_program_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE servers (hostname)")
    content = path.read_bytes()
    assert "belongs to another program" in await refused(path)
    assert path.read_bytes() == content


async def test_opening_waits_for_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    for _life in ("fresh", "existing"):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store = Store(str(path))
            opening = asyncio.ensure_future(store.open())
            await asyncio.sleep(0.4)  # longer than one try
            assert not opening.done()
            other.execute("ROLLBACK")
        await opening
        await store.close()


async def test_older_schema_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    with closing(Database(path, execute_plugins=False)) as database:
        migrate(database, stop_before="0003_usage")
        database.table("servers").insert({"registration_id": "reg-1", "model_name": "m", "endpoint_url": "http://h"})
        assert "usage" not in database.table_names()
    async with opened(path) as store:
        store.queue_usage({"outcome": "ok"})
        assert (await store.row_counts())["usage"] == 1
        assert [row["registration_id"] for row in await store.load_registrations()] == ["reg-1"]
    with closing(Database(path, execute_plugins=False)) as database:
        assert schema_history().pending(database) == []


async def test_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    async with opened(path) as store:
        await store.save_registration(registration("reg-1"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE servers ADD COLUMN colour")
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('multiverse', '0099_colour', '')"
        )
    content = path.read_bytes()
    message = await refused(path)
    assert "was written by a newer multiverse; upgrade, or point DATABASE_URL elsewhere" in message
    assert path.read_bytes() == content
