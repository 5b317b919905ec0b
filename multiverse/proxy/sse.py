"""Server-sent events: cutting a stream at event boundaries, and the few events that the gateway writes itself.

Events are never rebuilt: their bytes go through as they came (WHATWG HTML §9.2, "Server-sent events"). What an event
means for the request is read in meter.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from multiverse.errors import GatewayError, envelope
from multiverse.proxy.queue import Standing

# openai-python 3.54 chokes on a comment that is followed by a blank line after an `id:` field: one newline only.
KEEP_ALIVE = b": keep-alive\n"
DONE_EVENT = b"data: [DONE]\n\n"

# Two line endings in a row, of any kind. A lone CR at the very end may be half of a CRLF, unless CRs end all the lines.
BOUNDARY = re.compile(rb"\r\r(?>\r\n|\n|\r)*|(?>\r\n|\n|\r)(?>\r\n|\n|\r(?!\Z))+")
USUAL_BOUNDARY = re.compile(rb"\n\n+")  # the same where no line ends in CR, found ten times as fast
DATA_LINE = re.compile(rb"(?:^|[\r\n])data(?::|[\r\n])")
DATA_VALUE = re.compile(rb"(?:^|[\r\n])data:[ ]?([^\r\n]*)")
USUAL_BOUNDARIES = (b"\n\n", b"\r\n\r\n")
LONGEST_BOUNDARY = 4


class EventTooLarge(Exception):
    """One event is longer than the limit; `complete` holds the events before it that came in the same chunk."""

    def __init__(self, complete: bytes) -> None:
        super().__init__()
        self.complete = complete


def queued_comment(standing: Standing | None) -> bytes:
    """Where a request stands that waits; an estimate is left out rather than guessed."""
    if standing is None:
        return b""
    last = standing.place % 10
    ending = {1: "st", 2: "nd", 3: "rd"}.get(last, "th") if standing.place // 10 % 10 != 1 else "th"
    seconds = standing.estimated_seconds
    about = "" if seconds is None else f", about {max(round(seconds), 1)} s"
    return f": queued {standing.place}{ending}{about}\n".encode()


def error_event(error: GatewayError) -> bytes:
    """The event that ends a stream which can no longer carry a status."""
    return b"data: " + msgspec.json.encode(envelope(error)) + b"\n\n"


def has_data(block: bytes) -> bool:
    """Whether complete events hold at least one `data` field; comments and ids alone commit nothing."""
    return DATA_LINE.search(block) is not None


def split_events(block: bytes) -> Iterator[bytes]:
    """Each of the complete events in `block`, with its blank line; together they are the whole block."""
    start = 0
    for boundary in (USUAL_BOUNDARY if block.find(b"\r") < 0 else BOUNDARY).finditer(block):
        yield block[start : boundary.end()]
        start = boundary.end()
    if start < len(block):
        yield block[start:]


def event_data(event: bytes) -> bytes:
    """The `data` of one event; its lines joined by newlines."""
    return b"\n".join(DATA_VALUE.findall(event))


class EventReader:
    """Cuts chunks, however they fall, into blocks of complete events. `max_event_size` is in bytes."""

    def __init__(self, max_event_size: int) -> None:
        self._max_event_size = max_event_size
        self._pending = bytearray()

    @property
    def leftover(self) -> bytes:
        """The beginning of an event that has not been completed."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> bytes:
        """The complete events that `data` brings to an end, byte for byte; b"" when there are none yet.

        Raises EventTooLarge once an event, complete or not, is longer than the limit.
        """
        pending = self._pending
        if not pending and data.endswith(USUAL_BOUNDARIES):
            return data if len(data) <= self._max_event_size else self._checked(data)
        start = max(len(pending) - LONGEST_BOUNDARY, 0)
        pending += data
        end = _last_boundary(pending, start)
        block = bytes(pending[:end])
        del pending[:end]
        if len(pending) > self._max_event_size:
            raise EventTooLarge(block)
        return self._checked(block)

    def _checked(self, block: bytes) -> bytes:
        if len(block) > self._max_event_size:
            good = 0
            for event in split_events(block):
                if len(event) > self._max_event_size:
                    raise EventTooLarge(block[:good])
                good += len(event)
        return block


def _last_boundary(block: bytearray, start: int) -> int:
    """Where the last complete event in `block` ends, seen from `start` on; 0 when none does."""
    end = block.rfind(b"\n\n", start) + 2
    if end < 2:
        end = 0
    if block.find(b"\r", start) >= 0:
        for boundary in BOUNDARY.finditer(block, max(start, end - LONGEST_BOUNDARY)):
            end = max(end, boundary.end())
    return end
