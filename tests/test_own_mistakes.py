"""A client's mistake hurts nobody else: it is never retried, never counted against a server, and told as it was meant.

Also models that no server can answer for, and taking a server out while it works.
"""

from __future__ import annotations

import pytest

from tests import wire
from tests.conftest import StartPeer
from tests.operations import Hold, Script
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess

# -- the client's own mistakes


OWN_MISTAKES = {
    f"{status} with an error object": wire.answer(
        b'{ "error":{"message":"your \\u00e9rror","type":"t","extra":[1.0]} }', status
    )
    for status in (400, 402, 409, 413, 415, 422, 451)
}
MISTAKES_IN_OTHER_SHAPES = {
    "detail": (wire.json_answer({"detail": "field required: messages"}, 422), "field required: messages"),
    "plain text": (wire.answer("prompt is too long", 400, "text/plain"), "prompt is too long"),
    "error as text": (wire.json_answer({"error": "bad temperature"}, 400), "bad temperature"),
    "error without a message": (wire.json_answer({"error": {"reason": "odd"}}, 400), "odd"),
}


@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize("name", OWN_MISTAKES)
def test_a_clients_mistake_comes_back_at_once(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str, stream: bool | None
) -> None:
    answer = OWN_MISTAKES[name]
    script = Script(answer)
    registrations = [gateway.register(start_peer(script), model) for _number in range(2)]
    response = gateway.chat(model, stream)
    assert response.status == int(name[:3])
    assert answer.endswith(b"\r\n\r\n" + response.body), "byte for byte"
    assert len(script.arrivals) == 1, "a client's mistake is never retried"
    for registration_id in registrations:
        assert gateway.server(registration_id)["consecutive_failures"] == 0, "and blamed on nobody"


@pytest.mark.parametrize("name", MISTAKES_IN_OTHER_SHAPES)
def test_other_shapes_of_errors_come_in_our_envelope(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    answer, text = MISTAKES_IN_OTHER_SHAPES[name]
    gateway.register(peer, model)
    peer.script(answer)
    response = gateway.chat(model)
    assert response.status in (400, 422)
    assert set(response.error) == {"message", "type", "param", "code"}
    assert text in response.error["message"], "the server's text is not lost"
    assert (response.header("Content-Type") or "").startswith("application/json")


# -- models without a server


def test_a_model_that_nobody_registered(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    for response in (gateway.chat(model + "x"), gateway.call("GET", f"/v1/models/{model}x")):
        assert (response.status, response.code) == (404, "model_not_found")
        assert model in response.error["message"].replace(model + "x", ""), "close names are listed"


def test_a_model_whose_servers_all_drain(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    gateway.admin("POST", f"/admin/servers/{registration_id}/drain", {})
    response = gateway.chat(model)
    assert (response.status, response.code) == (503, "no_server_available")
    assert 1 <= int(response.header("Retry-After") or 0) <= 60
    assert gateway.admin("POST", f"/admin/servers/{registration_id}/resume", {}).status == 200
    assert gateway.chat(model).text == peer.name


@pytest.mark.parametrize("way", ["deregister", "drain"])
def test_taking_a_server_out_lets_its_streams_finish(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, way: str
) -> None:
    registration_id = gateway.register(peer, model)
    hold = Hold()
    peer.script(
        wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), hold, wire.chunked(wire.finish_chunk() + wire.DONE)
    )
    with gateway.stream(model) as stream:
        stream.read_events(1)
        if way == "drain":
            gateway.admin("POST", f"/admin/servers/{registration_id}/drain", {})
            refused = (503, "no_server_available")
        else:
            gateway.admin("DELETE", f"/admin/register/{registration_id}")
            refused = (404, "model_not_found")
        response = gateway.chat(model)
        assert (response.status, response.code) == refused, "no new request goes there"
        hold.release()
        assert stream.read_to_end().done, "the running one finishes"
        assert not stream.errors
    assert len(peer.requests) == 1
