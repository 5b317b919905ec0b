"""The store as the gateway sees it: coroutines for what must be answered, `queue_*` for what may be written later.

The event loop never touches SQLite: one thread writes, and reads what must be exact, in the order in which jobs were
handed over; reports, which may take long, are read on another. A coroutine awaits its own job. Errors of SQLite become
`StoreFailed` here; the log has the detail, the client has not.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlite_utils import Database

from multiverse.clock import Clock
from multiverse.errors import StoreFailed
from multiverse.histogram import Histogram
from multiverse.storage import statements
from multiverse.storage.backlog import Backlog
from multiverse.storage.database import is_unexplained, what_is_wrong
from multiverse.storage.reader import Reader
from multiverse.storage.rows import (
    PROBE_COLUMNS,
    STATE_COLUMNS,
    observed_row,
    storable_server,
    usage_row,
)
from multiverse.storage.writer import Writer

LOG = logging.getLogger(__name__)

LOCK_WAIT_SECONDS: Final = 5.0
QUEUED_ROWS_MAX: Final = 100_000
NOT_OPEN: Final = "The database is not open: the gateway is starting or stopping. Try again in a moment."

Answer = TypeVar("Answer")


class Store:
    """SQLite at `path`; at most `queued_rows_max` rows of a kind wait in memory, the oldest are dropped.

    `open` before use and `close` after it, on the same event loop. Coroutines raise `StoreFailed`; `queue_*` never
    touch the disk and raise only `ValueError`, for a row that no table could hold. Rows queued while the store is
    closed wait for the next `open`. Reads see everything queued before them, unless the database refuses writes.
    """

    def __init__(
        self,
        path: str,
        *,
        flush_interval_seconds: float = 1.0,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
        queued_rows_max: int = QUEUED_ROWS_MAX,
        clock: Clock | None = None,
    ) -> None:
        self._flush_interval_seconds = flush_interval_seconds
        self._lock_wait_seconds = lock_wait_seconds
        self._clock = clock or Clock()
        self._backlog = Backlog(queued_rows_max)
        # Absolute: the file stays the same one if something changes the working directory.
        self._path = Path(path).absolute()
        self._writer = Writer(self._path, self._backlog, self._clock)
        self._reader = Reader(self._path)
        self._executor: ThreadPoolExecutor | None = None
        self._reports_executor: ThreadPoolExecutor | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._check_under_way: asyncio.Future[str | None] | None = None

    @property
    def queued(self) -> int:
        """Rows that are not on disk yet."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Rows lost since the start: too many waited, or the database could not hold them."""
        return self._backlog.dropped

    @property
    def batch_seconds(self) -> Histogram:
        """How long batches took to write, those that failed included."""
        return self._writer.batch_seconds

    async def open(self) -> None:
        """Creates or migrates the database. Raises `StoreFailed`: one sentence for the admin, naming DATABASE_URL."""
        if self._executor is not None:
            raise RuntimeError("the store is open already")
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="multiverse-store")
        try:
            await asyncio.get_running_loop().run_in_executor(executor, self._writer.open)
        except StoreFailed:
            executor.shutdown()
            raise
        except BaseException:
            # Cancelled: the thread may still be waiting for a lock, and closes when it has it.
            executor.submit(self._writer.close, 0.0)
            executor.shutdown(wait=False)
            raise
        self._executor = executor
        self._reader = Reader(self._path)
        self._reports_executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="multiverse-store-reports")
        if self._writer.has_log:
            self._reports_executor.submit(self._reader.connect)
        self._flusher = asyncio.create_task(self._flush_regularly())

    async def close(self) -> None:
        """Writes what is queued and closes; safe to call twice, or without `open`."""
        executor, self._executor = self._executor, None
        reports_executor, self._reports_executor = self._reports_executor, None
        flusher, self._flusher = self._flusher, None
        if executor is None or reports_executor is None or flusher is None:
            return
        self._reader.end()
        nobody_reads = reports_executor.submit(self._reader.close)
        reports_executor.shutdown(wait=False)
        closed = asyncio.get_running_loop().run_in_executor(executor, self._close_writer, nobody_reads)
        executor.shutdown(wait=False)
        flusher.cancel()
        # Shielded: rows must reach the disk even if whoever closes us is out of patience.
        await asyncio.shield(closed)
        executor.shutdown()
        reports_executor.shutdown()

    def _close_writer(self, nobody_reads: Future[None]) -> None:
        """On the writer's thread: the write-ahead log can be emptied when nobody reads it any more."""
        wait([nobody_reads])
        self._writer.close(self._lock_wait_seconds)

    async def load_registrations(self) -> list[dict[str, Any]]:
        """All rows of `servers`, oldest first; `tags` are lists."""
        return await self._answer(lambda _wait_seconds: self._writer.load_registrations())

    async def save_registration(self, row: Mapping[str, Any]) -> None:
        """Inserts, or updates the columns given, by `registration_id`; durable when it returns.

        Changes of state that were queued before the call and are not written yet give way to the row.
        """
        storable = storable_server(row)
        _require_registration_id(storable.get("registration_id"))
        mark = self._backlog.mark()
        await self._answer(lambda wait_seconds: self._writer.save_registration(storable, mark, wait_seconds))

    async def delete_registration(self, registration_id: str) -> bool:
        """True if there was one; durable when it returns. Its probes go with it, its usage stays."""
        return await self._answer(lambda wait_seconds: self._writer.delete_registration(registration_id, wait_seconds))

    async def recent_probes(self, registration_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """Newest first; at most a hundred of a server are kept."""
        mark, rows = self._backlog.mark(), max(limit, 0)
        return await self._answer(lambda _wait_seconds: self._writer.recent_probes(registration_id, rows, mark))

    async def read(self, job: Callable[[Database], Answer], *, misses_nothing: bool = False) -> Answer:
        """What `job` reads on the writer's thread, with everything queued so far on disk before it, and no usage that
        is queued later. What the disk refuses is left out; with `misses_nothing` that raises StoreFailed. `job` must
        be quick, as everybody waits for it.
        """
        mark = self._backlog.mark()
        return await self._answer(lambda _wait_seconds: self._writer.read(job, mark, misses_nothing=misses_nothing))

    async def report(self, job: Callable[[Database], Answer]) -> Answer:
        """What `job` reads on the reports' thread, where it may take its time, with everything queued so far on disk
        before it (unless the disk refuses it), and perhaps some of what was queued later.
        """
        if not self._writer.has_log:
            return await self.read(job)  # Without a write-ahead log, who reads would lock out who writes.
        mark = self._backlog.mark()
        await self._answer(lambda _wait_seconds: self._writer.try_to_write_backlog(mark))
        return await self._run(self._reports_executor, lambda: self._reader.read(job))

    async def write(self, job: Callable[[Database], Answer]) -> Answer:
        """Runs `job` on the store's thread in one transaction; durable when it returns, undone when `job` raises."""
        return await self._answer(lambda wait_seconds: self._writer.write(job, wait_seconds))

    async def usage_minutes(self, since: str) -> list[dict[str, Any]]:
        """Per minute since that moment (UTC, ISO 8601), oldest first: `minute` (its first 16 characters), `total`,
        `failed`, `first_token_ms` (mean). Minutes without a request have no row.
        """
        return await self._select(statements.USAGE_MINUTES, {"since": since})

    async def usage_of_day(self, day: str) -> dict[str, int]:
        """Of that day (UTC, `2027-01-31`): requests `total`, `failed`, and the sums `prompt_tokens`,
        `completion_tokens`.
        """
        (totals,) = await self._select(statements.USAGE_OF_DAY, {"day": day})
        return totals

    async def usage_by_model(self, since: str) -> list[dict[str, Any]]:
        """Per model since that moment: `total`, `failed`, `completion_tokens`, means of `first_token_ms` and
        `tokens_per_second` (whole streams only; None where there was none).
        """
        return await self._select(statements.USAGE_BY_MODEL, {"since": since})

    async def failed_requests(self, registration_id: str, since: str, limit: int) -> list[dict[str, Any]]:
        """The latest requests since that moment whose last attempt on this server failed, newest first."""
        values = {"registration_id": registration_id, "since": since, "limit": limit}
        return await self._select(statements.FAILED_REQUESTS, values)

    async def row_counts(self) -> dict[str, int]:
        """Rows of `servers`, `probes` and `usage`, and `size_bytes` on the disk."""
        (counts,) = await self._select(statements.COUNT_ROWS, {})
        return {**counts, "size_bytes": await self._answer(lambda _wait_seconds: self._writer.size_bytes())}

    async def _select(self, sql: str, parameters: dict[str, object]) -> list[dict[str, Any]]:
        return await self.report(lambda database: list(database.query(sql, parameters)))

    def queue_probe(self, row: Mapping[str, Any]) -> None:
        """A row for `health_checks`; dropped in silence if its server is not registered when it is written."""
        _require_registration_id(row.get("registration_id"))
        self._backlog.add_probe(observed_row(row, PROBE_COLUMNS))

    def queue_server_state(self, registration_id: str, changes: Mapping[str, Any]) -> None:
        """Changes to what is observed of a server (`STATE_COLUMNS`); the last value of each column is written."""
        _require_registration_id(registration_id)
        self._backlog.add_state(registration_id, observed_row(changes, STATE_COLUMNS))

    def queue_usage(self, row: Mapping[str, Any] | tuple[Any, ...]) -> None:
        """A row for `usage`: columns by their names, or the values of all in the order of `USAGE_COLUMNS`."""
        self._backlog.add_usage(usage_row(row))

    async def flush(self) -> None:
        """Everything queued so far is on disk when it returns."""
        mark = self._backlog.mark()
        await self._answer(lambda wait_seconds: self._writer.write_backlog(mark, wait_seconds))

    async def check(self, timeout_seconds: float = 1.0) -> str | None:
        """None if the database can be written now, else a short reason, known within `timeout_seconds`."""
        if self._executor is None:
            return "the database is not open"
        under_way = self._check_under_way
        if under_way is None or under_way.done():
            # One at a time, shared by all who ask: checks must not pile up before a thread that waits for a lock.
            under_way = asyncio.get_running_loop().run_in_executor(
                self._executor, self._writer.check, self._backlog.mark(), timeout_seconds / 2
            )
            self._check_under_way = under_way
        done, _pending = await asyncio.wait({under_way}, timeout=timeout_seconds)
        problem = under_way.result() if done else self._writer.trouble or f"did not answer in {timeout_seconds:g} s"
        return None if problem is None else f"the database {problem}"

    async def _answer(self, job: Callable[[float], Answer]) -> Answer:
        """Runs `job` on the writer's thread; it is told how many seconds are left to wait for a lock."""
        give_up_at = self._clock.monotonic() + self._lock_wait_seconds
        return await self._run(self._executor, lambda: job(max(give_up_at - self._clock.monotonic(), 0.0)))

    async def _run(self, executor: ThreadPoolExecutor | None, job: Callable[[], Answer]) -> Answer:
        reader = self._reader
        if executor is None:
            raise StoreFailed(NOT_OPEN)
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, job)
        except sqlite3.Error as error:
            if reader.ended and executor is not self._executor:
                raise StoreFailed(NOT_OPEN) from error  # A report that the end of the gateway cut short.
            LOG.error("the database refused: %s", error, exc_info=is_unexplained(error))
            raise _store_failed(error) from error

    async def _flush_regularly(self) -> None:
        executor = self._executor
        while executor is not None:
            await asyncio.sleep(self._flush_interval_seconds)
            mark = self._backlog.mark()
            await asyncio.get_running_loop().run_in_executor(executor, self._writer.try_to_write_backlog, mark)


def _require_registration_id(registration_id: object) -> None:
    if not isinstance(registration_id, str) or not registration_id:
        raise ValueError("a row needs a registration_id")


def _store_failed(error: sqlite3.Error) -> StoreFailed:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
        return StoreFailed("Another registration already has this model_name and endpoint_url; update that one.")
    return StoreFailed(f"The database {what_is_wrong(error)}. Nothing was changed; try again in a moment.")
