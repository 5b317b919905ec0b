"""The head of a request, read strictly: its line, its fields, what they say about the body (RFC 9112 §3, §5, §6).

What two programs could read in two ways is refused: bare LF, folded lines, space before a colon, a length beside
chunks, repeated lengths or hosts. No parser library: llhttp takes the body of a request with `Upgrade: h2c`, as curl
sends it, for another protocol, and methods that it does not know, here a 404 or 405, for malformed.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tornado.httputil import HTTPHeaders, HTTPInputError, RequestStartLine

from multiverse.web.headers import LONGEST_REMEMBERED, KnownHeaders, usual_spelling

MAX_HEAD_BYTES = 65_536
MAX_HEADER_LINES = 256
# A length of more digits is beyond every limit, whatever it is.
MOST_LENGTH_DIGITS = 18
MALFORMED = "malformed request line or header"

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([0-9])")
FIELD_NAME = re.compile(TOKEN.decode("ascii"))
FIELDS = re.compile(rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")


class RequestHead:
    """One request's head. `length` is that of its body in bytes, None when it comes in chunks."""

    __slots__ = ("expects_continue", "headers", "keep_alive", "length", "method", "start_line", "version")

    def __init__(self, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        self.start_line = start_line
        self.method, _target, self.version = start_line
        self.headers = headers
        self.length: int | None = 0
        self.keep_alive = _keep_alive(self.version, headers.get("Connection"))
        self.expects_continue = headers.get("Expect", "").lower() == "100-continue" and self.version == "HTTP/1.1"

    def read_framing(self) -> None:
        """Find out how the body ends. Raises HTTPInputError where that is not beyond doubt."""
        headers = self.headers
        coding, length = headers.get("Transfer-Encoding"), headers.get("Content-Length")
        if coding is not None:
            if length is not None:
                raise HTTPInputError("Transfer-Encoding beside Content-Length")
            if self.version == "HTTP/1.0":
                raise HTTPInputError("Transfer-Encoding in HTTP/1.0")
            if coding.lower() != "chunked":
                raise HTTPInputError("unknown Transfer-Encoding")
            self.length = None
        elif length is not None:
            self.length = _length(length)
        if len(headers.get_list("Host")) > 1:
            raise HTTPInputError("repeated Host")


def read_head(data: bytes) -> RequestHead:
    """`data` is a head with the line end of its last line, without the empty line behind it.

    Raises HTTPInputError. What the fields say about the body is for `read_framing()`.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise HTTPInputError("head too large")
    first, _line_end, rest = data.removeprefix(b"\r\n").partition(b"\r\n")  # RFC 9112 §2.2 forgives an empty line.
    fields = rest.decode("latin-1")
    bare = fields.replace("\r\n", "")
    if not (bare.isascii() and bare.isprintable()) and FIELDS.fullmatch(rest) is None:
        raise HTTPInputError(MALFORMED)
    lines = fields.split("\r\n")
    if len(lines) > MAX_HEADER_LINES:
        raise HTTPInputError("too many header lines")
    del lines[-1]  # behind the last line end
    start_line = _start_line(first) if len(first) <= LONGEST_REMEMBERED else _start_line.__wrapped__(first)
    return RequestHead(start_line, KnownHeaders.of_lists(_values_by_name(lines)))


@lru_cache(256)
def _start_line(line: bytes) -> RequestStartLine:
    match = REQUEST_LINE.fullmatch(line)
    if match is None:
        raise HTTPInputError(MALFORMED)
    method, target, minor_version = match.groups()
    version = "HTTP/1.0" if minor_version == b"0" else "HTTP/1.1"
    return RequestStartLine(method.decode("ascii"), target.decode("latin-1"), version)


def _values_by_name(lines: list[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise HTTPInputError(MALFORMED)
        # What clients make up shall not fill the memory of names.
        known_name = _field_name(name) if len(name) <= LONGEST_REMEMBERED else _field_name.__wrapped__(name)
        if known_name in values:
            values[known_name].append(value.strip(" \t"))
        else:
            values[known_name] = [value.strip(" \t")]
    return values


@lru_cache(1024)
def _field_name(name: str) -> str:
    if FIELD_NAME.fullmatch(name) is None:
        raise HTTPInputError(MALFORMED)
    return usual_spelling.__wrapped__(name)


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
