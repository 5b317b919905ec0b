"""Reading answers: bytes in, heads and body pieces out, strict about everything that decides where an answer ends.

No socket, no time, no caller: flow and delivery live in connection.py. httptools (llhttp, strict) parses; what it lets
pass and RFC 9112 §6 forbids or leaves open is refused here, and nothing may go on for ever.
"""

from __future__ import annotations

import httptools

from multiverse.transport.failures import BadAnswer
from multiverse.transport.messages import ResponseHead

MAX_HEAD_BYTES = 65536
MAX_HEADER_LINES = 256
MAX_INTERIM_RESPONSES = 16
MAX_FRAMING_BYTES = 65536
MAX_REASON_LENGTH = 200

SUPPORTED_VERSIONS = frozenset({"1.1", "1.0"})
SWITCHING_PROTOCOLS = 101
STATUSES_WITHOUT_BODY = frozenset({204, 304})
# Said twice, these could be read in two ways; httptools itself refuses a second Content-Length.
NEVER_REPEATED = frozenset({"transfer-encoding", "content-encoding"})


class AnswerReader:
    """Reads one answer after the other from one connection; call `expect()` before each.

    `head` is there once the final head has come, `pieces` are body bytes that nobody has taken yet, `complete` says
    that the answer is whole, `keep_alive` whether another may follow, `extra_bytes` that something followed unasked.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._spent = False
        self.expect("GET")

    def expect(self, method: str) -> None:
        """Forget the last answer; the next one is to a request with this method."""
        if self._spent:
            self._parser = httptools.HttpResponseParser(self)
            self._spent = False
        self._is_head_request = method == "HEAD"
        self._headers: dict[str, str] = {}
        self._repeated: list[tuple[str, str]] = []
        self._reason = b""
        self._header_lines = 0
        self._header_bytes = 0
        self._head_bytes = 0
        self._framing_bytes = 0
        self._interim_responses = 0
        self._until_close = False
        self._body_open = False
        self._once_only = False
        self._begins_as_usual = False
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.complete = False
        self.keep_alive = False
        self.extra_bytes = False

    def feed(self, data: bytes) -> None:
        """Read `data`. Raises BadAnswer; body pieces that came before the fault are there then."""
        if self.head is None:
            # A first read may hold much of the body as well, so only what came before it counts: this bounds a line
            # that never ends. Lines that do end are counted in on_header.
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadAnswer("the head of the server's answer is too large")
            if not self._head_bytes:
                self._begins_as_usual = data.startswith(b"HTTP/1.1 ")
            self._head_bytes += len(data)
        refusal: BadAnswer | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            refusal = _refusal(error)
        if refusal is not None:
            if not self.complete:
                raise refusal
            self.extra_bytes = True  # The answer was whole already; what follows it is nobody's.
        if self.pieces:
            self._framing_bytes = 0
        elif self.head is not None and not self.complete:
            # Chunk extensions and trailers without end keep a connection busy and never bring a byte.
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                raise BadAnswer("the server's answer is framing without content")

    def end(self) -> bool:
        """The connection has ended in an orderly way: whether the answer is whole now (RFC 9112 §6.3, §8)."""
        if self._until_close and not self.complete:
            self.complete = True
            self.keep_alive = False
        return self.complete

    def close(self) -> None:
        """No more answers. The parser refers back here: without this, only the garbage collector would free both."""
        del self._parser

    # -- what httptools calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second message is either the final answer after a 1xx, or bytes nobody asked for."""
        if self.complete:
            self.extra_bytes = True
            return
        self._headers = {}
        self._repeated = []
        self._header_lines = 0
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        """The reason phrase, possibly in pieces; it is read for the log only and never sent on."""
        self._reason = (self._reason + reason)[:MAX_REASON_LENGTH]

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; trailers after the body come here too and are dropped (RFC 9110 §6.5.1)."""
        if self.head is not None:
            return
        self._header_lines += 1
        self._header_bytes += len(name) + len(value)
        if self._header_lines > MAX_HEADER_LINES or self._header_bytes > MAX_HEAD_BYTES:
            raise BadAnswer("the server's answer has too many or too long headers")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
        if key not in self._headers:
            self._headers[key] = text
        elif key in NEVER_REPEATED:
            raise BadAnswer("the server's answer says in two ways how its body is coded")
        else:
            self._repeated.append((key, text))

    def on_headers_complete(self) -> None:
        """Final or interim head; framing that could be read in two ways is refused here."""
        if self.complete:
            return
        status = self._parser.get_status_code()
        # To ask the parser is dear, since it makes a text of two numbers.
        usual = self._begins_as_usual and not self._interim_responses
        version = "1.1" if usual else self._parser.get_http_version()
        if version not in SUPPORTED_VERSIONS or status < 100:
            raise BadAnswer()
        if status < 200:
            self._interim(status)
            return
        transfer_encoding = self._headers.get("transfer-encoding")
        if transfer_encoding is not None and transfer_encoding.lower() != "chunked":
            raise BadAnswer("the server's answer has a transfer encoding other than chunked")
        # HTTP/1.0 knows no transfer encoding: its framing may be somebody else's (RFC 9112 §6.1).
        self._once_only = transfer_encoding is not None and version == "1.0"
        self.head = ResponseHead(status, self._reason.decode("latin-1"), self._headers, self._repeated)
        if self._is_head_request:
            self._end_of_head_answer()
        elif status not in STATUSES_WITHOUT_BODY:
            self._body_open = True
            self._until_close = transfer_encoding is None and "content-length" not in self._headers

    def _interim(self, status: int) -> None:
        if status == SWITCHING_PROTOCOLS:
            raise BadAnswer("the server tried to switch protocols")
        self._interim_responses += 1
        if self._interim_responses > MAX_INTERIM_RESPONSES:
            raise BadAnswer("the server sent interim responses without end")

    def _end_of_head_answer(self) -> None:
        # The parser cannot be told that no body follows, whatever the length: this one is of no further use.
        self._spent = True
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive() and not self._once_only

    def on_body(self, data: bytes) -> None:
        """Body bytes without their framing."""
        if self._body_open:
            self.pieces.append(data)
        elif self.complete:
            self.extra_bytes = True
        else:
            raise BadAnswer("the server sent an interim response with a body")

    def on_message_complete(self) -> None:
        """The end of a message by its own framing."""
        if self.head is not None and not self.complete:
            self._body_open = False
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive() and not self._once_only


def _refusal(error: Exception) -> BadAnswer:
    """What the caller is told: our own words where a callback of ours refused, else that it is not HTTP.

    Without tracebacks: their frames lead to the caller, who will hold this exception.
    """
    refused = error.__context__
    if isinstance(refused, BadAnswer):
        return refused.with_traceback(None)
    refusal = BadAnswer()
    refusal.__cause__ = error.with_traceback(None)
    return refusal
