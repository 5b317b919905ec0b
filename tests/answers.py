"""What an error answer of the gateway looks like: status, envelope, headers, all of it at once.

The table is written out from the contract, not read from the package: the two have to agree.
"""

from __future__ import annotations

from tests.clients import Response

# code: (status, type)
ERRORS = {
    "invalid_request": (400, "invalid_request_error"),
    "invalid_api_key": (401, "authentication_error"),
    "permission_denied": (403, "permission_error"),
    "not_found": (404, "invalid_request_error"),
    "server_not_found": (404, "invalid_request_error"),
    "key_not_found": (404, "invalid_request_error"),
    "claim_code_not_valid": (404, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "request_too_large": (413, "invalid_request_error"),
    "unsupported_media_type": (415, "invalid_request_error"),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "internal_error": (500, "server_error"),
    "server_error": (502, "server_error"),
    "no_server_available": (503, "server_error"),
    "overloaded": (503, "server_error"),
    "model_loading": (503, "server_error"),
    "shutting_down": (503, "server_error"),
    "server_timeout": (504, "server_error"),
    "loop_detected": (508, "server_error"),
}


def assert_error(response: Response, code: str, param: str | None = None) -> str:
    """Fails unless `response` is this error in every respect; returns its message."""
    status, error_type = ERRORS[code]
    assert response.status == status, f"{response.status} {response.body!r}"
    assert set(response.json()) == {"error"}, response.body
    assert set(response.error) == {"message", "type", "param", "code"}, response.error
    assert (response.error["type"], response.error["param"], response.code) == (error_type, param, code), response.error
    assert_error_headers(response)
    message = response.error["message"]
    assert isinstance(message, str)
    assert message.strip(), "says what to do"
    return message


def assert_error_headers(response: Response) -> None:
    """The headers that every error answer has, also one without a body (HEAD)."""
    status = response.status
    assert response.header("Content-Type") == "application/json"
    assert response.header("X-Request-ID"), "every answer can be found in the log"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert response.header("Server") is None, "nobody is told what runs here"
    assert (response.header("WWW-Authenticate") == "Bearer") == (status == 401)
    assert (response.header("Allow") is not None) == (status == 405)
    # A 503 says so where owners do not lend their servers now, a 429 where it is a day's limit: that may last hours.
    once = {True} if status in (502, 504) else {True, False} if status in (429, 503) else {False}
    assert (response.header("X-Should-Retry") == "false") in once, "our attempts are not multiplied"
    retry_after = response.header("Retry-After")
    assert (retry_after is not None) == (status in (429, 503))
    assert retry_after is None or (retry_after.isdigit() and 1 <= int(retry_after) <= 60), retry_after
