"""Copies of the database while a gateway uses it, and back, with SQLite's own backup API.

A copy is whole, whatever is written meanwhile, and one file. Everything here blocks; no gateway of this process is
concerned. Source: https://sqlite.org/backup.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multiverse.errors import StoreFailed
from multiverse.storage.database import is_locked, what_is_wrong

TABLES = {"servers", "usage", "health_checks"}


def back_up(database: Path, copy: Path) -> int:
    """Writes a copy of `database` to `copy`, in one step; its size in bytes. Raises StoreFailed."""
    if not database.is_file():
        raise StoreFailed(f"there is no database at {database}; DATABASE_URL says where it is")
    return _copy(database, copy)


def restore(copy: Path, database: Path) -> int:
    """Puts `copy` in the place of `database`, whose gateway must not run; its size. Raises StoreFailed."""
    if why := why_no_backup(copy):
        raise StoreFailed(f"{copy} {why}")
    if _is_in_use(database):
        raise StoreFailed(f"a gateway uses {database}: stop it first; nothing was changed")
    database.parent.mkdir(parents=True, exist_ok=True)
    size = _copy(copy, database)
    for suffix in ("-wal", "-shm"):  # they belong to what was there before
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return size


def why_no_backup(path: Path) -> str | None:
    """None for a whole database of a gateway, else what it is instead."""
    if not path.is_file():
        return "does not exist"
    try:
        with contextlib.closing(_open_to_read(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        return what_is_wrong(error)
    if verdict != "ok":
        return "is damaged"
    return None if names >= TABLES else "is not a gateway's database"


def registered_servers(path: Path) -> list[dict[str, Any]]:
    """`model_name`, `endpoint_url` and `api_key` of all that are registered. Raises StoreFailed."""
    try:
        with contextlib.closing(_open_to_read(path)) as connection:
            rows = connection.execute("SELECT model_name, endpoint_url, api_key FROM servers").fetchall()
    except sqlite3.Error as error:
        raise StoreFailed(f"the database {what_is_wrong(error)}") from error
    return [dict(zip(("model_name", "endpoint_url", "api_key"), row, strict=True)) for row in rows]


def _is_in_use(database: Path) -> bool:
    """Whether somebody has it open. SQLite takes the write-ahead log away only when nobody else has."""
    if not database.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=0.0)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        return is_locked(error)  # One that is damaged is what a backup is for.
    return False


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5.0)


def _copy(source: Path, target: Path) -> int:
    """A half copy never stands under the target's name."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # it holds servers' keys
        with (
            contextlib.closing(_open_to_read(source)) as reading,
            contextlib.closing(sqlite3.connect(unfinished)) as writing,
        ):
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        os.replace(unfinished, target)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StoreFailed(f"the database {what_is_wrong(error)}; nothing was written to {target}") from error
    except OSError as error:
        raise StoreFailed(f"{target} cannot be written ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
