"""How records get to the file and to stderr: never blocking, never raising, rotated, and put back at the end."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
import weakref
from pathlib import Path

import pytest

from multiverse.config import ConfigError
from multiverse.logs import open_logs
from multiverse.people.usage import BEGINNING, RequestLine
from tests.bench import build_record
from tests.log_files import ADMIN_KEY, STAMP, StuckConsole, config_for, lines_of, logging_to, objects_of

LOG = logging.getLogger("multiverse.test")


def test_arguments_and_fields_are_those_of_the_call(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        for number in range(200):
            values, nested = [number], {"inner": [number]}
            LOG.info("values %s", values, extra={"fields": {"values": values, "nested": nested}})
            values.append(-1)
            nested["inner"].clear()
    for number, line in enumerate(lines_of(tmp_path)):
        assert line.endswith(f'values [{number}] values=[{number}] nested="{{\\"inner\\": [{number}]}}"')


def test_a_ready_record_that_is_not_as_it_promises_costs_nobody_a_line(tmp_path: Path) -> None:
    odd = build_record()
    odd.key_name = None  # type: ignore[assignment]
    with logging_to(tmp_path):
        for record in (build_record(request_id="req-0"), odd, build_record(request_id="req-2")):
            logging.getLogger("multiverse.requests").handle(RequestLine(BEGINNING, record))
    shown = [line.partition(" route=")[0].partition("  request ")[2] for line in lines_of(tmp_path)]
    names = ("client-1", "-", "client-1")
    assert shown == [f"request_id=req-{number} key_name={name}" for number, name in enumerate(names)]


def test_a_logged_exception_keeps_no_frames_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        """Something that a frame holds."""

    def fail_while_holding() -> weakref.ref[Connection]:
        connection = Connection()
        try:
            raise OSError("broken")
        except OSError:
            LOG.exception("failed")
        return weakref.ref(connection)

    # pytest's own handlers stand at the root and keep every record with its frames.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    console = StuckConsole(monkeypatch)
    logs = open_logs(config_for(tmp_path, ENABLE_FILE_LOGGING="false", ENABLE_CONSOLE_LOGGING="true"))
    LOG.info("this one blocks the writer")
    reference = fail_while_holding()
    gc.collect()
    assert reference() is None
    console.drain()
    logs.close()
    assert console.finish()[-1] == "  OSError: broken"


def test_level_and_the_loggers_of_tornado(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_LEVEL="warning"):
        LOG.info("too low")
        LOG.warning("high enough")
        logging.getLogger("tornado.general").warning("tornado")
        logging.getLogger("asyncio").error("asyncio")
        logging.getLogger("tornado.access").warning("404 GET /?token=abc")
        logging.getLogger("tornado.access").error("500 GET /?token=abc")
    assert [line.split("  ")[-1] for line in lines_of(tmp_path)] == ["high enough", "tornado", "asyncio"]


def test_debug_level(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_LEVEL="DEBUG"):
        LOG.debug("details")
    assert lines_of(tmp_path)[0].endswith(" DEBUG    multiverse.test  details")


def test_rotation_keeps_the_newest_lines_in_so_many_files(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_MAX_BYTES="2000", LOG_BACKUP_COUNT="2", LOG_FILE="class.log"):
        for number in range(200):
            LOG.info("line number %d", number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class.log", "class.log.1", "class.log.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    newest_last = [line for name in ("class.log.2", "class.log.1", "class.log") for line in lines_of(tmp_path, name)]
    numbers = [int(line.rsplit(" ", 1)[1]) for line in newest_last]
    assert numbers == list(range(200 - len(numbers), 200))
    assert len(numbers) > 50


def test_without_backups_the_one_file_starts_afresh(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_MAX_BYTES="2000", LOG_BACKUP_COUNT="0"):
        for number in range(200):
            LOG.info("line number %d", number)
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.log"]
    assert (tmp_path / "gateway.log").stat().st_size <= 2000
    assert lines_of(tmp_path)[-1].endswith("line number 199")


def test_the_file_is_continued_after_a_restart(tmp_path: Path) -> None:
    for number in range(2):
        with logging_to(tmp_path / "new" / "directory"):
            LOG.info("start %d", number)
    assert [line[-7:] for line in lines_of(tmp_path / "new" / "directory")] == ["start 0", "start 1"]


def test_a_console_nobody_reads_blocks_nobody_and_drops_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = StuckConsole(monkeypatch)
    config = config_for(tmp_path, ENABLE_FILE_LOGGING="false", ENABLE_CONSOLE_LOGGING="true")
    logs = open_logs(config, queue_limit=20)
    began = time.perf_counter()
    for number in range(300):
        LOG.info("number %d", number)
    assert time.perf_counter() - began < 2.0
    console.drain()
    logs.close()
    lines = console.finish()
    written = [line for line in lines if "number" in line]
    assert 20 <= len(written) <= 41  # the queue, and what is in the writer's hands
    assert [int(line.rsplit(" ", 1)[1]) for line in written[:20]] == list(range(20))
    warning = STAMP + r" WARNING  multiverse\.logs  log records were dropped, the queue was full dropped=(\d+)"
    told = [match[1] for line in lines if (match := re.fullmatch(warning, line)) is not None]
    assert sum(map(int, told)) == 300 - len(written)
    assert len(lines) == len(written) + len(told)


def test_close_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = StuckConsole(monkeypatch)
    monkeypatch.setattr("multiverse.logs.CLOSE_TIMEOUT_SECONDS", 0.1)
    threads_before = set(threading.enumerate())
    logs = open_logs(config_for(tmp_path, ENABLE_FILE_LOGGING="false", ENABLE_CONSOLE_LOGGING="true"))
    LOG.info("one line")
    began = time.perf_counter()
    logs.close()
    assert 0.1 <= time.perf_counter() - began < 4.0
    (writer,) = set(threading.enumerate()) - threads_before
    console.drain()
    writer.join(5)
    assert not writer.is_alive()
    assert [line[-8:] for line in console.finish()] == ["one line"]


class Unprintable:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_a_broken_call_neither_raises_nor_loses_the_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own handlers do raise
    with logging_to(tmp_path, LOG_FORMAT="json"):
        LOG.info("too few %s %s", ADMIN_KEY)
        LOG.info("bad value %s", Unprintable())
        LOG.info("bad field", extra={"fields": {"bad": Unprintable(), "good": 1}})
        LOG.info("not a mapping", extra={"fields": ["a"]})
        LOG.info({"a": "dict"})
        LOG.info("after all")
    messages = [entry["message"] for entry in objects_of(tmp_path)]
    assert messages == [
        "too few %s %s (the arguments do not fit)",
        "bad value %s (the arguments do not fit)",
        "bad field",
        "not a mapping",
        "{'a': 'dict'}",
        "after all",
    ]
    assert (objects_of(tmp_path)[2]["bad"], objects_of(tmp_path)[2]["good"]) == ("<Unprintable>", 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_said_once_and_raises_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(Path("/dev"), LOG_FILE="full", LOG_MAX_BYTES="100000000"):
        for _line in range(5):
            LOG.info("message with %s", ADMIN_KEY)
    captured = capfd.readouterr()
    assert captured.err == (
        "multiverse: a log record could not be written (No space left on device); this is said once\n"
    )


def test_an_unwritable_directory_is_a_config_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "gateway.log").mkdir()
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("multiverse").level
    for directory in (tmp_path / "file", tmp_path / "file" / "below", tmp_path, Path("/proc/nowhere")):
        with pytest.raises(ConfigError) as caught:
            open_logs(config_for(directory))
        assert str(caught.value).startswith("LOG_DIR must be a directory in which the gateway can write ")
        assert "\n" not in str(caught.value)
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("multiverse").level == level


def test_neither_file_nor_console(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "unused", ENABLE_FILE_LOGGING="false"):
        LOG.error("to nobody")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "unused").exists()


def test_close_restores_logging_and_is_safe_twice(tmp_path: Path) -> None:
    names = ("multiverse", "tornado", "asyncio", "tornado.access")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        before = [list(logging.getLogger().handlers), *(logging.getLogger(name).level for name in names)]
        threads = threading.active_count()
        logs = open_logs(config_for(tmp_path))
        assert logging.getLogger("asyncio").level == logging.INFO
        LOG.info("while open")
        logs.close()
        logs.close()
        LOG.error("after the end")
        logs.redact("still-harmless")
        assert [list(logging.getLogger().handlers), *(logging.getLogger(name).level for name in names)] == before
        assert threading.active_count() == threads
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
    assert [line[-10:] for line in lines_of(tmp_path)] == ["while open"]


def test_other_handlers_see_the_record_as_it_was_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with logging_to(tmp_path):
        try:
            raise ValueError("kept")
        except ValueError:
            LOG.exception("value %s", 1, extra={"fields": {"model": "m"}})
    (record,) = caplog.records
    assert (record.msg, record.args, record.getMessage()) == ("value %s", (1,), "value 1")
    assert record.exc_info is not None
    assert record.__dict__["fields"] == {"model": "m"}
    assert "ValueError: kept" in caplog.text


def test_many_threads_log_whole_lines(tmp_path: Path) -> None:
    def log_lines(thread_number: int) -> None:
        for number in range(200):
            LOG.info("line", extra={"fields": {"thread": thread_number, "number": number}})

    with logging_to(tmp_path, LOG_FORMAT="json"):
        threads = [threading.Thread(target=log_lines, args=(thread_number,)) for thread_number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = [(entry["thread"], entry["number"]) for entry in objects_of(tmp_path)]
    assert sorted(seen) == [(thread_number, number) for thread_number in range(4) for number in range(200)]
    assert [number for thread_number, number in seen if thread_number == 2] == list(range(200))
