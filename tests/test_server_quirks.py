"""Servers are not alike: pages of tunnels, unasked compression, hostile framing, odd errors and names."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import time
import zlib

import pytest

from tests import wire
from tests.answers import assert_error
from tests.conftest import StartPeer
from tests.operations import AnswerChat, Hold, Script, Send, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import PLANTED_SERVER_KEY, GatewayProcess

JSON_TYPE = ("Content-Type", "application/json")
CHUNKED = ("Transfer-Encoding", "chunked")
GZIP = ("Content-Encoding", "gzip")
GOOD = json.dumps(wire.chat_completion("hi")).encode()


# -- pages of tunnels

TUNNELS = {
    "ngrok offline": (404, "ERR_NGROK_3200", [("ngrok-error-code", "ERR_NGROK_3200")], "ERR_NGROK_3200"),
    "ngrok offline, page only": (404, "<p>The endpoint is offline. ERR_NGROK_3200</p>", [], "ERR_NGROK_3200"),
    "ngrok's server is down": (502, "ERR_NGROK_8012", [("ngrok-error-code", "ERR_NGROK_8012")], "ERR_NGROK_8012"),
    "ngrok's limit": (429, "ERR_NGROK_734", [("ngrok-error-code", "ERR_NGROK_734")], "ERR_NGROK_734"),
    "ngrok's warning": (200, "You are about to visit. ERR_NGROK_6024", [], "ERR_NGROK_6024"),
    "Cloudflare 530": (530, "error code: 1033", [("Server", "cloudflare")], "530"),
    "Cloudflare 524": (524, "A timeout occurred", [("Server", "cloudflare")], "524"),
    "some web server": (200, "It works!", [], "web page"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnels_page_is_no_answer(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str, stream: bool
) -> None:
    status, page, headers, told = TUNNELS[name]
    registration_id = gateway.register(peer, model)
    peer.always(wire.html_answer(status, page, headers))
    response = gateway.chat(model, stream)
    assert_error(response, "server_error")
    assert b"<" not in response.body, "no page reaches a client"
    assert told in gateway.server(registration_id)["reason"], "the owner is told which"
    peer.health.queue(wire.html_answer(status, page, headers))
    probe = gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()["probe"]
    assert (probe["ok"], told in probe["reason"]) == (False, True)


# -- gzip that nobody asked for


def test_a_compressed_answer(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    for body in (gzip.compress(GOOD), zlib.compress(GOOD)):
        name = "gzip" if body[:2] == b"\x1f\x8b" else "deflate"
        peer.script(wire.answer(body, headers=[("Content-Encoding", name)]))
        response = gateway.chat(model)
        assert response.body == GOOD
        assert response.header("Content-Encoding") is None


def test_a_compressed_error(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    peer.script(wire.answer(gzip.compress(body), 400, headers=[GZIP]))
    response = gateway.chat(model)
    assert (response.status, response.body) == (400, body)


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_a_compressed_stream(gateway: GatewayProcess, peer: ScriptedPeer, model: str, pieces: int) -> None:
    gateway.register(peer, model)
    body = wire.good_stream("one", "北京", "three")
    packer = zlib.compressobj(wbits=31)
    packed = [
        packer.compress(body[start : start + 40]) + packer.flush(zlib.Z_SYNC_FLUSH) for start in range(0, len(body), 40)
    ]
    packed.append(packer.flush())
    whole = b"".join(packed)
    size = len(whole) // pieces + 1
    steps: list[Step] = [wire.head(200, [("Content-Type", "text/event-stream"), CHUNKED, GZIP])]
    for start in range(0, len(whole), size):
        steps += [wire.chunk(whole[start : start + size]), Sleep(0.001)]
    peer.script(*steps, wire.LAST_CHUNK)
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert (stream.texts, stream.done) == (["one", "北京", "three"], True)


CORRUPT = {
    "not gzip at all": GOOD,
    "a broken byte": gzip.compress(GOOD)[:40] + b"\xff\xff" + gzip.compress(GOOD)[42:],
    "cut short": gzip.compress(GOOD)[:-20],
    "nothing": b"",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_compression(gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str) -> None:
    script = Script(AnswerChat("good"))
    script.queue(wire.answer(CORRUPT[name], headers=[GZIP]))
    for _number in range(2):
        gateway.register(start_peer(script), model)
    assert gateway.chat(model).text == "good", "the next server answers"
    assert len(script.arrivals) == 2


def test_an_unknown_compression(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.answer(b"\x28\xb5\x2f\xfd", headers=[("Content-Encoding", "zstd")]))
    assert_error(gateway.chat(model), "server_error")


def test_a_bomb_is_cut(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    impatient_gateway.register(peer, model)
    bomb = gzip.compress(b" " * 200_000_000, compresslevel=9)
    before = impatient_gateway.resident_bytes
    for stream in (False, True):
        content_type = "text/event-stream" if stream else "application/json"
        peer.script(wire.answer(bomb, content_type=content_type, headers=[GZIP]))
        asked_at = time.monotonic()
        assert_error(impatient_gateway.chat(model, stream), "server_error")
        assert time.monotonic() - asked_at < 3
    assert impatient_gateway.resident_bytes - before < 20_000_000


@pytest.mark.parametrize("name", ["none", "None", "utf-8", "identity", ""])
def test_what_is_no_compression(gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str) -> None:
    gateway.register(peer, model)
    body = wire.good_stream("one")
    fields = [("Content-Type", "text/event-stream"), CHUNKED, ("Content-Encoding", name)]
    peer.script(wire.head(200, fields) + wire.chunked(body))
    assert gateway.chat(model, stream=True).body == body


# -- hostile framing

HOSTILE: dict[str, tuple[Step, ...]] = {
    "a head of 100 KB": (wire.head(200, [JSON_TYPE, ("X-Long", "x" * 100_000)]) + GOOD,),
    "a head without an end": (b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 1_000_000, Hold()),
    "5 000 headers": (
        wire.head(200, [JSON_TYPE, *((f"X-{number}", "x" * 20) for number in range(5000))]) + GOOD,
        Hold(),
    ),
    "forty times 100": (b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + wire.answer(GOOD),),
    "100 for ever": (b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, Hold()),
    "status 999": (wire.head(999, [JSON_TYPE, ("Content-Length", "2")]) + b"{}",),
    "status 20": (b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}", Hold()),
    "status 99999": (b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\n{}", Hold()),
    "101": (wire.head(101, [("Upgrade", "websocket"), ("Connection", "Upgrade")]), Hold()),
    "a header without a colon": (b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", Hold()),
    "NUL in a header": (b"HTTP/1.1 200 OK\r\nName: a\0b\r\nContent-Length: 2\r\n\r\n{}", Hold()),
    "chunk size ZZ": (wire.head(200, [JSON_TYPE, CHUNKED]) + b"ZZ\r\n{}\r\n", Hold()),
    "a huge chunk size": (wire.head(200, [JSON_TYPE, CHUNKED]) + b"f" * 20 + b"\r\n{}\r\n", Hold()),
    "a negative length": (wire.head(200, [JSON_TYPE, ("Content-Length", "-1")]) + b"{}", Hold()),
    "a huge length": (wire.head(200, [JSON_TYPE, ("Content-Length", "9" * 30)]) + b"{}", Hold()),
    "length and chunks": (wire.head(200, [JSON_TYPE, CHUNKED, ("Content-Length", "2")]) + wire.chunked(b"{}"), Hold()),
    "HTTP/2": (b"HTTP/2 200\r\ncontent-type: application/json\r\n\r\n{}", Hold()),
    "HTTP/0.9": (b"{}", Hold()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_framing(gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str) -> None:
    hostile = start_peer()
    hostile.always(*HOSTILE[name])
    gateway.register(hostile, model)
    asked_at = time.monotonic()
    assert_error(gateway.chat(model), "server_error")
    assert time.monotonic() - asked_at < 3
    good = start_peer()
    gateway.register(good, model)
    assert {gateway.chat(model, stream).status for stream in (None, None, None)} == {200}
    assert gateway.chat(model).text == good.name


@pytest.mark.parametrize("reason", ["OK<script>alert(1)</script>", "", "\xff\xfe", "x" * 1000])
def test_a_reason_goes_nowhere(gateway: GatewayProcess, peer: ScriptedPeer, model: str, reason: str) -> None:
    gateway.register(peer, model)
    body = GOOD
    peer.script(wire.head(200, [JSON_TYPE, ("Content-Length", str(len(body)))], reason) + body)
    response = gateway.chat(model)
    if response.status == 200:
        assert (response.reason, response.body) == ("OK", body)
    else:
        assert_error(response, "server_error")


# -- names of models


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_may_call_the_model_by_another_name(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, stream: bool
) -> None:
    own_name = 'C:\\models\\"llama" 北京.gguf'
    gateway.register(peer, model, served_model_name=own_name)
    template = '{{ "a": {{"model":"keep"}},\n "model" : {},"n":1.0,"big":{},"stream":{},"messages":[{{"model":1}}]}}'
    stream_text = json.dumps(stream)
    body = template.format(json.dumps(model), 10**30, stream_text).encode()
    assert gateway.call("POST", "/v1/chat/completions", body).status == 200
    sent = peer.requests[0].body.replace(wire.USAGE_ASKED if stream else b"\0", b"")
    assert json.loads(sent)["model"] == own_name
    before, after = template.format("\0", 10**30, stream_text).encode().split(b"\0")
    assert sent.startswith(before)
    assert sent.endswith(after), "every other byte is as it was"


def test_each_server_gets_its_own_name(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    script = Script(wire.error_answer(500, "no"))
    names = {start_peer(script): name for name in ("first", None, "third")}
    for peer, name in names.items():
        gateway.register(peer, model, served_model_name=name)
    assert gateway.chat(model).status == 502
    assert {request.peer: request.json()["model"] for request in script.arrivals} == {
        peer: name or model for peer, name in names.items()
    }


@pytest.mark.parametrize("form", ["{}", "{}?a=b"])
def test_a_model_with_slashes(gateway: GatewayProcess, peer: ScriptedPeer, model: str, form: str) -> None:
    name = f"org/{model}:Q4_K_M@a+b"
    gateway.register(peer, name, owner_name="Ada")
    for shown in (
        name,
        name.replace("/", "%2F"),
        name.replace("/", "%2f").replace(":", "%3A"),
        name.replace("+", "%2B"),
    ):
        response = gateway.call("GET", "/v1/models/" + form.format(shown))
        assert response.status == 200, shown
        record = response.json()
        assert record["id"] == name
        assert set(record) == {"id", "object", "created", "owned_by", "servers", "healthy_servers"}
        assert (record["object"], record["owned_by"], record["servers"], record["healthy_servers"]) == (
            "model",
            "Ada",
            1,
            1,
        )
        assert abs(record["created"] - time.time()) < 60
    assert name in [entry["id"] for entry in gateway.call("GET", "/v1/models").json()["data"]]
    assert gateway.chat(name).text == peer.name


def test_a_model_that_nobody_can_serve_is_not_on_offer(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    good, bad = start_peer(), start_peer()
    bad.health.always(wire.html_answer())
    gateway.register(good, model)
    gateway.register(bad, model)
    gateway.register(bad, f"{model}-2")
    record = gateway.call("GET", f"/v1/models/{model}").json()
    assert (record["servers"], record["healthy_servers"]) == (2, 1)
    message = assert_error(gateway.call("GET", f"/v1/models/{model}-2"), "model_not_found", "model")
    assert f"{model}-2" in message
    names = [entry["id"] for entry in gateway.call("GET", "/v1/models").json()["data"]]
    assert model in names
    assert f"{model}-2" not in names


# -- 404: the model, or the route

MODEL_MISSING = {
    "by its code": wire.error_answer(404, "no such thing", code="model_not_found"),
    "by its name": wire.error_answer(404, "model 'MODEL' not found, try pulling it first"),
    "by its name, Ollama's shape": wire.json_answer({"error": "model 'MODEL' not found"}, 404),
    "by its name, as text": wire.answer("The model MODEL does not exist", 404, "text/plain"),
    "by its name, as detail": wire.json_answer({"detail": "Unknown model MODEL"}, 404),
}
ROUTE_MISSING = {
    "detail": wire.json_answer({"detail": "Not Found"}, 404),
    "text": wire.answer("404 page not found", 404, "text/plain"),
    "nothing": wire.head(404, [("Content-Length", "0")]),
    "error": wire.error_answer(404, "File Not Found", code=404, type="not_found_error"),
}


@pytest.mark.parametrize("name", MODEL_MISSING)
def test_a_server_that_does_not_know_the_model(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str
) -> None:
    lost, good = start_peer(), start_peer()
    answer = MODEL_MISSING[name].replace(b"MODEL", model.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    content_type = "text/plain" if b"text/plain" in head else "application/json"
    lost.always(wire.answer(body, 404, content_type))
    lost_id = gateway.register(lost, model)
    assert_error(gateway.chat(model), "model_not_found", "model")
    gateway.register(good, model)
    for _number in range(3):
        assert gateway.chat(model).text == good.name
    assert len(lost.requests) == 1, "not asked again"
    record = gateway.server(lost_id)
    assert (record["availability"], record["consecutive_failures"]) == ("unhealthy", 0)
    assert "served_model_name" in record["reason"]
    offered = gateway.call("GET", f"/v1/models/{model}").json()
    assert (offered["servers"], offered["healthy_servers"]) == (2, 1)
    assert gateway.admin("POST", f"/admin/servers/{lost_id}/probe").json()["availability"] == "available"
    assert {gateway.chat(model).text for _number in range(2)} == {good.name}
    assert len(lost.requests) == 2, "until the next good probe"


@pytest.mark.parametrize("name", ROUTE_MISSING)
def test_a_server_without_the_route(gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str) -> None:
    registration_id = gateway.register(peer, model)
    peer.script(ROUTE_MISSING[name])
    assert_error(gateway.call("POST", "/v1/embeddings", wire.chat_body(model)), "not_found")
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("available", 0)
    assert gateway.chat(model).status == 200


# -- odd answers that are good, and good-looking ones that are not


def test_an_answer_without_a_type(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.head(200, [("Content-Length", str(len(GOOD)))]) + GOOD)
    response = gateway.chat(model)
    assert (response.body, response.header("Content-Type")) == (GOOD, "application/json")
    peer.script(wire.head(200, [("Content-Length", "5")]) + b"hello")
    assert_error(gateway.chat(model), "server_error")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
def test_json_by_any_name(gateway: GatewayProcess, peer: ScriptedPeer, model: str, content_type: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.answer(GOOD, content_type=content_type))
    response = gateway.chat(model)
    assert (response.body, response.header("Content-Type")) == (GOOD, "application/json")


def test_a_201(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.answer(GOOD, 201))
    response = gateway.chat(model)
    assert (response.status, response.body) == (201, GOOD)


@pytest.mark.parametrize("content_type", ["audio/mpeg", "audio/wav", "application/octet-stream"])
def test_audio_is_an_attachment(gateway: GatewayProcess, peer: ScriptedPeer, model: str, content_type: str) -> None:
    gateway.register(peer, model)
    sound = b"ID3\x04" + bytes(range(256)) * 200
    peer.script(wire.answer(sound, content_type=content_type))
    peer.script(wire.answer(sound, content_type=content_type))
    response = gateway.call("POST", "/v1/audio/speech", wire.chat_body(model))
    assert (response.status, response.body, response.header("Content-Type")) == (200, sound, content_type)
    assert response.header("Content-Disposition") == "attachment"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert_error(gateway.call("POST", "/v1/chat/completions", wire.chat_body(model)), "server_error")


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xml", "text/javascript", "audio"])
def test_no_other_type_passes(gateway: GatewayProcess, peer: ScriptedPeer, model: str, content_type: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.answer("<svg onload=alert(1)>", content_type=content_type))
    response = gateway.call("POST", "/v1/audio/speech", wire.chat_body(model))
    assert_error(response, "server_error")


# The answer, and what the message has to look like.
SHAPES: list[tuple[object, str]] = [
    ({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, ".*field required.*"),
    ({"detail": "too long"}, "too long"),
    ({"message": "bad\ntemperature\u2028\x1b[31m"}, r"bad temperature \[31m"),
    ({"error": "no", "detail": "less"}, "no"),
    ({"error": None}, ".+"),
    ([], ".+"),
    ("<b>bold</b>", ".*<b>bold</b>.*"),
]


def test_errors_of_every_shape(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    gateway.register(peer, model)
    for status, (answer, message) in itertools.product((400, 409, 418, 422, 451), SHAPES):
        with subtests.test(status=status, answer=answer):
            peer.requests.clear()
            peer.script(wire.json_answer(answer, status))
            response = gateway.chat(model)
            assert response.status == status
            error = response.error
            assert set(error) == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
            assert re.fullmatch(message, error["message"]), error["message"]
            assert error["message"].isprintable()
            assert (response.header("Content-Type"), len(peer.requests)) == ("application/json", 1)


def test_a_long_error_is_cut(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.answer("x" * 100_000, 400, "text/plain"))
    assert len(gateway.chat(model).body) < 5000


# -- a 200 that is none


HIDDEN_ERRORS = {
    "of LM Studio": ({"error": "Unexpected endpoint or method. (POST /v1/chat/completions)"}, "not_found"),
    "a text": ({"error": "Cannot read properties of null"}, "server_error"),
    "an object": ({"error": {"message": "Provider returned error"}, "user_id": "u"}, "server_error"),
    "with a status of its own": ({"error": {"message": "down", "code": 502}}, "server_error"),
    "busy": ({"error": {"message": "Rate limit exceeded", "code": 429}}, "overloaded"),
    "busy, in words": ({"error": {"message": "Slow down", "type": "rate_limit_error", "code": None}}, "overloaded"),
    "busy, by its status": ({"error": {"message": "Slow down", "status": 429, "code": None}}, "overloaded"),
    "loading": ({"error": {"message": "Loading model", "code": 503}}, "model_loading"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", HIDDEN_ERRORS)
def test_an_error_with_status_200(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str, stream: bool
) -> None:
    document, code = HIDDEN_ERRORS[name]
    script = Script(wire.json_answer(document))
    gateway.register(start_peer(script), model)
    assert_error(gateway.chat(model, stream), code)
    good = start_peer()
    gateway.register(good, model)
    assert {gateway.chat(model, stream).status for _number in range(2)} == {200}, "another server answers"
    assert good.requests


@pytest.mark.parametrize("code", [400, "400", "context_length_exceeded"])
def test_a_mistake_with_status_200_is_the_clients(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, code: object
) -> None:
    registration_id = gateway.register(peer, model)
    document = {"error": {"message": "messages must alternate", "code": code}}
    peer.always(wire.json_answer(document))
    answer = gateway.chat(model)
    assert (answer.status, answer.json()) == (400, document)
    assert gateway.server(registration_id)["consecutive_failures"] == 0


@pytest.mark.parametrize("code", [400, "invalid_prompt", "rate_limit_exceeded"])
def test_an_error_with_status_200_repeats_no_key(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, code: object
) -> None:
    gateway.register(peer, model, api_key=PLANTED_SERVER_KEY)
    peer.always(wire.json_answer({"error": {"message": f"not with {PLANTED_SERVER_KEY}", "code": code}}))
    answer = gateway.chat(model)
    assert answer.status in (400, 503)
    assert PLANTED_SERVER_KEY.encode() not in answer.body


@pytest.mark.parametrize(
    "document",
    [
        {"object": "response", "status": "failed", "output": [], "error": {"code": "server_error", "message": "no"}},
        {"data": [], "error": {"message": "some were left out"}},
        {"choices": [], "error": "cut off"},
        {"error": None},
        {"error": {}, "said": '"error"'},
    ],
    ids=range(5),
)
def test_an_error_inside_an_answer(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, document: dict[str, object]
) -> None:
    gateway.register(peer, model)
    peer.script(wire.json_answer(document))
    answer = gateway.call("POST", "/v1/responses", wire.chat_body(model))
    assert (answer.status, answer.json()) == (200, document)


# -- events and JSON under the wrong name


@pytest.mark.parametrize("content_type", [("Content-Type", "application/json; charset=utf-8"), ("X-No-Type", "")])
@pytest.mark.parametrize("before", [b"", b"\r\n\r\n", b": hello\n\n", b"event: message\n", b"id: 1\n", b"retry: 9\n\n"])
def test_events_that_are_called_json(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, content_type: tuple[str, str], before: bytes
) -> None:
    gateway.register(peer, model)
    body = before + wire.good_stream("one", "two")
    peer.script(wire.head(200, [content_type, CHUNKED]), Send(wire.chunked(body, 1), 7))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert (stream.response.header("Content-Type"), stream.response.body) == ("text/event-stream", body)
    peer.script(wire.head(200, [content_type, CHUNKED]) + wire.chunked(wire.good_stream("one")))
    assert_error(gateway.chat(model), "server_error")


def test_events_that_are_called_json_behind_keep_alives(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(Sleep(0.4), wire.head(200, [JSON_TYPE, CHUNKED]) + wire.chunked(wire.good_stream("one")))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert (stream.texts, stream.done, bool(stream.comments)) == (["one"], True, True)


def test_json_that_follows_its_head_slowly(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    head = wire.head(200, [JSON_TYPE, ("Content-Length", str(len(GOOD) + 1))])
    peer.script(head, Sleep(0.4), b"\n", Sleep(0.4), GOOD)
    answer = gateway.chat(model, stream=True)
    assert (answer.header("Content-Type"), answer.body) == ("application/json", b"\n" + GOOD), "held for it"


def test_numbers_that_are_none(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = b'\xef\xbb\xbf{"choices":[{"logprobs":[NaN, -Infinity]}]}'
    peer.script(wire.answer(body))
    answer = gateway.chat(model)
    assert (answer.status, answer.body) == (200, body), "as libraries read it from the server itself"
