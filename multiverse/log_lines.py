"""How a log record becomes text: one line for people, or one JSON object for programs; redacted and escaped on the way.

A record comes here as logs.py prepared it: message complete, `fields` a mapping of plain values, `traceback` a
TracebackException or absent. Nothing here opens, queues or writes; what a secret is lives in redaction.py.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from multiverse.clock import iso_from_unix
from multiverse.log_copies import ReadyRecord
from multiverse.redaction import Redactor, escape_controls, names_secret

_PLAIN_NAME = re.compile(r"[a-z_]{1,30}")
_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:+-]+")
_NEEDS_QUOTES = re.compile(r'[\s="\\]')
_OWN_KEYS = ("timestamp", "level", "component", "message")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = record.fields  # type: ignore[attr-defined]
    return fields


def _exception_text(record: logging.LogRecord) -> str:
    """Traceback and stack of a record that `logs` prepared, newlines inside; empty when there is none."""
    snapshot = record.__dict__.get("traceback")
    if snapshot is record.exc_text is record.stack_info is None:
        return ""
    parts = ["".join(snapshot.format()) if snapshot is not None else record.exc_text, record.stack_info]
    return "\n".join(part.rstrip("\n") for part in parts if part)


def record_document(record: logging.LogRecord, redactor: Redactor) -> dict[str, Any]:
    """A record in plain values, for those who look at it in the browser; redacted, with control characters escaped."""
    exception = _exception_text(record)
    return {
        "timestamp": iso_from_unix(record.created),
        "level": record.levelname,
        "component": escape_controls(record.name),
        "message": escape_controls(redactor.redact(record.getMessage())),
        "fields": redactor.redact_value("", _fields(record)),
        "exception": redactor.redact(exception) if exception else None,
    }


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO     multiverse.proxy  message key=value key="with space"`, for people."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback's lines follow with two spaces, which no record begins with: none can be forged."""
        fields, message = _fields(record), record.getMessage()
        texts = [message, *[value for value in fields.values() if type(value) is str]]
        if self._redactor.finds_nothing_in(texts):
            pairs = "".join([self._pair_without_secret(name, value) for name, value in fields.items()])
        else:
            message = self._redactor.redact(message)
            pairs = "".join([self._pair(name, value) for name, value in fields.items()])
        origin = _origin(record.levelname, record.name)
        line = f"{iso_from_unix(record.created)} {origin}  {escape_controls(message)}{pairs}"
        exception = _exception_text(record)
        if not exception:
            return line
        return "\n  ".join([line, *map(escape_controls, self._redactor.redact(exception).split("\n"))])

    def way_for(self, records: Sequence[ReadyRecord]) -> Callable[[ReadyRecord], str]:
        """What makes the lines of these records: nearly always one look at all their texts does for all of them."""
        clean = self._redactor.finds_nothing_in([text for record in records for text in record.texts])
        return _ready_line if clean else self.format

    def _pair_without_secret(self, name: str, value: Any) -> str:
        if _is_plain_name(name) and not isinstance(value, list | dict):
            return f" {name}={_shown(value)}"
        return self._pair(name, value)

    def _pair(self, name: str, value: Any) -> str:
        if not _PLAIN_NAME.fullmatch(name):
            name = _NO_NAME_CHARACTER.sub("_", self._redactor.redact(name))
        return f" {name}={_shown(self._redactor.redact_value(name, value))}"


@lru_cache(64)
def _origin(level: str, name: str) -> str:
    return f"{level:<8} {escape_controls(name)}"


@lru_cache(256)
def _is_plain_name(name: str) -> bool:
    """Whether a field with this name is written as it is, and its value judged by what it holds alone."""
    return _PLAIN_NAME.fullmatch(name) is not None and not names_secret(name)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | dict):
        return _quoted(json.dumps(value, ensure_ascii=False))
    return "-" if value is None else str(value).lower()  # a number, true or false


def _quoted(text: str) -> str:
    """`text` as the value of a pair: in quotes where it would not end by itself, on one line in any case."""
    if _PLAIN_VALUE.fullmatch(text):
        return text
    if not text or _NEEDS_QUOTES.search(text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escape_controls(text)


_quoted_again = lru_cache(256)(_quoted)  # Names of keys, models and servers come again and again.


def _ready_line(record: ReadyRecord) -> str:
    origin = _origin(record.levelname, record.name)
    return f"{iso_from_unix(record.created)} {origin}  {record.msg}{record.pairs(_quoted_again)}"


class JSONLines(JsonFormatter):
    """One JSON object per record, ASCII only: `timestamp`, `level`, `component`, `message`, the fields, `exception`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def way_for(self, records: Sequence[ReadyRecord]) -> Callable[[ReadyRecord], str]:
        """As that of `TextLines`."""
        clean = self._redactor.finds_nothing_in([text for record in records for text in record.texts])
        return _ready_object if clean else self.format

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """python-json-logger's hook; a field never hides one of the record's own keys."""
        log_data["timestamp"] = iso_from_unix(record.created)
        log_data["level"] = record.levelname
        log_data["component"] = record.name
        log_data["message"] = self._redactor.redact(record.getMessage())
        for name, value in self._redactor.redact_value("", _fields(record)).items():
            log_data[f"field_{name}" if name in log_data or name == "exception" else name] = value
        exception = _exception_text(record)
        if exception:
            log_data["exception"] = self._redactor.redact(exception)


_json = json.encoder.encode_basestring_ascii  # A text in quotes, as json.dumps writes it.


def _ready_object(record: ReadyRecord) -> str:
    fields = record.fields
    values = [_json(value) if type(value) is str else "null" if value is None else value for value in fields.values()]
    own = (iso_from_unix(record.created), record.levelname, record.name, record.msg)
    return _object_of(tuple(fields)) % (*map(_json, own), *values)


@lru_cache(64)
def _object_of(names: tuple[str, ...]) -> str:
    """A record's object with fields of these names, open for the values."""
    return "{" + ", ".join([f'"{name}": %s' for name in (*_OWN_KEYS, *names)]) + "}"
