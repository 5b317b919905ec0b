"""Bytes as servers put them on the wire: answers, chunked bodies, server-sent events, OpenAI's shapes.

Pure functions that return bytes and know nothing of sockets; what plays them lives in peers.py. Wrong bytes on purpose
are written out by the test that needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Headers = Iterable[tuple[str, str]]

# Everything a test plants and that must never be seen in a log starts with this.
PLANTED = "planted-"
PLANTED_PROMPT = PLANTED + "prompt-7f3a"
PLANTED_COMPLETION = PLANTED + "completion-91c2"
PLANTED_SERVER_KEY = PLANTED + "server-key-5d0e"
PLANTED_CLIENT_KEY = PLANTED + "client-key-b16b"

# What the gateway adds to the body of a stream whose client does not ask for its usage.
USAGE_ASKED = b'"stream_options":{"include_usage":true},'
DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"


def head(status: int = 200, headers: Headers = (), reason: str = "Whatever") -> bytes:
    """Status line and headers, with the empty line that ends them."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(
    body: bytes | str, status: int = 200, content_type: str = "application/json", headers: Headers = ()
) -> bytes:
    """A whole answer with a Content-Length."""
    raw = body.encode() if isinstance(body, str) else body
    fields = [("Content-Type", content_type), ("Content-Length", str(len(raw))), *headers]
    return head(status, fields) + raw


def json_answer(value: Any, status: int = 200, headers: Headers = ()) -> bytes:
    """A whole JSON answer."""
    return answer(json.dumps(value, ensure_ascii=False), status, headers=headers)


def error_answer(status: int, message: str, headers: Headers = (), **fields: Any) -> bytes:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": "some_error", "param": None, "code": None, **fields}}
    return json_answer(body, status, headers)


def html_answer(status: int = 200, text: str = "It works!", headers: Headers = ()) -> bytes:
    """A page for people, as tunnels and web servers send it."""
    return answer(f"<!DOCTYPE html><html><body>{text}</body></html>", status, "text/html; charset=utf-8", headers)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(body: bytes, size_bytes: int | None = None, last_chunk: bool = True) -> bytes:
    """`body` as chunks of `size_bytes` (default: one chunk), with or without the chunk that ends it."""
    step = size_bytes or max(len(body), 1)
    pieces = b"".join(chunk(body[start : start + step]) for start in range(0, len(body), step))
    return pieces + (LAST_CHUNK if last_chunk else b"")


STREAM_HEAD = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
# Without a length and with Connection: close, the end of the connection is the end of the body (RFC 9112 §6.3).
STREAM_HEAD_UNTIL_CLOSE = head(200, [("Content-Type", "text/event-stream"), ("Connection", "close")])


def stream_answer(body: bytes, size_bytes: int | None = None) -> bytes:
    """A whole, orderly answer of server-sent events."""
    return STREAM_HEAD + chunked(body, size_bytes)


def sse(*events: str | bytes) -> bytes:
    """Events one after the other: text becomes a `data:` event, bytes are taken as they are."""
    return b"".join(event if isinstance(event, bytes) else f"data: {event}\n\n".encode() for event in events)


def chat_chunk(text: str, **fields: Any) -> bytes:
    """One event of a streamed chat completion."""
    return _chunk_event({"role": "assistant", "content": text}, None, fields)


def finish_chunk(finish_reason: str = "stop") -> bytes:
    """The last event before `[DONE]`."""
    return _chunk_event({}, finish_reason, {})


def _chunk_event(delta: dict[str, Any], finish_reason: str | None, fields: dict[str, Any]) -> bytes:
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "any",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **fields,
    }
    return sse(json.dumps(value, ensure_ascii=False))


def usage_chunk(prompt_tokens: int, completion_tokens: int) -> bytes:
    """The event with which a server answers `stream_options.include_usage`."""
    total = prompt_tokens + completion_tokens
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
    return sse(json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}))


def good_stream(*texts: str) -> bytes:
    """The body of a whole streamed chat completion that says `texts`."""
    return b"".join(map(chat_chunk, texts)) + finish_chunk() + DONE


def chat_completion(text: str = PLANTED_COMPLETION) -> dict[str, Any]:
    """A plain chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "any",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def model_list(*names: str) -> dict[str, Any]:
    """What `GET /v1/models` answers."""
    data = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "someone"} for name in names]
    return {"object": "list", "data": data}


def chat_body(model: str, stream: bool | None = None, **fields: Any) -> bytes:
    """The body of a chat request; `stream=None` leaves the field out."""
    value: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PLANTED_PROMPT}], **fields}
    if stream is not None:
        value["stream"] = stream
    return json.dumps(value).encode()
