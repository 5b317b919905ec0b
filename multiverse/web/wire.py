"""What a request's connection tells beyond Tornado's interface: whether its client is there, and keeps up.

The front door's connections tell it themselves. Tornado's do through `StreamWire`, those of its plain `HTTPServer` as
well, so that an application of ours answers on any of the three.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection


class Wire(Protocol):
    """What a request's connection offers: Tornado's `write`, and what it tells beyond Tornado's `HTTPConnection`."""

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Write some of the body, once the head is out. The future is done when the client has room for more."""

    @property
    def closed(self) -> bool:
        """Whether the client is gone."""

    @property
    def congested(self) -> bool:
        """Whether the client does not keep up with what is written to it."""

    @property
    def taken_bytes(self) -> int:
        """How much of what was written has left this process; never decreases."""

    def abort(self) -> None:
        """Close the connection at once."""


class StreamWire:
    """The `Wire` of a connection on a Tornado `IOStream`."""

    def __init__(self, connection: HTTP1Connection) -> None:
        self._stream = connection.stream
        self.write = connection.write

    @property
    def closed(self) -> bool:
        """Whether the client is gone."""
        return self._stream.closed()

    @property
    def congested(self) -> bool:
        """Whether something of what was written is still here."""
        return self._stream.writing()

    @property
    def taken_bytes(self) -> int:
        """How much of what was written on this connection has left this process."""
        # Tornado has no public word for it; without it, a slow reader looks like one that stopped.
        return int(getattr(self._stream, "_total_write_done_index", 0))

    def abort(self) -> None:
        """Close the connection at once."""
        self._stream.close()


def wire_of(connection: Any) -> Wire:
    """The wire of a request's `connection`."""
    wire: Wire = StreamWire(connection) if isinstance(connection, HTTP1Connection) else connection
    return wire
