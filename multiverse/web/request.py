"""Tornado's `HTTPServerRequest`, built at once where its head leaves nothing to find out.

Tornado parses the query of every request twice and judges its host each time. Here a request without a query to a host
that was judged before, nearly every one, costs a few assignments; all others are Tornado's own business.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine, ResponseStartLine

from multiverse.web.headers import LONGEST_REMEMBERED, KnownHeaders

ABSOLUTE_FORM = re.compile(r"(?i:https?)://([^/?#@]+)(/[^?]*)?(\?.*)?")


class GatewayRequest(HTTPServerRequest):
    """A request of Tornado 6.6, with the values of its headers by name in its usual spelling as `fields`.

    Raises HTTPInputError for a host or a query that is none.
    """

    query = ""
    body = b""
    _finish_time = None

    def __init__(
        self,
        connection: Any,
        server_connection: object,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
    ) -> None:
        assert isinstance(start_line, RequestStartLine)
        method, target, version = start_line
        fields = self.fields = headers.fields if isinstance(headers, KnownHeaders) else dict(headers)
        host = fields.get("Host")
        if host is None or len(host) > LONGEST_REMEMBERED or "?" in target or not target.startswith("/"):
            start_line, headers = _in_origin_form(start_line, headers)
            self.fields = headers.fields if isinstance(headers, KnownHeaders) else dict(headers)
            super().__init__(
                connection=connection, server_connection=server_connection, start_line=start_line, headers=headers
            )
            return
        self.method, self.uri, self.version = method, target, version
        self.headers = headers
        self.host, self.host_name = host, _judged_host(host)
        self.path = target
        self.connection, self.server_connection = connection, server_connection
        context = connection.context
        self.remote_ip, self.protocol = context.remote_ip, context.protocol
        self.arguments, self.query_arguments, self.body_arguments, self.files = {}, {}, {}, {}
        self._start_time = time.time()


def _in_origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> tuple[RequestStartLine, HTTPHeaders]:
    """A target in absolute form, as clients of a proxy send it, names path and host; its `Host` counts no longer
    (RFC 9112 §3.2.2). A request without `Host` stays the fault that it is; raises HTTPInputError for one that is none.
    """
    match = ABSOLUTE_FORM.fullmatch(start_line.path)
    if match is None or "Host" not in headers:
        return start_line, headers
    _judged_host.__wrapped__(headers["Host"])
    authority, path, query = match.groups(default="")
    headers = headers.copy()
    headers["Host"] = authority
    return start_line._replace(path=f"{path or '/'}{query}"), headers


@lru_cache(256)
def _judged_host(host: str) -> str:
    """Tornado's `host_name` of a `Host`. Raises HTTPInputError, which is not remembered."""
    start_line = RequestStartLine("GET", "/", "HTTP/1.1")
    return HTTPServerRequest(start_line=start_line, headers=HTTPHeaders({"Host": host})).host_name
