"""What the system before this one did wrong, each a test: it must never come back."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter

import pytest

from tests import wire
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, AnswerModels, Fin, Hold, Reset, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually, eventually_equal

MULTIBYTE = "北京 🌍 é"


# -- streaming that never failed over


@pytest.mark.parametrize("steps", [(Reset(),), (wire.error_answer(500, "boom"),), (wire.STREAM_HEAD, Fin())])
def test_streaming_fails_over_before_the_commit(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, steps: tuple[Step, ...]
) -> None:
    script = Script(AnswerChat("good"))
    script.queue(*steps)
    for _number in range(2):
        gateway.register(start_peer(script), model)
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert (stream.texts, stream.done) == (["good"], True)
    assert len(script.arrivals) == 2


# -- errors in the middle of a stream swallowed into a truncated 200


def test_an_error_in_the_middle_of_a_stream_is_told(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Sleep(0.05), Reset())
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.texts == ["one"]
    assert [error["code"] for error in stream.errors] == ["server_disconnected"], "an event says that it is broken"
    assert not stream.done, "and nothing says that it is whole"


# -- a client's own 400 retried, and servers marked unhealthy for it


def test_a_clients_own_400_is_not_retried_and_blames_nobody(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    script = Script(wire.error_answer(400, "messages must alternate"))
    registrations = [gateway.register(start_peer(script), model) for _number in range(3)]
    for number in range(1, 11):
        assert gateway.chat(model).status == 400
        assert len(script.arrivals) == number, "one server each time"
    for registration_id in registrations:
        record = gateway.server(registration_id)
        assert (record["health_status"], record["availability"]) == ("healthy", "available")
        assert record["consecutive_failures"] == 0


# -- round robin over a list that was sorted again on each request (17/17/67 %)


@pytest.mark.parametrize("neighbour_changes", [False, True])
def test_round_robin_is_even(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, neighbour_changes: bool
) -> None:
    neighbour = start_peer()
    for _number in range(3):
        gateway.register(start_peer(), model)
    body = wire.chat_body(model)
    answered: Counter[str] = Counter()
    with gateway.client() as client:
        for number in range(300):
            if neighbour_changes and number % 20 == 0:
                registration_id = gateway.register(neighbour, f"{model}-other")
            if neighbour_changes and number % 20 == 7:
                change = {"description": f"changed {number}"}
                assert gateway.admin("PUT", f"/admin/register/{registration_id}", change).status == 200
            if neighbour_changes and number % 20 == 13:
                gateway.admin("DELETE", f"/admin/register/{registration_id}")
            client.request("POST", "/v1/chat/completions", body)
            answered[client.read_response().text] += 1
    assert sorted(answered.values()) == [100, 100, 100], f"300 sequential requests land evenly: {answered}"


# -- multi-byte characters broken at chunk boundaries


def test_multibyte_characters_survive_every_chunk_boundary(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    body = wire.sse(json.dumps({"choices": [{"delta": {"content": MULTIBYTE}}]}, ensure_ascii=False)) + wire.DONE
    with gateway.client() as client:
        for cut in range(1, len(body)):
            peer.script(wire.STREAM_HEAD + wire.chunk(body[:cut]), Sleep(0.001), wire.chunked(body[cut:]))
            client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
            assert client.read_response().body == body, f"cut after byte {cut}"


def test_multibyte_characters_of_a_plain_answer(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = json.dumps(wire.chat_completion(MULTIBYTE), ensure_ascii=False).encode()
    fields = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    peer.always(wire.head(200, fields) + wire.chunked(body, 1))
    assert gateway.chat(model).body == body


# -- probes one after the other (500 s for 50 servers)


def test_hanging_servers_do_not_delay_the_probes_of_others(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.5, HEALTH_CHECK_TIMEOUT_SECONDS=5)
    hanging = [start_peer() for _number in range(20)]
    good = start_peer()
    for number, peer in enumerate([*hanging, good]):
        gateway.register(peer, f"{model}-{number}")
    hold = Hold()
    for peer in hanging:
        peer.health.always(hold, AnswerModels())
    probed = [len(peer.probes) for peer in hanging]
    eventually(
        lambda: all(len(peer.probes) > before for peer, before in zip(hanging, probed, strict=True)),
        "all twenty are being probed side by side",
        within_seconds=2.5,
    )
    already = len(good.probes)
    eventually(lambda: len(good.probes) >= already + 3, "the good server is probed on time", within_seconds=2.5)
    gaps = [after.arrived_at - before.arrived_at for before, after in itertools.pairwise(good.probes)]
    assert max(gaps[-3:]) < 1.2, f"every HEALTH_CHECK_INTERVAL_SECONDS (0.5 here), give or take: {gaps}"
    hold.release()


# -- sleeping laptops deregistered after three failures


def test_a_sleeping_laptop_stays_registered(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1)
    registration_id = gateway.register(peer, model)
    peer.health.always(Fin())
    became = "three failed probes make it unhealthy"
    eventually_equal(lambda: gateway.server(registration_id)["health_status"], "unhealthy", became, 4.0)
    failed = gateway.server(registration_id)["consecutive_failures"]
    assert failed >= 3
    eventually(lambda: gateway.server(registration_id)["consecutive_failures"] >= failed + 2, "it is still probed", 5.0)
    assert gateway.admin("GET", "/admin/servers").json()["total"] == 1, "and still registered"
    peer.health.always(AnswerModels())
    assert gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()["health_status"] == "healthy"
    assert gateway.chat(model).text == peer.name, "awake again"


# -- unknown request fields lost, and defaults injected


ODD_BODIES = {
    "spacing and order": '{\n "stream" : false,\t"messages":[ ] , "model":"MODEL" }\n',
    "unknown fields": '{"model":"MODEL","messages":[],"guided_json":{"a":[1]},"min_p":0.05,"chat_template_kwargs":{}}',
    "numbers": '{"model":"MODEL","messages":[],"temperature":1.0,"top_p":1,"seed":123456789012345678901234567890,'
    '"x":1e400,"y":-0.0,"z":1E+2}',
    "escapes": '{"model":"MODEL","messages":[{"role":"user","content":"\\u00e9\\/\\ud83c\\udf0d 北京 🌍"}]}',
    "null": '{"model":"MODEL","messages":[],"stream":null,"stop":null,"tools":null}',
    "models elsewhere": '{"metadata":{"model":"other"},"model":"MODEL","messages":[{"content":"\\"model\\":\\"x\\""}]}',
}
ROUTES = ["chat/completions", "completions", "embeddings", "responses", "rerank", "moderations", "images/generations"]


@pytest.mark.parametrize("name", ODD_BODIES)
def test_bodies_reach_the_server_byte_for_byte(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    gateway.register(peer, model)
    peer.always(wire.json_answer({"answer": 1.0}))
    body = ODD_BODIES[name].replace("MODEL", model).encode()
    for route in ROUTES:
        response = gateway.call("POST", f"/v1/{route}", body)
        assert (response.status, response.json()) == (200, {"answer": 1.0}), f"{route}: {response.body!r}"
        assert peer.requests[-1].path == f"/v1/{route}"
        assert peer.requests[-1].body == body, f"{route}: nothing lost, nothing injected"


@pytest.mark.parametrize("name", ODD_BODIES)
def test_a_served_model_name_changes_only_that_value(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    served = 'C:\\models\\"tiny" é.gguf'
    gateway.register(peer, model, served_model_name=served)
    body = ODD_BODIES[name].replace("MODEL", model).encode()
    peer.always(wire.json_answer({}))
    assert gateway.call("POST", "/v1/chat/completions", body).status == 200
    before, after = body.split(json.dumps(model).encode())
    received = peer.requests[-1].body
    assert received.startswith(before)
    assert received.endswith(after)
    assert json.loads(received[len(before) : len(received) - len(after)]) == served


@pytest.mark.parametrize("prefix", ["", "/", "/v1", "/v1/", "/tunnel/a", "/tunnel/a/v1/"])
def test_the_right_path_is_built_once(gateway: GatewayProcess, peer: ScriptedPeer, model: str, prefix: str) -> None:
    gateway.register(peer, model, endpoint_url=peer.url + prefix)
    assert gateway.chat(model).status == 200
    base = prefix.rstrip("/").removesuffix("/v1")
    assert peer.requests[-1].path == f"{base}/v1/chat/completions"
    assert peer.probes[-1].path == f"{base}/v1/models"


# -- a new connection for each request


def test_connections_are_reused(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    with gateway.client() as client:
        for number in range(50):
            body = wire.chat_body(model, stream=bool(number % 2), nonce=f"nonce-{number}")
            client.request("POST", "/v1/chat/completions", body)
            response = client.read_response()
            assert (response.status, response.ended) == (200, "orderly"), "one connection of the client's serves all"
            assert peer.requests[-1].json()["nonce"] == f"nonce-{number}"
    assert len(peer.requests) == 50
    assert len(peer.connections) <= 2, "the server's connection is kept as well (and one may be the probe's)"


def test_header_hygiene(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    sent = [
        ("Authorization", f"Bearer {wire.PLANTED_CLIENT_KEY}"),
        ("Cookie", "session=1"),
        ("Origin", "https://elsewhere.example"),
        ("X-Forwarded-For", "10.1.2.3"),
        ("X-Api-Key", wire.PLANTED_CLIENT_KEY),
        ("X-Request-ID", "from-the-client-1"),
        ("OpenAI-Organization", "org"),
    ]
    started_at = time.monotonic()
    response = gateway.chat(model, headers=sent)
    assert response.header("X-Request-ID") == "from-the-client-1"
    (request,) = peer.requests
    assert request.arrived_at - started_at < 1.0
    names = {name.lower() for name, _value in request.headers}
    allowed = {"host", "content-length", "content-type", "accept", "user-agent", "accept-encoding", "authorization"}
    allowed |= {"x-request-id", "via", "ngrok-skip-browser-warning", "connection"}
    assert names <= allowed, f"headers to a server are built from an allow-list, not {names - allowed}"
    assert request.header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}", "each server sees its own key"
    assert request.header("Accept-Encoding") == "identity"
    assert request.header("X-Request-ID") == "from-the-client-1"
    assert wire.PLANTED_CLIENT_KEY not in str(request.headers)
