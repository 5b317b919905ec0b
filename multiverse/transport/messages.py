"""A request to a server and its answer, in the shapes the HTTP client works with.

Both are Tornado's own classes, trimmed: building a full `HTTPRequest` and `HTTPResponse` with their header objects
costs more than sending the bytes. What Tornado's classes have besides is built when somebody asks for it. How a plain
`HTTPRequest` becomes a `ServerRequest` is in plain.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
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
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_WRITTEN_BY_THE_CLIENT = frozenset({"host", "content-length", "transfer-encoding"})
METHODS_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH"})


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


@dataclass(eq=False, slots=True)
class RequestForm:
    """What the requests of one kind to one server have in common: make it once, and ask with it often.

    Raises ValueError where a value would start a new header line, or is no HTTP for another reason.

    `header_items` are sent as given, after `Host`. `host` replaces the endpoint's own name there. All timeouts are
    seconds, None = no limit: `connect_timeout` (name, TCP, TLS), `first_byte_timeout` (from sent to response head),
    `content_timeout` (from the beginning to the end, or until `Exchange.content_came`), `idle_timeout` (between two
    reads of the body), `request_timeout` (everything). `max_body_size` counts the body's bytes, decoded unless
    `decompress` is false. `wants_response` is false where nobody looks at the `ServerResponse`.
    """

    endpoint: Endpoint
    target: str
    _: KW_ONLY
    method: str = "GET"
    header_items: Sequence[tuple[str, str]] = ()
    connect_timeout: float | None = None
    first_byte_timeout: float | None = None
    content_timeout: float | None = None
    idle_timeout: float | None = None
    request_timeout: float | None = None
    max_body_size: float = math.inf
    host: str | None = None
    decompress: bool = True
    wants_response: bool = True
    beginning: bytes = field(init=False)
    pool_key: tuple[str, str, int] = field(init=False)
    shortest_timeout: float = field(init=False)

    def __post_init__(self) -> None:
        endpoint = self.endpoint
        self.beginning = self._beginning()
        self.pool_key = endpoint.scheme, endpoint.host, endpoint.port
        limits = self.first_byte_timeout, self.content_timeout, self.idle_timeout, self.request_timeout
        self.shortest_timeout = min((limit for limit in limits if limit is not None), default=math.inf)

    def _beginning(self) -> bytes:
        """The request line and the common headers, as sent."""
        if not _TOKEN.fullmatch(self.method) or not _TARGET.fullmatch(self.target):
            raise ValueError("the method must be a token, the target '/' and visible ASCII characters")
        lines = f"{self.method} {self.target} HTTP/1.1\r\nHost: {_checked(self.host or self.endpoint.authority)}\r\n"
        return lines.encode("latin-1") + _header_lines(self.header_items)


class ServerRequest(HTTPRequest):
    """One request to a server.

    `own_items` are headers that differ from those of other requests of its `form`; the client itself writes
    `Content-Length` after them.

    `response_callback` gets the `ResponseHead` before any of the body. `streaming_callback` gets the body's bytes,
    decoded unless the form says otherwise; an awaitable it returns holds reading back until it is done, and one that is
    a coroutine is cancelled when the exchange ends before it. An exception from either ends the exchange with it.
    """

    def __init__(
        self,
        form: RequestForm,
        own_items: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        response_callback: Callable[[ResponseHead], None] | None = None,
        streaming_callback: StreamingCallback | None = None,
    ) -> None:
        self.form = form
        self.own_items = own_items
        self.payload = body
        self.response_callback = response_callback
        self.streaming_callback = streaming_callback

    @property
    def method(self) -> str:
        """The method, as Tornado's `HTTPRequest` shows it."""
        return self.form.method

    @method.setter
    def method(self, value: str) -> None:
        raise AttributeError("the method of a ServerRequest is its form's")

    @property
    def url(self) -> str:
        """The address of this request, as Tornado's `HTTPRequest` shows it."""
        form = self.form
        return f"{form.endpoint.scheme}://{form.endpoint.authority}{form.target}"

    @url.setter
    def url(self, value: str) -> None:
        raise AttributeError("a ServerRequest goes to the endpoint it was made for")

    @property
    def body(self) -> bytes:
        """The body, as Tornado's `HTTPRequest` shows it."""
        return self.payload or b""

    @body.setter
    def body(self, value: Any) -> None:
        raise AttributeError("a ServerRequest is made with its body")

    @property
    def headers(self) -> HTTPHeaders:
        """The header items of the form and its own, in Tornado's shape."""
        headers = HTTPHeaders()
        for name, value in (*self.form.header_items, *self.own_items):
            headers.add(name, value)
        return headers

    @headers.setter
    def headers(self, value: Any) -> None:
        raise AttributeError("a ServerRequest is made with its headers")

    def head(self) -> bytes:
        """The request line and headers, as sent. Raises ValueError as `RequestForm` does."""
        form, payload = self.form, self.payload
        own_lines = _header_lines(self.own_items)
        if payload is None and form.method not in METHODS_WITH_A_BODY:
            return form.beginning + own_lines + b"\r\n"
        # RFC 9110 §8.6: say so even when it is empty.
        return b"%b%bContent-Length: %d\r\n\r\n" % (form.beginning, own_lines, len(payload or b""))


def _header_lines(items: Sequence[tuple[str, str]]) -> bytes:
    lines = ""
    for name, value in items:
        lines += f"{_header_name(name)}: {_checked(value)}\r\n"
    return lines.encode("latin-1")


def _checked(value: str) -> str:
    """`value`, if it may stand in one line of a head."""
    if not value.isprintable() and _CONTROL_CHARACTER.search(value):
        raise ValueError("a header holds a line break or another control character")
    return value


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
