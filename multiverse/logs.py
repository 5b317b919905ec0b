"""Log records: taken from the caller by a queue, written by one thread, so that nobody ever waits for a disk.

The caller's side only copies what could change later; redaction and formatting (log_lines.py) are the writer's. A
failure while logging never reaches the caller; a full queue drops records and says how many. The other modules just
use `logging`, with `extra={"fields": {...}}`; only web/app.py opens and closes.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from multiverse.config import Config, ConfigError
from multiverse.log_copies import ReadyRecord, message_of, plain_copy
from multiverse.log_lines import JSONLines, TextLines, record_document
from multiverse.log_memory import LogMemory
from multiverse.redaction import Redactor, escape_controls

QUEUE_LIMIT = 8_192
CLOSE_TIMEOUT_SECONDS = 5.0
# How long a record may wait for others to be written with it, and how many are written at once.
BATCH_SECONDS = 0.02
BATCH_RECORDS = 1_024
BLOCK_BYTES = 65_536
# A rotated file ends with a whole block: small files want smaller ones.
BLOCKS_IN_A_FILE = 10
OWN_LOGGERS = ("multiverse", "tornado", "asyncio")
# Tornado writes a line of its own per request, query string included; the gateway writes a better one.
SILENCED_LOGGER = "tornado.access"
SILENCE = logging.CRITICAL + 1


def open_logs(config: Config, *, queue_limit: int = QUEUE_LIMIT) -> Logs:
    """Starts logging as `config` says; at most `queue_limit` records wait for the writer.

    The handler stands at the root, so that other libraries' warnings are redacted too. Raises ConfigError naming
    LOG_DIR when the log file cannot be opened; nothing has been changed then.
    """
    outgoing = (config.metrics_token, config.notify_webhook_url, config.smtp_password)
    others = [*(secret or "" for secret in outgoing), *(value for _name, value in config.otel_exporter_otlp_headers)]
    redactor = Redactor([config.admin_api_key, *config.client_api_keys, *others])
    failures = _Failures()
    outputs = _open_outputs(config, failures)
    formatter = JSONLines(redactor) if config.log_format == "json" else TextLines(redactor)
    intake = _Intake(queue_limit, failures)
    memory = LogMemory(lambda record: record_document(record, redactor))
    block_bytes = min(BLOCK_BYTES, config.log_max_bytes // BLOCKS_IN_A_FILE)
    writer = _Writer(intake, formatter, outputs, failures, block_bytes, memory)
    writer.start()
    return Logs(intake, writer, redactor, memory, config.log_level)


class Logs:
    """Logging while it is open; made by `open_logs`, ended by `close`, which puts the loggers back as they were."""

    def __init__(self, intake: _Intake, writer: _Writer, redactor: Redactor, memory: LogMemory, level: str) -> None:
        self.memory = memory
        self._intake = intake
        self._writer = writer
        self._redactor = redactor
        self._closed = False
        levels: dict[str, int | str] = {**dict.fromkeys(OWN_LOGGERS, level), SILENCED_LOGGER: SILENCE}
        self._previous_levels = {name: logging.getLogger(name).level for name in levels}
        for name, new_level in levels.items():
            logging.getLogger(name).setLevel(new_level)
        logging.getLogger().addHandler(intake)

    def redact(self, secret: str) -> None:
        """Keeps `secret`, say a server's own key, out of all that is written from now on. Any thread may call."""
        self._redactor.add(secret)

    def close(self) -> None:
        """Writes what is queued (for 5 s at most), closes the file, restores the loggers. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        logging.getLogger().removeHandler(self._intake)
        for name, level in self._previous_levels.items():
            logging.getLogger(name).setLevel(level)
        self._writer.stop()
        self._intake.close()


class _Failures:
    """Says once, on stderr, that logging itself fails: a full disk must not fill the terminal as well."""

    def __init__(self) -> None:
        self._said = False

    def report(self) -> None:
        """To be called while the exception is handled. The record is not shown: it has not been redacted."""
        if self._said:
            return
        self._said = True
        error = sys.exc_info()[1]
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        try:
            sys.stderr.write(f"multiverse: a log record could not be written ({reason}); this is said once\n")
        except Exception:  # stderr may be closed, or gone; there is nowhere left to tell
            return


class _Intake(logging.handlers.QueueHandler):
    """The caller's side: copies a record and queues it, or counts it as dropped when the queue is full."""

    # SimpleQueue may be re-entered: a `__del__` that logs while a record is put would dead-lock a queue.Queue.
    queue: queue.SimpleQueue[Any]

    def __init__(self, limit: int, failures: _Failures) -> None:
        super().__init__(queue.SimpleQueue())
        self._limit = limit
        self._failures = failures
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy that holds on to nothing of the caller's: no arguments, no frames, no mutable fields."""
        snapshot = logging.LogRecord.__new__(logging.LogRecord)  # copy.copy() takes five times as long
        snapshot.__dict__.update(record.__dict__)
        snapshot.msg = message_of(record)
        snapshot.args = None
        snapshot.exc_info = None
        if record.exc_info:
            snapshot.exc_text = None  # another handler's rendering
        if record.exc_info and record.exc_info[0] is not None:
            # Frames would keep sockets and bodies alive, and let them die in the wrong thread. The writer reads the
            # source lines: that is disk.
            snapshot.__dict__["traceback"] = traceback.TracebackException(*record.exc_info, lookup_lines=False)
        fields = record.__dict__.get("fields")
        snapshot.__dict__["fields"] = plain_copy(fields) if isinstance(fields, Mapping) else {}
        return snapshot

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging's, without its lock: what is shared is a queue, and a count that has the lock for itself."""
        try:
            self.enqueue(record if isinstance(record, ReadyRecord) else self.prepare(record))
        except Exception:  # whoever logs must not pay for it
            self.handleError(record)
        return True

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never blocks."""
        if self.queue.qsize() < self._limit:
            self.queue.put(record)
            return
        self.acquire()
        try:
            self._dropped += 1
        finally:
            self.release()

    def take_dropped(self) -> int:
        """The number of records dropped since it was last asked for, once the queue has room again."""
        if not self._dropped or self.queue.qsize() > self._limit // 2:
            return 0
        self.acquire()
        try:
            dropped, self._dropped = self._dropped, 0
        finally:
            self.release()
        return dropped

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `handle` instead of raising into the caller."""
        self._failures.report()


class _Writer:
    """The thread that makes lines of records and writes them, a batch at a time: each record is formatted once for all
    outputs, and the loop is not disturbed by a thread that wakes up for every line.
    """

    def __init__(
        self,
        intake: _Intake,
        formatter: TextLines | JSONLines,
        outputs: list[logging.Handler],
        failures: _Failures,
        block_bytes: int,
        memory: LogMemory,
    ) -> None:
        self._memory = memory
        self._intake = intake
        self._formatter = formatter
        self._outputs = outputs
        self._failures = failures
        self._block_bytes = block_bytes
        # What outputs are handed, with one block of lines after the other.
        self._block = logging.makeLogRecord({})
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write what is queued."""
        self._thread = threading.Thread(target=self._run, name="multiverse-logs", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        records: list[logging.LogRecord | None] = []
        while None not in records:
            records = [self._intake.queue.get()]
            self._ending.wait(BATCH_SECONDS)
            others = min(self._intake.queue.qsize(), BATCH_RECORDS - 1)  # Nobody else takes any.
            records += [self._intake.queue.get() for _other in range(others)]
            try:
                self._write([record for record in records if record is not None])
            except Exception:  # or the thread would end
                self._failures.report()

    def _write(self, records: list[logging.LogRecord]) -> None:
        self._memory.add(records)
        of_ready = self._way_for([record for record in records if isinstance(record, ReadyRecord)])
        self._write_lines([line for record in records if (line := self._line(record, of_ready)) is not None])
        dropped = self._intake.take_dropped()
        if dropped:
            self._write_lines([self._formatter.format(_dropped_record(dropped))])

    def _write_lines(self, lines: list[str]) -> None:
        for block in _blocks(lines, self._block_bytes):
            self._block.__dict__["line"] = block
            for output in self._outputs:
                output.handle(self._block)

    def _way_for(self, records: list[ReadyRecord]) -> Callable[[ReadyRecord], str]:
        try:
            return self._formatter.way_for(records)
        except Exception:  # a record that is not as it promises must not cost the others their lines
            self._failures.report()
            return self._formatter.format

    def _line(self, record: logging.LogRecord, of_ready: Callable[[ReadyRecord], str]) -> str | None:
        try:
            return of_ready(record) if isinstance(record, ReadyRecord) else self._formatter.format(record)
        except Exception:
            self._failures.report()
            return None

    def stop(self) -> None:
        """Writes what is queued, for at most CLOSE_TIMEOUT_SECONDS: a console that nobody reads may block for ever."""
        thread = self._thread
        if thread is None:
            return
        self._ending.set()
        self._intake.queue.put(None)
        thread.join(CLOSE_TIMEOUT_SECONDS)
        self._thread = None
        if not thread.is_alive():
            for output in self._outputs:
                try:
                    output.close()
                except OSError:  # the disk is still full
                    self._failures.report()


def _blocks(lines: list[str], block_bytes: int) -> Iterator[str]:
    """The lines, as many together as make a block; a line that is longer is one by itself."""
    block: list[str] = []
    size = 0
    for line in lines:
        if block and size + len(line) > block_bytes:
            yield "\n".join(block)
            block, size = [], 0
        block.append(line)
        size += len(line)
    if block:
        yield "\n".join(block)


def _dropped_record(dropped: int) -> logging.LogRecord:
    fields = {"dropped": dropped}
    attributes = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "fields": fields}
    return logging.makeLogRecord({**attributes, "msg": "log records were dropped, the queue was full"})


class _ReportsOnce:
    """Mixed into a handler: what fails while it writes is said once."""

    failures: _Failures

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit` of logging's handlers."""
        self.failures.report()


class _Console(_ReportsOnce, logging.StreamHandler[TextIO]):
    """Lines to stderr."""


class _File(_ReportsOnce, logging.handlers.RotatingFileHandler):
    """Lines to the log file, which is rotated; without backups it starts afresh instead of growing for ever."""

    def doRollover(self) -> None:
        """logging's own never rolls over when `backupCount` is 0."""
        if self.backupCount == 0 and self.stream is not None:
            self.stream.truncate(0)
        else:
            super().doRollover()


class _ReadyLines(logging.Formatter):
    """Hands out the line that the writer made."""

    def format(self, record: logging.LogRecord) -> str:
        line: str = record.__dict__["line"]
        return line


def _open_outputs(config: Config, failures: _Failures) -> list[logging.Handler]:
    outputs: list[_Console | _File] = []
    if config.enable_file_logging:
        outputs.append(_open_file(config))
    if config.enable_console_logging:
        outputs.append(_Console(sys.stderr))
    for output in outputs:
        output.failures = failures
        output.setFormatter(_ReadyLines())
    return [*outputs]


def _open_file(config: Config) -> _File:
    try:
        directory = Path(config.log_dir)
        directory.mkdir(parents=True, exist_ok=True)
        return _File(
            directory / config.log_file,
            maxBytes=config.log_max_bytes,
            backupCount=config.log_backup_count,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        place = escape_controls(f"{config.log_dir}/{config.log_file}")
        raise ConfigError(
            f"LOG_DIR must be a directory in which the gateway can write {place} ({error.strerror})"
        ) from None
