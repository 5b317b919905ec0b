"""One probe: ask a server whether it could answer, and put what it says into one of four words.

`GET /v1/models`, never a completion: a probe must not cost its owner a token. What follows from the result (verdicts,
counts, rows in the store) is decided in health.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec
from tornado.httpclient import HTTPResponse

from multiverse.clock import Clock
from multiverse.servers.outgoing import request_headers
from multiverse.servers.server import Registration
from multiverse.servers.tunnels import is_html, tunnel_reason
from multiverse.transport.failures import TransportError
from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import ServerRequest

MAX_PROBE_BODY_BYTES = 4 * 1024 * 1024
ROUTE_NOT_OFFERED = frozenset({404, 405, 500, 501})


class Finding(Enum):
    """What a probe found."""

    GOOD = "good"
    LOADING = "loading"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A finding, a sentence for the owner, and how long the answer took in milliseconds."""

    finding: Finding
    reason: str | None
    response_time_ms: float

    @property
    def ok(self) -> bool:
        """Whether the server can take requests as far as a probe can tell."""
        return self.finding is Finding.GOOD


class ModelList(msgspec.Struct):
    """The part of an OpenAI model list that makes it one."""

    data: list[msgspec.Raw]


class Prober:
    """Sends probes. `timeout_seconds` bounds each request, connecting included; `via` names this gateway."""

    def __init__(self, *, transport: StreamingHTTPClient, clock: Clock, timeout_seconds: float, via: str) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._via = via

    async def probe(self, registration: Registration) -> ProbeResult:
        """Ask the server of `registration`. Never raises for anything a server does."""
        started = self._clock.monotonic()
        try:
            finding, reason = await self._ask(registration)
        except TransportError as error:
            finding, reason = Finding.FAILED, error.reason
        return ProbeResult(finding, reason, round((self._clock.monotonic() - started) * 1000, 1))

    async def _ask(self, registration: Registration) -> tuple[Finding, str | None]:
        response = await self._get(registration, "/v1/models")
        status, body = response.code, response.body
        headers: dict[str, str] = response.head.headers  # type: ignore[attr-defined]
        tunnel = tunnel_reason(status, headers, body)
        if tunnel is not None:
            return Finding.FAILED, tunnel
        if status == 200:
            return judge_model_list(headers, body)
        if status in ROUTE_NOT_OFFERED and not is_html(headers, body):
            health = await self._get(registration, "/health")
            if health.code == 200:
                return Finding.GOOD, None
        return judge_status(status, body)

    async def _get(self, registration: Registration, route: str) -> HTTPResponse:
        endpoint = registration.endpoint
        return await self._transport.fetch(
            ServerRequest(
                endpoint,
                endpoint.path + route,
                header_items=request_headers(registration, via=self._via),
                connect_timeout=self._timeout_seconds,
                request_timeout=self._timeout_seconds,
                max_body_size=MAX_PROBE_BODY_BYTES,
            )
        )


def judge_model_list(headers: dict[str, str], body: bytes) -> tuple[Finding, str | None]:
    """A 200 is good only if it holds what a model list holds."""
    if is_html(headers, body):
        return Finding.FAILED, "the address answers with a web page instead of a model list; is it the API's address?"
    try:
        msgspec.json.decode(body, type=ModelList)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return Finding.FAILED, "GET /v1/models answers, but not with a JSON object that has a `data` list"
    return Finding.GOOD, None


def judge_status(status: int, body: bytes) -> tuple[Finding, str | None]:
    """What a probe's answer other than 200 means."""
    if status == 503 and b"loading" in body[:4096].lower():
        return Finding.LOADING, "the server is loading its model"
    if status == 429:
        return Finding.BUSY, "the server is busy"
    if status in (401, 403):
        return Finding.FAILED, f"the server refuses the gateway's key ({status}); update `api_key` in the registration"
    if 300 <= status < 400:
        return Finding.FAILED, f"the address redirects elsewhere ({status}); register the address it redirects to"
    return Finding.FAILED, f"GET /v1/models answers with status {status}"
