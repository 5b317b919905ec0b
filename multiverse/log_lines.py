"""How a log record becomes text: one line for people, or one JSON object for programs; redacted and escaped on the way.

A record comes here as logs.py prepared it: message complete, `fields` a dict of plain values, `traceback` a
TracebackException or absent. Nothing here opens, queues or writes; what a secret is lives in redaction.py.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from multiverse.redaction import Redactor, escape_controls

_PLAIN_NAME = re.compile(r"[a-z_]{1,30}")
_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:+-]+")
_NEEDS_QUOTES = re.compile(r'[\s="\\]')


def _timestamp(record: logging.LogRecord) -> str:
    """UTC, ISO 8601, milliseconds: `2026-01-31T12:00:00.123Z`."""
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception_text(record: logging.LogRecord) -> str:
    """Traceback and stack of a record that `logs` prepared, newlines inside; empty when there is none."""
    snapshot = record.__dict__.get("traceback")
    parts = ["".join(snapshot.format()) if snapshot is not None else record.exc_text, record.stack_info]
    return "\n".join(part.rstrip("\n") for part in parts if part)


def record_document(record: logging.LogRecord, redactor: Redactor) -> dict[str, Any]:
    """A record in plain values, for those who look at it in the browser; redacted, with control characters escaped."""
    exception = _exception_text(record)
    return {
        "timestamp": _timestamp(record),
        "level": record.levelname,
        "component": escape_controls(record.name),
        "message": escape_controls(redactor.redact(record.getMessage())),
        "fields": redactor.redact_value("", record.__dict__["fields"]),
        "exception": redactor.redact(exception) if exception else None,
    }


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO     multiverse.proxy  message key=value key="with space"`, for people."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback's lines follow with two spaces, which no record begins with: none can be forged."""
        message = escape_controls(self._redactor.redact(record.getMessage()))
        pairs = "".join(f" {self._pair(name, value)}" for name, value in record.__dict__["fields"].items())
        line = f"{_timestamp(record)} {record.levelname:<8} {escape_controls(record.name)}  {message}{pairs}"
        exception = _exception_text(record)
        if not exception:
            return line
        return "\n  ".join([line, *map(escape_controls, self._redactor.redact(exception).split("\n"))])

    def _pair(self, name: str, value: Any) -> str:
        if not _PLAIN_NAME.fullmatch(name):
            name = _NO_NAME_CHARACTER.sub("_", self._redactor.redact(name))
        value = self._redactor.redact_value(name, value)
        if isinstance(value, str):
            return f"{name}={_quoted(value)}"
        if isinstance(value, list | dict):
            return f"{name}={_quoted(json.dumps(value, ensure_ascii=False))}"
        if value is None:
            return f"{name}=-"
        return f"{name}={str(value).lower()}"  # a number, true or false


def _quoted(text: str) -> str:
    """`text` as the value of a pair: in quotes where it would not end by itself, on one line in any case."""
    if _PLAIN_VALUE.fullmatch(text):
        return text
    if not text or _NEEDS_QUOTES.search(text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escape_controls(text)


class JSONLines(JsonFormatter):
    """One JSON object per record, ASCII only: `timestamp`, `level`, `component`, `message`, the fields, `exception`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """python-json-logger's hook; a field never hides one of the record's own keys."""
        log_data["timestamp"] = _timestamp(record)
        log_data["level"] = record.levelname
        log_data["component"] = record.name
        log_data["message"] = self._redactor.redact(record.getMessage())
        for name, value in self._redactor.redact_value("", record.__dict__["fields"]).items():
            log_data[f"field_{name}" if name in log_data or name == "exception" else name] = value
        exception = _exception_text(record)
        if exception:
            log_data["exception"] = self._redactor.redact(exception)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """DEL is the one control character that JSON leaves as it is."""
        return super().jsonify_log_record(log_data).replace("\x7f", "\\u007f")
