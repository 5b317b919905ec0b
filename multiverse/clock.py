"""Time, as an argument: monotonic seconds for everything that is measured, UTC ISO 8601 for everything that is shown.

Services take a `Clock`, so that tests move time instead of sleeping. What decides nothing by it (dates of answers and
of log records, ticks) asks the machine itself.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

MILLISECONDS = tuple([f".{number:03d}Z" for number in range(1000)])


class Clock:
    """The machine's clocks."""

    # Seconds that never jump; only differences mean anything. Asked ten times per request: no method is around it.
    monotonic = staticmethod(time.monotonic)
    # Seconds since 1970, as the machine believes.
    unix_seconds = staticmethod(time.time)

    def utc_iso(self) -> str:
        """Now, as `2026-01-31T12:00:00.123Z` (RFC 3339, milliseconds)."""
        return iso_from_unix(self.unix_seconds())


def iso_from_unix(unix_seconds: float) -> str:
    """`unix_seconds` as `2026-01-31T12:00:00.123Z`."""
    whole_seconds, microseconds = divmod(round(unix_seconds * 1_000_000), 1_000_000)
    return _iso_of_second(whole_seconds) + MILLISECONDS[microseconds // 1000]


@lru_cache(16)
def _iso_of_second(unix_seconds: int) -> str:
    """Remembered, since every request asks two or three times."""
    # Not by `strftime`: there the year 1 has one digit, and no reader of ISO 8601 takes that.
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat()[:19]


def unix_from_iso(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 text. Raises ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()
