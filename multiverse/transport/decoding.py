"""Undoing a `Content-Encoding` that nobody asked for, without trusting it.

The gateway asks every server for `identity`; some compress all the same. Each step yields at most `STEP_BYTES`, so a
20 KB bomb is stopped by the caller's limit long before it has grown (RFC 9110 §8.4).
"""

from __future__ import annotations

import zlib

from multiverse.transport.failures import BadAnswer

STEP_BYTES = 65536

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = zlib.MAX_WBITS | 16
ZLIB_WINDOW = zlib.MAX_WBITS
RAW_WINDOW = -zlib.MAX_WBITS
ZLIB_METHOD_DEFLATE = 8
# The last two are no codings, but frameworks send "none" to keep proxies from compressing a stream of events.
NO_ENCODING = frozenset({"", "identity", "none", "utf-8"})


class ContentDecoder:
    """Incremental gzip or deflate decoder of one body: `feed()` what came, then `read()` until nothing is left.

    `raw_allowed` accepts deflate without its zlib wrapper, which some servers send (RFC 9110 §8.4.1.2, note).
    """

    def __init__(self, *, raw_allowed: bool) -> None:
        self._raw_allowed = raw_allowed
        self._inflater: zlib._Decompress | None = None
        self._pending = b""
        self._may_hold_more = False
        self.started = False

    def feed(self, data: bytes) -> None:
        """Take compressed bytes; nothing is decoded yet."""
        self.started = True
        self._pending = self._pending + data if self._pending else data

    def read(self) -> bytes:
        """The next decoded bytes, at most `STEP_BYTES`; empty when all that came is decoded.

        Raises `BadAnswer` when the data is corrupt.
        """
        try:
            while self._ready():
                assert self._inflater is not None
                piece = self._inflater.decompress(self._pending, STEP_BYTES)
                self._pending = self._inflater.unconsumed_tail or self._inflater.unused_data
                # A full step may leave output inside zlib although all input is consumed: ask again.
                self._may_hold_more = len(piece) == STEP_BYTES
                if piece:
                    return piece
        except zlib.error as error:
            raise _corrupt() from error.with_traceback(None)  # Its frames lead to whoever gets this.
        return b""

    def _ready(self) -> bool:
        """Whether there is an inflater that has, or may have, something to give."""
        if self._inflater is not None and not self._inflater.eof:
            return bool(self._pending) or self._may_hold_more
        if self._inflater is not None:
            # A gzip body may have several members (RFC 1952 §2.2), and some writers pad the last one with zeros.
            self._pending = self._pending.lstrip(b"\0")
        if len(self._pending) < len(GZIP_MAGIC):
            return False
        self._inflater = self._inflater_for(self._pending, is_first=self._inflater is None)
        return True

    def _inflater_for(self, data: bytes, *, is_first: bool) -> zlib._Decompress:
        if data.startswith(GZIP_MAGIC):
            return zlib.decompressobj(GZIP_WINDOW)
        if not is_first:
            raise _corrupt()
        # RFC 1950 §2.2: method in the low four bits, and the two bytes are a multiple of 31.
        if data[0] & 15 == ZLIB_METHOD_DEFLATE and (data[0] << 8 | data[1]) % 31 == 0:
            return zlib.decompressobj(ZLIB_WINDOW)
        if not self._raw_allowed:
            raise _corrupt()
        return zlib.decompressobj(RAW_WINDOW)

    @property
    def complete(self) -> bool:
        """Whether the compressed body has come to its own end."""
        return self._inflater is not None and self._inflater.eof and not self._pending


def _corrupt() -> BadAnswer:
    return BadAnswer("the server's answer is compressed, and the compression is corrupt")


def decoder_for(content_encoding: str | None) -> ContentDecoder | None:
    """The decoder for a `Content-Encoding`, or None for a body as it is.

    Raises `BadAnswer` for an encoding the gateway cannot undo.
    """
    encoding = (content_encoding or "").strip().lower()
    if encoding in NO_ENCODING:
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return ContentDecoder(raw_allowed=encoding == "deflate")
    raise BadAnswer("the server compressed its answer in a way the gateway did not ask for")
