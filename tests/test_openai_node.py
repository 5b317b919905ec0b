"""OpenAI's library for Node.js with its default settings, retries included, against the real gateway process.

What holds for both libraries alike is tried in more ways in test_openai_client.py.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import wire
from tests.conftest import StartGateway, StartPeer
from tests.node import Asked, OpenAINode
from tests.operations import AnswerChat, Fin, Hold, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_openai_client import EXPECTED_EXCEPTIONS, MULTIBYTE
from tests.waiting import eventually

# What has no class of its own in the library.
NODE_NAMES = {"APIStatusError": "APIError"}


@pytest.fixture(scope="module")
def library() -> Iterator[OpenAINode]:
    """A process with the library."""
    with OpenAINode() as library:
        yield library


def chat(
    library: OpenAINode, gateway: GatewayProcess, model: str, *, leave_after: int | None = None, **fields: Any
) -> Asked:
    """A chat completion, plain unless `stream` says otherwise."""
    body = {"model": model, "messages": [{"role": "user", "content": wire.PLANTED_PROMPT}], **fields}
    return library.ask(gateway, "chat.completions.create", body, leave_after=leave_after)


def test_chat(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.json_answer(wire.chat_completion(MULTIBYTE)))
    asked = chat(library, gateway, model)
    assert asked.answer["choices"][0]["message"]["content"] == MULTIBYTE
    assert asked.request_id, "every answer has a request id"
    (request,) = peer.requests
    assert request.header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}"
    assert not [name for name, _value in request.headers if name.lower().startswith("x-stainless")]


def test_a_stream_with_keep_alives(
    library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    events = [b"id: 1\n" + wire.chat_chunk("slow "), b"event: message\nid: 2\n" + wire.chat_chunk(MULTIBYTE)]
    steps: list[Step] = [Sleep(0.7), wire.STREAM_HEAD]
    for event in events:
        steps += [wire.chunk(event[:20]), Sleep(0.4), wire.chunk(event[20:]), Sleep(0.4)]
    peer.script(*steps, wire.chunked(wire.finish_chunk() + wire.DONE))
    asked = chat(library, gateway, model, stream=True)
    assert (asked.text, asked.error, asked.ended) == ("slow " + MULTIBYTE, None, True)


def test_one_byte_at_a_time(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.stream_answer(wire.good_stream(MULTIBYTE, "!"), 1))
    assert chat(library, gateway, model, stream=True).text == MULTIBYTE + "!"


def test_responses(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    response = {"id": "resp_1", "object": "response", "model": model, "output": [], "status": "completed"}
    events = [
        {"type": "response.output_text.delta", "delta": MULTIBYTE, "sequence_number": 1},
        {"type": "response.completed", "response": response, "sequence_number": 2},
    ]
    peer.script(
        wire.stream_answer(
            b"".join(f"event: {event['type']}\n".encode() + wire.sse(json.dumps(event)) for event in events)
        )
    )
    asked = library.ask(gateway, "responses.create", {"model": model, "input": "hi", "stream": True})
    assert [event["type"] for event in asked.events] == ["response.output_text.delta", "response.completed"]
    assert asked.events[0]["delta"] == MULTIBYTE


def test_embeddings(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    packed = base64.b64encode(struct.pack("<2f", 0.25, -1.0)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": packed}]
    peer.script(wire.json_answer({"object": "list", "data": data, "model": model, "usage": {}}))
    asked = library.ask(gateway, "embeddings.create", {"model": model, "input": ["one"]})
    assert asked.answer["data"][0]["embedding"] == [0.25, -1.0]


def test_models(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    name = f"org/{model}:free"
    gateway.register(peer, name)
    assert name in [found["id"] for found in library.ask(gateway, "models.list").answer["data"]]
    assert library.ask(gateway, "models.retrieve", name).answer["id"] == name


# -- errors are the exceptions that a user expects, and are not asked for again


@pytest.mark.parametrize("name", EXPECTED_EXCEPTIONS)
def test_a_status_is_the_expected_exception(
    library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    answer, kind, message, code = EXPECTED_EXCEPTIONS[name]
    gateway.register(peer, model)
    peer.always(answer)
    failure = chat(library, gateway, model).failure
    assert failure["kind"] == NODE_NAMES.get(kind.__name__, kind.__name__)
    assert message in failure["message"]
    assert failure["message"] != ""
    assert failure["requestId"], "and under which id to look for it"
    if code is not None:
        assert failure["code"] == code
    assert len(peer.requests) == 1, "asked once: the client does not multiply what the gateway has tried"


def test_a_timeout_is_not_retried(
    library: OpenAINode, impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    impatient_gateway.register(peer, model)
    peer.always(Hold())
    failure = chat(library, impatient_gateway, model).failure
    assert (failure["kind"], failure["status"], failure["code"]) == ("InternalServerError", 504, "server_timeout")
    assert len(peer.requests) == 1, "one prefill, not three"


def test_a_wrong_key(library: OpenAINode, start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUIRE_CLIENT_API_KEY="true", CLIENT_API_KEYS=wire.PLANTED_CLIENT_KEY)
    gateway.register(peer, model)
    failure = library.ask(gateway, "models.list", api_key="wrong-key").failure
    assert (failure["kind"], failure["code"]) == ("AuthenticationError", "invalid_api_key")
    assert "wrong-key" not in failure["message"]
    assert chat(library, gateway, model).answer["choices"][0]["message"]["content"] == peer.name


def test_retry_after_is_obeyed(library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.error_answer(503, "busy", [("Retry-After", "1")]))
    assert chat(library, gateway, model).answer["choices"][0]["message"]["content"] == peer.name
    first, second = peer.requests
    assert 0.95 <= second.arrived_at - first.arrived_at <= 3.0


def test_failing_over_looks_like_nothing(
    library: OpenAINode, gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    script = Script(AnswerChat("good"))
    for _number in range(2):
        gateway.register(start_peer(script), model)
    script.queue(Fin())
    assert chat(library, gateway, model, stream=True).text == "good"
    assert len(script.arrivals) == 2


@pytest.mark.parametrize("ending", [(Fin(),), (wire.LAST_CHUNK,)], ids=["cut off", "no end"])
def test_an_error_in_a_stream_is_an_exception(
    library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str, ending: tuple[Step, ...]
) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Sleep(0.05), *ending)
    asked = chat(library, gateway, model, stream=True)
    assert asked.text == "one", "what had come is there"
    assert asked.failure["kind"] == "APIError"
    assert asked.failure["code"] in ("server_disconnected", "stream_truncated")
    assert asked.failure["message"]
    assert not asked.ended
    assert len(peer.requests) == 1


def test_an_error_behind_keep_alives_is_an_exception(
    library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(Sleep(0.5), wire.error_answer(400, "context too long", code="context_length_exceeded"))
    failure = chat(library, gateway, model, stream=True).failure
    assert (failure["kind"], failure["code"]) == ("APIError", "context_length_exceeded")
    assert "context too long" in failure["message"]
    assert len(peer.requests) == 1


def test_leaving_a_stream_stops_the_server(
    library: OpenAINode, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, *(wire.chunk(wire.chat_chunk("tick ")), Sleep(0.05)) * 400)
    asked = chat(library, gateway, model, leave_after=3, stream=True)
    left_at = time.monotonic()
    assert len(asked.events) == 3
    connection = peer.requests[0].connection
    closed_at = eventually(lambda: connection.closed_at, "leaving a stream stops the server within 1 s", 2.0)
    assert closed_at is not None
    assert closed_at - left_at <= 1.0
