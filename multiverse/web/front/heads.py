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
# Heads are remembered up to this size.
LONGEST_KNOWN_BYTES = 2_048
MALFORMED = "malformed request line or header"

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# What a head may begin with: a method, or the empty line that RFC 9112 §2.2 forgives. A TLS handshake begins with 0x16.
BEGINNINGS = frozenset(byte for byte in range(128) if re.fullmatch(TOKEN, bytes((byte,))) or byte in b"\r")
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([0-9])")
FIELD_NAME = re.compile(TOKEN.decode("ascii"))
LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,%d})\r\n" % MOST_LENGTH_DIGITS)
FIELDS = re.compile(rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")


class RequestHead:
    """One request's head. `length` is that of its body in bytes, None when it comes in chunks."""

    __slots__ = ("expects", "headers", "keep_alive", "length", "method", "start_line", "version")

    def __init__(self, start_line: RequestStartLine, headers: KnownHeaders) -> None:
        self.start_line = start_line
        self.method, _target, self.version = start_line
        self.headers = headers
        self.length: int | None = 0
        self.keep_alive = _keep_alive(self.version, headers.fields.get("Connection"))
        self.expects = "Expect" in headers.fields

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body (RFC 9110 §10.1.1)."""
        return self.headers.get("Expect", "").lower() == "100-continue" and self.version == "HTTP/1.1"

    def read_framing(self) -> None:
        """Find out how the body ends. Raises HTTPInputError where that is not beyond doubt."""
        fields = self.headers.fields
        coding, length = fields.get("Transfer-Encoding"), fields.get("Content-Length")
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
        if len(self.headers.get_list("Host")) > 1:
            raise HTTPInputError("repeated Host")

    def with_length(self, digits: bytes) -> RequestHead:
        """The same head with another `Content-Length`."""
        head = RequestHead.__new__(RequestHead)
        head.start_line, head.method, head.version = self.start_line, self.method, self.version
        head.keep_alive, head.expects = self.keep_alive, self.expects
        headers = self.headers
        head.headers = KnownHeaders({**headers.fields, "Content-Length": digits.decode("ascii")}, headers.repeated)
        head.length = int(digits)
        return head


class WrongFraming(HTTPInputError):
    """Nobody can be sure how the body ends; `headers` are those of the request."""

    def __init__(self, problem: str, headers: HTTPHeaders) -> None:
        super().__init__(problem)
        self.headers = headers


class HeadReader:
    """Reads the heads of one connection. Most clients send the same one again, but for the length of the body: then
    only that is read, for the rest was found right.
    """

    __slots__ = ("_after", "_before", "_last")

    def __init__(self) -> None:
        self._before = self._after = b""
        self._last: RequestHead | None = None

    def read(self, data: bytes) -> RequestHead:
        """As `read_head`, with the framing read. Raises HTTPInputError, WrongFraming once the fields are known."""
        before, after = self._before, self._after
        if self._last is not None and data.startswith(before) and data.endswith(after):
            digits = data[len(before) : len(data) - len(after)]
            if digits.isdigit() and len(digits) <= MOST_LENGTH_DIGITS:
                return self._last.with_length(digits)
        head = read_head(data)
        try:
            head.read_framing()
        except HTTPInputError as error:
            raise WrongFraming(str(error), head.headers) from error
        self._note(data, head)
        return head

    def _note(self, data: bytes, head: RequestHead) -> None:
        match = LENGTH_LINE.search(data) if len(data) <= LONGEST_KNOWN_BYTES else None
        if match is None:
            self._last, self._before, self._after = None, b"", b""
        else:
            self._last, self._before, self._after = head, data[: match.start(1)], data[match.end(1) :]


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
    return RequestHead(start_line, _headers(lines))


@lru_cache(256)
def _start_line(line: bytes) -> RequestStartLine:
    match = REQUEST_LINE.fullmatch(line)
    if match is None:
        raise HTTPInputError(MALFORMED)
    method, target, minor_version = match.groups()
    version = "HTTP/1.0" if minor_version == b"0" else "HTTP/1.1"
    return RequestStartLine(method.decode("ascii"), target.decode("latin-1"), version)


def _headers(lines: list[str]) -> KnownHeaders:
    fields: dict[str, str] = {}
    headers = KnownHeaders(fields)
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise HTTPInputError(MALFORMED)
        # What clients make up shall not fill the memory of names.
        known_name = _field_name(name) if len(name) <= LONGEST_REMEMBERED else _field_name.__wrapped__(name)
        if known_name in fields:
            headers.add(known_name, value.strip(" \t"))
        else:
            fields[known_name] = value.strip(" \t")
    return headers


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
