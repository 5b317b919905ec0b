"""Opening the SQLite file, transactions, and what SQLite's errors mean in words.

Everything here blocks, so it runs on the store's own thread only. Which rows are written is not decided here.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlite_utils import Database

from multiverse.clock import Clock
from multiverse.errors import StoreFailed
from multiverse.storage.migrations import migrate, why_not_ours

LOG = logging.getLogger(__name__)

UNEXPLAINED: Final = "failed"
OPEN_WAIT_SECONDS: Final = 10.0
OPEN_TRY_SECONDS: Final = 0.25
OPEN_RETRY_SECONDS: Final = 0.05
READ_WAIT_SECONDS: Final = 1.0


def open_database(path: Path, clock: Clock) -> Database:
    """The database at `path`, created or migrated, in WAL mode.

    Several processes may open the same new file at once. Raises `StoreFailed` with one sentence that names
    DATABASE_URL; then nothing was changed.
    """
    try:
        _prepare_file(path)
        return _connect_patiently(path, clock)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise _cannot_open(path, f"cannot be opened ({problem.lower()})") from error
    except sqlite3.Error as error:
        raise _cannot_open(path, what_is_wrong(error)) from error


def close_database(database: Database) -> None:
    """Moves the write-ahead log into the database file, so that the file alone is a whole copy, and closes."""
    with closing(database):
        database.conn.execute("PRAGMA busy_timeout = 1000")
        database.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that can write nothing, to a database that another one keeps open. Raises `sqlite3.Error`."""
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=READ_WAIT_SECONDS)


@contextmanager
def transaction(database: Database, wait_seconds: float, *, durable: bool = True) -> Iterator[None]:
    """A write transaction; rolled back on any error. Waits for another process' lock at most `wait_seconds`.

    `durable` syncs the disk at the commit (in WAL mode synchronous=NORMAL does not): what was answered survives a power
    cut. Batches are durable too: they come once a second, on this thread, and delay nobody.
    BEGIN IMMEDIATE takes the lock at once: a transaction that starts by reading may fail when it comes to write.
    """
    connection = database.conn
    connection.execute(f"PRAGMA busy_timeout = {round(wait_seconds * 1000)}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors (a full disk) have already rolled back.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def rewrite_header(database: Database) -> None:
    """The smallest real write: sets the unused `user_version` to what it is. BEGIN IMMEDIATE alone is none: it succeeds
    on a read-only database and on a full disk.
    """
    (version,) = database.conn.execute("PRAGMA user_version").fetchone()
    database.conn.execute(f"PRAGMA user_version = {version}")


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way, so that trying again helps."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def what_is_wrong(error: sqlite3.Error) -> str:
    """The end of a sentence that begins with "The database"; holds no path and no SQL."""
    match _primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "is locked by another process"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "is read-only"
        case sqlite3.SQLITE_FULL:
            return "has no room left on its disk"
        case sqlite3.SQLITE_IOERR:
            return "cannot be read or written: its disk fails or is full"
        case sqlite3.SQLITE_CANTOPEN:
            return "cannot be opened"
        case sqlite3.SQLITE_CORRUPT:
            return "is damaged"
        case sqlite3.SQLITE_NOTADB:
            return "is not a SQLite database"
        case sqlite3.SQLITE_CONSTRAINT:
            return "refuses a row that contradicts another"
    return UNEXPLAINED


def is_unexplained(error: sqlite3.Error) -> bool:
    """Whether `what_is_wrong` has no words for it: most likely a mistake of ours."""
    return what_is_wrong(error) == UNEXPLAINED


def _primary_code(error: sqlite3.Error) -> int | None:
    """The low byte of SQLite's extended code; None for errors that the sqlite3 module raises by itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _prepare_file(path: Path) -> None:
    """Creates directory and file where missing; raises OSError where the file cannot be used.

    The file is created readable by its owner only, as it holds the keys of servers; SQLite gives its companions the
    same mode. An existing file is not opened here: closing it again would drop SQLite's own locks on it (POSIX locks
    belong to the process, see "How To Corrupt An SQLite Database File" §2.2).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OSError(0, "a directory on its path is a file") from None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise OSError(0, "it is not a file") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise OSError(0, "permission denied") from None


def _connect_patiently(path: Path, clock: Clock) -> Database:
    """Tries again while another process is in the way: two that switch to WAL at once get no busy timeout."""
    give_up_at = clock.monotonic() + OPEN_WAIT_SECONDS
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            if not is_locked(error) or clock.monotonic() > give_up_at:
                raise
        time.sleep(OPEN_RETRY_SECONDS * (0.5 + random.random()))


def _connect(path: Path) -> Database:
    # isolation_level=None: the sqlite3 module must not open transactions on its own.
    connection = sqlite3.connect(path, timeout=OPEN_TRY_SECONDS, isolation_level=None)
    try:
        database = Database(connection, execute_plugins=False)
        _refuse_foreign(database, path)
        database.enable_wal()
        if database.journal_mode != "wal":
            LOG.warning("the database cannot use a write-ahead log here (a network drive?); writes are slower")
        connection.execute("PRAGMA foreign_keys = ON")
        with transaction(database, OPEN_TRY_SECONDS):
            # Again, under the lock: a newer gateway may have been faster.
            _refuse_foreign(database, path)
            migrate(database)
    except BaseException:
        connection.close()
        raise
    return database


def _refuse_foreign(database: Database, path: Path) -> None:
    reason = why_not_ours(database)
    if reason is not None:
        raise StoreFailed(f"DATABASE_URL: the database {str(path)!r} {reason}.")


def _cannot_open(path: Path, problem: str) -> StoreFailed:
    return StoreFailed(
        f"DATABASE_URL: the database {str(path)!r} {problem}; point it at a file in a directory "
        "that this user can write, on a disk with room."
    )
