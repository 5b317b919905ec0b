"""The words of an owner's terms, and what they mean: quiet hours, time zones, whom a server is offered to.

Pure: text in, judgement out; how the terms of one server stand now is lending.py's. Quiet hours go by the clock on the
wall: where clocks are changed, an hour that comes twice is quiet twice, and one that is left out is left out.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from multiverse.clock import iso_from_unix
from multiverse.errors import InvalidRequest
from multiverse.servers.identity import CLASS, FRIENDS, ME, Registration

OFFERS = (ME, FRIENDS, CLASS)
MINUTES_OF_A_DAY = 1440
MOST_SPANS, LONGEST_ZONE = 8, 64
SPAN = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)\s*[-–]\s*([01]?\d|2[0-4]):([0-5]\d)")
SPANS_NEEDED = "must be times of the day such as 22:00-07:00, several with commas between"
ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")
ZONES_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Spans in minutes of the day, each from its start on and up to its end; one that ends before it starts goes over
    midnight.
    """

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Read `22:00-07:00, 12:30-13:30`. Raises ValueError, which says what is wanted."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not 1 <= len(parts) <= MOST_SPANS:
            raise ValueError(f"{SPANS_NEEDED}, at most {MOST_SPANS}")
        hours = cls(tuple(sorted(_span(part) for part in parts)))
        if all(hours.end_of_quiet(minute) is not None for minute in range(MINUTES_OF_A_DAY)):
            raise ValueError("leave no time of the day to lend the server; pause it instead, or offer it to `me`")
        return hours

    def __str__(self) -> str:
        return ", ".join(f"{as_time(start)}-{as_time(end)}" for start, end in self.spans)

    def end_of_quiet(self, minute: int) -> int | None:
        """The minute of the day at which the quiet around `minute` ends; None when it is not quiet then."""
        end = self._end_at(minute)
        for _turn in self.spans:  # One span may end where the next begins.
            further = None if end is None else self._end_at(end)
            if further is None:
                break
            end = further
        return end

    def _end_at(self, minute: int) -> int | None:
        for start, end in self.spans:
            inside = start <= minute < end if start < end else minute >= start or minute < end
            if inside:
                return end
        return None


def _span(text: str) -> tuple[int, int]:
    found = SPAN.fullmatch(text)
    if found is None:
        raise ValueError(SPANS_NEEDED)
    start, end = (int(found[place]) * 60 + int(found[place + 1]) for place in (1, 3))
    if max(start, end) > MINUTES_OF_A_DAY:
        raise ValueError(SPANS_NEEDED)
    if (start - end) % MINUTES_OF_A_DAY == 0:
        raise ValueError("must not begin and end at the same time; to lend to nobody, pause the server")
    return start % MINUTES_OF_A_DAY, end % MINUTES_OF_A_DAY


def as_time(minute: int) -> str:
    """A minute of the day as `07:05`."""
    return f"{minute // 60:02}:{minute % 60:02}"


# -- time zones


@lru_cache(ZONES_REMEMBERED)
def find_zone(name: str) -> ZoneInfo:
    """The zone of this name in the IANA database. Raises ValueError, which names zones that are near."""
    zone = _zone(name)
    if zone is not None:
        return zone
    if len(name) > LONGEST_ZONE:
        raise ValueError(f"must be the name of a time zone, of at most {LONGEST_ZONE} characters")
    known = {zone.rpartition("/")[2].lower(): zone for zone in available_timezones()}
    known |= {zone.lower(): zone for zone in available_timezones()}
    near = difflib.get_close_matches(name.strip().lower().replace(" ", "_"), known, n=2, cutoff=0.6)
    hint = "did you mean " + " or ".join(dict.fromkeys(known[word] for word in near)) + "?" if near else ""
    raise ValueError("no time zone has this name; " + (hint or "such names are Europe/Berlin, Asia/Taipei and UTC"))


def _zone(name: str) -> ZoneInfo | None:
    """None for what is no zone, whatever else may lie beside the zones' files."""
    if len(name) > LONGEST_ZONE or not ZONE_NAME.fullmatch(name) or name in ("localtime", "posixrules"):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def zone_or_utc(name: str | None) -> tzinfo:
    """The zone to reckon with; UTC for none, and for one that this machine does not know (any more)."""
    return (_zone(name) if name else None) or UTC


def local_time(unix_seconds: float, zone: tzinfo) -> datetime:
    """What the clock on the wall shows."""
    return datetime.fromtimestamp(unix_seconds, zone)


def day_began_at(unix_seconds: float, zone: tzinfo) -> str:
    """When the day began that it is in `zone`: in UTC, as ISO 8601."""
    day = local_time(unix_seconds, zone).date()
    # Where clocks are changed at midnight, fold=0 is the first midnight, or the moment that takes its place.
    return iso_from_unix(datetime.combine(day, time.min, zone).timestamp())


# -- what fits together


def check_terms(registration: Registration) -> None:
    """Raises InvalidRequest when the terms do not fit together."""
    if registration.quiet_hours and not registration.time_zone:
        raise InvalidRequest(
            "Quiet hours need the time zone they are meant in: send `time_zone` with them, such as Europe/Berlin.",
            param="time_zone",
        )
    if registration.offered_to == FRIENDS and not registration.friends:
        raise InvalidRequest(
            "The server would be offered to friends, but `friends` names nobody. Name their keys there, or offer it "
            "to `me` or `class`.",
            param="friends",
        )
