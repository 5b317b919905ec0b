"""Undoing a `Content-Encoding` that nobody asked for, without trusting it.

The gateway asks every server for `identity`; some compress all the same. Each step yields at most `STEP_BYTES`, so a
20 KB bomb is stopped by the caller's limit long before it has grown (RFC 9110 §8.4).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from multiverse.transport.failures import BadAnswer

STEP_BYTES = 65536
GZIP_OR_ZLIB_WINDOW = zlib.MAX_WBITS | 32


class ContentDecoder:
    """Incremental gzip or deflate decoder of one body."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(GZIP_OR_ZLIB_WINDOW)

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decoded pieces of `data`, each at most `STEP_BYTES` long.

        Raises `BadAnswer` when the data is corrupt.
        """
        pending, piece = data, b""
        try:
            # A full step may leave output inside zlib although all input is consumed: ask again.
            while (pending or len(piece) == STEP_BYTES) and not self._inflater.eof:
                piece = self._inflater.decompress(pending, STEP_BYTES)
                pending = self._inflater.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as error:
            raise BadAnswer("the server's answer is compressed, and the compression is corrupt") from error

    @property
    def complete(self) -> bool:
        """Whether the compressed body has come to its own end."""
        return self._inflater.eof


def decoder_for(content_encoding: str | None) -> ContentDecoder | None:
    """The decoder for a `Content-Encoding`, or None for a body as it is.

    Raises `BadAnswer` for an encoding the gateway cannot undo.
    """
    encoding = (content_encoding or "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return ContentDecoder()
    raise BadAnswer("the server compressed its answer in a way the gateway did not ask for")
