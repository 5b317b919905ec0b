"""What a log record holds, copied while the caller waits: nothing that could change later, nothing that could raise.

Runs for every record in the thread of whoever logs; what becomes of the copies is the business of logs.py.
"""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

COPY_DEPTH = 4
PLAIN_TYPES = frozenset({str, bool, type(None)})


class ReadyRecord(logging.LogRecord):
    """A record that needs no copy: whoever logs it, by `Logger.handle`, never changes again what `fields` is made of.

    For lines that are written for every request. Most of what logging finds out for a record is left out, and `fields`
    is made of `told` in the writer's thread.
    """

    told: Any

    def __init__(self, beginning: dict[str, Any], told: object) -> None:
        known = self.__dict__ = beginning.copy()
        known["created"] = time.time()
        known["told"] = told

    @staticmethod
    def beginning(name: str, level: int, message: str) -> dict[str, Any]:
        """What all records of one kind have in common."""
        known = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
        return {**logging.makeLogRecord({}).__dict__, **known}

    @property
    @abstractmethod
    def fields(self) -> Mapping[str, Any]:
        """What the record tells beside its message: texts, finite numbers and None, under plain names of their own."""

    @property
    @abstractmethod
    def texts(self) -> tuple[str, ...]:
        """All texts in `fields`."""

    @abstractmethod
    def pairs(self, shown: Callable[[str], str]) -> str:
        """`fields` as they stand in a line of text, each ` name=value`; `shown` makes the value of a text."""


def message_of(record: logging.LogRecord) -> str:
    """The message of `record` as of now. Never raises."""
    try:
        return record.getMessage()
    except Exception:  # a wrong number of arguments, or one whose __str__ raises; the caller must not pay for it
        return f"{record.msg} (the arguments do not fit)"


def plain_copy(value: object, depth: int = COPY_DEPTH) -> Any:
    """`value` in plain types that JSON knows; what is something else becomes its text as of now."""
    if value is None or type(value) is str or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth and isinstance(value, Mapping):
        return {  # What is plain, as nearly everything in records is, costs no call.
            key if type(key) is str else text_of(key): inner
            if type(inner) in PLAIN_TYPES or (type(inner) is int and -(2**63) < inner < 2**63)
            else plain_copy(inner, depth - 1)
            for key, inner in value.items()
        }
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [plain_copy(inner, depth - 1) for inner in value]
    return text_of(value)


def text_of(value: object) -> str:
    """`value` as text. Never raises."""
    try:
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    except Exception:  # a broken __str__ costs its own value, not the record
        return f"<{type(value).__name__}>"
