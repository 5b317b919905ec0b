"""The reports' side of the store: a second connection, which cannot write, on a thread of its own.

With a write-ahead log, who reads does not hold up who writes, nor the other way round (sqlite.org/wal.html, §2.2): a
report over years delays no registration and no /health. Only `end` may be called from another thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from sqlite_utils import Database

from multiverse.storage.database import connect_to_read

Answer = TypeVar("Answer")
# How often SQLite asks whether to go on: after about a millisecond of work.
STEPS_BETWEEN_LOOKS: Final = 20_000


class Reader:
    """Reads the database at `path`, which the writer has opened; connects when it is first asked, or told to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: Database | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nothing is read any more."""
        return self._ended

    def connect(self) -> None:
        """Opens its files while the process may still open some; a failure is told by the first that reads."""
        with contextlib.suppress(sqlite3.Error):
            self.read(lambda database: database.execute("SELECT count(*) FROM sqlite_master").fetchone())

    def read(self, job: Callable[[Database], Answer]) -> Answer:
        """What `job` reads. Raises `sqlite3.Error`; after `end`, always."""
        if self._ended:
            raise sqlite3.ProgrammingError("the store is closed")
        if self._opened is None:
            connection = connect_to_read(self._path)
            connection.set_progress_handler(lambda: self._ended, STEPS_BETWEEN_LOOKS)
            self._opened = Database(connection, execute_plugins=False)
        return job(self._opened)

    def end(self) -> None:
        """What is being read fails within milliseconds, and so does whatever waits for its turn."""
        self._ended = True

    def close(self) -> None:
        """Lets go of the file; after `end`."""
        database, self._opened = self._opened, None
        if database is not None:
            database.close()
