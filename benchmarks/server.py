"""The scripted server behind every contestant: it answers what an order says, as cheaply as Python can.

`python -m benchmarks.server` listens on two free ports of 127.0.0.1, so that balancing has something to do, and says
which. It parses no JSON; what it knows of a request stands at a fixed place in the prompt (answers.py).
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio import TimerHandle
from typing import cast

import httptools
import uvloop

from benchmarks.answers import (
    DONE,
    MODEL,
    NUMBER_DIGITS,
    ORDER_LENGTH,
    ORDER_MARK,
    PLACEHOLDER,
    PlainAnswer,
    StreamAnswer,
)

ENDPOINTS = 2
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
ORDER_PLACEHOLDER = PLACEHOLDER.encode()


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def json_answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole JSON response."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class StreamScript:
    """The chunks of a stream with this many events, ready but for the order's number."""

    def __init__(self, events: int) -> None:
        answer = StreamAnswer(events)
        end = framed(DONE) + b"0\r\n\r\n"
        *early, last = (framed(event) for event in answer.events)
        self._chunks = (*early, last + end)
        self._last_with_usage = last + framed(answer.usage_event) + end

    def __len__(self) -> int:
        return len(self._chunks)

    def chunk(self, index: int, number: bytes, *, with_usage: bool) -> bytes:
        """The chunk at `index`; the last one ends the stream, after a usage event where the request asked for one."""
        at_end = index == len(self._chunks) - 1
        template = self._last_with_usage if at_end and with_usage else self._chunks[index]
        return template.replace(ORDER_PLACEHOLDER, number)


class Scripts:
    """All that the server can say."""

    def __init__(self) -> None:
        self._plain = PlainAnswer()
        self._streams: dict[int, StreamScript] = {}
        model = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "benchmark"}
        self.models = json_answer(json.dumps({"object": "list", "data": [model]}).encode())
        # What the Rust routers ask a server about.
        about = {"model_path": MODEL, "served_model_name": MODEL, "is_generation": True, "version": "0"}
        self.about = json_answer(json.dumps(about).encode())
        self.not_found = json_answer(b'{"error": {"message": "no such route"}}', b"404 Not Found")

    def plain(self, number: bytes) -> bytes:
        """The whole response to a plain order."""
        return json_answer(self._plain.body(number))

    def stream(self, events: int) -> StreamScript:
        """The script of a stream with as many events."""
        if events not in self._streams:
            self._streams[events] = StreamScript(events)
        return self._streams[events]


class ServerConnection(asyncio.Protocol):
    """One connection from a contestant; its requests come one after the other."""

    def __init__(self, scripts: Scripts, loop: asyncio.AbstractEventLoop) -> None:
        self._scripts = scripts
        self._loop = loop
        self._timer: TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        self._path = b""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body = self._body
        start = body.find(ORDER_MARK)
        if start < 0:
            self._transport.write(self._answer_without_order())
            return
        order = body[start : start + ORDER_LENGTH]
        number = order[len(ORDER_MARK) : len(ORDER_MARK) + NUMBER_DIGITS]
        events, interval_ms = int(order[-9:-5]), int(order[-4:])
        if not events:
            self._transport.write(self._scripts.plain(number))
            return
        self._start_stream(number, events, interval_ms / 1000)

    def _answer_without_order(self) -> bytes:
        path = self._path.partition(b"?")[0]
        if path.endswith(b"/v1/models"):  # below any path: one process may be many servers
            return self._scripts.models
        if path in (b"/health", b"/health_generate", b"/server_info", b"/get_server_info", b"/model_info"):
            return self._scripts.about
        return self._scripts.about if path == b"/get_model_info" else self._scripts.not_found

    # -- a paced stream

    def _start_stream(self, number: bytes, events: int, interval_seconds: float) -> None:
        self._stream = self._scripts.stream(events)
        self._number = number
        self._with_usage = b"include_usage" in self._body
        self._interval_seconds = interval_seconds
        self._index = 0
        self._started_seconds = self._loop.time()
        self._send_event(STREAM_HEAD)

    def _send_event(self, head: bytes = b"") -> None:
        chunk = self._stream.chunk(self._index, self._number, with_usage=self._with_usage)
        self._transport.write(head + chunk)
        self._index += 1
        if self._index < len(self._stream):
            # Times are absolute: a late event does not make the stream longer.
            due_seconds = self._started_seconds + self._index * self._interval_seconds
            self._timer = self._loop.call_at(due_seconds, self._send_event)
        else:
            self._timer = None


async def serve() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    scripts = Scripts()
    listeners = [
        await loop.create_server(lambda: ServerConnection(scripts, loop), "127.0.0.1", 0, backlog=2048)
        for _ in range(ENDPOINTS)
    ]
    ports = [listener.sockets[0].getsockname()[1] for listener in listeners]
    sys.stdout.write("listening on " + " ".join(f"http://127.0.0.1:{port}" for port in ports) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
