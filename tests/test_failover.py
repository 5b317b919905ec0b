"""A server's failure before the commit is invisible: the next server answers. What the client gets when none is left.

Also whom a failure is blamed on. When a server is skipped and tried again is in test_ejection.py, what a client did
wrong itself in test_own_mistakes.py.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from tests import wire
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Fin, Hold, Reset, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess

JSON_TYPE = ("Content-Type", "application/json")
MISSING_MODEL = wire.error_answer(404, "The model does not exist", code="model_not_found")
LOADING = wire.error_answer(503, "Loading model", code=503, type="unavailable_error")
NGROK_OFFLINE = wire.html_answer(
    404, "The endpoint is offline. ERR_NGROK_3200", [("ngrok-error-code", "ERR_NGROK_3200")]
)
NGROK_FAILED = wire.html_answer(502, "ERR_NGROK_8012", [("ngrok-error-code", "ERR_NGROK_8012")])
NGROK_LIMIT = wire.html_answer(429, "ERR_NGROK_734", [("ngrok-error-code", "ERR_NGROK_734")])
GOOD_JSON = json.dumps(wire.chat_completion()).encode()
BOTH_LENGTHS = wire.head(200, [JSON_TYPE, ("Content-Length", "5"), ("Transfer-Encoding", "chunked")])


@dataclass(frozen=True)
class Fault:
    """What a server does instead of answering, and what follows when it is the only one.

    `blamed`: it counts as a failure (None where the contract does not say).
    """

    steps: tuple[Step, ...]
    status: int = 502
    code: str = "server_error"
    blamed: bool | None = True


FAULTS = {
    "reset after the request": Fault((Reset(),)),
    "closed without a byte": Fault((Fin(),)),
    "closed in the headers": Fault((b"HTTP/1.1 200 OK\r\nContent-Ty", Fin())),
    "reset in the headers": Fault((b"HTTP/1.1 200 OK\r\nContent-Ty", Sleep(0.05), Reset())),
    "an SSH server": Fault((b"SSH-2.0-OpenSSH_9.6\r\n", Hold())),
    "a TLS alert": Fault((b"\x15\x03\x01\x00\x02\x02\x46", Hold())),
    "noise": Fault((bytes(range(256)), Hold())),
    "Content-Length with Transfer-Encoding": Fault((BOTH_LENGTHS + wire.chunked(GOOD_JSON),)),
    "two lengths": Fault((wire.head(200, [JSON_TYPE, ("Content-Length", "5"), ("Content-Length", "6")]) + b"12345",)),
    "negative length": Fault((wire.head(200, [JSON_TYPE, ("Content-Length", "-5")]) + b"12345",)),
    "chunk size ZZ": Fault((wire.head(200, [JSON_TYPE, ("Transfer-Encoding", "chunked")]) + b"ZZ\r\n{}\r\n", Hold())),
    "short body": Fault((wire.head(200, [JSON_TYPE, ("Content-Length", "900")]) + GOOD_JSON, Fin())),
    "no last chunk": Fault(
        (wire.head(200, [JSON_TYPE, ("Transfer-Encoding", "chunked")]) + wire.chunk(GOOD_JSON), Fin())
    ),
    "HTML 200": Fault((wire.html_answer(200),)),
    "another type": Fault((wire.answer(GOOD_JSON, content_type="text/plain"),)),
    "an error header of ngrok": Fault((wire.json_answer({}, 200, [("ngrok-error-code", "ERR_NGROK_6024")]),)),
    "ngrok offline": Fault((NGROK_OFFLINE,)),
    "ngrok failed": Fault((NGROK_FAILED,)),
    "ngrok limit": Fault((NGROK_LIMIT,), blamed=None, status=0),
    "Cloudflare's page": Fault((wire.html_answer(530, "error code: 1033"),)),
    **{
        f"{status} as JSON": Fault((wire.error_answer(status, "boom"),)) for status in (500, 502, 504, *range(520, 531))
    },
    "500 as text": Fault((wire.answer("boom", 500, "text/plain"),)),
    "500 without a body": Fault((wire.head(500, [("Content-Length", "0")]),)),
    "a redirect": Fault((wire.answer("", 302, headers=[("Location", "http://127.0.0.1:1/v1")]),), blamed=None),
    "401": Fault((wire.error_answer(401, "bad key"),), blamed=False),
    "403": Fault((wire.error_answer(403, "not yours"),), blamed=False),
    "404, the model is missing": Fault((MISSING_MODEL,), 404, "model_not_found", blamed=False),
    "404, no such route": Fault((wire.error_answer(404, "Not Found"),), 404, "not_found", blamed=False),
    "404 as text": Fault((wire.answer("404 page not found", 404, "text/plain"),), 404, "not_found", blamed=False),
    "429": Fault((wire.error_answer(429, "slow down"),), 503, "overloaded", blamed=False),
    "503": Fault((wire.error_answer(503, "busy"),), 503, "overloaded", blamed=False),
    "503, loading": Fault((LOADING,), 503, "model_loading", blamed=False),
}
STREAM_FAULTS = {
    "headers and a reset": Fault((wire.STREAM_HEAD, Sleep(0.05), Reset())),
    "half of the first event": Fault((wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")[:30]), Fin())),
    "only a comment": Fault((wire.STREAM_HEAD + wire.chunk(b": processing\n\n"), Fin())),
    "no event at all": Fault((wire.stream_answer(b""),), blamed=None),
    "only an event without data": Fault((wire.STREAM_HEAD + wire.chunk(b"event: ping\n\n"), Fin())),
}
ALL_CASES = [(name, stream) for name in FAULTS for stream in (False, True)] + [(name, True) for name in STREAM_FAULTS]


def said(gateway: GatewayProcess, model: str, stream: bool) -> tuple[str, str | None]:
    """What a request is answered, and the attempts it took; fails unless the answer is whole."""
    if not stream:
        response = gateway.chat(model)
        assert response.status == 200, f"the client sees nothing of it: {response.status} {response.body!r}"
        return response.text, response.header("X-Gateway-Attempts")
    with gateway.stream(model) as events:
        events.read_to_end()
    assert events.response.status == 200, f"the client sees nothing of it: {events.response}"
    assert events.done, f"and the answer is whole: {events.response.body!r}"
    assert not events.errors
    return "".join(events.texts), events.response.header("X-Gateway-Attempts")


@pytest.mark.parametrize(("name", "stream"), ALL_CASES)
def test_the_next_server_answers(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str, stream: bool
) -> None:
    fault = (FAULTS | STREAM_FAULTS)[name]
    script = Script(AnswerChat("good"))
    script.queue(*fault.steps)
    registrations = {peer: gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    assert said(gateway, model, stream) == ("good", "2")
    first, second = script.arrivals
    assert first.peer is not second.peer, "each server is asked once"
    assert first.body == second.body, "with the same bytes"
    assert first.header("X-Request-ID") == second.header("X-Request-ID")
    if fault.blamed is not None:
        failures = gateway.server(registrations[first.peer])["consecutive_failures"]
        assert failures == (1 if fault.blamed else 0), "whose fault it is is counted right"
    assert gateway.server(registrations[second.peer])["consecutive_failures"] == 0


@pytest.mark.parametrize(("name", "stream"), ALL_CASES)
def test_what_the_client_gets_when_no_server_is_left(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str, stream: bool
) -> None:
    fault = (FAULTS | STREAM_FAULTS)[name]
    registration_id = gateway.register(peer, model)
    peer.always(*fault.steps)
    response = gateway.chat(model, stream or None)
    if fault.status:
        assert (response.status, response.code) == (fault.status, fault.code)
    assert response.status not in (200, 401, 403, 429), "a server's trouble is never the client's"
    assert response.error["message"]
    assert str(peer.port) not in response.body.decode(), "no address of a server in a message"
    assert response.header("X-Request-ID")
    assert len(peer.requests) == 1, "each server is asked once"
    if response.status == 502:
        assert response.header("X-Should-Retry") == "false", "our attempts are not multiplied by the client's"
    if response.status == 503:
        assert 1 <= int(response.header("Retry-After") or 0) <= 60, "when to come back"
    record = gateway.server(registration_id)
    if fault.blamed is not None:
        assert record["consecutive_failures"] == (1 if fault.blamed else 0)
    if fault.status == 502:
        assert record["reason"], "the owner is told why"


@pytest.mark.parametrize("steps", [(NGROK_OFFLINE,), (NGROK_FAILED,)])
def test_the_owner_is_told_the_code_of_the_tunnel(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, steps: tuple[Step, ...]
) -> None:
    registration_id = gateway.register(peer, model)
    peer.script(*steps)
    gateway.chat(model)
    assert "ERR_NGROK_" in gateway.server(registration_id)["reason"]


# -- refused connections


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_port_among_two(gateway: GatewayProcess, start_peer: StartPeer, model: str, stream: bool) -> None:
    closed, good = start_peer(), start_peer()
    for peer in (closed, good):
        gateway.register(peer, model)
    closed.refuse()
    for _number in range(20):
        text, attempts = said(gateway, model, stream)
        assert text == good.name, "twenty requests, twenty answers"
        assert attempts in ("1", "2"), "two attempts each at most"


def test_the_only_server_refuses(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    peer.refuse()
    for number in range(1, 6):
        response = gateway.chat(model)
        assert (response.status, response.code) == (502, "server_error"), "the last resort is tried each time"
        assert gateway.server(registration_id)["consecutive_failures"] >= min(number, 3)
    peer.listen()
    assert gateway.chat(model).text == peer.name, "and answers as soon as it is back"


def test_a_server_that_does_not_speak_tls(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    value = {"model_name": model, "endpoint_url": peer.url.replace("http:", "https:")}
    record = gateway.admin("POST", "/admin/register", value).json()
    assert record["health_status"] == "unhealthy"
    response = gateway.chat(model)
    assert (response.status, response.code) == (502, "server_error")
    gateway.admin("DELETE", f"/admin/register/{record['registration_id']}")


def test_an_idle_connection_that_the_server_closed(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    for _number in range(10):
        response = gateway.chat(model)
        assert response.text == peer.name
        assert response.header("X-Gateway-Attempts") == "1", "a stale connection is no attempt"
        peer.close_idle_connections()
    assert gateway.server(registration_id)["consecutive_failures"] == 0


# -- attempts


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 429, 401])
def test_attempts_are_limited_and_spread(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, status: int, stream: bool
) -> None:
    script = Script(wire.error_answer(status, "no", [("Retry-After", "1")]))
    for _number in range(5):
        gateway.register(start_peer(script), model)
    orders = []
    for _number in range(1 if status == 429 else 3):  # who said 429 is skipped for a second
        before = len(script.arrivals)
        response = gateway.chat(model, stream or None)
        assert response.status in (502, 503)
        assert response.header("X-Gateway-Attempts") == "3"
        orders.append([request.peer.name for request in script.arrivals[before:]])
        assert len(orders[-1]) == 3, "at most 1 + MAX_RETRY_ATTEMPTS servers are hit"
        assert len(set(orders[-1])) == 3, "each once"
    assert len(orders) == 1 or len({order[0] for order in orders}) > 1, f"in changing order: {orders}"


def test_attempts_can_be_turned_off(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(MAX_RETRY_ATTEMPTS=0)
    script = Script(AnswerChat())
    script.queue(wire.error_answer(500, "no"))
    for _number in range(2):
        gateway.register(start_peer(script), model)
    assert gateway.chat(model).status == 502
    assert len(script.arrivals) == 1


# -- timeouts: the first event of a stream, the whole of a plain answer; REQUEST_TIMEOUT_SECONDS is 0.8 here


SLOW = {
    "nothing": (False, (Hold(),)),
    "half a body": (False, (wire.head(200, [JSON_TYPE, ("Content-Length", "9")]) + b"{", Hold())),
    "a body that trickles": (
        False,
        (wire.head(200, [JSON_TYPE, ("Content-Length", "900")]), *(b" ", Sleep(0.05)) * 100),
    ),
    "nothing of a stream": (True, (Hold(),)),
    "headers of a stream": (True, (wire.STREAM_HEAD, Hold())),
    "comments only": (True, (wire.STREAM_HEAD, *(wire.chunk(b": wait\n\n"), Sleep(0.05)) * 100)),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_server_is_not_doubled(
    impatient_gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str
) -> None:
    stream, steps = SLOW[name]
    script = Script(AnswerChat())
    script.queue(*steps)
    registrations = {peer: impatient_gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    asked_at = time.monotonic()
    response = impatient_gateway.chat(model, stream or None)
    waited_seconds = time.monotonic() - asked_at
    if name == "comments only" and response.status == 200:  # a comment passed on has brought the status with it
        assert b'"code": "server_timeout"' in response.body.replace(b'":"', b'": "')
    else:
        assert (response.status, response.code) == (504, "server_timeout")
        assert response.header("X-Should-Retry") == "false"
    assert 0.6 <= waited_seconds <= 3.0, "at REQUEST_TIMEOUT_SECONDS"
    assert len(script.arrivals) == 1, "exactly one server got the body: every try would prefill again"
    record = impatient_gateway.server(registrations[script.arrivals[0].peer])
    assert record["consecutive_failures"] == 1


# -- behind keep-alives: the status has gone out already


def test_failing_over_goes_on_behind_keep_alives(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    script = Script(AnswerChat("good"))
    script.queue(Sleep(0.7), Reset())
    for _number in range(2):
        gateway.register(start_peer(script), model)
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.comments, "keep-alives have gone out"
    assert (stream.texts, stream.done, stream.errors) == (["good"], True, [])
    assert len(script.arrivals) == 2


BEHIND_KEEP_ALIVES = {
    "500": (wire.error_answer(500, "boom"), "server_error", None),
    "503": (wire.error_answer(503, "busy"), "overloaded", None),
    "404": (MISSING_MODEL, "model_not_found", None),
    # Written over several lines, and with a number that is none for most programs.
    "400": (
        wire.answer('{"error": {\r\n"message": "too long",\n"code": "too_long", "limit": 1e400}}', 400),
        "too_long",
        "too long",
    ),
}


@pytest.mark.parametrize("name", BEHIND_KEEP_ALIVES)
def test_an_error_behind_keep_alives_is_one_event(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    answer, code, message = BEHIND_KEEP_ALIVES[name]
    gateway.register(peer, model)
    peer.script(Sleep(0.7), answer)
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.comments, "keep-alives have gone out"
    assert [error["code"] for error in stream.errors] == [code], "what would have been a status is one error event"
    if message is not None:
        assert stream.errors[0]["message"] == message, "the server's own error object"
    assert not stream.done
    assert stream.response.ended == "orderly"


def test_a_timeout_behind_keep_alives_is_one_event(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUEST_TIMEOUT_SECONDS=0.8)
    gateway.register(peer, model)
    peer.script(Hold())
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.comments
    assert [error["code"] for error in stream.errors] == ["server_timeout"]
    assert not stream.done
