"""What a server is asked: the client's bytes under the server's name for the model, and usage where it can be had.

A body is changed in two values at most (rewrite.py); headers are built anew (servers/outgoing.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiverse.errors import GatewayError, ServerTimeout
from multiverse.proxy.call import Call
from multiverse.proxy.rewrite import replace_model, with_usage_asked
from multiverse.servers.outgoing import request_headers
from multiverse.servers.server import Server
from multiverse.transport.messages import RequestForm, ServerRequest

if TYPE_CHECKING:
    from multiverse.proxy.relay import Relay

STREAM = "Ask with `stream` set to true, which has no such limit, or for fewer tokens."
REPORT_USAGE_WHEN_ASKED = ("/v1/chat/completions", "/v1/completions")
# Routes are what clients make up, and `Via` is what gateways in front do: neither shall fill the memory.
LONGEST_REMEMBERED, FORMS_REMEMBERED = 256, 16


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Limits of one request, in seconds and bytes; docs/reliability.md says what follows from each."""

    max_attempts: int
    connect_timeout_seconds: float
    request_timeout_seconds: float
    stream_idle_timeout_seconds: float
    stream_max_seconds: float
    plain_max_seconds: float | None
    stream_keepalive_seconds: float
    max_response_body_size: int
    max_event_size: int
    show_server_id: bool


def plain_deadline(seconds: float, end: Callable[[GatewayError], None]) -> asyncio.TimerHandle:
    """Have a plain request ended, which cannot be kept alive, before somebody in front does."""
    error = ServerTimeout(f"No whole answer came within {seconds:g} s, the longest that is possible here. {STREAM}")
    return asyncio.get_running_loop().call_later(seconds, end, error)


def body_asking_for_usage(call: Call, server: Server) -> tuple[bytes, bool] | None:
    """A stream's body that asks for usage on the client's behalf, and whether the client shall see it too.

    None where it has asked itself, or asking makes no sense.
    """
    if server.refuses_usage or call.route not in REPORT_USAGE_WHEN_ASKED:
        return None
    return with_usage_asked(call.body)


def server_request(call: Call, server: Server, relay: Relay, body: bytes, settings: ForwardSettings) -> ServerRequest:
    """The request to `server`, whose answer goes to `relay`."""
    registration, story = server.registration, call.story
    asked_for = registration.served_model_name or registration.model_name
    if asked_for != call.model_name:
        body = replace_model(body, asked_for)
    own_items = [("X-Request-ID", call.request_id)]
    if story.trace is not None:
        own_items.append(("traceparent", story.trace.header(story.steps[-1].span_id)))
    form = server.forms.get((call.route, call.stream, call.via)) or _form(call, server, settings)
    return ServerRequest(form, own_items, body, relay.on_head, relay.on_data)


def _form(call: Call, server: Server, settings: ForwardSettings) -> RequestForm:
    """What all requests to `server` that are like `call` have in common; remembered by the server."""
    registration = server.registration
    accept = "text/event-stream" if call.stream else "application/json"
    headers = request_headers(
        registration,
        via=call.via,
        accept="*/*" if call.route.startswith("/v1/audio/") else accept,
        content_type="application/json",
    )
    form = RequestForm(
        registration.endpoint,
        registration.endpoint.path + call.route,
        method="POST",
        header_items=headers,
        connect_timeout=settings.connect_timeout_seconds,
        content_timeout=settings.request_timeout_seconds,
        request_timeout=settings.stream_max_seconds if call.stream else None,
        wants_response=False,
    )
    if len(call.route) <= LONGEST_REMEMBERED:
        if len(server.forms) >= FORMS_REMEMBERED:
            server.forms.clear()
        server.forms[call.route, call.stream, call.via] = form
    return form
