"""The table of failures, row by row: another server or not, whose fault it is, and what the client would be told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.proxy.verdicts import (
    DEFAULT_BUSY_SECONDS,
    LONGEST_BUSY_SECONDS,
    LONGEST_SERVER_TEXT,
    Verdict,
    answer_verdict,
    bad_answer_verdict,
    broken_stream_verdict,
    failure_verdict,
    plain_text,
    reported_error_blame,
    retry_after_seconds,
    server_error,
    without_key,
)
from multiverse.servers.server import Blame
from multiverse.transport import failures
from multiverse.transport.failures import TransportError
from tests.bench import UNHURRIED

NAME = "org/model:7b"
HTML = b"<!DOCTYPE html><html><body>oops</body></html>"
JSON_TYPE = {"content-type": "application/json"}
HTML_TYPE = {"content-type": "text/html; charset=utf-8"}


def error(message: str, **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


def answered(status: int, body: bytes = b"", headers: dict[str, str] | None = None, name: str = NAME) -> Verdict:
    return answer_verdict(status, JSON_TYPE if headers is None else headers, body, name)


def told(verdict: Verdict) -> tuple[int, str]:
    """What the client would be told."""
    return verdict.error.status, verdict.error.code


def assert_discreet(verdict: Verdict) -> None:
    """No message of ours carries what is the server's business."""
    for secret in ("example", "127.0.0.1", "sk-", "<html>"):
        assert secret not in verdict.error.message


# -- before the commit: no answer, or no valid one


@pytest.mark.parametrize(
    ("failure", "next_server", "blame", "client", "avoided"),
    [
        (failures.ConnectFailed(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.AddressRefused(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.NameNotResolved(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.TLSFailed(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.ConnectTimeout(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.Disconnected(), True, Blame.FAILURE, (502, "server_error"), True),
        (failures.BadAnswer(), True, Blame.FAILURE, (502, "server_error"), False),
        (failures.AnswerTooLarge(), False, Blame.FAILURE, (502, "server_error"), False),
        (failures.FirstByteTimeout(), False, Blame.FAILURE, (504, "server_timeout"), False),
        (failures.IdleTimeout(), False, Blame.FAILURE, (504, "server_timeout"), False),
        (failures.TotalTimeout(), False, Blame.NONE, (504, "server_timeout"), False),
        (failures.Abandoned(), False, Blame.NONE, (502, "server_error"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TransportError) else "",
)
def test_failures_before_the_commit(
    failure: TransportError, next_server: bool, blame: Blame, client: tuple[int, str], avoided: bool
) -> None:
    verdict = failure_verdict(failure)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (next_server, blame, client)
    assert verdict.connect_failed is avoided
    assert verdict.reason == failure.reason
    assert verdict.busy_seconds is None
    assert verdict.error.headers()["X-Should-Retry"] == "false", "real clients must not multiply the attempts"


def test_every_failure_of_the_transport_has_its_row() -> None:
    def kinds(kind: type[TransportError]) -> set[str]:
        return {kind.__name__}.union(*(kinds(child) for child in kind.__subclasses__()))

    for name in kinds(TransportError):
        failure = getattr(failures, name)("seen by the owner")
        for verdict in (failure_verdict(failure), broken_stream_verdict(failure)):
            assert verdict.reason == "seen by the owner"
            assert_discreet(verdict)


# -- after the commit


@pytest.mark.parametrize(
    ("failure", "blame", "client"),
    [
        (failures.Disconnected(), Blame.FAILURE, (502, "server_disconnected")),
        (failures.BadAnswer(), Blame.FAILURE, (502, "server_disconnected")),
        (failures.IdleTimeout(), Blame.FAILURE, (504, "server_timeout")),
        (failures.TotalTimeout(), Blame.NONE, (504, "server_timeout")),
        (failures.AnswerTooLarge(), Blame.FAILURE, (502, "server_error")),
        (failures.Abandoned(), Blame.NONE, (502, "server_disconnected")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TransportError) else "",
)
def test_failures_after_the_commit(failure: TransportError, blame: Blame, client: tuple[int, str]) -> None:
    verdict = broken_stream_verdict(failure)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (False, blame, client)


# -- 5xx, HTML, tunnels, redirects


@pytest.mark.parametrize("status", [500, 502, 504, 505, 507, *range(520, 531), 599, 301, 302, 307, 308])
def test_a_bad_answer_goes_to_the_next_server(status: int) -> None:
    verdict = answered(status, error("boom at http://example:1 with sk-key"))
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.FAILURE, (502, "server_error"))
    assert str(status) in verdict.reason
    assert_discreet(verdict)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("headers", [HTML_TYPE, {}])
def test_a_page_is_a_bad_answer_whatever_its_status(status: int, headers: dict[str, str]) -> None:
    verdict = answered(status, HTML, headers)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.FAILURE, (502, "server_error"))
    assert "web page" in verdict.reason
    assert (verdict.busy_seconds, verdict.body, verdict.model_missing) == (None, None, False)
    assert_discreet(verdict)


@pytest.mark.parametrize(
    ("status", "code"), [(404, "ERR_NGROK_3200"), (502, "ERR_NGROK_8012"), (429, "ERR_NGROK_734"), (400, "ERR_NGROK_1")]
)
def test_a_tunnels_answer_is_not_the_servers(status: int, code: str) -> None:
    verdict = answered(status, error(NAME), {**JSON_TYPE, "ngrok-error-code": code})
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.FAILURE, (502, "server_error"))
    assert code in verdict.reason
    assert code not in verdict.error.message


def test_a_good_answer_that_is_not_what_was_asked_for() -> None:
    verdict = bad_answer_verdict("plain text")
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.FAILURE, (502, "server_error"))


def test_a_loop_is_not_sent_around_again() -> None:
    verdict = answered(508, error("loop"))
    assert (verdict.try_next, verdict.blame, told(verdict)) == (False, Blame.FAILURE, (502, "server_error"))


# -- the server's own key


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_of_the_gateway_is_the_owners_business(status: int) -> None:
    verdict = answered(status, error("Incorrect API key provided: sk-planted", code="invalid_api_key"))
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.NONE, (502, "server_error"))
    assert verdict.key_refused
    assert "api_key" in verdict.reason
    assert_discreet(verdict)


# -- 404


@pytest.mark.parametrize(
    "body",
    [
        error("The model does not exist", code="model_not_found"),
        error(f'model "{NAME}" not found, try pulling it first', type="api_error"),
        error(f"{NAME}: no such model"),
        json.dumps({"error": f"model '{NAME}' not found"}).encode(),
        json.dumps({"object": "error", "message": f"The model `{NAME}` does not exist.", "code": 404}).encode(),
        json.dumps({"detail": f"no {NAME}"}).encode(),
        f"no model {NAME}.".encode(),
    ],
)
def test_a_missing_model(body: bytes) -> None:
    verdict = answered(404, body)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.NONE, (404, "model_not_found"))
    assert verdict.model_missing
    assert verdict.error.param == "model"
    assert NAME not in verdict.error.message, "it may be a path on somebody's disk"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", NAME),
        (error("Not Found"), NAME),
        (json.dumps({"detail": "Not Found"}).encode(), "detail"),
        (json.dumps({"detail": "Not Found"}).encode(), "o"),
        (b"404 page not found", "age"),
        (error("Cannot POST /v1/rerank"), "rerank"),
        (error("Unknown route: POST /v1/responses", code="not_found"), "v1"),
        (error("llama-3-large is not here"), "llama-3"),
    ],
)
def test_a_missing_route(body: bytes, name: str) -> None:
    verdict = answered(404, body, name=name)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.NONE, (404, "not_found"))
    assert not verdict.model_missing


# -- busy and loading


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "seconds"), [(None, DEFAULT_BUSY_SECONDS), ("7", 7.0), ("0", 0.0), ("soon", 1.0)])
def test_a_busy_server(status: int, header: str | None, seconds: float) -> None:
    headers = JSON_TYPE if header is None else {**JSON_TYPE, "retry-after": header}
    verdict = answered(status, error("slow down"), headers)
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.NONE, (503, "overloaded"))
    assert verdict.busy_seconds == seconds
    assert 1 <= int(verdict.error.headers()["Retry-After"]) <= 60


def test_a_loading_server() -> None:
    verdict = answered(503, error("Loading model", code=503, type="unavailable_error"))
    assert (verdict.try_next, verdict.blame, told(verdict)) == (True, Blame.NONE, (503, "model_loading"))
    assert verdict.busy_seconds == DEFAULT_BUSY_SECONDS
    assert "Retry-After" in verdict.error.headers()
    assert told(answered(429, error("loading too much"))) == (503, "overloaded"), "only 503 is loading"


NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("599", 599.0),
        ("86400", LONGEST_BUSY_SECONDS),
        ("9" * 400, LONGEST_BUSY_SECONDS),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sat, 31 Jan 2026 12:00:07 GMT", 7.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_BUSY_SECONDS),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Sat, 99 Jan 2026 12:00:07 GMT", None),
        ("Sat, 31 Jan 2026 12:00:07 +9999999", None),
        ("tomorrow", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOON.timestamp()) == seconds


def test_retry_after_by_the_clock() -> None:
    soon = datetime.now(timezone(timedelta(hours=5))) + timedelta(seconds=30)
    assert 25 < (retry_after_seconds(format_datetime(soon)) or 0) <= 30


@UNHURRIED
@given(value=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [+-]?\w{1,8}"))
def test_no_retry_after_makes_it_fail(value: str) -> None:
    seconds = retry_after_seconds(value)
    assert seconds is None or 0 <= seconds <= LONGEST_BUSY_SECONDS


# -- any other 4xx


@pytest.mark.parametrize("status", [400, 402, 405, 408, 409, 413, 415, 418, 422, 451])
def test_a_clients_mistake_is_the_clients(status: int) -> None:
    body = b'{ "error" : {"message":"too long","code":1.0,"more":[12345678901234567890]} }'
    verdict = answered(status, body)
    assert (verdict.try_next, verdict.blame, verdict.error.status) == (False, Blame.NONE, status)
    assert verdict.body == body, "byte for byte"
    assert verdict.busy_seconds is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail":"prompt too long"}', "prompt too long"),
        (b'{"error":"prompt too long"}', "prompt too long"),
        (b'{"message":"prompt too long"}', "prompt too long"),
        (b'{"msg":"prompt too long"}', "prompt too long"),
        (b'{"detail":[{"loc":["body"]}]}', '{"detail":[{"loc":["body"]}]}'),
        (
            b'{"detail":[{"loc":["body","messages",0,"role"],"msg":"Field required"},{"loc":["body"],"msg":"no"},7]}',
            "messages.0.role: Field required; no",
        ),
        (b'{"error":{"msg":"x"}}', '{"error":{"msg":"x"}}'),
        (b'{"error":{"message":7}}', '{"error":{"message":7}}'),
        (b"prompt\r\n\x00too\x1b[31m long\xe2\x80\xa8", "prompt too [31m long"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "The server refused the request with status 422."),
        (b"x" * 5000, "x" * LONGEST_SERVER_TEXT),
        (b"[" * 5000, "[" * LONGEST_SERVER_TEXT),
    ],
    ids=range(13),
)
def test_a_mistake_in_other_words_gets_our_envelope(body: bytes, text: str) -> None:
    verdict = answered(422, body)
    assert (verdict.body, verdict.error.status, verdict.error.message) == (None, 422, text)
    assert (verdict.error.code, verdict.error.type) == ("invalid_request", "invalid_request_error")


@UNHURRIED
@given(body=st.binary(max_size=300), status=st.integers(300, 599))
def test_every_answer_has_a_verdict(body: bytes, status: int) -> None:
    verdict = answer_verdict(status, {}, body, NAME)
    assert verdict.reason
    assert 400 <= verdict.error.status < 600
    assert not set(plain_text(body)) & {chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
    if verdict.body is not None:
        assert server_error(body) is not None


def test_a_key_is_taken_out_however_json_spells_it() -> None:
    for key in ("sk-plain-key", 'sk-"quoted"\\key'):
        told = json.dumps({"error": {"message": f"wrong: {key}", "key": key}}).encode()
        assert json.loads(without_key(told, key)) == {"error": {"message": "wrong: [redacted]", "key": "[redacted]"}}
        assert without_key(f"wrong: {key}".encode(), key) == b"wrong: [redacted]"
    assert (
        without_key(b"a word of any text", "word") == without_key(b"a word of any text", None) == b"a word of any text"
    )


# -- several verdicts, one client


def test_which_of_several_the_client_hears() -> None:
    busy, failed = answered(429), answered(500)
    missing_model, missing_route, key = answered(404, error(NAME)), answered(404), answered(401)
    assert busy.weight > failed.weight == key.weight > missing_model.weight == missing_route.weight


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        ({"code": 400}, Blame.NONE),
        ({"code": "429"}, Blame.NONE),
        ({"status": 422}, Blame.NONE),
        ({"code": 500, "type": "invalid_request_error"}, Blame.FAILURE),
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, Blame.NONE),
        ({"code": None, "type": "invalid_request_error"}, Blame.NONE),
        ({"code": "context_length_exceeded", "type": "error"}, Blame.NONE),
        ({"code": "oom", "type": "server_error"}, Blame.FAILURE),
        ({"code": True, "type": ["invalid_request_error"]}, Blame.FAILURE),
        ({"message": "out of memory"}, Blame.FAILURE),
        ("invalid_request_error", Blame.FAILURE),
    ],
)
def test_an_error_in_a_stream(error: object, blame: Blame) -> None:
    assert reported_error_blame(error) is blame
