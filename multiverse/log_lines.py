"""How a log record becomes text: one line for people, or one JSON object for programs; redacted and escaped on the way.

A record comes here as logs.py prepared it: message complete, `fields` a mapping of plain values, `traceback` a
TracebackException or absent. Nothing here opens, queues or writes; what a secret is lives in redaction.py.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from multiverse.clock import iso_from_unix
from multiverse.redaction import Redactor, escape_controls, names_secret

_PLAIN_NAME = re.compile(r"[a-z_]{1,30}")
_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:+-]+")
_PLAIN_VALUES = re.compile(r"[A-Za-z0-9_./:+\n-]*")
_NEEDS_QUOTES = re.compile(r'[\s="\\]')
# What is written without a look of its own, once all texts were looked at together.
_PLAIN_KINDS = frozenset({str, int, float, type(None)})
_OWN_KEYS = ("timestamp", "level", "component", "message")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = record.fields  # type: ignore[attr-defined]
    return fields


def _texts(message: str, fields: Mapping[str, Any]) -> list[str]:
    """All texts of a record. One look at them together tells for nearly every record that there is no secret in any."""
    return [message, *[value for value in fields.values() if type(value) is str]]


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
        texts = _texts(message, fields)
        joined = "\n".join(texts)
        if self._redactor.redact(joined) == joined:
            pairs = _plain_pairs(fields, texts, joined)
            if pairs is None:
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


@lru_cache(64)
def _template(names: tuple[str, ...]) -> str | None:
    """The pairs of fields with these names, open for their values; None where a name needs a look of its own."""
    return "".join([f" {name}=%s" for name in names]) if all(map(_is_plain_name, names)) else None


def _plain_pairs(fields: Mapping[str, Any], texts: list[str], joined: str) -> str | None:
    """The pairs of fields without secrets that are all written as they are, as a request's; None of any others.

    `joined` are the `texts` of the record: its message, then those of the fields, a line each.
    """
    template, values = _template(tuple(fields)), fields.values()
    if template is None or not _PLAIN_KINDS.issuperset(map(type, values)) or joined.count("\n") >= len(texts):
        return None
    if "" in texts or _PLAIN_VALUES.fullmatch(joined, len(texts[0])) is None:
        return None
    return template % tuple(["-" if value is None else value for value in values])


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


class JSONLines(JsonFormatter):
    """One JSON object per record, ASCII only: `timestamp`, `level`, `component`, `message`, the fields, `exception`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """As python-json-logger's, with a short way for a record of plain fields in which there is no secret."""
        fields, message = _fields(record), record.getMessage()
        template, values = _json_template(tuple(fields)), fields.values()
        if template is None or not _PLAIN_KINDS.issuperset(map(type, values)) or _exception_text(record):
            return super().format(record)
        joined = "\n".join(_texts(message, fields))
        if self._redactor.redact(joined) != joined:
            return super().format(record)
        written = [_json(value) if type(value) is str else "null" if value is None else value for value in values]
        own = (iso_from_unix(record.created), record.levelname, record.name, message)
        return template % (*map(_json, own), *written)

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


# A text in quotes, in ASCII; what json.dumps makes of one.
_json = json.encoder.encode_basestring_ascii


@lru_cache(64)
def _json_template(names: tuple[str, ...]) -> str | None:
    """A record's object with fields of these names, open for its values; None where a name needs a look of its own."""
    if not all(map(_is_plain_name, names)) or not {*_OWN_KEYS, "exception"}.isdisjoint(names):
        return None
    return "{" + ", ".join([f'"{name}": %s' for name in (*_OWN_KEYS, *names)]) + "}"
