"""The writer's side of the store: the only connection that writes, and every method here runs on its thread.

Nothing here is async or knows the event loop. What waits to be written comes from the backlog and goes back there
when the database refuses. An error of SQLite leaves here as `sqlite3.Error`; store.py puts it into words.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlite_utils import Database
from sqlite_utils.db import Table

from multiverse.clock import Clock
from multiverse.histogram import Histogram
from multiverse.storage import statements
from multiverse.storage.backlog import Backlog, Batch, Mark, Row
from multiverse.storage.database import close_database, open_database, rewrite_header, transaction, what_is_wrong
from multiverse.storage.rows import server_from_disk

LOG = logging.getLogger(__name__)

# The regular batch is tried again a second later, so it does not hold up a registration by waiting for a lock.
BATCH_WAIT_SECONDS: Final = 0.25
BATCH_ROWS: Final = 10_000
BATCH_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
DROPPED_LOG_INTERVAL_SECONDS: Final = 60.0
Answer = TypeVar("Answer")
# Errors that lie in the rows: they would fail for ever, and hold up all that come after them.
ROW_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
# One of them among many is looked for by halves; each half is undone by itself.
BEGIN_PART, UNDO_PART, END_PART = "SAVEPOINT part", "ROLLBACK TO part", "RELEASE part"


class Writer:
    """Reads and writes the database at `path`; `mark` is the backlog's mark at the time a job was handed over."""

    def __init__(self, path: Path, backlog: Backlog, clock: Clock) -> None:
        self._path = path
        self._backlog = backlog
        self._clock = clock
        self.batch_seconds = Histogram(BATCH_BOUNDS)
        self._opened: Database | None = None
        self._opened_file: tuple[int, int] | None = None
        self.has_log = True  # Whether the database has a write-ahead log, as nearly everywhere.
        self._trouble: str | None = None
        self._dropped_logged = 0
        self._dropped_logged_at = -DROPPED_LOG_INTERVAL_SECONDS

    @property
    def trouble(self) -> str | None:
        """Why the last batch could not be written; None when it was. May be read from any thread."""
        return self._trouble

    def open(self) -> None:
        """Raises `StoreFailed`, naming DATABASE_URL."""
        self._opened = open_database(self._path, self._clock)
        self._opened_file = self._file_on_disk()
        self.has_log = self._opened.journal_mode == "wal"

    def close(self, wait_seconds: float) -> None:
        """Writes what waits and closes; rows that cannot be written now are lost, and the log says how many."""
        if self._opened is None:
            return
        # All that waits by now: what ended while others were being written is not to be lost.
        self.try_to_write_backlog(self._backlog.mark(), wait_seconds)
        if self._trouble is not None:
            LOG.error("the store closes with rows that it could not write", extra=self._fields())
        database, self._opened = self._opened, None
        try:
            close_database(database)
        except sqlite3.Error as error:
            # The log file stays beside the database, and the next start reads it.
            LOG.info("the write-ahead log was not emptied: %s", error)

    def write_backlog(self, mark: Mark, wait_seconds: float) -> None:
        """Everything that waits is on disk when this returns."""
        database = self._database
        while batch := self._backlog.take(BATCH_ROWS, mark):
            started = self._clock.monotonic()
            bad = Batch()
            try:
                with transaction(database, wait_seconds):
                    self._write_what_can_be(database.conn, batch, bad)
            except sqlite3.Error as error:
                self._backlog.put_back(batch)
                self._note_trouble(error)
                raise
            finally:
                self.batch_seconds.note(self._clock.monotonic() - started)
            self._backlog.written(dropped=len(bad))
            self._note_recovery()
            if bad:
                fields = {"usage": len(bad.usage), "probes": len(bad.probes), "states": len(bad.states)}
                LOG.error("rows were dropped: the database cannot hold them", extra={"fields": fields})
                self._dropped_logged += len(bad)  # These were not too many.

    def _write_what_can_be(self, connection: sqlite3.Connection, batch: Batch, bad: Batch) -> None:
        """Writes `batch` in the transaction that is open, but for single rows that are at fault: these go to `bad`.

        Raises what lies in the database and not in a row.
        """
        connection.execute(BEGIN_PART)
        refusal = None
        try:
            statements.write_batch(connection, batch)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, ROW_ERRORS):
                raise
            connection.execute(UNDO_PART)
            refusal = error
        connection.execute(END_PART)
        if refusal is not None and len(batch) > 1:
            for half in batch.halves():
                self._write_what_can_be(connection, half, bad)
        elif refusal is not None:
            if not bad:  # One of them tells enough. What it says is about tables, and never about what is in them.
                LOG.error("the database refuses a row", exc_info=refusal)
            bad.add(batch)

    def try_to_write_backlog(self, mark: Mark, wait_seconds: float = BATCH_WAIT_SECONDS) -> None:
        """As `write_backlog`; what the database refuses stays in the backlog, and `trouble` says why."""
        with contextlib.suppress(sqlite3.Error):  # noted and logged where it was raised
            self.write_backlog(mark, wait_seconds)
        self._log_dropped()

    def load_registrations(self) -> list[Row]:
        """All rows of `servers`, oldest first."""
        return [server_from_disk(row) for row in self._table("servers").rows_where(order_by="rowid")]

    def save_registration(self, row: Row, mark: Mark, wait_seconds: float) -> None:
        """Inserts, or updates the columns given."""
        registration_id = row["registration_id"]
        servers = self._table("servers")
        with transaction(self._database, wait_seconds):
            if servers.count_where("registration_id = ?", [registration_id]):
                servers.update(registration_id, row)
            else:
                servers.insert(row)
        self._backlog.forget(registration_id, row, mark)

    def delete_registration(self, registration_id: str, wait_seconds: float) -> bool:
        """False if there was none. Its probes go with it (by the foreign key), its usage stays."""
        with transaction(self._database, wait_seconds):
            deleted = self._database.execute(statements.DELETE_SERVER, [registration_id]).rowcount
        return deleted > 0

    def recent_probes(self, registration_id: str, limit: int, mark: Mark) -> list[Row]:
        """Newest first, those that still wait included."""
        self.try_to_write_backlog(mark)
        rows = self._table("health_checks").rows_where(
            "registration_id = ?", [registration_id], order_by="id desc", limit=limit
        )
        return list(rows)

    def read(self, job: Callable[[Database], Answer], mark: Mark, *, misses_nothing: bool) -> Answer:
        """What `job` reads, with the rows that still wait, if they can be written; raises or does without."""
        if misses_nothing:
            self.write_backlog(mark, BATCH_WAIT_SECONDS)
        else:
            self.try_to_write_backlog(mark)
        return job(self._database)

    def write(self, job: Callable[[Database], Answer], wait_seconds: float) -> Answer:
        """Runs `job` in one transaction."""
        with transaction(self._database, wait_seconds):
            return job(self._database)

    def size_bytes(self) -> int:
        """What the database takes on the disk, with its write-ahead log."""
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(os.stat(path).st_size for path in files if path.exists())

    def check(self, mark: Mark, wait_seconds: float) -> str | None:
        """None if the database can be written now, else why not."""
        try:
            if self._file_on_disk() != self._opened_file:
                return "was removed or replaced while it was open; restart the gateway"
            if self._trouble is not None:
                # Only a real try tells whether it still stands.
                self.try_to_write_backlog(mark, wait_seconds)
                if self._trouble is not None:
                    return self._trouble
            # Not durable: whoever calls /health in a loop must not cost a disk sync each time.
            with transaction(self._database, wait_seconds, durable=False):
                rewrite_header(self._database)
        except sqlite3.Error as error:
            return what_is_wrong(error)
        return None

    @property
    def _database(self) -> Database:
        if self._opened is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._opened

    def _table(self, name: str) -> Table:
        return self._database.table(name)

    def _file_on_disk(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _note_trouble(self, error: sqlite3.Error) -> None:
        trouble = what_is_wrong(error)
        if trouble != self._trouble:
            self._trouble = trouble
            LOG.error("probes and usage cannot be stored now: %s", error, extra=self._fields())

    def _note_recovery(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            LOG.warning("probes and usage are stored again", extra=self._fields())

    def _log_dropped(self) -> None:
        dropped = self._backlog.dropped
        now = self._clock.monotonic()
        if dropped > self._dropped_logged and now - self._dropped_logged_at >= DROPPED_LOG_INTERVAL_SECONDS:
            LOG.error("too many rows wait for the database; the oldest were dropped", extra=self._fields())
            self._dropped_logged, self._dropped_logged_at = dropped, now

    def _fields(self) -> dict[str, Any]:
        return {"fields": {"queued": len(self._backlog), "dropped": self._backlog.dropped}}
