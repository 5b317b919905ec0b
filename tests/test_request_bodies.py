"""Bodies of requests: refused before they are read, bombs, wrong types, and every way of sending them.

Also how a connection is used and ended: reuse, pipelining, old clients, slow ones.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import RawClient, Response
from tests.conftest import GatewayShelf, checked
from tests.operations import AnswerChat, Sleep
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import Stopwatch

LIMIT = 1_000_000
TIMER_SECONDS = 0.6
# What a busy machine may add; every other timer ends later than that.
LATE_SECONDS = 1.2
AT_ONCE_SECONDS = 0.2
CHAT = "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


@pytest.fixture
def small_gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer]
) -> Iterator[GatewayProcess]:
    """A shared gateway that takes small bodies from known clients, and not slowly."""
    shared = shelf.get(
        "small",
        HEALTH_CHECK_INTERVAL_SECONDS=300,
        MAX_REQUEST_BODY_SIZE=LIMIT,
        HEADER_TIMEOUT_SECONDS=TIMER_SECONDS,
        BODY_TIMEOUT_SECONDS=TIMER_SECONDS,
        REQUIRE_CLIENT_API_KEY="true",
        CLIENT_API_KEYS=wire.PLANTED_CLIENT_KEY,
    )
    with checked(shared, request, peers):
        yield shared


KEY = f"Authorization: Bearer {wire.PLANTED_CLIENT_KEY}\r\n"
KEY_HEADER = [("Authorization", f"Bearer {wire.PLANTED_CLIENT_KEY}")]


# -- too large


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/rerank"])
def test_too_large_by_its_own_word(small_gateway: GatewayProcess, path: str, expect: str) -> None:
    with small_gateway.client() as client:
        asked_at = time.monotonic()
        head = CHAT.replace("/v1/chat/completions", path)
        client.send(f"{head}{KEY}{expect}Content-Length: {LIMIT + 1}\r\n\r\n".encode())
        response = client.read_response()
        assert response.ended_at - asked_at < 0.3, "nothing has been sent, nothing is waited for"
        message = assert_error(response, "request_too_large")
        assert str(LIMIT) in message
        assert response.header("Connection") == "close"


def test_too_large_for_admins_too(small_gateway: GatewayProcess) -> None:
    body = json.dumps({"model_name": "x", "description": "x" * LIMIT}).encode()
    response = small_gateway.call("POST", "/admin/register", body, [("X-API-Key", ADMIN_KEY)])
    assert_error(response, "request_too_large")


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
def test_an_absurd_length(small_gateway: GatewayProcess, length: str) -> None:
    with small_gateway.client() as client:
        client.send(f"{CHAT}{KEY}Content-Length: {length}\r\n\r\n".encode())
        response = client.read_response()
        assert_error(response, "request_too_large")
        assert client.at_end(), "one answer"


def test_too_large_in_chunks(small_gateway: GatewayProcess) -> None:
    with small_gateway.client() as client:
        client.send(f"{CHAT}{KEY}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = wire.chunk(b" " * 50_000)
        for _number in range(LIMIT // 50_000):
            client.send(chunk)
        client.send(wire.chunk(b" "))
        response = client.read_response()
        assert_error(response, "request_too_large")


def test_exactly_at_the_limit(small_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    small_gateway.register(peer, model)
    body = wire.chat_body(model)
    body += b" " * (LIMIT - len(body))
    assert small_gateway.call("POST", "/v1/chat/completions", body, KEY_HEADER).status == 200
    assert peer.requests[0].body == body
    response = small_gateway.call("POST", "/v1/chat/completions", body + b" ", KEY_HEADER)
    assert_error(response, "request_too_large")
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("key", "code"), [(KEY, "request_too_large"), ("", "invalid_api_key")], ids=["known", "unknown"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_is_still_sending_reads_the_answer(
    small_gateway: GatewayProcess, key: str, code: str, chunked: bool
) -> None:
    size, before = 12_000_000, small_gateway.resident_bytes
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    faults: list[OSError] = []

    def send_all(client: RawClient) -> None:
        piece = b"x" * 100_000
        try:
            for _number in range(size // len(piece)):
                client.send(wire.chunk(piece) if chunked else piece)
        except OSError as error:
            faults.append(error)

    with small_gateway.client() as client:
        client.send(f"{CHAT}{key}{framing}\r\n\r\n".encode())
        sender = threading.Thread(target=send_all, args=[client])
        sender.start()
        sender.join()
        response = client.read_response()
    assert not faults, "no reset while it sends"
    assert_error(response, code)
    assert small_gateway.resident_bytes - before < 6_000_000, "and nothing of it is kept"


@pytest.mark.parametrize(("length", "last"), [(65_536, False), (65_537, True)])
def test_a_refused_body_that_is_small_is_no_reason_to_hang_up(
    small_gateway: GatewayProcess, length: int, last: bool
) -> None:
    with small_gateway.client() as client:
        client.send(f"{CHAT}Content-Length: {length}\r\n\r\n".encode())
        response = client.read_response()
        assert_error(response, "invalid_api_key")
        assert response.header("Connection") == ("close" if last else None)
        client.send(b"x" * length)
        if last:
            assert client.at_end()
        else:
            client.request("GET", "/health")
            assert client.read_response().status == 200


def test_a_refused_body_that_does_not_come(small_gateway: GatewayProcess) -> None:
    with small_gateway.client() as client:
        client.send(f"{CHAT}Content-Length: 100\r\n\r\n".encode())
        assert_error(client.read_response(), "invalid_api_key")
        started_at = time.monotonic()
        assert client.at_end()
        assert time.monotonic() - started_at < TIMER_SECONDS + LATE_SECONDS


# -- Expect: 100-continue


@pytest.mark.parametrize("spelling", ["100-continue", "100-Continue"])
def test_expect_and_be_told_to_go_on(
    small_gateway: GatewayProcess, peer: ScriptedPeer, model: str, spelling: str
) -> None:
    small_gateway.register(peer, model)
    body = wire.chat_body(model)
    with socket.create_connection(("127.0.0.1", small_gateway.port), timeout=5) as connection:
        connection.sendall(f"{CHAT}{KEY}Expect: {spelling}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not peer.requests
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_expect_and_be_refused(small_gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", small_gateway.port), timeout=5) as connection:
        connection.sendall(f"{CHAT}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 "), "no 100 before it"


# -- bombs

DEEP = 100_000
BOMBS = {
    "deep lists": b'{"model":"m","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"model":"m","a":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "unclosed lists": b"[" * DEEP,
    "deep model": b'{"model":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number of 5 000 digits as model": b'{"model":' + b"9" * 5000 + b"}",
    "a number of 5 000 digits as stream": b'{"model":"m","stream":' + b"9" * 5000 + b"}",
    "a huge exponent as model": b'{"model":1e99999999}',
    "NaN": b'{"model":"m","temperature":NaN}',
    "Infinity": b'{"model":"m","temperature":-Infinity}',
    "invalid UTF-8": b'{"model":"m","messages":"\xff\xfe"}',
    "invalid UTF-8 as model": b'{"model":"\xc3\x28"}',
    "an overlong slash": b'{"model":"\xc0\xaf"}',
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "a lone surrogate as model": b'{"model":"\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "NUL": b'{"model":"m\x00"}',
    "two documents": b'{"model":"m"}{"model":"m"}',
    "a comment": b'{"model":"m"/**/}',
    "single quotes": b"{'model':'m'}",
    "a comma at the end": b'{"model":"m",}',
    "half of it": b'{"model":"m","messages":[{"role',
    "nothing": b"",
    "spaces": b" " * 1000,
    "a list": b'[{"model":"m"}]',
    "a string": b'"model"',
    "null": b"null",
    "a form": b"model=m&stream=true",
}


def refused_at_once(gateway: GatewayProcess, path: str, body: bytes) -> Response:
    """The answer, which has to come within 200 ms; a machine that is busy with something else has three tries."""
    for _number in range(3):
        with gateway.client() as client:
            client.request("POST", path, body, [("X-API-Key", ADMIN_KEY)])
            asked_at = time.monotonic()
            response = client.read_response()
            if response.ended_at - asked_at < AT_ONCE_SECONDS:
                return response
    raise AssertionError(f"not within {AT_ONCE_SECONDS} s")


def test_a_bomb_is_refused_at_once(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for name, body in BOMBS.items():
        with subtests.test(name):
            response = refused_at_once(gateway, "/v1/chat/completions", body)
            param = response.error["param"]
            assert_error(response, "invalid_request", param)
            assert param in (None, "model", "stream")
            assert response.header("Connection") is None, "no reason to hang up"


def test_a_bomb_for_admins(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for name, body in BOMBS.items():
        with subtests.test(name):
            assert refused_at_once(gateway, "/admin/register", body).code == "invalid_request"


# -- the two fields that the gateway reads


WRONG_FIELDS = [
    ("{}", "model"),
    *((f'{{"model":{value}}}', "model") for value in ("null", "5", "true", '""', '["m"]', '{"a":1}', "1.0")),
    (f'{{"model":"{"x" * 5000}"}}', "model"),
    *((f'{{"model":"m","stream":{value}}}', "stream") for value in ('"yes"', '"true"', "1", "0", "[]", "{}", '""')),
    ('{"model":"m","model":"m"}', "model"),
    ('{"model":"m","mod\\u0065l":"other"}', "model"),
    ('{"\\u006dodel":"m","a":{"b":[]},"model":"other"}', "model"),
]


def test_a_wrong_field_is_named(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    gateway.register(peer, model)
    for fields, param in WRONG_FIELDS:
        with subtests.test(fields=fields[:80]):
            body = fields.replace('"m"', json.dumps(model)).encode()
            response = gateway.call("POST", "/v1/chat/completions", body)
            message = assert_error(response, "invalid_request", param)
            assert f"`{param}`" in message
            assert len(message) < 300, "what was sent is not sent back"
    assert not peer.requests


@pytest.mark.parametrize("stream", ["null", "false"])
def test_null_is_absent(gateway: GatewayProcess, peer: ScriptedPeer, model: str, stream: str) -> None:
    gateway.register(peer, model)
    body = f'{{"model":{json.dumps(model)},"stream":{stream},{MESSAGES}}}'.encode()
    assert gateway.call("POST", "/v1/chat/completions", body).text == peer.name
    assert peer.requests[0].body == body


def test_an_escaped_model_is_the_same_model(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    escaped = "".join(f"\\u{ord(character):04x}" for character in model)
    body = f'{{"mod\\u0065l":"{escaped}","a":{{"model":5}},{MESSAGES}}}'.encode()
    assert gateway.call("POST", "/v1/chat/completions", body).text == peer.name
    assert peer.requests[0].body == body


# -- media types


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", ""],
)
def test_json_by_any_name(gateway: GatewayProcess, peer: ScriptedPeer, model: str, content_type: str) -> None:
    gateway.register(peer, model)
    response = gateway.call("POST", "/v1/chat/completions", wire.chat_body(model), [("Content-Type", content_type)])
    assert response.text == peer.name
    assert peer.requests[0].header("Content-Type") == "application/json"


def test_no_content_type_is_json(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = wire.chat_body(model)
    with gateway.client() as client:
        client.send(f"{CHAT}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.read_response().text == peer.name


OTHER_TYPES = (
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "application/jsonx"),
    *("json", "*/*", "text/html", "application/octet-stream"),
)


def test_another_media_type(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    paths = ("/v1/chat/completions", "/v1/rerank", "/admin/register")
    for path, content_type in itertools.product(paths, OTHER_TYPES):
        with subtests.test(path=path, content_type=content_type):
            headers = [("Content-Type", content_type), ("X-API-Key", ADMIN_KEY)]
            message = assert_error(gateway.call("POST", path, b"{}", headers), "unsupported_media_type")
            assert "-H 'Content-Type: application/json'" in message, "a hint for those who forgot it with curl"


def test_ten_thousand_parts(gateway: GatewayProcess) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    body = part * 10_000 + b"--x--\r\n"
    watch = Stopwatch(gateway.process_id)
    response = gateway.call("POST", "/v1/audio/speech", body, [("Content-Type", "multipart/form-data; boundary=x")])
    assert_error(response, "unsupported_media_type")
    assert watch.own_seconds < 0.5


def test_a_compressed_body(gateway: GatewayProcess) -> None:
    headers = [("Content-Encoding", "gzip")]
    message = assert_error(gateway.call("POST", "/v1/embeddings", b"\x1f\x8b", headers), "unsupported_media_type")
    assert "Content-Encoding" in message


# -- ways of sending


@pytest.mark.parametrize(("size", "repeats"), [(1, 1), (7, 100), (4096, 50_000)])
def test_a_body_in_chunks(gateway: GatewayProcess, peer: ScriptedPeer, model: str, size: int, repeats: int) -> None:
    gateway.register(peer, model)
    body = wire.chat_body(model, big=10**40, text="北京 🌍" * repeats)
    with gateway.client() as client:
        client.send(f"{CHAT}Transfer-Encoding: chunked\r\n\r\n".encode() + wire.chunked(body, size))
        assert client.read_response().text == peer.name
    assert peer.requests[0].body == body, "byte for byte"
    assert peer.requests[0].header("Content-Length") == str(len(body))


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0(gateway: GatewayProcess, peer: ScriptedPeer, model: str, stream: bool) -> None:
    gateway.register(peer, model)
    body = wire.chat_body(model, stream)
    with gateway.client() as client:
        client.send(f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        response = client.read_response()
        assert response.status == 200
        assert response.header("Transfer-Encoding") is None, "an old client cannot read chunks"
        assert response.body.endswith(wire.DONE) if stream else response.text == peer.name
        assert client.at_end()


def test_a_stream_to_http_1_0_ends_with_the_connection(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, wire.chunk(wire.chat_chunk("one")), Sleep(0.1), wire.chunked(wire.good_stream("two")))
    body = wire.chat_body(model, True)
    head = f"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n"
    with gateway.client(timeout_seconds=3) as client:
        client.send(head.encode() + body)
        response = client.read_response()
        assert response.body.endswith(wire.DONE)
        assert response.header("Connection") != "Keep-Alive", "nothing else tells where the body ends"
        assert client.at_end()


@pytest.mark.parametrize("stream", [False, True])
def test_connection_close(gateway: GatewayProcess, peer: ScriptedPeer, model: str, stream: bool) -> None:
    gateway.register(peer, model)
    with gateway.client() as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, stream), [("Connection", "close")])
        response = client.read_response()
        assert (response.status, response.header("Connection"), response.ended) == (200, "close", "orderly")
        assert client.at_end()


def test_a_connection_is_used_again(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    bodies = [wire.chat_body(model, stream=number % 3 == 0, nonce=f"nonce-{number}") for number in range(50)]
    with gateway.client() as client:
        for body in bodies:
            client.request("POST", "/v1/chat/completions", body)
            assert client.read_response().status == 200
    arrived = [request.body.replace(wire.USAGE_ASKED, b"", 1) for request in peer.requests]
    assert arrived == bodies, "each arrives as it was sent, once"


def test_pipelined_requests_are_answered_in_order(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(Sleep(0.1), AnswerChat("first"))
    peer.script(AnswerChat("second"))
    with gateway.client() as client:
        for _number in range(2):
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
        client.request("GET", "/health")
        assert [client.read_response().text, client.read_response().text] == ["first", "second"]
        assert client.read_response().json()["status"] == "healthy"


def test_a_refused_body_is_not_the_next_request(small_gateway: GatewayProcess) -> None:
    smuggled = b"GET /nope HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
    with small_gateway.client() as client:
        client.send(f"{CHAT}Content-Length: {len(smuggled)}\r\n\r\n".encode() + smuggled)
        client.request("GET", "/health")
        assert_error(client.read_response(), "invalid_api_key")
        assert client.read_response().status == 200


# -- slow clients


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHo", CHAT.encode()], ids=["nothing", "half", "nearly"])
def test_a_head_that_does_not_come(small_gateway: GatewayProcess, sent: bytes) -> None:
    with small_gateway.client() as client:
        client.send(sent)
        started_at = time.monotonic()
        assert client.at_end()
        assert TIMER_SECONDS - 0.1 < time.monotonic() - started_at < TIMER_SECONDS + LATE_SECONDS


def test_a_head_that_trickles(small_gateway: GatewayProcess) -> None:
    started_at = time.monotonic()
    with small_gateway.client() as client, contextlib.suppress(ConnectionError):
        for byte in CHAT.encode() * 2:
            client.send(bytes([byte]))
            time.sleep(0.02)
    assert time.monotonic() - started_at < TIMER_SECONDS + LATE_SECONDS, "each byte does not start the time anew"


@pytest.mark.parametrize("framing", ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n"])
def test_a_body_that_does_not_come(small_gateway: GatewayProcess, framing: str) -> None:
    with small_gateway.client() as client:
        client.send(f"{CHAT}{KEY}{framing}{{".encode())
        started_at = time.monotonic()
        assert client.at_end()
        assert TIMER_SECONDS - 0.1 < time.monotonic() - started_at < TIMER_SECONDS + LATE_SECONDS


def test_an_idle_connection_may_be_silent_for_longer(small_gateway: GatewayProcess) -> None:
    with small_gateway.client() as client:
        for _number in range(2):
            client.request("GET", "/health")
            assert client.read_response().status == 200
            time.sleep(TIMER_SECONDS * 1.5)
        client.send(b"GET /hea")
        started_at = time.monotonic()
        assert client.at_end(), "but a head that has begun may not take long"
        assert time.monotonic() - started_at < TIMER_SECONDS * 2 + LATE_SECONDS


def test_three_hundred_slow_clients_block_nobody(small_gateway: GatewayProcess) -> None:
    clients = [small_gateway.client() for _number in range(300)]
    try:
        for client in clients:
            client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        watch = Stopwatch(small_gateway.process_id)
        assert small_gateway.call("GET", "/health").status == 200
        assert watch.own_seconds < TIMER_SECONDS, "long before they are gone"
        assert all(client.at_end() for client in clients)
        assert watch.seconds < TIMER_SECONDS + LATE_SECONDS
    finally:
        for client in clients:
            client.close()
    descriptors = Path(f"/proc/{small_gateway.process_id}/fd")
    assert not descriptors.exists() or len(list(descriptors.iterdir())) < 100
