"""What a server's answer or failure means: may another server be tried, who is to blame, what would the client be told.

The table of docs/api.md, "Commit", as pure functions. Nothing is decided twice: relay.py collects what came,
forwarding.py acts on the `Verdict`.
"""

from __future__ import annotations

import email.utils
import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from multiverse.clock import Clock
from multiverse.errors import (
    GatewayError,
    ModelLoading,
    ModelNotFound,
    NotFound,
    Overloaded,
    ServerDisconnected,
    ServerFailed,
    ServerRefused,
    ServerTimeout,
)
from multiverse.redaction import ANYWHERE_MIN_LENGTH, REDACTED
from multiverse.servers.server import Blame
from multiverse.servers.tunnels import is_html, tunnel_reason
from multiverse.transport.failures import (
    Abandoned,
    AnswerTimeout,
    AnswerTooLarge,
    ConnectFailed,
    Disconnected,
    NoRoom,
    TotalTimeout,
    TransportError,
)

DEFAULT_BUSY_SECONDS = 1.0
NO_ROOM_SECONDS = 5.0
LONGEST_BUSY_SECONDS = 600.0
LONGEST_SERVER_TEXT = 2000
# With one of them, an `error` is part of an answer: of a response that failed, of one document among several.
FIELDS_OF_ANSWERS = frozenset({"choices", "content", "data", "id", "object", "output", "results", "text"})
WRONG_ROUTE = "Unexpected endpoint or method"  # LM Studio, with status 200
# Errors in an event that are no failure of the server, in OpenAI's words: as `type`, or as `code` that is no status.
REQUESTS_ERRORS = frozenset({"invalid_request_error", "context_length_exceeded", "invalid_prompt"})
NOBODYS_ERRORS = REQUESTS_ERRORS | {"rate_limit_error", "rate_limit_exceeded"}
ROUTE_IN_TEXT = re.compile(r"/v1/\S*")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

FAILED = "No server could answer: those that were tried failed. Send the request again, or ask the server's owner."
NO_ROOM = "The gateway has no room for another connection at present. Send the request again in a moment."
TOO_SLOW = "The server took too long to answer. Try a shorter prompt, fewer tokens or another model."
TOO_LARGE = "The server's answer is larger than this gateway passes on. Ask for fewer tokens."
BROKE_OFF = "The server broke off in the middle of its answer. Send the request again."
FELL_SILENT = "The server fell silent in the middle of its answer. Send the request again."
TOO_LONG = "The stream was ended because it took longer than this gateway allows."


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of one failed attempt.

    `error` is what the client is told if this attempt was the last; `reason` is for the owner. `busy_seconds` is how
    long others should be preferred; `body` is a server's own 4xx, to be passed on byte for byte; `usage_refused` says
    that it complains of being asked for usage.
    """

    error: GatewayError
    reason: str
    blame: Blame = Blame.FAILURE
    try_next: bool = True
    connect_failed: bool = False
    busy_seconds: float | None = None
    model_missing: bool = False
    key_refused: bool = False
    usage_refused: bool = False
    body: bytes | None = None

    @property
    def weight(self) -> int:
        """Which of several verdicts the client should hear: busy (worth a retry), then failed, then not found."""
        if self.busy_seconds is not None:
            return 3
        return 1 if isinstance(self.error, NotFound) else 2

    def or_rather(self, later: Verdict) -> Verdict:
        """Which of the two the client should hear: by weight; of two busy servers, the one that is free sooner."""
        if self.weight != later.weight:
            return max(self, later, key=lambda verdict: verdict.weight)
        wait, later_wait = self.error.retry_after_seconds, later.error.retry_after_seconds
        return self if wait is not None and later_wait is not None and wait < later_wait else later


class ServerError(msgspec.Struct):
    """The error object of OpenAI's shape, as far as we look into it."""

    message: str
    code: Any = None


class ErrorBody(msgspec.Struct):
    """A body in OpenAI's error shape."""

    error: ServerError


def failure_verdict(failure: TransportError) -> Verdict:
    """What a `TransportError` before the commit means."""
    if isinstance(failure, TotalTimeout):
        return Verdict(ServerTimeout(TOO_SLOW), failure.reason, blame=Blame.NONE, try_next=False)
    if isinstance(failure, AnswerTimeout):
        return Verdict(ServerTimeout(TOO_SLOW), failure.reason, try_next=False)
    if isinstance(failure, AnswerTooLarge):
        return Verdict(ServerFailed(TOO_LARGE), failure.reason, try_next=False)
    if isinstance(failure, Abandoned):
        return Verdict(ServerFailed(FAILED), failure.reason, blame=Blame.NONE, try_next=False)
    if isinstance(failure, NoRoom):  # The next server may be one that has an open connection left.
        return Verdict(Overloaded(NO_ROOM, retry_after_seconds=NO_ROOM_SECONDS), failure.reason, blame=Blame.NONE)
    # A reset may be the laptop going to sleep: the next pick had better not find out again.
    lost = isinstance(failure, (ConnectFailed, Disconnected))
    return Verdict(ServerFailed(FAILED), failure.reason, connect_failed=lost)


def broken_stream_verdict(failure: TransportError) -> Verdict:
    """What a `TransportError` after the commit means; nothing can be tried any more."""
    if isinstance(failure, TotalTimeout):
        return Verdict(ServerTimeout(TOO_LONG), failure.reason, blame=Blame.NONE, try_next=False)
    if isinstance(failure, AnswerTimeout):
        return Verdict(ServerTimeout(FELL_SILENT), failure.reason, try_next=False)
    if isinstance(failure, AnswerTooLarge):
        return Verdict(ServerFailed(TOO_LARGE), failure.reason, try_next=False)
    if isinstance(failure, Abandoned):
        return Verdict(ServerDisconnected(BROKE_OFF), failure.reason, blame=Blame.NONE, try_next=False)
    return Verdict(ServerDisconnected(BROKE_OFF), failure.reason, try_next=False)


def bad_answer_verdict(reason: str) -> Verdict:
    """A 200 that is not what was asked for."""
    return Verdict(ServerFailed(FAILED), reason)


def hidden_error_verdict(body: bytes, model_name: str, api_key: str | None = None) -> Verdict | None:
    """What a 200 means whose JSON is an error and nothing else; None for an answer.

    Libraries would take it for an answer without content. Where it carries a status of its own, that one counts. What
    goes on of it has no `api_key` in it.
    """
    try:
        found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        error = msgspec.json.decode(found.get("error", b"null"))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    if not error or not FIELDS_OF_ANSWERS.isdisjoint(found):
        return None
    status = _status_of(error) if isinstance(error, dict) else None
    if status is not None and 400 <= status <= 599:
        return answer_verdict(status, {}, without_key(body, api_key), model_name)
    if isinstance(error, str) and error.startswith(WRONG_ROUTE):
        return _route_not_offered_verdict()
    words = _words_of(error) if isinstance(error, dict) else []
    if not REQUESTS_ERRORS.isdisjoint(words):
        return answer_verdict(400, {}, without_key(body, api_key), model_name)
    if not NOBODYS_ERRORS.isdisjoint(words):
        return answer_verdict(429, {}, without_key(body, api_key), model_name)
    return bad_answer_verdict("the server answers with status 200, but only with an error")


def reported_error_blame(error: Any) -> Blame:
    """Whom an error counts against that a server reports in its stream: nobody, where it is the request's.

    A number as `code` (or `status`) is the status it would have been; otherwise OpenAI's words for it decide.
    """
    if not isinstance(error, dict):
        return Blame.FAILURE
    status = _status_of(error)
    if status is not None:
        return Blame.NONE if 400 <= status < 500 else Blame.FAILURE
    return Blame.FAILURE if NOBODYS_ERRORS.isdisjoint(_words_of(error)) else Blame.NONE


def _status_of(error: dict[str, Any]) -> int | None:
    for told in (error.get("code"), error.get("status")):
        if isinstance(told, str) and told.isascii() and told.isdigit():
            return int(told[:6])
        if isinstance(told, int):
            return told
    return None


def _words_of(error: dict[str, Any]) -> list[str]:
    return [word for word in (error.get("code"), error.get("type")) if isinstance(word, str)]


def answer_verdict(status: int, headers: dict[str, str], body: bytes, model_name: str) -> Verdict:
    """What an answer other than 2xx means. `model_name` is the name the server was asked for."""
    tunnel = tunnel_reason(status, headers, body)
    if tunnel is not None or is_html(headers, body):
        return bad_answer_verdict(tunnel or f"the address answers with a web page (status {status}) instead of the API")
    if status in (401, 403):
        reason = f"the server refuses the gateway's key ({status}); update `api_key` in the registration"
        return Verdict(ServerFailed(FAILED), reason, blame=Blame.NONE, key_refused=True)
    if status == 404:
        return _not_found_verdict(body, model_name)
    if status == 501:
        return _route_not_offered_verdict()  # llama.cpp for embeddings it was not started for: no failure of its.
    if status in (429, 503):
        return _busy_verdict(status, headers, body)
    if status == 508:
        reason = "the registration leads back to this gateway; deregister it"
        return Verdict(ServerFailed("The server's registration leads back to this gateway."), reason, try_next=False)
    if 400 <= status < 500:
        return _refused_verdict(status, body)
    return bad_answer_verdict(f"the server answered with status {status}")


def _not_found_verdict(body: bytes, model_name: str) -> Verdict:
    error = server_error(body)
    text = error.message if error else plain_text(body)
    if (error is not None and error.code == "model_not_found") or names_model(text, model_name):
        message = "No server that offers this model knows it at present. GET /v1/models lists what can be used."
        return Verdict(
            ModelNotFound(message, param="model"),
            "the server answers that it does not know this model; is `served_model_name` right?",
            blame=Blame.NONE,
            model_missing=True,
        )
    return _route_not_offered_verdict()


def _route_not_offered_verdict() -> Verdict:
    message = "No server of this model offers this route. Use another model, or another route of the OpenAI API."
    return Verdict(NotFound(message), "the server does not offer the route that was asked for", blame=Blame.NONE)


def names_model(text: str, model_name: str) -> bool:
    """Whether a server's text names the model as a word: not in the route it echoes, nor inside another word."""
    return re.search(rf"(?<![\w-]){re.escape(model_name)}(?![\w-])", ROUTE_IN_TEXT.sub(" ", text)) is not None


def _busy_verdict(status: int, headers: dict[str, str], body: bytes) -> Verdict:
    seconds = retry_after_seconds(headers.get("retry-after"))
    if status == 503 and b"loading" in body[:4096].lower():
        error: GatewayError = ModelLoading(
            "The model is being loaded by its server. Send the request again in a few seconds.",
            retry_after_seconds=seconds or 5,
        )
        reason = "the server is loading its model"
    else:
        error = Overloaded(
            "Every server of this model is busy. Send the request again in a moment.",
            retry_after_seconds=seconds or DEFAULT_BUSY_SECONDS,
        )
        reason = f"the server is busy (status {status})"
    busy_seconds = DEFAULT_BUSY_SECONDS if seconds is None else seconds
    return Verdict(error, reason, blame=Blame.NONE, busy_seconds=busy_seconds)


def _refused_verdict(status: int, body: bytes) -> Verdict:
    passed_on = body if server_error(body) is not None else None
    error = ServerRefused(plain_text(body) or f"The server refused the request with status {status}.", status=status)
    return Verdict(
        error,
        f"the server refused a request ({status})",
        blame=Blame.NONE,
        try_next=False,
        body=passed_on,
        usage_refused=b"stream_options" in body or b"include_usage" in body,
    )


def server_error(body: bytes) -> ServerError | None:
    """The `error` of a body in OpenAI's shape, else None."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def plain_text(body: bytes) -> str:
    """What a server's error says in words, from the shapes that servers use; one line, without control characters."""
    text: Any = body.decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        document = None
    if isinstance(document, dict):
        for name in ("error", "detail", "message", "msg"):
            if isinstance(document.get(name), str):
                text = document[name]
                break
        text = complaints(document.get("detail")) or text
    return UNPRINTABLE.sub(" ", text).strip()[:LONGEST_SERVER_TEXT]


def complaints(detail: Any) -> str:
    """FastAPI's list of what is wrong with a body (422), in words: `messages: Field required`. Empty for all else."""
    if not isinstance(detail, list):
        return ""
    words = []
    for complaint in detail:
        where, text = (complaint.get("loc"), complaint.get("msg")) if isinstance(complaint, dict) else (None, None)
        if isinstance(where, list) and isinstance(text, str):
            path = ".".join(str(step) for step in where if step != "body")
            words.append(f"{path}: {text}" if path else text)
    return "; ".join(words)


def without_key(text: bytes, api_key: str | None) -> bytes:
    """What a server says of an error, without the key that it was sent: servers that see a wrong one like to repeat it.

    A key of fewer than 8 characters stays: it may be a word of any text.
    """
    if api_key is None or len(api_key) < ANYWHERE_MIN_LENGTH:
        return text
    for spelling in (api_key, json.dumps(api_key)[1:-1]):
        text = text.replace(spelling.encode(), REDACTED.encode())
    return text


def retry_after_seconds(value: str | None, now_unix: float | None = None) -> float | None:
    """A server's `Retry-After` in seconds, from a number or a date (RFC 9110 §10.2.3); None when it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), LONGEST_BUSY_SECONDS)
    try:
        moment_unix = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None  # The parser of the standard library raises all of these for one odd date or another.
    now_unix = Clock().unix_seconds() if now_unix is None else now_unix
    return min(max(moment_unix - now_unix, 0.0), LONGEST_BUSY_SECONDS)
