"""Server-sent events: cutting a stream at event boundaries, and the few events that the gateway writes itself.

Events are never rebuilt: their bytes go through as they came (WHATWG HTML §9.2, "Server-sent events"). What an event
means for the request is read in meter.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from multiverse.errors import GatewayError, envelope

# openai-python 3.54 chokes on a comment that is followed by a blank line after an `id:` field: one newline only.
KEEP_ALIVE = b": keep-alive\n"
DONE_EVENT = b"data: [DONE]\n\n"

BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\n\r\n|\r\r")
DATA_LINE = re.compile(rb"(?:^|[\r\n])data(?::|[\r\n])")
DATA_VALUE = re.compile(rb"(?:^|[\r\n])data:[ ]?([^\r\n]*)")
LONGEST_BOUNDARY = 4


class EventTooLarge(Exception):
    """One event is longer than the limit."""


def error_event(error: GatewayError) -> bytes:
    """The event that ends a stream which can no longer carry a status."""
    return b"data: " + msgspec.json.encode(envelope(error)) + b"\n\n"


def has_data(block: bytes) -> bool:
    """Whether complete events hold at least one `data` field; comments and ids alone commit nothing."""
    return DATA_LINE.search(block) is not None


def split_events(block: bytes) -> Iterator[bytes]:
    """Each of the complete events in `block`, with its blank line."""
    start = 0
    for boundary in BOUNDARY.finditer(block):
        yield block[start : boundary.end()]
        start = boundary.end()


def event_data(event: bytes) -> bytes:
    """The `data` of one event; its lines joined by newlines."""
    return b"\n".join(DATA_VALUE.findall(event))


class EventReader:
    """Cuts chunks, however they fall, into blocks of complete events. `max_event_size` is in bytes."""

    def __init__(self, max_event_size: int) -> None:
        self._max_event_size = max_event_size
        self._pending = b""

    @property
    def leftover(self) -> bytes:
        """The beginning of an event that has not been completed."""
        return self._pending

    def feed(self, data: bytes) -> bytes:
        """The complete events that `data` brings to an end, byte for byte; b"" when there are none yet.

        Raises EventTooLarge once an incomplete event is longer than the limit.
        """
        if not self._pending:
            if data.endswith(b"\n\n"):
                return self._checked(data)
            block, start_search = data, 0
        else:
            start_search = max(len(self._pending) - LONGEST_BOUNDARY, 0)
            block = self._pending + data
        end = self._last_boundary(block, start_search)
        self._pending = block[end:]
        if len(self._pending) > self._max_event_size:
            raise EventTooLarge()
        return self._checked(block[:end])

    def _last_boundary(self, block: bytes, start: int) -> int:
        end = block.rfind(b"\n\n", start) + 2
        if end < 2:
            end = 0
        if b"\r" in block[start:]:
            for boundary in BOUNDARY.finditer(block, max(start, end - LONGEST_BOUNDARY)):
                end = max(end, boundary.end())
        return end

    def _checked(self, block: bytes) -> bytes:
        if len(block) > self._max_event_size:
            for event in split_events(block):
                if len(event) > self._max_event_size:
                    raise EventTooLarge()
        return block
