"""The head of a request, read strictly: its line, its fields, what they say about the body (RFC 9112 §3, §5, §6).

What two programs could read in two ways is refused: bare LF, folded lines, space before a colon, a length beside
chunks, repeated lengths or hosts. No parser library: llhttp takes the body of a request with `Upgrade: h2c`, as curl
sends it, for another protocol, and methods that it does not know, here a 404 or 405, for malformed.
"""

from __future__ import annotations

import re

from tornado.httputil import HTTPHeaders, HTTPInputError, RequestStartLine

from multiverse.web.headers import KnownHeaders

MAX_HEAD_BYTES = 65_536
MAX_HEADER_LINES = 256
# A length of more digits is beyond every limit, whatever it is.
MOST_LENGTH_DIGITS = 18

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(
    rb"(" + TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([0-9])\r\n"
    rb"((?:" + TOKEN + rb":[\t -~\x80-\xff]*\r\n)*)"
)  # fmt: skip


class RequestHead:
    """One request's head. `length` is that of its body in bytes, None when it comes in chunks."""

    __slots__ = ("expects_continue", "headers", "keep_alive", "length", "method", "start_line", "version")

    def __init__(self, method: str, target: str, minor_version: int, headers: HTTPHeaders) -> None:
        self.method = method
        self.version = "HTTP/1.1" if minor_version else "HTTP/1.0"
        self.start_line = RequestStartLine(method, target, self.version)
        self.headers = headers
        self.length: int | None = 0
        self.keep_alive = _keep_alive(self.version, headers.get("Connection"))
        self.expects_continue = (
            "Expect" in headers and headers["Expect"].lower() == "100-continue" and minor_version > 0
        )

    def read_framing(self) -> None:
        """Find out how the body ends. Raises HTTPInputError where that is not beyond doubt."""
        headers = self.headers
        if "Transfer-Encoding" in headers:
            if "Content-Length" in headers:
                raise HTTPInputError("Transfer-Encoding beside Content-Length")
            if self.version == "HTTP/1.0":
                raise HTTPInputError("Transfer-Encoding in HTTP/1.0")
            if headers["Transfer-Encoding"].lower() != "chunked":
                raise HTTPInputError("unknown Transfer-Encoding")
            self.length = None
        elif "Content-Length" in headers:
            self.length = _length(headers["Content-Length"])
        if "Host" in headers and len(headers.get_list("Host")) > 1:
            raise HTTPInputError("repeated Host")


def read_head(data: bytes) -> RequestHead:
    """`data` is a head with the line end of its last line, without the empty line behind it.

    Raises HTTPInputError. What the fields say about the body is for `read_framing()`.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise HTTPInputError("head too large")
    match = HEAD.fullmatch(data.removeprefix(b"\r\n"))  # RFC 9112 §2.2: an empty line before a request is forgiven.
    if match is None:
        raise HTTPInputError("malformed request line or header")
    method, target, minor_version, fields = match.groups()
    lines = fields.decode("latin-1").split("\r\n")
    if len(lines) > MAX_HEADER_LINES:
        raise HTTPInputError("too many header lines")
    del lines[-1]  # behind the last line end
    headers = KnownHeaders(
        [(name, value.strip(" \t")) for name, _colon, value in [line.partition(":") for line in lines]]
    )
    return RequestHead(method.decode("ascii"), target.decode("latin-1"), int(minor_version), headers)


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # Two lines of it are one value with a comma here.
        raise HTTPInputError("malformed or repeated Content-Length")
    digits = text.lstrip("0")
    return int(digits[:MOST_LENGTH_DIGITS] or "0") if len(digits) <= MOST_LENGTH_DIGITS else 10**MOST_LENGTH_DIGITS


def _keep_alive(version: str, connection: str | None) -> bool:
    """RFC 9112 §9.3: HTTP/1.1 stays unless told to close, HTTP/1.0 closes unless told to stay."""
    if connection is None:
        return version == "HTTP/1.1"
    options = [option.strip() for option in connection.lower().split(",")]
    return "close" not in options if version == "HTTP/1.1" else "keep-alive" in options and "close" not in options
