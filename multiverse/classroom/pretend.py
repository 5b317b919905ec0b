"""One pretend server: a small OpenAI-compatible HTTP server on a loopback port, with a mood.

It speaks as much HTTP/1.1 as the gateway's own client needs, one request for each connection, everything bounded. It
is a server like any other: nothing in the gateway looks into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from multiverse.classroom.moods import PRETEND_MODEL, Mood, pace_of, speech
from multiverse.clock import Clock

READ_SECONDS = 10.0
MAX_BODY_BYTES = 32 * 1024 * 1024
BUSY_RETRY_AFTER_SECONDS = 3
WEB_PAGE = b"<!DOCTYPE html><html><body><h1>Pretend tunnel</h1>This machine is not what it seems.</body></html>"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: bytes


class PretendServer:
    """A server of `name`; well unless told otherwise."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._mood = Mood.WELL
        self._until_seconds = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life and mood -------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Listen on a free loopback port; returns the address. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def mood(self) -> Mood:
        """The mood now; every other than `well` passes by itself."""
        return self._mood if self.seconds_left > 0 else Mood.WELL

    @property
    def seconds_left(self) -> float:
        """How long the mood lasts; 0 for `well`."""
        left = self._until_seconds - self._clock.monotonic()
        return max(left, 0.0) if self._mood is not Mood.WELL else 0.0

    def set_mood(self, mood: Mood, seconds: float) -> None:
        """Be like that for so long."""
        self._mood, self._until_seconds = mood, self._clock.monotonic() + seconds

    # -- one connection ------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                async with asyncio.timeout(READ_SECONDS):
                    request = await _read_request(reader)
                await self._answer(request, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        if self.mood is Mood.BROKEN:
            writer.transport.abort()
        elif (request.method, request.path) == ("GET", "/v1/models"):
            model = {"id": PRETEND_MODEL, "object": "model", "created": 0, "owned_by": self.name, "pretend": True}
            await _send_json(writer, 200, {"object": "list", "data": [model]})
        elif request.method != "POST" or request.path not in (CHAT, COMPLETION):
            await _send_json(writer, 404, _error("A pretend server has no such route.", "not_found"))
        elif self.mood is Mood.LYING:
            await _send(writer, 200, "text/html", WEB_PAGE)
        elif self.mood is Mood.BUSY:
            headers = f"Retry-After: {BUSY_RETRY_AFTER_SECONDS}\r\n"
            await _send_json(writer, 429, _error("This pretend server is busy.", "rate_limit_exceeded"), headers)
        else:
            await self._speak(request, writer)

    async def _speak(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(request.body)
        prompt = json.dumps(asked.get("messages") or asked.get("prompt") or "").split()
        words = speech(self.name, len(prompt))
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(words)}
        usage["total_tokens"] = sum(usage.values())
        if not asked.get("stream"):
            text = "".join([word async for word in self._spoken(words)])
            await _send_json(writer, 200, {**_shape(request.path, text, "stop", whole=True), "usage": usage})
            return
        writer.write(_head(200, "text/event-stream", "Transfer-Encoding: chunked\r\n"))
        async for word in self._spoken(words):
            await _send_event(writer, _shape(request.path, word, None))
            if self.mood is Mood.BROKEN:
                writer.transport.abort()
                return
        await _send_event(writer, _shape(request.path, "", "stop"))
        if isinstance(options := asked.get("stream_options"), dict) and options.get("include_usage"):
            await _send_event(writer, {**_shape(request.path, "", None), "choices": [], "usage": usage})
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()

    async def _spoken(self, words: list[str]) -> AsyncIterator[str]:
        await asyncio.sleep(pace_of(self.mood).first_word_seconds)
        for word in words:
            yield word
            await asyncio.sleep(pace_of(self.mood).word_seconds)


# -- HTTP and OpenAI's shapes


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    """Raises ValueError for what is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError("too large a body")
    return _Request(method, path.partition("?")[0], await reader.readexactly(length))


def _shape(path: str, text: str, finish_reason: str | None, *, whole: bool = False) -> dict[str, Any]:
    """A completion of the API of `path`: `whole`, or one event of a stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    kind = "text_completion"
    if path == COMPLETION:
        choice["text"] = text
    else:
        kind = "chat.completion" if whole else "chat.completion.chunk"
        choice["message" if whole else "delta"] = {"role": "assistant", "content": text}
    return {"id": "pretend-1", "object": kind, "created": 0, "model": PRETEND_MODEL, "choices": [choice]}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "pretend_error", "param": None, "code": code}}


def _head(status: int, content_type: str, further: str) -> bytes:
    return f"HTTP/1.1 {status} Pretend\r\nContent-Type: {content_type}\r\nConnection: close\r\n{further}\r\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _send(writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, further: str = "") -> None:
    writer.write(_head(status, content_type, f"{further}Content-Length: {len(body)}\r\n") + body)
    await writer.drain()


async def _send_json(writer: asyncio.StreamWriter, status: int, value: dict[str, Any], further: str = "") -> None:
    await _send(writer, status, "application/json", json.dumps(value).encode(), further)


async def _send_event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(_chunk(b"data: " + json.dumps(value).encode() + b"\n\n"))
    await writer.drain()
