"""A request to a server and its answer, in the shapes the HTTP client works with.

Both are Tornado's own classes, trimmed: building a full `HTTPRequest` and `HTTPResponse` with their header objects
costs more than sending the bytes. Whoever hands the client a plain `HTTPRequest` gets plain Tornado behaviour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

if TYPE_CHECKING:
    from multiverse.transport.addresses import Endpoint

StreamingCallback = Callable[[bytes], Awaitable[None] | None]


class ResponseHead:
    """Status and headers of an answer, before its body. Header names are lower case; repeated ones keep the first."""

    __slots__ = ("headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers


class ServerRequest(HTTPRequest):
    """One request to a server.

    `headers` are sent as given, after `Host` and before `Content-Length`. All timeouts are seconds, None = no limit:
    `connect_timeout` (name, TCP, TLS), `first_byte_timeout` (from sent to response head), `idle_timeout` (between two
    reads of the body), `request_timeout` (everything). `max_body_size` counts decoded bytes of the answer.

    `response_callback` gets the `ResponseHead` before any of the body. `streaming_callback` gets decoded body bytes; an
    awaitable it returns holds reading back until it is done. An exception from either ends the exchange with it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        target: str,
        *,
        method: str = "GET",
        header_items: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        response_callback: Callable[[ResponseHead], None] | None = None,
        streaming_callback: StreamingCallback | None = None,
        connect_timeout: float | None = None,
        first_byte_timeout: float | None = None,
        idle_timeout: float | None = None,
        request_timeout: float | None = None,
        max_body_size: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.target = target
        self.method = method
        self.header_items = header_items
        self.payload = body
        self.response_callback = response_callback
        self.streaming_callback = streaming_callback
        self.connect_timeout = connect_timeout
        self.first_byte_timeout = first_byte_timeout
        self.idle_timeout = idle_timeout
        self.request_timeout = request_timeout
        self.max_body_size = max_body_size

    @property
    def url(self) -> str:
        """The address of this request, as Tornado's `HTTPRequest` shows it."""
        return f"{self.endpoint.scheme}://{self.endpoint.authority}{self.target}"

    @url.setter
    def url(self, value: str) -> None:
        raise AttributeError("a ServerRequest goes to the endpoint it was made for")

    def head(self) -> bytes:
        """The request line and headers, as sent.

        Raises ValueError where a value would start a new header line.
        """
        lines = [f"{self.method} {self.target} HTTP/1.1\r\nHost: {self.endpoint.authority}"]
        lines += [f"{name}: {value}" for name, value in self.header_items]
        if self.payload is not None:
            lines.append(f"Content-Length: {len(self.payload)}")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
            raise ValueError("a header holds a line break or NUL")
        return f"{text}\r\n\r\n".encode("latin-1")


class ServerResponse(HTTPResponse):
    """A whole answer. Without a `streaming_callback`, `body` holds the bytes; with one it is empty."""

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
        self.error = None

    @property
    def body(self) -> bytes:
        """The decoded body."""
        return self.payload

    def as_tornado(self, request: HTTPRequest) -> HTTPResponse:
        """The same answer as Tornado builds it, for callers of plain `fetch()`."""
        return HTTPResponse(
            request,
            self.code,
            headers=HTTPHeaders(self.head.headers),
            buffer=BytesIO(self.payload),
            effective_url=request.url,
            request_time=self.request_time,
            reason=self.reason,
        )


def header_items_of(request: HTTPRequest) -> list[tuple[str, str]]:
    """All headers of a plain Tornado request, but for those that the client writes itself."""
    headers: Any = request.headers
    items = headers.get_all() if isinstance(headers, HTTPHeaders) else headers.items()
    return [(name, value) for name, value in items if name.lower() not in ("host", "content-length")]
