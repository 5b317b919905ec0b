"""Scripted servers: raw TCP listeners that play operations, request by request, and record what reached them.

They run in a thread of their own (PeerLoop), so plain and async tests use them alike: reading the records never blocks,
waiting goes through waiting.eventually (async tests: `asyncio.to_thread`). No HTTP library is involved.
Probes (every GET) have their own script and records: inference scripts are never consumed by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.operations import AnswerChat, AnswerModels, Script, Step
from tests.packets import drop_all_packets
from tests.waiting import eventually

TLS_HANDSHAKE = b"\x16\x03"
NO_LINGER = struct.pack("ii", 1, 0)


class PeerClosedError(Exception):
    """The other side closed the connection while a play was going on."""


@dataclass(eq=False)
class RecordedRequest:
    """One request as it reached a peer; times are monotonic."""

    peer: ScriptedPeer
    connection: PeerConnection
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    arrived_at: float = field(default_factory=time.monotonic)

    def header(self, name: str) -> str | None:
        """The value of the first header called `name`."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class PeerConnection(asyncio.Protocol):
    """One accepted connection: reads requests, plays what the scripts say, notices at once when the gateway leaves."""

    def __init__(self, peer: ScriptedPeer) -> None:
        self.peer = peer
        self.playing: RecordedRequest | None = None
        self.closed_at: float | None = None
        self.sent_bytes = 0
        self._received = bytearray()
        self._transport: asyncio.Transport
        self._arrived = asyncio.Event()
        self._closed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer.connections.append(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._arrived.set()

    def eof_received(self) -> bool:
        self._note_close()
        return False

    def connection_lost(self, reason: Exception | None) -> None:
        self._note_close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _note_close(self) -> None:
        if self.closed_at is None:
            self.closed_at = time.monotonic()
        self._closed.set()

    # -- what operations call

    async def wait(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Await `waiting`; PeerClosedError as soon as the other side closes."""
        wanted = asyncio.ensure_future(waiting)
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({wanted, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = wanted.done()
            wanted.cancel()
            closed.cancel()
        if not finished:
            raise PeerClosedError

    async def send(self, data: bytes) -> None:
        """Write `data` and wait until the socket takes more; PeerClosedError when nobody is there any more."""
        if self._closed.is_set():
            raise PeerClosedError
        self._transport.write(data)
        self.sent_bytes += len(data)
        if not self._writable.is_set():
            await self.wait(self._writable.wait())

    def finish(self) -> None:
        """FIN, once everything has been sent."""
        self._transport.close()
        self._closed.set()

    def reset(self) -> None:
        """RST, now (nothing, when the other side was faster)."""
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._transport.abort()
        self._closed.set()

    def close_lid(self) -> None:
        """The kernel drops every packet that comes for this connection."""
        drop_all_packets(self._transport.get_extra_info("socket"))

    # -- the life of a connection

    async def _serve(self) -> None:
        try:
            while not self._closed.is_set():
                request = await self._read_request()
                self.playing = request
                for operation in self.peer.record(request).take(request):
                    await operation.play(self, request)
                self.playing = None
        except PeerClosedError:
            pass
        except Exception as error:
            self.peer.harness_errors.append(error)
            raise
        finally:
            self.playing = None
            self._transport.close()

    async def _read_request(self) -> RecordedRequest:
        head = await self._read_until(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _version = request_line.split(" ", 2)
        pairs = [line.partition(":") for line in lines if line]
        headers = [(name, value.strip()) for name, _colon, value in pairs]
        request = RecordedRequest(self.peer, self, method, path, headers)
        if (request.header("Transfer-Encoding") or "").lower() == "chunked":
            request.body = await self._read_chunked()
        else:
            request.body = await self._read_exactly(int(request.header("Content-Length") or 0))
        return request

    async def _read_chunked(self) -> bytes:
        body = b""
        while size := int((await self._read_until(b"\r\n")).split(b";")[0], 16):
            body += await self._read_exactly(size)
            await self._read_until(b"\r\n")
        await self._read_until(b"\r\n")
        return body

    async def _read_until(self, mark: bytes) -> bytes:
        while (found := self._received.find(mark)) < 0:
            await self._more()
        data = bytes(self._received[:found])
        del self._received[: found + len(mark)]
        return data

    async def _read_exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            await self._more()
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    async def _more(self) -> None:
        if self._received.startswith(TLS_HANDSHAKE):
            self.finish()
            raise PeerClosedError
        self._arrived.clear()
        await self.wait(self._arrived.wait())


class ScriptedPeer:
    """A server that does what its scripts say: `inference` for every POST, `health` for every GET."""

    def __init__(self, peer_loop: PeerLoop, name: str, inference: Script | None = None) -> None:
        self.name = name
        self.model_names: list[str] = []
        self.inference = inference or Script(AnswerChat())
        self.health = Script(AnswerModels())
        self.requests: list[RecordedRequest] = []
        self.probes: list[RecordedRequest] = []
        self.connections: list[PeerConnection] = []
        self.harness_errors: list[Exception] = []
        self.port = 0
        self._peer_loop = peer_loop
        self._server: asyncio.Server | None = None
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *steps: Step, times: int = 1) -> None:
        """Queue one play for the next request (or the next `times`)."""
        self.inference.queue(*steps, times=times)

    def always(self, *steps: Step) -> None:
        """What to play when nothing is queued (at the start: a good chat answer)."""
        self.inference.always(*steps)

    def record(self, request: RecordedRequest) -> Script:
        """Note the request and say which script it belongs to."""
        is_probe = request.method == "GET"
        (self.probes if is_probe else self.requests).append(request)
        return self.health if is_probe else self.inference

    def wait_for_requests(self, count: int = 1, within_seconds: float = 3.0) -> list[RecordedRequest]:
        """The first `count` requests, as soon as they have arrived."""
        eventually(lambda: len(self.requests) >= count, f"{count} request(s) reach {self.name}", within_seconds)
        return self.requests[:count]

    def open_connections(self) -> list[PeerConnection]:
        """Connections that the other side has not closed, nor this one."""
        return [connection for connection in self.connections if not connection._closed.is_set()]

    def busy_connections(self) -> list[str]:
        """Open connections with an inference request that has not been answered to its end, described."""
        playing = [connection.playing for connection in self.open_connections()]
        return [f"{self.name}: {request.method} {request.path}" for request in playing if request in self.requests]

    def listen(self) -> None:
        """Accept connections (again, on the same port)."""
        self._peer_loop.run(self._listen())

    def refuse(self) -> None:
        """Close the port and every connection: from now on connecting is refused."""
        self._peer_loop.run(self._refuse())

    def close_idle_connections(self) -> None:
        """FIN on every connection, as servers do after their idle time."""
        self._peer_loop.run(self._close_connections())

    stop = refuse

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: PeerConnection(self), "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            for listener in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
            await asyncio.sleep(0.005)  # asyncio forgets to close what is accepted in the moment its server closes
            self._server.close()
            self._server = None
        for connection in self.open_connections():
            connection.reset()
        await self._finish_tasks()

    async def _close_connections(self) -> None:
        for connection in self.open_connections():
            connection.finish()
        await self._finish_tasks()

    async def _finish_tasks(self) -> None:
        await asyncio.gather(*(connection._task for connection in self.connections), return_exceptions=True)


class PeerLoop:
    """The thread and event loop that scripted peers live in; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peers", daemon=True)

    def __enter__(self) -> PeerLoop:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    @contextlib.contextmanager
    def peer(self, name: str = "peer", inference: Script | None = None) -> Iterator[ScriptedPeer]:
        """A scripted peer, stopped at the end."""
        peer = ScriptedPeer(self, name, inference)
        try:
            yield peer
        finally:
            peer.stop()
