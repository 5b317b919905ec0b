"""Nothing broken looks whole: a stream that fails after the commit ends in one error event, without `[DONE]`.

And nothing is sent twice: after the commit no other server is asked.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests import wire
from tests.clients import EventStream
from tests.conftest import StartPeer
from tests.operations import AnswerChat, Fin, Hold, Reset, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually_equal

TWO_EVENTS = wire.chat_chunk("one") + wire.chat_chunk("two")
BEGUN = wire.STREAM_HEAD + wire.chunk(TWO_EVENTS)
HALF_AN_EVENT = wire.chat_chunk("three")[:40]
WITH_LENGTH = wire.head(200, [("Content-Type", "text/event-stream"), ("Content-Length", "9999")])
TRUNCATED = frozenset({"stream_truncated"})
DISCONNECTED = frozenset({"server_disconnected"})
EITHER = TRUNCATED | DISCONNECTED

# What the server does after the commit; the codes that tell it; whether it counts as a failure of the server.
BROKEN_STREAMS: dict[str, tuple[tuple[Step, ...], frozenset[str], bool]] = {
    "no last chunk": ((BEGUN, Fin()), DISCONNECTED, True),
    "reset": ((BEGUN, Sleep(0.05), Reset()), DISCONNECTED, True),
    "closed in the middle of an event": ((BEGUN + wire.chunk(HALF_AN_EVENT), Fin()), DISCONNECTED, True),
    "reset in the middle of an event": (
        (BEGUN + wire.chunk(HALF_AN_EVENT), Sleep(0.05), Reset()),
        DISCONNECTED,
        True,
    ),
    "closed in the middle of a chunk": ((BEGUN + b"ff\r\n" + HALF_AN_EVENT, Fin()), DISCONNECTED, True),
    "shorter than its Content-Length": ((WITH_LENGTH + TWO_EVENTS, Fin()), DISCONNECTED, True),
    "chunk size ZZ": ((BEGUN, Sleep(0.05), b"ZZ\r\nabc\r\n"), DISCONNECTED | {"server_error"}, True),
    "orderly end without an end mark": ((wire.stream_answer(TWO_EVENTS),), TRUNCATED, False),
    "orderly end with half an event": ((wire.stream_answer(TWO_EVENTS + HALF_AN_EVENT),), EITHER, False),
    "connection closed without an end mark": ((wire.STREAM_HEAD_UNTIL_CLOSE + TWO_EVENTS, Fin()), EITHER, False),
    "half an event that talks of the end": (
        (wire.stream_answer(TWO_EVENTS + wire.chat_chunk("it ends with [DONE], and so").partition(b", and")[0]),),
        TRUNCATED,
        False,
    ),
    "text that only talks of finishing": (
        (wire.stream_answer(TWO_EVENTS + wire.chat_chunk('"finish_reason":"stop" [DONE]')),),
        TRUNCATED,
        False,
    ),
}


def assert_one_error_event(stream: EventStream, codes: frozenset[str]) -> None:
    assert len(stream.errors) == 1, f"exactly one error event: {stream.response.body!r}"
    (error,) = stream.errors
    assert set(error) == {"message", "type", "param", "code"}, "the error has OpenAI's shape"
    assert error["code"] in codes
    assert error["type"] == "server_error"
    assert error["message"], "and says what to do"
    assert stream.events[-1].error == error, "it is the last event"
    assert not stream.done, "no [DONE] after an error"
    assert stream.response.ended == "orderly", "the response itself ends in an orderly way"


@pytest.mark.parametrize("name", BROKEN_STREAMS)
def test_a_stream_that_breaks_ends_in_one_error_event(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, name: str
) -> None:
    steps, codes, blamed = BROKEN_STREAMS[name]
    script = Script(AnswerChat("never asked"))
    script.queue(*steps)
    registrations = {peer: gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.status == 200
    assert stream.texts[:2] == ["one", "two"], "what came whole is delivered"
    assert_one_error_event(stream, codes)
    whole = name.startswith("text") or stream.texts == ["one", "two"]
    assert whole, "half an event is dropped before the error event"
    assert len(script.arrivals) == 1, "never sent twice: no replay after the commit"
    if blamed:
        record = gateway.server(registrations[script.arrivals[0].peer])
        assert record["consecutive_failures"] == 1, "breaking after the commit counts as a failure"


@pytest.mark.parametrize("steps", [(BEGUN, Fin()), (BEGUN, Sleep(0.05), Reset()), (wire.stream_answer(TWO_EVENTS),)])
def test_completions_break_likewise(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, steps: tuple[Step, ...]
) -> None:
    gateway.register(peer, model)
    peer.script(*steps)
    with gateway.stream(model, "/v1/completions") as stream:
        stream.read_to_end()
    assert_one_error_event(stream, EITHER)


def test_responses_without_their_last_event_are_truncated(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    delta = json.dumps({"type": "response.output_text.delta", "delta": "response.completed"})
    body = b"event: response.output_text.delta\n" + wire.sse(delta)
    peer.script(wire.stream_answer(body))
    with gateway.stream(model, "/v1/responses") as stream:
        stream.read_to_end()
    assert stream.response.body.startswith(body)
    assert_one_error_event(stream, TRUNCATED)


def test_elsewhere_a_broken_connection_is_an_error_event_too(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.sse('{"part": 1}')), Fin())
    with gateway.stream(model, "/v1/images/generations") as stream:
        stream.read_to_end()
    assert_one_error_event(stream, DISCONNECTED)


@pytest.mark.parametrize("event_name", [b"", b"event: error\n"])
def test_an_error_event_of_the_server_passes_once(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, event_name: bytes
) -> None:
    gateway.register(peer, model)
    error = {"error": {"message": "out of memory", "type": "server_error", "param": None, "code": "oom"}}
    body = TWO_EVENTS + event_name + wire.sse(json.dumps(error))
    peer.script(wire.stream_answer(body))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.body == body, "the server's own error event, once, and nothing after it"
    assert stream.response.ended == "orderly"


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_done_without_its_blank_line(gateway: GatewayProcess, peer: ScriptedPeer, model: str, ending: bytes) -> None:
    gateway.register(peer, model)
    peer.script(wire.stream_answer(TWO_EVENTS + b"data: [DONE]" + ending))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.body == TWO_EVENTS + wire.DONE


def test_a_prompt_that_is_too_long_is_nobodys_failure(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    error = {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
    peer.always(wire.stream_answer(wire.sse(json.dumps({"error": error}))))
    for _number in range(3):
        gateway.chat(model, stream=True)
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("available", 0)


def test_an_ejection_in_the_middle_of_a_stream_is_logged(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    registration_id = gateway.register(peer, model)
    peer.always(wire.stream_answer(TWO_EVENTS + wire.sse('{"error": {"message": "out of memory"}}')))
    said = [gateway.chat(model, stream=True) for _number in range(3)]
    assert gateway.server(registration_id)["availability"] == "ejected"
    request_ids = [response.header("X-Request-ID") or "none" for response in said]

    def told_of() -> list[str]:
        lines = [line for line in gateway.output.splitlines() if "server ejected" in line]
        return [request_id for request_id in request_ids if any(request_id in line for line in lines)]

    eventually_equal(told_of, request_ids[-1:], "by the request that was one too many")


def test_silence_after_the_commit(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = impatient_gateway.register(peer, model)
    peer.script(BEGUN, Hold())
    with impatient_gateway.stream(model) as stream:
        silent_since = stream.read_events(2)[-1].arrived_at
        stream.read_to_end()
    assert_one_error_event(stream, frozenset({"server_timeout"}))
    waited_seconds = stream.events[-1].arrived_at - silent_since
    assert 0.7 <= waited_seconds <= 1.7, "STREAM_IDLE_TIMEOUT_SECONDS is 1 here, STREAM_MAX_SECONDS 2"
    assert impatient_gateway.server(registration_id)["consecutive_failures"] == 1
    assert len(peer.requests) == 1


def test_an_event_that_came_while_the_machine_stood_still(tmp_path: Path, peer: ScriptedPeer, model: str) -> None:
    # Not one of the checked gateways: a standstill is a lag of its loop.
    gateway = GatewayProcess(tmp_path / "gateway", REQUEST_TIMEOUT_SECONDS=0.6).start()
    try:
        gateway.register(peer, model)
        peer.script(Sleep(0.3), wire.stream_answer(wire.good_stream("late")))
        halt, go_on = (
            threading.Timer(seconds, os.kill, (gateway.process_id, number))
            for seconds, number in ((0.15, signal.SIGSTOP), (1.0, signal.SIGCONT))
        )
        halt.start()
        go_on.start()
        with gateway.stream(model) as stream:
            stream.read_to_end()
        assert (stream.response.status, stream.texts, stream.done) == (200, ["late"], True)
    finally:
        gateway.stop()


def test_a_stream_that_never_ends(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = impatient_gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, *(wire.chunk(wire.chat_chunk("tick")), Sleep(0.1)) * 50)
    asked_at = time.monotonic()
    with impatient_gateway.stream(model) as stream:
        stream.read_to_end()
    assert_one_error_event(stream, frozenset({"server_timeout"}))
    assert 1.7 <= stream.response.ended_at - asked_at <= 2.7, "STREAM_MAX_SECONDS is 2 here"
    assert impatient_gateway.server(registration_id)["consecutive_failures"] == 0, "a long answer is no fault"


# -- sizes: MAX_EVENT_SIZE is 65536 and MAX_RESPONSE_BODY_SIZE 262144 here


def test_an_event_within_the_limit(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    impatient_gateway.register(peer, model)
    body = wire.good_stream("x" * 60000)
    peer.script(wire.stream_answer(body, 1000))
    with impatient_gateway.stream(model) as stream:
        assert stream.read_to_end().response.body == body


@pytest.mark.parametrize(
    "huge", [wire.chat_chunk("x" * 100_000), b": " + b"x" * 200_000 + b"\n\n", b"data: 1\n" * 20_000]
)
def test_a_huge_event_after_the_commit(
    impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str, huge: bytes
) -> None:
    registration_id = impatient_gateway.register(peer, model)
    peer.script(BEGUN + wire.chunked(huge, 5000, last_chunk=False), Hold())
    with impatient_gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.texts == ["one", "two"]
    assert_one_error_event(stream, frozenset({"server_error"}))
    assert impatient_gateway.server(registration_id)["consecutive_failures"] == 1


def test_a_huge_first_event(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    impatient_gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD + wire.chunked(wire.chat_chunk("x" * 100_000), 5000, last_chunk=False), Hold())
    with impatient_gateway.client() as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        response = client.read_response()
    assert (response.status, response.code) == (502, "server_error")


def test_what_came_before_a_huge_event_arrives(
    impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    impatient_gateway.register(peer, model)
    both = wire.chat_chunk("one") + wire.chat_chunk("x" * 100_000)
    peer.script(wire.STREAM_HEAD + wire.chunked(both, len(both), last_chunk=False), Hold())
    with impatient_gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.texts == ["one"]
    assert_one_error_event(stream, frozenset({"server_error"}))


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_a_huge_plain_answer(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str, framing: str) -> None:
    registration_id = impatient_gateway.register(peer, model)
    body = b'"' + b"x" * 300_000 + b'"'
    json_type = ("Content-Type", "application/json")
    peer.script(
        *{
            "length": (wire.answer(body),),
            "chunked": (wire.head(200, [json_type, ("Transfer-Encoding", "chunked")]) + wire.chunked(body, 9000),),
            "until close": (wire.head(200, [json_type, ("Connection", "close")]) + body, Fin()),
        }[framing]
    )
    response = impatient_gateway.chat(model)
    assert (response.status, response.code) == (502, "server_error")
    assert impatient_gateway.server(registration_id)["consecutive_failures"] == 1
