"""Cuts the body of a request out of the bytes of a connection: by its length, or by its chunks (RFC 9112 §6, §7.1).

Chunk extensions and trailers are read and dropped, as the RFC asks of those who do not know them; anything else that is
not exactly a chunk is an HTTPInputError. How large a body may be is for the handlers to say.
"""

from __future__ import annotations

import re

from tornado.httputil import HTTPInputError

CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:[\t ]*;[\t -~\x80-\xff]*)?\r\n")
TRAILER = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*)?\r\n")
MAX_LINE_BYTES = 256
# Beyond every limit; who claims more only tries how numbers are read.
MOST_CHUNK_BYTES = 2**62
MAX_TRAILER_BYTES = 8_192


class FixedBody:
    """A body of `length` bytes."""

    def __init__(self, length: int) -> None:
        self._missing = length
        self.done = length == 0

    def cut(self, buffer: bytes) -> tuple[bytes, bytes]:
        """What belongs to the body, and the rest; sets `done`."""
        missing = self._missing
        if len(buffer) < missing:
            self._missing = missing - len(buffer)
            return buffer, b""
        self._missing = 0
        self.done = True
        return buffer[:missing], buffer[missing:]


class ChunkedBody:
    """A body in chunks; what it holds is handed out as it comes, not chunk by chunk."""

    def __init__(self) -> None:
        self._missing = 0
        self._ends_chunk = False
        self._in_trailers = False
        self._trailer_bytes = 0
        self.done = False

    def cut(self, buffer: bytes) -> tuple[bytes, bytes]:
        """What belongs to the body, and the rest, which may be part of a line; sets `done`. Raises HTTPInputError."""
        pieces: list[bytes] = []
        position = 0
        while not self.done:
            if self._missing:
                piece = buffer[position : position + self._missing]
                if not piece:
                    break
                pieces.append(piece)
                self._missing -= len(piece)
                position += len(piece)
            else:
                end = self._read_line(buffer, position)
                if end == position:
                    break
                position = end
        return b"".join(pieces), buffer[position:]

    def _read_line(self, buffer: bytes, start: int) -> int:
        """Read the line at `start`; returns where the next begins, `start` while it is not whole."""
        if self._ends_chunk:
            return self._read_end_of_chunk(buffer, start)
        match = (TRAILER if self._in_trailers else CHUNK_SIZE).match(buffer, start)
        length = (match.end() if match is not None else len(buffer)) - start
        if length > (MAX_TRAILER_BYTES - self._trailer_bytes if self._in_trailers else MAX_LINE_BYTES):
            raise HTTPInputError("chunk size or trailers too long")
        if match is None:
            if b"\n" in buffer[start:]:
                raise HTTPInputError("malformed trailer" if self._in_trailers else "malformed chunk size")
            return start
        if self._in_trailers:
            self._trailer_bytes += length
            self.done = length == len(b"\r\n")
        else:
            self._missing = int(match.group(1), 16)
            if self._missing > MOST_CHUNK_BYTES:
                raise HTTPInputError("chunk too large")
            self._ends_chunk = self._missing > 0
            self._in_trailers = self._missing == 0
        return match.end()

    def _read_end_of_chunk(self, buffer: bytes, start: int) -> int:
        found = buffer[start : start + 2]
        if found == b"\r\n":
            self._ends_chunk = False
            return start + 2
        if found not in (b"", b"\r"):
            raise HTTPInputError("a chunk is longer than its size")
        return start
