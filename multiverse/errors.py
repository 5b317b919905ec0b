"""Every error the gateway raises on purpose, and the one place that knows OpenAI's error shape.

An exception knows its status, `type` and `code`; `envelope()` alone builds the body. Foreign exceptions are mapped at
the seam where they come in (transport/, web/, storage/), never here. Messages say what to do next and never carry a
server's address, a body or a key. Source of the shape: OpenAI API reference, "Error codes".
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

RETRY_AFTER_MIN_SECONDS = 1
RETRY_AFTER_MAX_SECONDS = 60


class GatewayError(Exception):
    """Base of all errors that a client may see.

    `param` names the field at fault; `retry_after_seconds` becomes a `Retry-After` header, rounded up to a whole
    number from 1 to 60 (RFC 9110 §10.2.3). `request_id` is set when the request has a story to be read.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    request_id: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def headers(self) -> dict[str, str]:
        """Headers that belong to this error on an HTTP answer."""
        if self.retry_after_seconds is None:
            return {}
        whole_seconds = math.ceil(self.retry_after_seconds)
        return {"Retry-After": str(min(max(whole_seconds, RETRY_AFTER_MIN_SECONDS), RETRY_AFTER_MAX_SECONDS))}


class InvalidRequest(GatewayError):
    """The request itself is wrong: not JSON, wrong types, a field missing."""

    status, code, type = 400, "invalid_request", "invalid_request_error"


class InvalidAPIKey(GatewayError):
    """No key, or one that is wrong, revoked or malformed; one text for all, so that nothing can be learned from it."""

    status, code, type = 401, "invalid_api_key", "authentication_error"

    def __init__(self) -> None:
        super().__init__(
            "The API key is missing or not valid. Send it as 'Authorization: Bearer <key>' (admins may also use "
            "'X-API-Key: <key>'); ask the person who runs this gateway for one."
        )

    def headers(self) -> dict[str, str]:
        """RFC 9110 §11.6.1 asks for a challenge on every 401."""
        return {"WWW-Authenticate": "Bearer"}


class PermissionDenied(GatewayError):
    """The key is known, but may not do this."""

    status, code, type = 403, "permission_denied", "permission_error"


class ModelNotOffered(PermissionDenied):
    """The owners of all servers of the model offer them to others only."""


class NotFound(GatewayError):
    """No such route, here or on the server that was asked."""

    status, code, type = 404, "not_found", "invalid_request_error"


class ServerNotFound(NotFound):
    """No registration has this id."""

    code = "server_not_found"


class KeyNotFound(NotFound):
    """No key has this id."""

    code = "key_not_found"


class ClaimCodeNotValid(NotFound):
    """No claim code has this id; or it is wrong, expired or used up, with one text for all three."""

    code = "claim_code_not_valid"


class ModelNotFound(NotFound):
    """Nobody registered this model, or none of its servers knows it."""

    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, the method does not; `allow` lists those that do."""

    status, code, type = 405, "method_not_allowed", "invalid_request_error"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        """RFC 9110 §15.5.6 asks for `Allow` on every 405."""
        return {"Allow": ", ".join(self.allow)}


class RequestTooLarge(GatewayError):
    """The body is over `MAX_REQUEST_BODY_SIZE`."""

    status, code, type = 413, "request_too_large", "invalid_request_error"


class UnsupportedMediaType(GatewayError):
    """The body is not JSON by its own `Content-Type`."""

    status, code, type = 415, "unsupported_media_type", "invalid_request_error"


class RateLimitExceeded(GatewayError):
    """The caller's own limit is reached."""

    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"

    def headers(self) -> dict[str, str]:
        """For what lasts longer than `Retry-After` may say, as a day's limit does, a library would ask in vain."""
        lasts = (self.retry_after_seconds or 0.0) > RETRY_AFTER_MAX_SECONDS
        return {**super().headers(), **({"X-Should-Retry": "false"} if lasts else {})}


class InternalError(GatewayError):
    """A fault of ours; the details are in the log, under the request id."""


class StoreFailed(InternalError):
    """The store could not read or write; nothing was changed."""


class ServerFailed(GatewayError):
    """Servers answered badly and the attempts are used up."""

    status, code = 502, "server_error"

    def headers(self) -> dict[str, str]:
        """openai-python and openai-node obey `X-Should-Retry`: without it they would repeat all our attempts."""
        return {**super().headers(), "X-Should-Retry": "false"}


class ServerTimeout(ServerFailed):
    """A server took too long; asking another would only make it compute the prompt again."""

    status, code = 504, "server_timeout"


class ServerDisconnected(ServerFailed):
    """After the commit: the server broke the connection."""

    code = "server_disconnected"


class StreamTruncated(ServerFailed):
    """After the commit: the stream ended, but neither `[DONE]` nor a `finish_reason` had come."""

    code = "stream_truncated"


class NoServerAvailable(GatewayError):
    """The model is registered, but no server can answer now."""

    status, code = 503, "no_server_available"


class ServersWithheld(NoServerAvailable):
    """The owners of all servers that could answer do not lend them now: paused, quiet hours, tokens used up."""

    def headers(self) -> dict[str, str]:
        """It may last for hours: whoever sees the message decides, not a library that repeats the request."""
        return {**super().headers(), "X-Should-Retry": "false"}


class Overloaded(GatewayError):
    """Every server of the model is busy, or its queue is full."""

    status, code = 503, "overloaded"


class ModelLoading(GatewayError):
    """Every server of the model is still loading it."""

    status, code = 503, "model_loading"


class ShuttingDown(GatewayError):
    """The gateway drains; another instance, or the restarted one, will answer."""

    status, code = 503, "shutting_down"

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down. Send the request again in a moment.", retry_after_seconds=5)

    def headers(self) -> dict[str, str]:
        """The connection is about to close anyway; saying so spares the client a reset (RFC 9112 §9.6)."""
        return {**super().headers(), "Connection": "close"}


class ServerRefused(GatewayError):
    """A server called the client's request wrong, in words that are not OpenAI's shape: same status, our envelope."""

    code, type = "invalid_request", "invalid_request_error"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


class LoopDetected(GatewayError):
    """A request of ours came back: a gateway is registered at itself, or two at each other (RFC 9110 §15.5.9 `Via`)."""

    status, code = 508, "loop_detected"


def envelope(error: GatewayError) -> dict[str, Any]:
    """OpenAI's error body for `error`: `{"error": {"message", "type", "param", "code"}}`."""
    story = "" if error.request_id is None else f" What happened: /requests/{error.request_id}"
    return {
        "error": {
            "message": f"{error.message}{story}",
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
