"""What the benchmark's server says and what its load asks and expects, byte for byte.

Every request carries an order of fixed length, `order-NUMBER-EVENTS-INTERVAL`, in its prompt, and every answer the
number of its order in its text: a mixed-up, cut or repeated answer is noticed, also where a peer rewrites the JSON.
"""

from __future__ import annotations

import json
from typing import Any

MODEL = "benchmark/model-1"
CLIENT_KEY = "sk-benchmark-client-key"  # LiteLLM wants the prefix
ROUTE = "/v1/chat/completions"

ORDER_MARK = b"order-"
NUMBER_DIGITS = 12
ORDER_LENGTH = len(ORDER_MARK) + NUMBER_DIGITS + len("-0000-0000")
PLACEHOLDER = "#" * NUMBER_DIGITS
FILLER = "A laptop in a class closes its lid, and nobody who asks for its model shall notice. "
CREATED_UNIX = 1_700_000_000
DONE = b"data: [DONE]\n\n"


class RequestShape:
    """Requests that differ in their number alone. `events` 0 asks for a plain answer, else for a stream of as many."""

    def __init__(self, *, events: int = 0, interval_ms: int = 0, body_bytes: int = 400) -> None:
        self.events = events
        self.interval_ms = interval_ms
        body = self._body(FILLER * 2)
        missing = max(0, body_bytes - len(body))
        body = self._body(FILLER * 2 + (FILLER * (missing // len(FILLER) + 1))[:missing])
        self._body_before, _, self._body_after = body.partition(PLACEHOLDER.encode())
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers().items())
        start = f"POST {ROUTE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        self._start = start.encode()

    def _body(self, text: str) -> bytes:
        order = f"{ORDER_MARK.decode()}{PLACEHOLDER}-{self.events:04d}-{self.interval_ms:04d}"
        question = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{order} {text}"}],
            "stream": self.events > 0,
            "temperature": 0.7,
            "max_tokens": 256,
        }
        return json.dumps(question).encode()

    @staticmethod
    def headers() -> dict[str, str]:
        """What every request carries besides its length."""
        return {
            "Authorization": f"Bearer {CLIENT_KEY}",
            "Content-Type": "application/json",
            "Accept": "*/*",
            "User-Agent": "benchmark",
        }

    def body(self, number: int) -> bytes:
        """The body of one request."""
        return b"%b%012d%b" % (self._body_before, number, self._body_after)

    def request(self, number: int) -> bytes:
        """One request as it goes over the wire."""
        return b"%b%b%012d%b" % (self._start, self._body_before, number, self._body_after)


class PlainAnswer:
    """The JSON of a chat completion (OpenAI API)."""

    def __init__(self) -> None:
        message = {"role": "assistant", "content": f"{PLACEHOLDER} {FILLER}{FILLER}"}
        answer = {
            "id": f"chatcmpl-{PLACEHOLDER}",
            "object": "chat.completion",
            "created": CREATED_UNIX,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100},
        }
        self._template = json.dumps(answer).encode()
        self._text = str(message["content"])

    def body(self, number: bytes) -> bytes:
        """The body for the order with this number (as it stands in the order: 12 digits)."""
        return self._template.replace(PLACEHOLDER.encode(), number)

    def fault(self, number: bytes, body: bytes) -> str | None:
        """What is wrong with an answer that a client got, or None."""
        if body == self.body(number):
            return None
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return f"not a chat completion: {body[:200]!r}"
        return None if text == self._text.replace(PLACEHOLDER, number.decode()) else f"another text: {text[:200]!r}"


class StreamAnswer:
    """The `events` server-sent events of a streamed chat completion (OpenAI API), and the `[DONE]` after them."""

    def __init__(self, events: int) -> None:
        self.events = tuple(event_template(index, last=index == events) for index in range(1, events + 1))
        usage = {"prompt_tokens": 60, "completion_tokens": events, "total_tokens": 60 + events}
        self.usage_event = as_event({**chunk_of([]), "usage": usage})
        self._text = "".join(piece_text(index) for index in range(1, events + 1))
        self._template = b"".join(self.events) + DONE

    def fault(self, number: bytes, body: bytes) -> str | None:
        """What is wrong with the events that a client got, or None."""
        if body == self._template.replace(PLACEHOLDER.encode(), number):
            return None
        try:
            text = text_of_events(body)
        except (ValueError, LookupError, TypeError) as error:
            return f"not the events of a chat completion: {error}"
        return None if text == self._text.replace(PLACEHOLDER, number.decode()) else f"another text: {text[-200:]!r}"


def order_number(number: int) -> bytes:
    """A number as it stands in an order and in the answer to it."""
    return b"%012d" % number


def chunk_of(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """A `chat.completion.chunk` (OpenAI API)."""
    return {
        "id": f"chatcmpl-{PLACEHOLDER}",
        "object": "chat.completion.chunk",
        "created": CREATED_UNIX,
        "model": MODEL,
        "choices": choices,
    }


def piece_text(index: int) -> str:
    """The text in one event; it names the order and the place in the stream."""
    return f"{PLACEHOLDER}/{index:04d} "


def event_template(index: int, *, last: bool) -> bytes:
    """One event of any stream, with the placeholder instead of the order's number."""
    choice = {"index": 0, "delta": {"content": piece_text(index)}, "finish_reason": "stop" if last else None}
    return as_event(chunk_of([choice]))


def as_event(value: dict[str, Any]) -> bytes:
    """A server-sent event (WHATWG HTML §9.2) with this JSON."""
    return b"data: %b\n\n" % json.dumps(value).encode()


def text_of_events(body: bytes) -> str:
    """The text of a whole stream; raises ValueError when its end is missing or an event is not readable."""
    texts = []
    data_lines = [line[5:].strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    if not data_lines or data_lines[-1] != b"[DONE]":
        raise ValueError(f"no [DONE] at the end of {len(body)} bytes: {body[-200:]!r}")
    for line in data_lines[:-1]:
        choices = json.loads(line)["choices"]
        texts.append((choices[0]["delta"].get("content") or "") if choices else "")
    return "".join(texts)
