"""What a record looks like in the file and on stderr, and what never gets there."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.log_copies import plain_copy
from multiverse.log_lines import JSONLines, TextLines
from multiverse.logs import Logs
from multiverse.people.usage import BEGINNING, OUTCOMES, RequestLine, UsageRecord
from multiverse.redaction import Redactor
from tests.bench import build_record
from tests.log_files import ADMIN_KEY, CLIENT_KEY, METRICS_TOKEN, STAMP, lines_of, logging_to, objects_of

SERVER_KEY = "server-key-of-a-test"
SECRETS = (ADMIN_KEY, CLIENT_KEY, METRICS_TOKEN, SERVER_KEY)
LOG = logging.getLogger("multiverse.test")


def test_a_line_of_text(tmp_path: Path) -> None:
    before = time.time()
    with logging_to(tmp_path):
        fields = {"model": "gemma-3", "note": "two words", "status": 200, "ok": True, "ms": 1.5}
        LOG.info("request %s in %d ms", "done", 12, extra={"fields": fields})
        LOG.warning("plain")
    first, second = lines_of(tmp_path)
    assert re.fullmatch(
        STAMP + r" INFO     multiverse\.test  request done in 12 ms "
        r'model=gemma-3 note="two words" status=200 ok=true ms=1\.5',
        first,
    )
    assert re.fullmatch(STAMP + r" WARNING  multiverse\.test  plain", second)
    stamp = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert first.startswith((stamp, time.strftime("%Y-%m-%dT%H:%M")))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        ("", '""'),
        ("plain", "plain"),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("two\nlines", r'"two\nlines"'),
        ("\x1b[2J", r"\x1b[2J"),
        ("北京", "北京"),
        (b"bytes", "bytes"),
        (False, "false"),
        (float("nan"), "nan"),
        (10**30, hex(10**30)),
        (["a", 1], r'"[\"a\", 1]"'),
        (("x",), r'"[\"x\"]"'),
        (Path("/some/where"), "/some/where"),
    ],
)
def test_fields_in_text(tmp_path: Path, value: object, written: str) -> None:
    with logging_to(tmp_path):
        LOG.info("message", extra={"fields": {"field": value, "odd name\n": 1}})
        LOG.info("message", extra={"fields": {"field": value, "model": "gemma-3"}})
    first, second = lines_of(tmp_path)
    assert first.endswith(f"  message field={written} odd_name_=1")
    assert second.endswith(f"  message field={written} model=gemma-3")


TEXTS = st.sampled_from(["gemma-3:8b", "Ada L", "", "a\nb", "a=b", "None", "sk-abcdef123456", ADMIN_KEY, "\x7f", "é"])
NUMBERS = st.none() | st.integers(0, 10**7)
RECORDS = st.builds(
    build_record,
    request_id=TEXTS | st.text(),
    key_name=TEXTS,
    route=TEXTS,
    model_name=TEXTS,
    registration_id=st.none() | TEXTS,
    outcome=st.sampled_from(OUTCOMES),
    first_token_ms=st.none() | st.floats(0, 10**9),
    total_ms=st.none() | st.floats(0, 10**9),
    prompt_tokens=NUMBERS,
    completion_tokens=NUMBERS,
)


@given(records=st.lists(RECORDS, min_size=1, max_size=3))
def test_lines_of_requests_are_written_as_any_others(records: list[UsageRecord]) -> None:
    """They are ready, and looked at together; other records have each field looked at."""
    redactor = Redactor([ADMIN_KEY])
    lines = [RequestLine(BEGINNING, record) for record in records]
    for formatter in (TextLines(redactor), JSONLines(redactor)):
        way = formatter.way_for(lines)
        for line in lines:
            assert sorted(line.texts) == sorted(value for value in line.fields.values() if isinstance(value, str))
            known = {"name": line.name, "levelname": line.levelname, "msg": line.msg, "created": line.created}
            other = logging.makeLogRecord({**known, "fields": plain_copy(line.fields)})
            assert way(line) == formatter.format(line) == formatter.format(other)
            assert len(way(line).splitlines()) == 1
            assert ADMIN_KEY not in way(line)


def test_json_lines(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_FORMAT="json"):
        LOG.info(
            "two\nlines \x7f 北京",
            extra={"fields": {"status": 200, "model": "m", "tags": ("a", "b"), "nan": float("nan")}},
        )
        LOG.error(
            "own keys win", extra={"fields": {"level": "fake", "message": "fake", "exception": "fake", "timestamp": 1}}
        )
        try:
            raise KeyError("gone")
        except KeyError:
            LOG.exception("failed")
    raw = (tmp_path / "gateway.log").read_bytes()
    assert all(byte == 10 or 32 <= byte < 127 for byte in raw)
    first, second, third = objects_of(tmp_path)
    assert re.fullmatch(STAMP, first.pop("timestamp"))
    assert first == {
        "level": "INFO",
        "component": "multiverse.test",
        "message": "two\nlines \x7f 北京",
        "status": 200,
        "model": "m",
        "tags": ["a", "b"],
        "nan": "nan",
    }
    assert (second["level"], second["message"], second["field_level"]) == ("ERROR", "own keys win", "fake")
    assert "exception" not in second
    assert third["message"] == "failed"
    assert third["exception"].startswith("Traceback (most recent call last):\n")
    assert third["exception"].endswith("KeyError: 'gone'")


def say_secrets(logs: Logs) -> None:
    """Every way in which a secret could come into a record."""
    logs.redact(SERVER_KEY)
    for secret in SECRETS:
        LOG.info(f"message {secret}")
        LOG.info("argument %s and %r", secret, {"nested": secret})
        LOG.info("url http://user:%s@host/v1?key=%s", secret, secret)
        LOG.info(
            "fields", extra={"fields": {"note": secret, secret: 1, "deep": {"list": [secret]}, "raw": secret.encode()}}
        )
        LOG.info("headers", extra={"fields": {"headers": {"Authorization": "Bearer unknown-secret"}}})
        LOG.info("Authorization: Bearer unknown-secret")
        LOG.info("stack", stack_info=True, extra={"fields": {"api_key": "unknown-secret"}})
        try:
            try:
                raise ValueError(f"cause {secret}")
            except ValueError as error:
                error.add_note(f"noted {secret}")
                raise ConnectionError(f"http://u:unknown-secret@h/ {secret}") from error
        except ConnectionError:
            LOG.exception("failed with %s", secret)
        logging.getLogger("tornado.application").error("uncaught %s", secret)
        logging.getLogger("asyncio").error("callback %s", secret)
        logging.getLogger("another.library").warning("library %s", secret)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_reaches_file_or_console(tmp_path: Path, log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path, LOG_FORMAT=log_format, ENABLE_CONSOLE_LOGGING="true") as logs:
        say_secrets(logs)
    written = (tmp_path / "gateway.log").read_text(encoding="utf-8")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == written
    for secret in (*SECRETS, "unknown-secret"):
        assert secret not in written
    for told in (
        "message [redacted]",
        "cause [redacted]",
        "noted [redacted]",
        "uncaught [redacted]",
        "library [redacted]",
    ):
        assert written.count(told) >= len(SECRETS)


def test_a_record_cannot_forge_another(tmp_path: Path) -> None:
    forged = "\n2026-01-31T12:00:00.123Z ERROR    multiverse.web  forged\r\n\x1b[1A\u2028\x85\ud800 end"
    with logging_to(tmp_path):
        LOG.info("message" + forged)
        LOG.info("argument %s", forged)
        LOG.info("field", extra={"fields": {"a" + forged: forged, "list": [forged]}})
        logging.getLogger("multiverse.test" + forged).info("name")
        try:
            raise RuntimeError(forged)
        except RuntimeError:
            LOG.exception("traceback")
    lines = lines_of(tmp_path)
    records = [line for line in lines if re.match(STAMP, line)]
    assert len(records) == 5
    assert all(line.startswith("  ") for line in lines if line not in records)
    assert "  2026-01-31T12:00:00.123Z ERROR    multiverse.web  forged\\r" in lines
    text = "\n".join(lines)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    assert len(text.splitlines()) == len(lines)


def test_traceback_follows_indented_with_source_lines(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        try:
            int("no number")
        except ValueError:
            LOG.exception("failed", extra={"fields": {"id": 7}})
        LOG.error("no exception here", exc_info=True)
    first, *traceback_lines, last = lines_of(tmp_path)
    assert first.endswith("  failed id=7")
    assert traceback_lines[0] == "  Traceback (most recent call last):"
    assert '      int("no number")' in traceback_lines
    assert traceback_lines[-1] == "  ValueError: invalid literal for int() with base 10: 'no number'"
    assert last.endswith("no exception here")
