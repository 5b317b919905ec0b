"""The latest log records, kept in memory for whoever looks at them.

They are redacted when they are read, by all secrets known then. The log writer's thread adds, others read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

RECORDS_KEPT = 2_000


class LogMemory:
    """At most `kept` records, each with a number that grows by one; `document` makes plain values of one."""

    def __init__(self, document: Callable[[logging.LogRecord], dict[str, Any]], *, kept: int = RECORDS_KEPT) -> None:
        self._document = document
        self._records: deque[logging.LogRecord] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self._last_id = 0

    @property
    def last_id(self) -> int:
        """The number of the latest record; 0 before the first."""
        return self._last_id

    def add(self, records: Sequence[logging.LogRecord]) -> None:
        """Keep `records`, prepared as logs.py hands them over, oldest first."""
        with self._lock:
            self._last_id += len(records)
            self._records.extend(records)

    def search(
        self,
        *,
        limit: int,
        after_id: int = 0,
        level: str | None = None,
        component: str | None = None,
        request_id: str | None = None,
        text: str | None = None,
    ) -> list[dict[str, Any]]:
        """The newest `limit` records that match, newest first.

        `level` is the least severe one wanted, `component` the beginning of a logger's name, `text` any part of what is
        shown, in any case; only records behind `after_id`.
        """
        with self._lock:
            newest_first = zip(range(self._last_id, after_id, -1), reversed(self._records), strict=False)
            candidates = list(newest_first)
        least = logging.getLevelNamesMapping()[level] if level else 0
        found: list[dict[str, Any]] = []
        for number, record in candidates:
            if record.levelno < least or (component and not record.name.startswith(component)):
                continue
            document = {"id": number, **self._document(record)}
            if request_id and document["fields"].get("request_id") != request_id:
                continue
            if text and text.lower() not in _everything(document):
                continue
            found.append(document)
            if len(found) == limit:
                break
        return found


def _everything(document: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={value}" for name, value in document["fields"].items())
    return f"{document['component']} {document['message']} {fields} {document['exception'] or ''}".lower()
