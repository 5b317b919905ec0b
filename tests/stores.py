"""Stores for tests: real files, batches written only when told to, and no thread left behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from multiverse.storage.store import Store

NEVER_SECONDS = 3600.0
FULL_ROW: dict[str, Any] = {
    "registration_id": "reg-1",
    "model_name": "llama/3:8b",
    "served_model_name": "/models/llama.gguf",
    "endpoint_url": "http://127.0.0.1:8080",
    "api_key": "sk-server",
    "owner_name": "Zoë 北京 🌍",
    "owner_email": "zoe@example.org",
    "description": "a laptop\nin the back row",
    "tags": ["gpu", "ünïcode", "a,b"],
    "context_length": 8192,
    "max_concurrency": 2,
    "owner_key_id": None,
    "offered_to": "friends",
    "friends": ["key-1", "a,b"],
    "reserve_slot": 1,
    "paused": 0,
    "quiet_hours": "22:00-07:00",
    "time_zone": "Europe/Berlin",
    "daily_token_cap": 2_000_000,
    "draining": 1,
    "health_status": "healthy",
    "reason": None,
    "consecutive_failures": 3,
    "response_time_ms": 12.5,
    "last_checked_at": "2026-01-31T12:00:00.123Z",
    "last_successful_request_at": "2026-01-31T12:00:01.000Z",
    "unhealthy_since": None,
    "created_at": "2026-01-31T11:00:00.000Z",
    "updated_at": "2026-01-31T12:00:00.123Z",
}


@asynccontextmanager
async def opened(path: Path, flush_interval_seconds: float = NEVER_SECONDS, **options: Any) -> AsyncIterator[Store]:
    """An open store that writes its batches only when it is told to."""
    tasks = asyncio.all_tasks()
    store = Store(str(path), flush_interval_seconds=flush_interval_seconds, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
        assert store_threads() == []
        assert asyncio.all_tasks() <= tasks


def store_threads() -> list[str]:
    """Threads that stores have running."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("multiverse-store")]


def registration(registration_id: str, **changes: Any) -> dict[str, Any]:
    """The least that a registration holds, at an address of its own."""
    row = {"registration_id": registration_id, "model_name": "model", "endpoint_url": f"http://{registration_id}"}
    return {**row, **changes}


async def usage_rows(store: Store, limit: int = 1000) -> list[dict[str, Any]]:
    """Rows of the table `usage`, newest first, with all that were queued before."""
    sql = "SELECT * FROM usage ORDER BY id DESC LIMIT ?"
    return await store.read(lambda database: list(database.query(sql, [limit])))


def rows_on_disk(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another process would read."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def add_many_servers(database: Path, url: str, count: int) -> None:
    """`count` registrations of 40 models at `url`, as an earlier run of the gateway left them."""
    since = "2026-01-01T00:00:00.000Z"
    rows = [
        (f"many-{number:04}", f"model-{number % 40}", f"{url}/{number}", f"Owner {number % 90}", "[]", since, since)
        for number in range(count)
    ]
    columns = "registration_id, model_name, endpoint_url, owner_name, tags, created_at, updated_at"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(f"INSERT INTO servers ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
