"""Clients are not alike: base URLs that are nearly right, bodies of other kinds, the wrong protocol."""

from __future__ import annotations

import os

import pytest
from openai import NotFoundError, OpenAI

from tests import wire
from tests.answers import assert_error
from tests.peers import ScriptedPeer
from tests.processes import HTTP_SERVER, GatewayProcess

# -- a base URL that is nearly right

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
MEANT = {
    ("POST", "/chat/completions"): CHAT,
    ("POST", "/v1/chat/completions/"): CHAT,
    ("POST", "//v1/chat/completions"): CHAT,
    ("POST", "/v1//chat/completions"): CHAT,
    ("POST", "/v1/v1/chat/completions"): CHAT,
    ("POST", "/v1/chat/completions/chat/completions"): CHAT,
    ("POST", "/openai/deployments/gpt-4/chat/completions?api-version=2024-02-01"): CHAT,
    ("POST", "/api/chat"): CHAT,
    ("POST", "/api/generate"): "/v1/completions",
    ("POST", "/v1/v1/embeddings"): "/v1/embeddings",
    ("GET", "/v1/models/"): MODELS,
    ("GET", "/V1/models"): MODELS,
    ("GET", "/v1/v1/models"): MODELS,
    ("GET", "/v1/chat/completions/models"): MODELS,
    ("GET", "/v1"): MODELS,
    ("GET", "/api/tags"): MODELS,
    ("GET", "/nope"): None,
    ("POST", "/v1/nope/"): None,
}


def test_what_a_wrong_path_was_meant_for(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    gateway.register(peer, model)
    for (method, path), meant in MEANT.items():
        with subtests.test(method=method, path=path):
            body = wire.chat_body(model) if method == "POST" else None
            # From a page of another site as well: nothing is there to be protected from it.
            answer = gateway.call(method, path, body, [("Origin", "https://chat.example")])
            message = assert_error(answer, "not_found")
            assert ("Did you mean" in message, f"Did you mean {meant}?" in message) == (bool(meant), bool(meant))
    assert peer.requests == [], "no server has to find that out"


def test_routes_below_others_are_still_forwarded(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    for path in ("/v1/messages/count_tokens", "/v1/chat/completions/render", "/v1/engines/any/completions"):
        assert gateway.call("POST", path, wire.chat_body(model)).status == 200
        assert peer.requests[-1].path == path


def test_the_library_without_v1_is_told(gateway: GatewayProcess) -> None:
    with OpenAI(base_url=gateway.url, api_key="any", max_retries=0) as client:
        with pytest.raises(NotFoundError, match="Did you mean /v1/models"):
            client.models.list()
        with pytest.raises(NotFoundError, match="Did you mean /v1/chat/completions"):
            client.chat.completions.create(model="any", messages=[])
    assert (
        gateway.call("GET", "/models", None, [("Accept", "text/html,*/*")]).header("Content-Type")
        == "text/html; charset=utf-8"
    )


# -- bodies of other kinds

ODD_BODIES = {
    "nothing": (b" \n", "empty"),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"any"}', "byte order mark"),
    "the shell's quotes": (b"'{model:any}'", "double"),
    "Python's quotes": (b"{'model': 'any'}", "double"),
    "Latin-1, as PowerShell sends it": ('{"model":"any","a":"é"}'.encode("latin-1"), "charset=utf-8"),
    "UTF-16": ('{"model":"any"}'.encode("utf-16"), "charset=utf-8"),
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_a_body_that_is_no_json_is_told_why(gateway: GatewayProcess, name: str) -> None:
    body, told = ODD_BODIES[name]
    assert told in assert_error(gateway.call("POST", CHAT, body), "invalid_request")


def test_a_file_is_not_told_to_call_itself_json(gateway: GatewayProcess) -> None:
    fields = [("Content-Type", "Multipart/Form-Data; boundary=x")]
    message = assert_error(gateway.call("POST", "/v1/audio/transcriptions", b"--x--", fields), "unsupported_media_type")
    assert "Files" in message
    assert "Content-Type" not in message


# -- another protocol

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)


@pytest.mark.skipif(os.environ.get(HTTP_SERVER) == "tornado", reason="Tornado's server waits for a line to end")
@pytest.mark.parametrize("first", [TLS_HELLO, TLS_HELLO[:1], b"\x00\x00\x00", b"\x80"], ids=range(4))
def test_whoever_does_not_speak_http_need_not_wait(gateway: GatewayProcess, first: bytes) -> None:
    with gateway.client(timeout_seconds=2) as client:
        client.send(first)
        assert client.read_response().status == 400, "at once, not after HEADER_TIMEOUT_SECONDS"
        assert client.at_end()
