"""Tornado's `RequestHandler` in stages: the head is judged as it comes, the method answers when the body is whole.

`take_head` and `answer` are what `RequestHandler._execute` of Tornado 6.6 does in one coroutine, with a future for each
stage and a task for every request; here only a method that waits for something gets a task. Fed by web/dispatch.py.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import tornado.web
from tornado.httputil import ResponseStartLine

from multiverse.cancelling import is_cancelled_itself
from multiverse.web.headers import KnownHeaders, date_now
from multiverse.web.request import GatewayRequest

if TYPE_CHECKING:
    from multiverse.web.dispatch import GatewayApplication

ID_BYTES = 12
IDS_AT_A_TIME = 256
REQUEST_ID = re.compile(r"[A-Za-z0-9._+/=-]{1,200}")
# What every answer begins with, as its names are usually spelled.
FIRST_FIELDS = {"Content-Type": "text/html; charset=UTF-8", "X-Content-Type-Options": "nosniff"}


@tornado.web.stream_request_body
class StagedHandler(tornado.web.RequestHandler):
    """Subclasses write `prepare`, `data_received` and the methods. `request_id` is in the headers of every answer."""

    application: GatewayApplication
    request: GatewayRequest
    _headers: KnownHeaders
    _headers_written = _finished = False
    _auto_finish = True
    _answering: asyncio.Task[None] | None = None

    def __init__(self, application: GatewayApplication, request: GatewayRequest, **shared: Any) -> None:
        """As Tornado's, without what its templates want."""
        self.application = application
        self.request = request
        self.request_id = chosen_request_id(request.fields) or next(application.request_ids)
        self.clear()
        connection: Any = request.connection  # HTTPConnection does not have this method, as Tornado itself regrets.
        connection.set_close_callback(self.on_connection_close)
        self.initialize(**shared)

    def clear(self) -> None:
        """Called by Tornado before anything else, and again before an error is rendered."""
        self._headers = KnownHeaders({**self.first_fields(), "Date": date_now(), "X-Request-Id": self.request_id})
        self.set_default_headers()
        self._write_buffer = []
        self._transforms: list[tornado.web.OutputTransform] = []
        self._status_code, self._reason = 200, "OK"

    def first_fields(self) -> Mapping[str, str]:
        """The headers that an answer begins with, whatever comes of the request; names in their usual spelling."""
        return FIRST_FIELDS

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """As `set_header` for each; a line break in one is found out when the head is written, on either server."""
        self._headers.set_all(headers)

    def compute_etag(self) -> None:
        """No ETag: hashing every answer costs more than it saves."""
        return None

    def take_head(self, path_args: Sequence[bytes] = (), path_kwargs: Mapping[str, bytes] | None = None) -> None:
        """The head has come: judge it, and perhaps answer already."""
        try:
            if self.request.method not in self.SUPPORTED_METHODS:
                raise tornado.web.HTTPError(405)
            self.path_args, self.path_kwargs = [], {}
            if path_args:
                self.path_args = [self.decode_argument(value) for value in path_args]
            if path_kwargs:
                self.path_kwargs = {name: self.decode_argument(value, name) for name, value in path_kwargs.items()}
            fields = self.request.fields
            if "Origin" in fields or "Sec-Fetch-Site" in fields:  # Without them, Tornado has nothing to judge.
                self._cross_origin_protection()
            self.prepare()
        except Exception as error:
            self._handle_request_exception(error)

    def take_body(self, body: bytes) -> None:
        """The body has come in one piece."""
        if body and not self._finished:
            self.data_received(body)

    def answer(self) -> None:
        """The body is whole: let the method of the request answer."""
        if self._finished:
            return
        try:
            method = getattr(self, (self.request.method or "").lower())
            answering = method(*self.path_args, **self.path_kwargs)
            if answering is not None:
                self._answering = asyncio.get_running_loop().create_task(self._see_out(answering))
            elif not self._finished:
                self.finish()
        except Exception as error:
            self._handle_request_exception(error)

    async def _see_out(self, answering: Awaitable[None]) -> None:
        try:
            await answering
            if not self._finished:
                self.finish()
        except asyncio.CancelledError as error:
            if is_cancelled_itself():
                raise
            self._handle_request_exception(error)
        except Exception as error:
            self._handle_request_exception(error)

    def finish_whole(self, body: bytes) -> None:
        """As `finish`, for a body whose headers are set, its length included: nothing is left to find out."""
        connection: Any = self.request.connection
        connection.set_close_callback(None)
        self._headers_written = True
        connection.write_headers(answer_line(self._status_code, self._reason), self._headers, body)
        connection.finish()
        self._finished = True
        self.on_finish()

    def on_connection_close(self) -> None:
        """The client has left. For subclasses: stop what it was for."""


@lru_cache(64)
def answer_line(status: int, reason: str) -> ResponseStartLine:
    """The first line of an answer."""
    return ResponseStartLine("", status, reason)


def chosen_request_id(headers: Mapping[str, str]) -> str:
    """The request id that the client chose, if it is one; `headers` may be `fields`."""
    given = headers.get("X-Request-Id")
    return given if given and REQUEST_ID.fullmatch(given) else ""


def request_ids() -> Iterator[str]:
    """New request ids, which nobody can guess: whoever knows one may ask for its story. Asks the system for many at a
    time.
    """
    while True:
        digits = secrets.token_hex(ID_BYTES * IDS_AT_A_TIME)
        for start in range(0, len(digits), 2 * ID_BYTES):
            yield f"req-{digits[start : start + 2 * ID_BYTES]}"
