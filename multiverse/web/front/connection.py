"""One client's connection: bytes in, requests one after the other, timers, back-pressure, an end in order.

One request is handled at a time; those that a client sends ahead stay bytes until it is their turn (RFC 9112 §9.3.2). A
client that closes its side while it waits has left: behind most programs nobody is there any more who could read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, cast

from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, StreamClosedError

from multiverse.web.front.deadlines import Deadline
from multiverse.web.front.exchange import Context, FrontExchange
from multiverse.web.front.heads import BEGINNINGS, MAX_HEAD_BYTES, HeadReader, RequestHead, WrongFraming
from multiverse.web.front.reading import Reading, has_unread_bytes
from multiverse.web.malformed import log_malformed, malformed_answer

if TYPE_CHECKING:
    from multiverse.web.front.door import FrontDoor

LOG = logging.getLogger(__name__)

END_OF_HEAD = b"\r\n\r\n"
LINGER_SECONDS = 2.0
SECOND_LOOK_SECONDS = 0.001
# Load balancers keep connections for 60 s and should be the ones who close: else they send into a closing connection.
IDLE_SECONDS = 75.0
# What a client has sent ahead, and what it has not taken yet; beyond, it is held back, or whoever writes to it.
READ_AHEAD_BYTES = 65_536
UNSENT_BYTES = 65_536


class FrontConnection(asyncio.Protocol):
    """Made by asyncio for each client."""

    def __init__(self, door: FrontDoor) -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._searched = 0
        self._heads = HeadReader()
        self._exchange: FrontExchange | None = None
        self._stepping = False
        self._begun = False
        self._dropping = False
        self._reading = Reading(door.loop, self._left_while_held_back)
        self._room: asyncio.Future[None] | None = None
        self._written_bytes = 0
        self._taken_before = 0
        self._looked_again = False
        self.context = Context("")
        self.deadline = Deadline(door.loop, self._out_of_time)
        self.closed = False
        self.congested = False

    # -- what asyncio calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; it shall speak within the time for a head."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        peer = self._transport.get_extra_info("peername")
        self.context = Context(str(peer[0]) if isinstance(peer, tuple) else "127.0.0.1")
        self._door.connections.add(self)
        self.deadline.set(self._door.limits.header_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._dropping:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self.go_on()

    def eof_received(self) -> bool:
        """The client has closed its side; what was written before still goes out."""
        self.closed = True
        if self._exchange is not None:
            self._exchange.client_left()
        self.deadline.set(self._door.limits.write_timeout_seconds)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self.closed = True
        self._transport = None
        self._door.connections.discard(self)
        self.deadline.stop()
        self._reading.stop()
        self.resume_writing()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.congested = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.congested = False
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        if self._buffer and self._exchange is None and not (self.closed or self._stepping):
            self._door.loop.call_soon(self.go_on)

    # -- requests ------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """A request has come, and its answer is not out."""
        return self._exchange is not None and not self._exchange.finished

    @property
    def has_bytes(self) -> bool:
        """Whether more has come than was looked at."""
        return bool(self._buffer)

    @property
    def closing(self) -> bool:
        """Whether no further request is wanted here."""
        return self._door.closing

    def go_on(self) -> None:
        """Make of the bytes what can be made of them."""
        if self._stepping:
            return
        self._stepping, self._begun = True, False
        try:
            while self._step():
                pass
        except HTTPInputError as error:
            self._refuse(error)
        except Exception:
            LOG.exception("connection failed inside the gateway")
            self.abort()
        finally:
            self._stepping = False
        if self._reading.held_back or len(self._buffer) > READ_AHEAD_BYTES:
            self._hold_back()

    def _step(self) -> bool:
        """Take the next head, or more of a body, out of the buffer; False when there is nothing to be done."""
        if not self._buffer or self._dropping or self.closed:
            return False
        exchange = self._exchange
        if exchange is None:
            if self.congested:
                return False  # Who does not read its answers gets no more of them: `resume_writing` goes on.
            if self._begun:
                self._door.loop.call_soon(self.go_on)  # One request at a time: other clients have their turn between.
                return False
            return self._read_head()
        if exchange.complete or not exchange.ready:
            return False
        return self._read_body(exchange)

    def _read_head(self) -> bool:
        end = self._buffer.find(END_OF_HEAD, self._searched)
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise HTTPInputError("head too large")
            if self._buffer[0] not in BEGINNINGS:  # There may never be an end: the client waits for us.
                raise HTTPInputError("no HTTP; perhaps https where http is meant")
            self.deadline.set_at_most(self._door.limits.header_timeout_seconds)
            self._searched = max(len(self._buffer) - len(END_OF_HEAD) + 1, 0)
            return False
        data, self._buffer = self._buffer[: end + 2], self._buffer[end + len(END_OF_HEAD) :]
        self._searched = 0
        self._begun = True
        self._begin(self._heads.read(data))
        return bool(self._buffer)

    def _begin(self, head: RequestHead) -> None:
        self._looked_again = False
        exchange = self._exchange = FrontExchange(self, head)
        self.deadline.clear()
        length, buffer = head.length, self._buffer
        if length is None or length > len(buffer):
            self.deadline.set(self._door.limits.body_timeout_seconds)
        elif not head.expects and (route := self._door.direct_route(head.start_line.path)) is not None:
            exchange.complete = True
            self._buffer = buffer[length:]
            route.serve(self, exchange, head.start_line, head.headers, buffer[:length])
            return
        exchange.begin(self._door.delegate.start_request(self, exchange))

    def _read_body(self, exchange: FrontExchange) -> bool:
        data, rest = exchange.body.cut(self._buffer)
        moved = len(rest) < len(self._buffer)
        self._buffer = rest
        if data:
            exchange.deliver(data)
        if exchange.body.done:
            exchange.complete = True
            if exchange.finished:
                self._after(exchange)
            else:
                self.deadline.clear()
                exchange.deliver_end()
        return moved

    def answered(self, exchange: FrontExchange) -> None:
        """The answer to `exchange` is written whole."""
        if exchange is not self._exchange or self.closed:
            return
        if exchange.complete:
            self._after(exchange)
        elif exchange.keep_alive:
            self.deadline.set_at_most(LINGER_SECONDS)
        else:
            self._linger()

    def _after(self, exchange: FrontExchange) -> None:
        """Request and answer are through."""
        self._exchange = None
        if not exchange.keep_alive:
            self.close()
            return
        self.deadline.set(IDLE_SECONDS)
        if self._buffer and not self._stepping:
            self._door.loop.call_soon(self.go_on)

    # -- refusals ------------------------------------------------------------------------------------------------------

    def _refuse(self, error: HTTPInputError) -> None:
        """400, unless an answer has begun already; what else the client sends belongs to no request."""
        log_malformed(str(self.context), str(error))
        exchange = self._exchange
        if exchange is None or not exchange.started:
            headers = None if exchange is None else exchange.head.headers
            self.send(malformed_answer(error.headers if isinstance(error, WrongFraming) else headers))
        if exchange is not None:
            exchange.client_left()
        self._linger()

    def _linger(self) -> None:
        """Drop what still comes for a moment: closing on a client that sends would reset the connection, and the answer
        with it (RFC 9112 §9.6).
        """
        transport = self._transport
        self.closed = self._dropping = True
        self._buffer = b""
        if transport is None or transport.is_closing():
            return
        transport.write_eof()
        self._hold_back()
        self.deadline.set(LINGER_SECONDS)

    # -- writing -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Write; the future is done when there is room for more."""
        transport = self._transport
        if self.closed or transport is None:
            future: asyncio.Future[None] = self._door.loop.create_future()
            future.set_exception(StreamClosedError())
            future.exception()  # Whoever does not look at it hears of the end by the close callback.
            return future
        self._written_bytes += len(data)
        transport.write(data)
        return self.room() if self.congested else self._door.done

    def room(self) -> asyncio.Future[None]:
        """Done when the client has room for more."""
        if not self.congested:
            return self._door.done
        if self._room is None:
            self._room = self._door.loop.create_future()
        return self._room

    @property
    def taken_bytes(self) -> int:
        """How much of what was written has left this process."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._written_bytes - unsent

    def write_at_once(self) -> None:
        """From now on, keep nothing back to write it with what follows."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=0)

    # -- holding back, closing -----------------------------------------------------------------------------------------

    def _hold_back(self) -> None:
        """Read no more while what has come waits for its turn."""
        if self._transport is not None and not self._transport.is_closing():
            self._reading.hold_back(self._transport, len(self._buffer) > READ_AHEAD_BYTES)

    def _left_while_held_back(self) -> None:
        self.eof_received()
        if self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """Close once everything written has been sent."""
        self.closed = self._dropping = True
        if self._transport is not None:
            self._transport.close()
            self.deadline.set(self._door.limits.write_timeout_seconds)

    def _out_of_time(self) -> None:
        """Close, unless the client has sent what was not read yet, or is still taking what was written before."""
        if not self._looked_again and self._transport is not None and has_unread_bytes(self._transport):
            # The machine may have stood still, or the client begins this very moment: timers come before reading.
            self._looked_again = True
            self.deadline.set(SECOND_LOOK_SECONDS)
            return
        taken_before, self._taken_before = self._taken_before, self.taken_bytes
        if taken_before < self.taken_bytes < self._written_bytes:
            self.deadline.set(self._door.limits.write_timeout_seconds)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        self.deadline.stop()
        if self._transport is not None:
            self._transport.abort()

    def detach(self) -> IOStream:
        """Hand the socket over to a Tornado `IOStream` and forget the connection."""
        transport = self._transport
        assert transport is not None
        listening = transport.get_extra_info("socket")
        taken_over = socket.socket(fileno=os.dup(listening.fileno()))
        taken_over.setblocking(False)
        self._exchange = None
        self.closed = self._dropping = True
        self.deadline.stop()
        transport.close()
        return IOStream(taken_over)
