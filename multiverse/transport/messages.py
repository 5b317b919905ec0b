"""A request to a server and its answer, in the shapes the HTTP client works with.

Both are Tornado's own classes, trimmed: building a full `HTTPRequest` and `HTTPResponse` with their header objects
costs more than sending the bytes. What Tornado's classes have besides is built when somebody asks for it. How a plain
`HTTPRequest` becomes a `ServerRequest` is in plain.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

if TYPE_CHECKING:
    from multiverse.transport.addresses import Endpoint

StreamingCallback = Callable[[bytes], Awaitable[None] | None]

# RFC 9110 §5.6.2; §5.5 for what a field value may not hold.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[/*][!-~]*")
_CONTROL_CHARACTERS = bytes(code for code in (*range(32), 127) if code != ord("\t"))
_WRITTEN_BY_THE_CLIENT = frozenset({"host", "content-length", "transfer-encoding"})
# What clients make up shall not fill the memory of heads.
LONGEST_REMEMBERED = 256
_METHODS_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH"})


class ResponseHead:
    """Status and headers of an answer, before its body.

    Header names are lower case. `headers` holds the first value of each, `repeated` the further ones (`Set-Cookie`).
    """

    __slots__ = ("headers", "reason", "repeated", "status")

    def __init__(
        self, status: int, reason: str, headers: dict[str, str], repeated: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.repeated = repeated

    @property
    def keep_alive_seconds(self) -> float:
        """How long the server says it keeps the connection (`Keep-Alive: timeout=5`), less a second for the way."""
        announced = self.headers.get("keep-alive")
        if announced is None:
            return math.inf
        _, _, value = announced.lower().partition("timeout=")
        seconds = value.split(",")[0].strip()
        return float(seconds) - 1.0 if seconds.isascii() and seconds.isdigit() else math.inf


class ServerRequest(HTTPRequest):
    """One request to a server.

    `header_items` and `own_items` are sent as given, between `Host` and `Content-Length`, which the client writes
    itself; the first are remembered as bytes, so what differs in every request belongs into the second. `host` replaces
    the endpoint's own name in `Host`. All timeouts are seconds, None = no limit: `connect_timeout` (name,
    TCP, TLS), `first_byte_timeout` (from sent to response head), `idle_timeout` (between two reads of the body),
    `request_timeout` (everything). `max_body_size` counts the body's bytes, decoded.

    `response_callback` gets the `ResponseHead` before any of the body. `streaming_callback` gets the body's bytes,
    decoded unless `decompress` is false; an awaitable it returns holds reading back until it is done, and one that is
    a coroutine is cancelled when the exchange ends before it. An exception from either ends the exchange with it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        target: str,
        *,
        method: str = "GET",
        header_items: Sequence[tuple[str, str]] = (),
        own_items: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        response_callback: Callable[[ResponseHead], None] | None = None,
        streaming_callback: StreamingCallback | None = None,
        connect_timeout: float | None = None,
        first_byte_timeout: float | None = None,
        idle_timeout: float | None = None,
        request_timeout: float | None = None,
        max_body_size: int | None = None,
        host: str | None = None,
        decompress: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.target = target
        self.method = method
        self.header_items = header_items
        self.own_items = own_items
        self.payload = body
        self._body = body or b""
        self.response_callback = response_callback
        self.streaming_callback = streaming_callback
        self.connect_timeout = connect_timeout
        self.first_byte_timeout = first_byte_timeout
        self.idle_timeout = idle_timeout
        self.request_timeout = request_timeout
        self.max_body_size = max_body_size
        self.host = host
        self.decompress = decompress

    @property
    def url(self) -> str:
        """The address of this request, as Tornado's `HTTPRequest` shows it."""
        return f"{self.endpoint.scheme}://{self.endpoint.authority}{self.target}"

    @url.setter
    def url(self, value: str) -> None:
        raise AttributeError("a ServerRequest goes to the endpoint it was made for")

    @property
    def headers(self) -> HTTPHeaders:
        """The `header_items` and `own_items`, in Tornado's shape."""
        headers = HTTPHeaders()
        for name, value in (*self.header_items, *self.own_items):
            headers.add(name, value)
        return headers

    @headers.setter
    def headers(self, value: Any) -> None:
        raise AttributeError("a ServerRequest is made with its header_items")

    def head(self) -> bytes:
        """The request line and headers, as sent.

        Raises ValueError where a value would start a new header line, or is no HTTP for another reason.
        """
        method, target, payload = self.method, self.target, self.payload
        beginning = _beginning if len(target) <= LONGEST_REMEMBERED else _beginning.__wrapped__
        head = beginning(method, target, self.host or self.endpoint.authority, tuple(self.header_items))
        if self.own_items:
            head += _lines([f"{_header_name(name)}: {value}" for name, value in self.own_items])
        if payload is not None or method in _METHODS_WITH_A_BODY:  # RFC 9110 §8.6: say so even when it is empty.
            head += b"Content-Length: %d\r\n" % len(payload or b"")
        return head + b"\r\n"


@lru_cache(maxsize=4096)  # Taken in turn, servers beyond the size would find nothing at all remembered.
def _beginning(method: str, target: str, host: str, items: tuple[tuple[str, str], ...]) -> bytes:
    """The request line and the lines that requests to one server have in common; remembered."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise ValueError("the method must be a token, the target '/' and visible ASCII characters")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    return _lines([*lines, *[f"{_header_name(name)}: {value}" for name, value in items]])


def _lines(lines: list[str]) -> bytes:
    data = "\r\n".join(lines).encode("latin-1")
    if len(data.translate(None, _CONTROL_CHARACTERS)) != len(data) - 2 * (len(lines) - 1):
        raise ValueError("a header holds a line break or another control character")
    return data + b"\r\n"


@lru_cache(maxsize=256)
def _header_name(name: str) -> str:
    """`name`, if it may be that of a header item; remembered."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("a header name must be a token")
    if name.lower() in _WRITTEN_BY_THE_CLIENT:
        raise ValueError(f"the header {name} is written by the client itself")
    return name


class ServerResponse(HTTPResponse):
    """A whole answer. Without a `streaming_callback`, `body` holds the bytes; with one it is empty."""

    error = None
    start_time = None

    def __init__(
        self, request: HTTPRequest, head: ResponseHead, body: bytes, *, request_time: float, reused: bool
    ) -> None:
        self.request = request
        self.head = head
        self.code = head.status
        self.reason = head.reason
        self.payload = body
        self.request_time = request_time
        self.reused_connection = reused
        self.time_info = {}

    @property
    def body(self) -> bytes:
        """The decoded body."""
        return self.payload

    @property
    def effective_url(self) -> str:
        """The address that was asked."""
        return self.request.url

    @effective_url.setter
    def effective_url(self, value: str) -> None:
        raise AttributeError("a ServerResponse comes from where its request went")

    def __getattr__(self, name: str) -> Any:
        """`headers` and `buffer`, as Tornado's class has them: built when they are asked for."""
        if name == "headers":
            self.headers = HTTPHeaders(self.head.headers)
            for repeated_name, value in self.head.repeated:
                self.headers.add(repeated_name, value)
            return self.headers
        if name == "buffer":
            self.buffer = BytesIO(self.payload)
            return self.buffer
        raise AttributeError(name)

    def as_tornado(self, request: HTTPRequest, *, decompressed: bool) -> HTTPResponse:
        """The same answer as Tornado builds it, for callers of plain `fetch()`."""
        headers = self.headers
        if decompressed and headers.get("Content-Encoding", "identity").lower() != "identity":
            headers["X-Consumed-Content-Encoding"] = headers.pop("Content-Encoding")  # Tornado's own name for it.
        return HTTPResponse(
            request,
            self.code,
            headers=headers,
            buffer=self.buffer,
            effective_url=request.url,
            request_time=self.request_time,
            reason=self.reason,
        )
