"""What a scripted peer can do with one request, and the scripts that say in which order.

An operation has one method, `play`. Faults are assigned by order of arrival: one Script can be handed to several peers,
so that the first request to arrive anywhere meets the first play. No test ever guesses which server is picked.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tests import wire

if TYPE_CHECKING:
    from tests.peers import PeerConnection, RecordedRequest


class Operation(Protocol):
    """One step of a play."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None: ...


@dataclass(frozen=True)
class Send:
    """Send `data`, in TCP segments of `segment_bytes` or of random sizes drawn with `seed`."""

    data: bytes
    segment_bytes: int | None = None
    seed: int | None = None
    pause_seconds: float = 0.0

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        sizes = random.Random(self.seed)
        start = 0
        while start < len(self.data):
            size = sizes.randint(1, 60) if self.seed is not None else self.segment_bytes or len(self.data)
            await connection.send(self.data[start : start + size])
            start += size
            if start < len(self.data):
                await asyncio.sleep(self.pause_seconds)


@dataclass(frozen=True)
class SendForEver:
    """Send `data` again and again, as fast as the other side reads."""

    data: bytes

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        while True:
            await connection.send(self.data)
            await asyncio.sleep(0)  # a fast reader must not keep the other peers from running


@dataclass(frozen=True)
class Sleep:
    """Do nothing for a while (or until the other side closes)."""

    seconds: float

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        await connection.wait(asyncio.sleep(self.seconds))


class Fin:
    """Close in an orderly way, after everything has been sent."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        connection.finish()


class Reset:
    """Break the connection with a TCP reset."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        connection.reset()


class CloseLid:
    """The machine is gone for the other side of this connection: nothing is acknowledged any more (Linux)."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        connection.close_lid()


class Hold:
    """Do nothing until `release()` is called (from any thread) or the other side closes."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def release(self) -> None:
        """Let every play that waits here, now or later, go on."""
        self._released.set()
        for loop, event in list(self._waiting):
            loop.call_soon_threadsafe(event.set)

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._released.is_set():
            await connection.wait(event.wait())


@dataclass(frozen=True)
class AnswerChat:
    """A good answer, streamed when the request asks for a stream; says `text`, or the peer's name."""

    text: str = ""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        text = self.text or connection.peer.name
        if json.loads(request.body).get("stream"):
            await connection.send(wire.stream_answer(wire.good_stream(text)))
        else:
            await connection.send(wire.json_answer(wire.chat_completion(text)))


class AnswerModels:
    """What a good server answers to a probe: the list of the peer's models; 404 for anything but `/v1/models`."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        if request.path.endswith("/v1/models"):
            await connection.send(wire.json_answer(wire.model_list(*connection.peer.model_names)))
        else:
            await connection.send(wire.error_answer(404, "no such route"))


Play = tuple[Operation, ...]
Step = Operation | bytes


def as_play(steps: tuple[Step, ...]) -> Play:
    """Bytes among the steps are sent as they are."""
    return tuple(Send(step) if isinstance(step, bytes) else step for step in steps)


class Script:
    """Plays, taken in order of arrival; when none is queued, the one that is always there. Any thread may use it."""

    def __init__(self, *default: Step) -> None:
        self._lock = threading.Lock()
        self._queued: list[Play] = []
        self._default = as_play(default)
        self.arrivals: list[RecordedRequest] = []

    def queue(self, *steps: Step, times: int = 1) -> None:
        """Play these for the next request (or the next `times`) after those queued already."""
        with self._lock:
            self._queued.extend([as_play(steps)] * times)

    def always(self, *steps: Step) -> None:
        """Play these whenever nothing is queued."""
        with self._lock:
            self._default = as_play(steps)

    def take(self, request: RecordedRequest) -> Play:
        """The play for `request`, which has just arrived."""
        with self._lock:
            self.arrivals.append(request)
            return self._queued.pop(0) if self._queued else self._default
