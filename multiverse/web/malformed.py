"""The answer to bytes that are no HTTP request, for both HTTP servers: 400 in OpenAI's shape, and a line in the log."""

from __future__ import annotations

import logging
import re

import msgspec
from tornado.httputil import HTTPHeaders

from multiverse.errors import InvalidRequest, envelope
from multiverse.web.handlers.staged import chosen_request_id, request_ids

LOG = logging.getLogger(__name__)

# What stands in quotes is the client's, and may be a key.
QUOTED = re.compile(r"['\"].*", re.DOTALL)


def log_malformed(client: str, problem: str) -> None:
    """Tell the admin that `client` has sent something that is no request."""
    LOG.info("malformed request", extra={"fields": {"client": client, "problem": QUOTED.sub("", problem)[:100]}})


def malformed_answer(headers: HTTPHeaders | None) -> bytes:
    """A whole response that closes; `headers` are those of the request, as far as they could be read."""
    error = InvalidRequest("The request is malformed: its request line, headers or body do not follow HTTP/1.1.")
    body = msgspec.json.encode(envelope(error))
    lines = (
        f"HTTP/1.1 {error.status} Bad Request",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {chosen_request_id(headers or HTTPHeaders()) or next(request_ids())}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii") + body
