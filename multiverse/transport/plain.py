"""Plain `fetch("http://…")` as Tornado documents it, in terms of the gateway's own requests and answers.

Departures from `simple_httpclient`: no redirects are followed, connections are kept, failures are `TransportError`s,
trust and routes belong to the `Dialler`. What cannot be done is refused, never left out in silence.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders

from multiverse.errors import InvalidRequest
from multiverse.transport.addresses import Endpoint, parse_endpoint
from multiverse.transport.messages import METHODS_WITH_A_BODY, RequestForm, ResponseHead, ServerRequest

MAX_BODY_BYTES = 104857600  # simple_httpclient's own limit.
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"})
UNSUPPORTED = (
    *("body_producer", "network_interface", "proxy_host", "proxy_port", "proxy_username", "prepare_curl_callback"),
    *("ca_certs", "client_key", "client_cert", "ssl_options"),
)


def server_request(plain: HTTPRequest, defaults: dict[str, Any]) -> ServerRequest:
    """What `plain` asks for; `defaults` hold what it leaves open.

    Raises ValueError for what is no valid request and NotImplementedError for what this client does not do.
    """

    def setting(name: str) -> Any:
        value = getattr(plain, name)
        return defaults.get(name) if value is None else value

    _refuse_unsupported(plain, setting)
    _check_body(plain, setting)
    endpoint, target = endpoint_and_target(plain.url)
    headers = _headers(plain, setting)
    host = headers.pop("Host", None)
    form = RequestForm(
        endpoint,
        target,
        method=plain.method,
        header_items=list(headers.get_all()),
        connect_timeout=setting("connect_timeout") or None,
        request_timeout=setting("request_timeout") or None,
        max_body_size=MAX_BODY_BYTES,
        host=host,
        decompress=bool(setting("decompress_response")),
    )
    return ServerRequest(
        form,
        body=plain.body,
        response_callback=_announcer(plain.header_callback),
        streaming_callback=plain.streaming_callback,
    )


def _refuse_unsupported(plain: HTTPRequest, setting: Callable[[str], Any]) -> None:
    for name in UNSUPPORTED:
        if getattr(plain, name, None):
            raise NotImplementedError(f"{name} is not supported")
    if not setting("validate_cert"):
        raise NotImplementedError("validate_cert=False is not supported; give the Dialler a tls_context")
    if plain.auth_mode not in (None, "basic"):
        raise NotImplementedError(f"auth_mode {plain.auth_mode} is not supported")


def _check_body(plain: HTTPRequest, setting: Callable[[str], Any]) -> None:
    if setting("allow_nonstandard_methods"):
        return
    if plain.method not in METHODS:
        raise ValueError(f"unknown method {plain.method}")
    expected = plain.method in METHODS_WITH_A_BODY
    if expected != (plain.body is not None):
        word = "not " if expected else ""
        raise ValueError(f"body must {word}be None for {plain.method} (unless allow_nonstandard_methods is true)")


def endpoint_and_target(url: str) -> tuple[Endpoint, str]:
    """Where `url` leads, and what is asked for there. Raises ValueError, which does not repeat path and query."""
    origin, target = _split(url)
    try:
        return parse_endpoint(origin), target
    except InvalidRequest as error:
        raise ValueError(f"not a URL this client can fetch: {origin!r}") from error


def _split(url: str) -> tuple[str, str]:
    """`http://host:1` and `/path?query` of a URL; its fragment stays here."""
    url = url.partition("#")[0]
    scheme, separator, rest = url.partition("://")
    end = min((found for mark in "/?" if (found := rest.find(mark)) >= 0), default=len(rest))
    target = rest[end:]
    return scheme + separator + rest[:end], target if target.startswith("/") else f"/{target}"


def _headers(plain: HTTPRequest, setting: Callable[[str], Any]) -> HTTPHeaders:
    headers = HTTPHeaders(plain.headers)
    headers.pop("Content-Length", None)
    user_agent, user_name = setting("user_agent"), setting("auth_username")
    if user_agent and "User-Agent" not in headers:
        headers["User-Agent"] = user_agent
    if user_name is not None:
        secret = f"{user_name}:{setting('auth_password') or ''}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    if setting("decompress_response") and "Accept-Encoding" not in headers:
        headers["Accept-Encoding"] = "gzip"
    return headers


def _announcer(header_callback: Callable[[str], None] | None) -> Callable[[ResponseHead], None] | None:
    """Tornado hands over the head line by line, the status line first and an empty one last."""
    if header_callback is None:
        return None

    def announce(head: ResponseHead) -> None:
        header_callback(f"HTTP/1.1 {head.status} {head.reason}\r\n")
        for name, value in (*head.headers.items(), *head.repeated):
            header_callback(f"{name}: {value}\r\n")
        header_callback("\r\n")

    return announce
