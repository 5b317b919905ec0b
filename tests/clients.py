"""A raw HTTP client: sends any bytes, reads as much or as little as the test wants, leaves in any way.

It notes when each event arrived and whether a body ended in an orderly way or was cut off; it never retries, never
follows anything and decodes nothing but the framing. Blocking sockets with a timeout on every read.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.packets import drop_all_packets
from tests.wire import PLANTED, PLANTED_SERVER_KEY, Headers

RECEIVE_BYTES = 65536
NO_LINGER = struct.pack("ii", 1, 0)
# Whatever a test asks, and whoever it asks as, these never come out of a gateway.
KEYS = (PLANTED_SERVER_KEY.encode(), f"{PLANTED}admin-key".encode())


@dataclass
class Event:
    """One server-sent event: its `data` lines joined, its other fields, and when it was complete (monotonic)."""

    data: str
    name: str | None
    event_id: str | None
    arrived_at: float

    def json(self) -> Any:
        """The data, parsed."""
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any] | None:
        """The `error` object, when this is an error event."""
        try:
            value = self.json()
        except ValueError:
            return None
        found = value.get("error") if isinstance(value, dict) else None
        return found if isinstance(found, dict) else None


@dataclass
class Response:
    """An answer; `ended` is None while its body is being read, then `orderly` or `cut`."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    ended: str | None = None
    head_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0

    def header(self, name: str) -> str | None:
        """The value of the first header called `name`."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The `error` object of an error answer."""
        found = self.json().get("error")
        assert isinstance(found, dict), f"no error object in {self.body!r}"
        return found

    @property
    def code(self) -> str:
        """`error.code`."""
        return str(self.error["code"])

    @property
    def text(self) -> str:
        """What a chat completion says."""
        return str(self.json()["choices"][0]["message"]["content"])


class RawClient:
    """One connection to the gateway; a context manager."""

    def __init__(self, port: int, timeout_seconds: float = 10.0, receive_buffer_bytes: int | None = None) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer_bytes is not None:  # only counts when set before connecting
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            self._socket.connect(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._buffer = b""
        self._method = "GET"

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- sending and leaving

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def request(self, method: str, path: str, body: bytes | None = None, headers: Headers = ()) -> None:
        """Send a request: `Host`, the body's length and (unless given) `Content-Type: application/json` are added."""
        self._method = method
        given = list(headers)
        fields = [("Host", "gateway.test"), *given]
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
            if not any(name.lower() == "content-type" for name, _value in given):
                fields.append(("Content-Type", "application/json"))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""))

    def abort(self) -> None:
        """Leave with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._socket.close()

    def close_lid(self) -> None:
        """Leave without a word: the kernel drops every packet that comes for this connection (Linux)."""
        drop_all_packets(self._socket)

    def close(self) -> None:
        """Leave in an orderly way; safe twice."""
        self._socket.close()

    # -- reading

    def read_response(self) -> Response:
        """The whole next answer."""
        response = self.read_head()
        for _piece in self.pieces(response):
            pass
        return response

    def read_head(self) -> Response:
        """The next answer without its body (1xx are skipped)."""
        while True:
            status_line, *lines = self._read_through(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
            _version, status, reason = (status_line + " ").split(" ", 2)
            pairs = [line.partition(":") for line in lines]
            response = Response(int(status), reason.strip(), [(name, value.strip()) for name, _colon, value in pairs])
            if response.status >= 200:
                return response

    def pieces(self, response: Response) -> Iterator[bytes]:
        """The pieces of the body as they arrive, also gathered in `response.body`; sets `response.ended`."""
        try:
            for piece in self._framed(response):
                response.body += piece
                yield piece
            response.ended = "orderly"
        except (ConnectionError, EOFError):
            response.ended = "cut"
        response.ended_at = time.monotonic()

    def at_end(self) -> bool:
        """Whether the gateway closes the connection (waits for it) without sending anything more."""
        try:
            return not self._buffer and not self._socket.recv(1)
        except ConnectionError:
            return True

    def _framed(self, response: Response) -> Iterator[bytes]:
        length = response.header("Content-Length")
        if self._method == "HEAD" or response.status in (204, 304):
            return
        if (response.header("Transfer-Encoding") or "").lower() == "chunked":
            yield from self._chunks()
        elif length is not None:
            yield from self._exactly(int(length))
        else:
            while self._buffer or self._fill():
                yield self._take(len(self._buffer))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._read_through(b"\r\n").split(b";")[0], 16):
            yield from self._exactly(size)
            self._read_through(b"\r\n")
        while self._read_through(b"\r\n") != b"\r\n":
            pass

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            if not self._buffer and not self._fill():
                raise EOFError("the body ends too soon")
            piece = self._take(min(count, len(self._buffer)))
            count -= len(piece)
            yield piece

    def _read_through(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._fill():
                raise EOFError(f"the connection ends after {self._buffer[-80:]!r}")
        return self._take(self._buffer.index(mark) + len(mark))

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _fill(self) -> bool:
        data = self._socket.recv(RECEIVE_BYTES)
        self._buffer += data
        assert not any(key in self._buffer for key in KEYS), "a key comes out in an answer"
        return bool(data)


class EventStream:
    """A streamed answer on its own connection: events and comments one by one; a context manager."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.response = client.read_head()
        self.events: list[Event] = []
        self.comments: list[tuple[float, str]] = []
        self._pieces = client.pieces(self.response)
        self._parsed = 0
        self._fields: dict[str, list[str]] = {}

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()

    @property
    def texts(self) -> list[str]:
        """What the chat chunks say, error events and `[DONE]` left out."""
        values = [event.json() for event in self.events if event.data != "[DONE]" and event.error is None]
        deltas = [choice["delta"] for value in values for choice in value["choices"]]
        return [delta["content"] for delta in deltas if "content" in delta]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The `error` objects of all error events."""
        return [event.error for event in self.events if event.error is not None]

    @property
    def done(self) -> bool:
        """Whether `[DONE]` has come."""
        return any(event.data == "[DONE]" for event in self.events)

    def read_events(self, count: int) -> list[Event]:
        """Read until `count` events have come in all (or the stream ends); returns all so far."""
        while len(self.events) < count and self._read_piece():
            pass
        return self.events

    def read_comments(self, count: int) -> list[tuple[float, str]]:
        """Read until `count` comments have come in all (or the stream ends); returns (time, comment) for all so far."""
        while len(self.comments) < count and self._read_piece():
            pass
        return self.comments

    def read_to_end(self) -> EventStream:
        """Read everything there is."""
        while self._read_piece():
            pass
        return self

    def _read_piece(self) -> bool:
        if next(self._pieces, None) is None:
            return False
        while (end := self.response.body.find(b"\n", self._parsed)) >= 0:
            line = self.response.body[self._parsed : end].removesuffix(b"\r").decode()
            self._parsed = end + 1
            self._take_line(line)
        return True

    def _take_line(self, line: str) -> None:
        """One line, by the rules of the HTML standard, section 9.2.6."""
        if line.startswith(":"):
            self.comments.append((time.monotonic(), line))
        elif line:
            name, _colon, value = line.partition(":")
            self._fields.setdefault(name, []).append(value.removeprefix(" "))
        elif "data" in self._fields:
            event_name, event_id = (self._fields[key][-1] if key in self._fields else None for key in ("event", "id"))
            self.events.append(Event("\n".join(self._fields["data"]), event_name, event_id, time.monotonic()))
            self._fields = {}
        else:
            self._fields = {}
