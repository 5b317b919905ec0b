"""One probe: ask a server whether it could answer, and put what it says into one word.

`GET /v1/models`, never a completion: a probe must not cost its owner a token. llama.cpp is also asked for its slots.
What follows from the result (verdicts, counts, rows in the store) is decided in health.py.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

import msgspec

from multiverse.clock import Clock
from multiverse.servers.identity import Registration
from multiverse.servers.outgoing import request_headers
from multiverse.servers.tunnels import is_html, tunnel_reason
from multiverse.transport.failures import AnswerTimeout, ConnectFailed, NoRoom, TransportError
from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import RequestForm, ServerRequest

MAX_PROBE_BODY_BYTES = 4 * 1024 * 1024
MOST_SLOTS = 4096
SAYS_LLAMA_CPP = b'"llamacpp"'
LOADING = "the server is loading its model"
ON_THIS_MACHINE = "Its address means the gateway's own machine."
OLLAMA_BEHIND_A_TUNNEL = (
    ", or if it is Ollama behind a tunnel, have the tunnel set the `Host` header to localhost:11434"
)
DOES_NOT_TELL = frozenset({404, 405, 501})
ROUTE_NOT_OFFERED = frozenset({404, 405, 500, 501})


class Finding(Enum):
    """What a probe found."""

    GOOD = "good"
    ALIVE = "alive"  # No good answer, but a request is being answered: said by health.py, never here.
    LOADING = "loading"
    BUSY = "busy"
    FAILED = "failed"
    NOT_ASKED = "not asked"  # The gateway's own machine could not: it says nothing about the server.


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A finding, a sentence for the owner, how long the answer took in milliseconds, and the models that it lists.

    `model_names` is None where there is no list, or one whose entries have no ids. `slots_asked` says that `slots` is
    the server's word, None from one that does not tell; otherwise it was not asked, or did not get to answer.
    """

    finding: Finding
    reason: str | None
    response_time_ms: float
    model_names: frozenset[str] | None = None
    slots: int | None = None
    slots_asked: bool = False

    @property
    def ok(self) -> bool:
        """Whether the server can take requests as far as a probe can tell."""
        return self.finding in (Finding.GOOD, Finding.ALIVE)


class ModelList(msgspec.Struct):
    """The part of an OpenAI model list that makes it one."""

    data: list[msgspec.Raw]


class ListedModel(msgspec.Struct):
    """The part of an entry that names a model."""

    id: str


class NamedModels(msgspec.Struct):
    """A model list whose entries all have a name."""

    data: list[ListedModel]


class Props(msgspec.Struct):
    """The part of llama.cpp's `/props` that counts slots."""

    total_slots: int


class Prober:
    """Sends probes. `timeout_seconds` bounds each of them, whatever it takes, `connect_timeout_seconds` each dial;
    `via` names this gateway.
    """

    def __init__(
        self,
        *,
        transport: StreamingHTTPClient,
        clock: Clock,
        timeout_seconds: float,
        connect_timeout_seconds: float,
        via: str,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._connect_timeout_seconds = connect_timeout_seconds
        self._via = via

    async def probe(self, registration: Registration, *, wants_slots: bool = False) -> ProbeResult:
        """Ask the server of `registration`, `wants_slots` also for its slots if it is one that tells. Never raises for
        anything a server does.
        """
        slots: int | None = None
        slots_asked = False
        started = self._clock.monotonic()
        finding: Finding
        reason: str | None
        names: frozenset[str] | None = None
        try:
            deadline = started + self._timeout_seconds
            finding, reason, body = await self._ask(registration, deadline)
            if finding is Finding.GOOD:
                names = listed_names(body)
                if SAYS_LLAMA_CPP not in body:
                    slots_asked = True  # It may have taken the place of one that told.
                elif wants_slots:
                    slots, slots_asked = await self._ask_for_slots(registration, deadline)
        except AnswerTimeout:
            seconds = self._timeout_seconds
            finding = Finding.FAILED
            reason = f"the server did not answer the probe within {seconds:g} s; is the machine awake?"
        except NoRoom as error:
            finding, reason = Finding.NOT_ASKED, error.reason
        except TransportError as error:
            finding, reason = Finding.FAILED, error.reason
            if type(error) is ConnectFailed and is_loopback(registration.endpoint.host):  # Nobody is there at all.
                reason = f"{reason} {ON_THIS_MACHINE}"
        took_ms = round((self._clock.monotonic() - started) * 1000, 1)
        return ProbeResult(finding, reason, took_ms, names, slots, slots_asked)

    async def _ask(self, registration: Registration, deadline: float) -> tuple[Finding, str | None, bytes]:
        answer = status, headers, body = await self._get(registration, "/v1/models", deadline)
        if status in ROUTE_NOT_OFFERED and not is_html(headers, body) and tunnel_reason(*answer) is None:
            finding, reason = judge_health(status, *await self._get(registration, "/health", deadline))
            body = b""
        else:
            finding, reason = judge_models(*answer)
        if finding is Finding.FAILED and status in (200, 404) and registration.endpoint.path:
            reason = f"{reason}; is the path in its address right?"
        return finding, reason, body

    async def _ask_for_slots(self, registration: Registration, deadline: float) -> tuple[int | None, bool]:
        """llama.cpp's `--parallel`, None where it does not tell; and whether that is its word."""
        for route in ("/props", "/slots"):
            try:
                status, _headers, body = await self._get(registration, route, deadline)
            except TransportError:
                return None, False
            slots = read_slots(body) if status == 200 else None
            if slots is not None:
                return slots, True
            if status != 200 and status not in DOES_NOT_TELL:
                return None, False
        return None, True

    async def _get(self, registration: Registration, route: str, deadline: float) -> tuple[int, dict[str, str], bytes]:
        endpoint = registration.endpoint
        seconds = max(deadline - self._clock.monotonic(), 0.0)
        form = RequestForm(
            endpoint,
            endpoint.path + route,
            header_items=request_headers(registration, via=self._via),
            connect_timeout=min(seconds, self._connect_timeout_seconds),
            request_timeout=seconds,
            max_body_size=MAX_PROBE_BODY_BYTES,
        )
        response = await self._transport.fetch(ServerRequest(form))
        headers: dict[str, str] = response.head.headers  # type: ignore[attr-defined]
        return response.code, headers, response.body


def is_loopback(host: str) -> bool:
    """Whether a host of an `Endpoint` means this machine (RFC 6761 §6.3), as it seldom does for who registers it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rpartition(".")[2] == "localhost"


def read_slots(body: bytes) -> int | None:
    """The number of slots in llama.cpp's answer to `GET /props` or `GET /slots`; None for anything else."""
    try:
        found = msgspec.json.decode(body, type=Props | list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    slots = len(found) if isinstance(found, list) else found.total_slots
    return slots if 1 <= slots <= MOST_SLOTS else None


def judge_models(status: int, headers: dict[str, str], body: bytes) -> tuple[Finding, str | None]:
    """What an answer to `GET /v1/models` means."""
    tunnel = tunnel_reason(status, headers, body)
    if tunnel is not None:
        return Finding.FAILED, tunnel
    if 300 <= status < 400:
        return Finding.FAILED, f"the address redirects elsewhere ({status}); register the address it redirects to"
    if is_html(headers, body):
        return Finding.FAILED, "the address answers with a web page instead of a model list; is it the API's address?"
    return judge_model_list(body) if status == 200 else judge_status(status, body)


def judge_model_list(body: bytes) -> tuple[Finding, str | None]:
    """A 200 is good only if it holds what a model list holds."""
    try:
        msgspec.json.decode(body, type=ModelList)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return Finding.FAILED, "GET /v1/models answers, but not with a JSON object that has a `data` list"
    return Finding.GOOD, None


def listed_names(body: bytes) -> frozenset[str] | None:
    """The ids in a model list; None when its entries are not what they should be."""
    try:
        return frozenset(model.id for model in msgspec.json.decode(body, type=NamedModels).data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def judge_health(models_status: int, status: int, headers: dict[str, str], body: bytes) -> tuple[Finding, str | None]:
    """What an answer to `GET /health` means, where `/v1/models` is not offered (`models_status`)."""
    if tunnel_reason(status, headers, body) is None and not is_html(headers, body):
        if status == 200:
            return Finding.GOOD, None
        if is_loading(status, body):
            return Finding.LOADING, LOADING
    return Finding.FAILED, f"GET /v1/models answers with status {models_status}, and GET /health is no better"


def judge_status(status: int, body: bytes) -> tuple[Finding, str | None]:
    """What a probe's answer other than 200 means."""
    if is_loading(status, body):
        return Finding.LOADING, LOADING
    if status == 429:
        return Finding.BUSY, "the server is busy"
    if status == 508:
        return Finding.FAILED, "the registration leads back to this gateway; deregister it"
    if status in (401, 403):
        reason = f"the server refuses the gateway's key ({status}); update `api_key` in the registration"
        return Finding.FAILED, f"{reason}{OLLAMA_BEHIND_A_TUNNEL}" if status == 403 and not body.strip() else reason
    return Finding.FAILED, f"GET /v1/models answers with status {status}"


def is_loading(status: int, body: bytes) -> bool:
    """llama.cpp answers every route with 503 "Loading model" until it can work."""
    return status == 503 and b"loading" in body[:4096].lower()
