"""One TCP or TLS connection to a server: writes requests, hands answers over, holds reading back, ends in order.

What the bytes mean is in answers.py, how long anything may take in exchange.py. A connection belongs to one exchange
at a time.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, cast

from multiverse.alarm import Alarm
from multiverse.transport.absence import tells_absence
from multiverse.transport.answers import AnswerReader
from multiverse.transport.decoding import ContentDecoder, decoder_for
from multiverse.transport.failures import BadAnswer, Disconnected, MachineGone, TransportError

if TYPE_CHECKING:
    from multiverse.transport.exchange import Exchange
    from multiverse.transport.pool import Pool, PoolKey

SMALL_BODY_BYTES = 65536
MAX_DISCARDED_BYTES = 262144
DECODED_PIECES_PER_TURN = 16


class Connection(asyncio.Protocol):
    """See the module. `inlet` is the transport at which reading is held back: TCP's own, also under TLS."""

    def __init__(self, pool: Pool, key: PoolKey, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport | None = None
        self.inlet: asyncio.Transport | None = None
        self.alarm = Alarm(loop)
        self.idle_since = self.idle_until = 0.0
        self.closed = self.spoke_first = False
        self._pool = pool
        self._loop = loop
        self._now = loop.time
        self._reader = AnswerReader()
        self._decoder: ContentDecoder | None = None
        self._head_delivered = False
        self._hold: asyncio.Future[None] | None = None
        self._hold_is_ours = self._paused = False
        self._end_after_hold: TransportError | None = None
        self._discarded_bytes = 0
        self._discard_timer: asyncio.TimerHandle | None = None
        self._poller: select.poll | None = None

    # -- what asyncio calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open. Whether anybody still wants it is found out by whoever dialled."""
        self.transport = self.inlet = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; then hand over the head, the body bytes and the end, in this order."""
        exchange = self.exchange
        if exchange is None:
            self._unasked_data(data)
            return
        exchange.last_activity = self._now()
        try:
            self._reader.feed(data)
        except BadAnswer as error:
            if self._head_delivered and self._decoder is None and self._hold is None:
                self._pump(exchange)  # Whole events that came before the garbage still belong to the client.
            self._end_badly(exchange, error.with_traceback(None))
            return
        if self._hold is None:
            self._pump(exchange)

    def eof_received(self) -> bool:
        """The server sends no more. Where nothing else tells the end of an answer, this does."""
        exchange = self.exchange
        if exchange is None:
            self.close()
        elif not _end_is_announced(self.transport) or not self._reader.end():
            self._end_badly(exchange, Disconnected())
        elif self._hold is None:
            self._pump(exchange)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone; an answer that is not whole by now never will be."""
        self.closed = True
        self._pool.forget(self)
        self._reader.close()
        if self.exchange is not None and not self._reader.complete:
            self._end_badly(self.exchange, MachineGone() if tells_absence(error) else Disconnected())
        if self.exchange is None:
            self.alarm.stop()  # Else its caller holds back what has come: the limits of an exchange hold to its end.

    # -- handing over --------------------------------------------------------------------------------------------------

    def _pump(self, exchange: Exchange) -> None:
        """Hand over what has come, in order, until the caller holds back or nothing is left."""
        try:
            if not (self._head_delivered or self._hand_over_head(exchange)):
                return
            reader = self._reader
            if self._decoder is not None:
                self._decode(exchange, self._decoder)
            elif pieces := reader.pieces:  # Runs for every event of every stream.
                reader.pieces = []
                awaitable = exchange.body_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                if awaitable is not None:
                    self._hold_back(exchange, awaitable)
            if reader.complete and self._hold is None and self.exchange is exchange:
                self._finish(exchange)
        except TransportError as error:
            exchange.fail(error.with_traceback(None))
        except asyncio.CancelledError:
            exchange.cancel()
        except Exception as error:
            exchange.fail(_from_callback(error))

    def _hand_over_head(self, exchange: Exchange) -> bool:
        """True if the body may follow."""
        head = self._reader.head
        if head is None:
            return False
        self._head_delivered = True
        encoding = head.headers.get("content-encoding")
        if encoding and exchange.request.form.decompress and not (self._reader.complete and not self._reader.pieces):
            self._decoder = decoder_for(encoding)
        exchange.head_received(head)
        return self.exchange is exchange

    def _decode(self, exchange: Exchange, decoder: ContentDecoder) -> None:
        for piece in self._reader.pieces:
            decoder.feed(piece)
        self._reader.pieces = []
        for _turn in range(DECODED_PIECES_PER_TURN):
            data = decoder.read()
            if not data:
                return
            awaitable = exchange.body_received(data)
            if awaitable is not None:
                self._hold_back(exchange, awaitable)
            if self._hold is not None or self.exchange is not exchange:
                return
        # A kilobyte may become a megabyte: everybody else gets a turn before the next one.
        self._hold_back(exchange, asyncio.sleep(0))

    def _finish(self, exchange: Exchange) -> None:
        decoder = self._decoder
        if decoder is not None and decoder.started and not decoder.complete:
            raise Disconnected("the server's compressed answer ends too early")
        exchange.complete(self)

    def _end_badly(self, exchange: Exchange, error: TransportError) -> None:
        """Fail, but not before the caller is done with what it has got: as an orderly end, this one waits for it."""
        if exchange.reused and not self._head_delivered:
            self._pool.crossed(self, exchange.sent_at)
        if self._hold is None or self.exchange is not exchange:
            exchange.fail(error)
        elif self._end_after_hold is None:
            self._end_after_hold = error

    # -- holding back --------------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether the caller holds reading back at present."""
        return self._hold is not None

    def _hold_back(self, exchange: Exchange, awaitable: Awaitable[None]) -> None:
        """Read no more until `awaitable` is done. Raises what it has raised already."""
        future = asyncio.ensure_future(awaitable, loop=self._loop)
        is_ours = future is not awaitable
        if self.exchange is not exchange:
            _abandon(future, is_ours=is_ours)  # The callback has ended its exchange, and returned this all the same.
            return
        if future.done():
            future.result()
            return
        self._hold, self._hold_is_ours = future, is_ours
        future.add_done_callback(self._go_on)
        if not self._paused and self.inlet is not None and not self.inlet.is_closing():
            self._paused = True
            self.inlet.pause_reading()

    def _go_on(self, future: asyncio.Future[None]) -> None:
        self._hold = None
        exchange = self.exchange
        if exchange is None:
            return
        if future.cancelled():
            exchange.cancel()
            return
        failure = future.exception()
        if failure is not None:
            exchange.fail(_from_callback(failure))
            return
        exchange.last_activity = self._now()
        self._pump(exchange)
        if self._hold is not None:
            return
        if self._end_after_hold is None:
            self._read_on()
        else:
            exchange.fail(self._end_after_hold)

    def _read_on(self) -> None:
        if self._paused:
            self._paused = False
            if self.inlet is not None and not self.inlet.is_closing():
                self.inlet.resume_reading()

    def _drop_hold(self, hold: asyncio.Future[None]) -> None:
        self._hold = None
        hold.remove_done_callback(self._go_on)
        _abandon(hold, is_ours=self._hold_is_ours)

    # -- one exchange after the other ----------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether a request may be written to this connection now, as far as the loop knows."""
        if self.closed or self.transport is None or self.inlet is None:
            return False
        return not self.transport.is_closing() and not self.inlet.is_closing()

    def has_unread_bytes(self) -> bool:
        """Ask the system whether an idle connection has something to read: its end, or bytes nobody asked for.

        The loop hears of it in its next turn only, which would be too late for a request written in this one.
        """
        if self._poller is not None:
            return bool(self._poller.poll(0))
        assert self.inlet is not None
        descriptor = self.inlet.get_extra_info("socket").fileno()
        if hasattr(select, "poll"):
            self._poller = select.poll()
            self._poller.register(descriptor, select.POLLIN)
            return self.has_unread_bytes()
        return bool(select.select([descriptor], [], [], 0)[0])  # Windows has no poll().

    def start(self, exchange: Exchange) -> None:
        """Write the request of `exchange` and read its answer."""
        transport = self.transport
        assert transport is not None
        request = exchange.request
        head, payload = exchange.head_bytes, request.payload
        self._reader.expect(request.form.method)
        self._decoder = None
        self._head_delivered = False
        self._end_after_hold = None
        self.exchange, self.alarm.action = exchange, exchange.look_at_deadlines
        if payload is None:
            transport.write(head)
        elif len(payload) <= SMALL_BODY_BYTES:
            transport.write(head + payload)
        else:
            transport.write(head)
            transport.write(payload)  # Joined with the head it would be copied once more.

    def discard_rest(self, within_seconds: float) -> None:
        """Nobody wants the rest of this answer: read it to its end, to use the connection again, but not for long."""
        self._detach()
        self._reader.pieces = []
        if self._reader.complete:
            self.release()
        elif not self.usable:
            self.close()
        else:
            self._discarded_bytes = 0
            self._discard_timer = self._loop.call_later(within_seconds, self.close)
            self._read_on()

    def _unasked_data(self, data: bytes) -> None:
        reader = self._reader
        self._discarded_bytes += len(data)
        if self._discard_timer is None or self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.spoke_first = True
            self.close()  # A late answer must never meet the next request.
            return
        try:
            reader.feed(data)
        except BadAnswer:
            self.close()
            return
        reader.pieces = []
        if reader.complete:
            self.release()

    def release(self) -> None:
        """The answer is whole: give the connection back if it can serve again, else close it."""
        self._detach()
        reader, transport = self._reader, self.transport
        in_order = self.usable and reader.keep_alive and not reader.extra_bytes
        if transport is None or not in_order or transport.get_write_buffer_size() > 0:
            self.close()
            return
        self._read_on()
        assert reader.head is not None
        self._pool.keep(self, at_most_seconds=reader.head.keep_alive_seconds)

    def _detach(self) -> None:
        self.exchange = self.alarm.action = None
        if self._hold is not None:
            self._drop_hold(self._hold)
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None

    def close(self) -> None:
        """Close at once; unsent and unread bytes are dropped."""
        self._detach()
        self.alarm.stop()
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


def _end_is_announced(transport: asyncio.Transport | None) -> bool:
    """Whether an end of file is the server's own doing: under TLS anybody may cut the line (RFC 9112 §9.8)."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport is not None else None
    if secured is None:
        return True
    try:
        return not secured.read(1)  # Empty only after close_notify; asyncio tells of both ends in the same way.
    except ssl.SSLError:
        return False


def _from_callback(failure: BaseException) -> BaseException:
    """What a callback raised, without our own frames: they hold the exchange, and it will hold the exception."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    return failure.with_traceback(trace)


def _abandon(future: asyncio.Future[None], *, is_ours: bool) -> None:
    """Nobody waits for `future` any more; a task that was made for a callback's coroutine ends with it."""
    future.add_done_callback(_look_at)
    if is_ours:
        future.cancel()


def _look_at(future: asyncio.Future[None]) -> None:
    """How an abandoned hold ended is nobody's business any more; asyncio wants to have been asked."""
    if not future.cancelled():
        future.exception()
