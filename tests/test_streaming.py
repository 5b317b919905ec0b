"""Streams reach the client byte for byte, kept alive while they wait, and end when they should.

What happens when a stream breaks is in test_stream_endings.py, when the client leaves in test_client_leaves.py.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from tests import wire
from tests.conftest import StartPeer
from tests.operations import AnswerChat, Fin, Hold, Reset, Send, SendForEver, Sleep, Step
from tests.peers import PeerConnection, RecordedRequest, ScriptedPeer
from tests.processes import GatewayProcess

MULTIBYTE = "北京 🌍 é"
KEEPALIVE = b": keep-alive\n"
MODERN = wire.chat_chunk(MULTIBYTE, id="1") + wire.chat_chunk("zwei") + wire.finish_chunk() + wire.DONE
WITH_FIELDS = b"".join(
    b"event: message\nid: %d\nretry: 1000\n%b" % (number, wire.chat_chunk(f"{MULTIBYTE}{number}"))
    for number in range(3)
)
GOOD_END = wire.finish_chunk() + wire.DONE

WHOLE_STREAMS = {
    "multi-byte text": MODERN,
    "CRLF line ends": MODERN.replace(b"\n", b"\r\n"),
    "event, id and retry fields": WITH_FIELDS + GOOD_END,
    "fields and CRLF": (WITH_FIELDS + GOOD_END).replace(b"\n", b"\r\n"),
    "no space after the colon": MODERN.replace(b"data: ", b"data:"),
    "data over several lines": b'data: {"choices":\ndata: []}\n\n' + MODERN,
    "an event without data": b"event: ping\n\n" + MODERN,
    "empty data": b"data:\n\n" + MODERN,
    "raw escapes and odd spacing": b'data: {"choices" : [ ],\t"x":1.0,"y":1e400,"z":"\\u00e9\\/"}\n\n' + MODERN,
    "one malformed event among 20": wire.sse(
        *[wire.chat_chunk(str(number)) if number != 7 else b'data: {"choices": [{"del\n\n' for number in range(20)]
    )
    + GOOD_END,
}

FRAMINGS: dict[str, Callable[[bytes], tuple[Step, ...]]] = {
    "chunked at once": lambda body: (wire.stream_answer(body),),
    "one byte per chunk": lambda body: (wire.stream_answer(body, 1),),
    "one byte per segment": lambda body: (Send(wire.stream_answer(body), segment_bytes=1),),
    "with a length": lambda body: (wire.answer(body, 200, "text/event-stream; charset=utf-8"),),
    "until the connection closes": lambda body: (Send(wire.STREAM_HEAD_UNTIL_CLOSE + body, segment_bytes=7), Fin()),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", WHOLE_STREAMS)
def test_a_whole_stream_reaches_the_client_byte_for_byte(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str, framing: str
) -> None:
    gateway.register(peer, model)
    body = WHOLE_STREAMS[name]
    peer.script(*FRAMINGS[framing](body))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.status == 200
    assert stream.response.body == body, "the client gets the server's bytes, no more and no less"
    assert stream.response.ended == "orderly"


def test_random_slicing_never_changes_a_byte(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    for seed in range(200):
        choose = random.Random(seed)
        texts = ["".join(choose.choices("a 北京🌍é\\\"'\u2028", k=choose.randint(0, 12))) for _number in range(12)]
        body = wire.good_stream(*texts)
        if seed % 2:
            body = body.replace(b"\n", b"\r\n")
        peer.script(Send(wire.stream_answer(body, choose.choice([None, 1, 2, 3, 11, 64])), seed=seed))
        with gateway.stream(model) as stream:
            assert stream.read_to_end().response.body == body, f"identical bytes under seed {seed}"


def test_200_events_in_a_single_write_arrive_in_order(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    texts = [f"{MULTIBYTE} {number}" for number in range(200)]
    peer.script(wire.stream_answer(wire.good_stream(*texts)))
    with gateway.stream(model) as stream:
        assert stream.read_to_end().texts == texts
    assert stream.done, "[DONE] comes with them"


def test_an_event_goes_out_as_soon_as_it_is_complete(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    hold = Hold()
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("first")), hold, wire.chunked(GOOD_END))
    with gateway.stream(model) as stream:
        assert len(stream.read_events(1)) == 1, "the first event comes while the server still works on the second"
        assert stream.response.ended is None
        hold.release()
        stream.read_to_end()
    assert stream.done


def test_headers_of_a_stream(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    secret_headers = [("Set-Cookie", "a=b"), ("Server", "uvicorn"), ("X-Internal", "10.0.0.1"), ("Via", "1.1 lab")]
    fields = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), *secret_headers]
    peer.script(wire.head(200, fields) + wire.chunked(MODERN))
    with gateway.stream(model) as stream:
        response = stream.read_to_end().response
    assert (response.header("Content-Type") or "").startswith("text/event-stream")
    assert response.header("Cache-Control") == "no-cache"
    assert response.header("X-Accel-Buffering") == "no", "nginx in front must not gather events"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert response.header("X-Request-ID")
    assert response.header("X-Gateway-Server-ID") == registration_id
    assert response.header("X-Gateway-Attempts") == "1"
    for name, value in secret_headers:
        assert response.header(name) != value, f"{name} of a server stays inside"


# -- keep-alive


def test_keep_alive_before_the_first_token(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    hold = Hold()
    peer.script(hold, wire.stream_answer(MODERN))
    asked_at = time.monotonic()
    with gateway.stream(model) as stream:
        assert stream.response.head_at - asked_at < 0.9, "status and headers come with the first keep-alive, at 0.3 s"
        assert stream.response.status == 200
        assert stream.response.header("Cache-Control") == "no-cache"
        assert stream.response.header("X-Accel-Buffering") == "no"
        (first_at, _), (second_at, _) = stream.read_comments(2)
        assert 0.15 < second_at - first_at < 0.8, "one keep-alive every STREAM_KEEPALIVE_SECONDS"
        assert stream.response.body == KEEPALIVE * 2, "a comment line with one newline, nothing else"
        hold.release()
        stream.read_to_end()
    assert stream.response.body.replace(KEEPALIVE, b"") == MODERN
    assert len(peer.requests) == 1, "waiting is not failing over"


def test_keep_alive_between_events_but_never_inside_one(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    hold = Hold()
    event = b"id: 1\n" + wire.chat_chunk("whole")
    peer.script(
        wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one") + event[:30]),
        hold,
        wire.chunked(event[30:] + GOOD_END),
    )
    with gateway.stream(model) as stream:
        stream.read_comments(2)
        assert stream.texts == ["one"]
        assert stream.response.body == wire.chat_chunk("one") + KEEPALIVE * 2, "half an event stays back"
        hold.release()
        stream.read_to_end()
    assert stream.texts == ["one", "whole"]
    assert stream.response.body.replace(KEEPALIVE, b"") == wire.chat_chunk("one") + event + GOOD_END


def test_no_keep_alive_for_a_plain_answer(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = json.dumps(wire.chat_completion()).encode()
    peer.script(Sleep(0.7), wire.answer(body))
    response = gateway.chat(model)
    assert (response.status, response.body) == (200, body)


def test_comments_of_a_server_never_become_data(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    comments = [b": ping\n\n", b":\n\n", b': data: {"error": {"message": "no"}}\n\n', b": data: [DONE]\n\n"]
    body = b"".join(comment + wire.chat_chunk(str(number)) for number, comment in enumerate(comments)) + GOOD_END
    peer.script(wire.stream_answer(body))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.texts == ["0", "1", "2", "3"]
    assert stream.done
    assert stream.errors == []


# -- the end of a stream


@pytest.mark.parametrize(
    "afterwards", [(Hold(),), (SendForEver(wire.chunk(b"data: more\n\n")),), (Sleep(0.05), Reset())]
)
@pytest.mark.parametrize("mark", [wire.DONE, b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n"])
def test_after_done_the_response_ends_whatever_the_server_does(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, mark: bytes, afterwards: tuple[Step, ...]
) -> None:
    registration_id = gateway.register(peer, model)
    body = wire.chat_chunk("one") + wire.finish_chunk() + mark
    peer.script(wire.STREAM_HEAD + wire.chunk(body), *afterwards)
    with gateway.stream(model) as stream:
        stream.read_events(3)
        done_at = time.monotonic()
        stream.read_to_end()
    assert stream.response.ended_at - done_at <= 0.5, "the client is done at most 0.5 s after [DONE]"
    assert (stream.response.body, stream.response.ended) == (body, "orderly")
    assert gateway.server(registration_id)["consecutive_failures"] == 0


def test_a_missing_done_is_added_after_a_finish_reason(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = wire.chat_chunk("one") + wire.finish_chunk("length")
    for steps in ((wire.stream_answer(body),), (wire.STREAM_HEAD_UNTIL_CLOSE + body, Fin())):
        peer.script(*steps)
        with gateway.stream(model) as stream:
            stream.read_to_end()
        assert (stream.response.body, stream.response.ended) == (body + wire.DONE, "orderly")


@pytest.mark.parametrize("last", ["response.completed", "response.failed", "response.incomplete"])
def test_responses_are_whole_with_their_own_last_event(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, last: str
) -> None:
    gateway.register(peer, model)
    events = [{"type": "response.created"}, {"type": "response.output_text.delta", "delta": MULTIBYTE}, {"type": last}]
    body = b"".join(f"event: {event['type']}\n".encode() + wire.sse(json.dumps(event)) for event in events)
    peer.script(wire.stream_answer(body))
    with gateway.stream(model, "/v1/responses") as stream:
        stream.read_to_end()
    assert (stream.response.body, stream.response.ended) == (body, "orderly"), "nothing is added"


def test_elsewhere_an_orderly_end_is_whole(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = wire.sse('{"part": 1}', '{"part": 2}')
    peer.script(wire.stream_answer(body))
    with gateway.stream(model, "/v1/images/generations") as stream:
        stream.read_to_end()
    assert (stream.response.body, stream.response.ended) == (body, "orderly")


# -- what was asked and what comes


def test_plain_json_that_comes_after_a_keep_alive(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    peer.always(Sleep(0.5), wire.json_answer({"choices": []}))
    for _number in range(3):
        with gateway.stream(model) as stream:
            stream.read_to_end()
        assert [error["code"] for error in stream.errors] == ["server_error"], "a JSON body is no event"
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("available", 0), "nobody is to blame"


def test_plain_json_although_a_stream_was_asked(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    body = json.dumps(wire.chat_completion(MULTIBYTE), indent=1).encode()
    peer.script(wire.answer(body))
    response = gateway.chat(model, stream=True)
    assert (response.status, response.body) == (200, body), "passed as it is"
    assert (response.header("Content-Type") or "").startswith("application/json")


def test_events_although_a_plain_answer_was_asked(start_peer: StartPeer, gateway: GatewayProcess, model: str) -> None:
    events, good = start_peer(), start_peer()
    events.always(wire.stream_answer(MODERN))
    registration_id, _other = (gateway.register(peer, model) for peer in (events, good))
    assert [gateway.chat(model).text for _number in range(2)] == [good.name] * 2, "a bad answer: the next server"
    assert len(events.requests) >= 1
    record = gateway.server(registration_id)
    assert (record["consecutive_failures"], record["availability"]) == (0, "available"), "nobody is blamed"


class AnswerWithUsage:
    """Sends the usage event to those who asked for it, as servers do; one that refuses the option answers 400."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        asked = (request.json().get("stream_options") or {}).get("include_usage")
        if asked and self.refuses:
            await connection.send(wire.error_answer(400, "unknown field stream_options"))
            return
        usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
        tail = wire.sse(usage) if asked else b""
        body = wire.chat_chunk("one") + wire.finish_chunk() + tail + wire.DONE
        await connection.send(wire.stream_answer(body))


def test_usage_events_reach_those_who_asked_and_nobody_else(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.always(AnswerWithUsage())
    with gateway.stream(model, stream_options={"include_usage": True}) as stream:
        assert b'"usage"' in stream.read_to_end().response.body, "who asked gets it"
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.body == wire.good_stream("one"), "who did not ask does not see it"


def test_a_server_that_refuses_to_count_usage_still_streams(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    registration_id = gateway.register(peer, model)
    peer.always(AnswerWithUsage(refuses=True))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert (stream.response.status, stream.texts) == (200, ["one"])
    assert stream.response.header("X-Gateway-Attempts") == "1", "asking once more without it is no attempt"
    assert gateway.server(registration_id)["consecutive_failures"] == 0


def test_a_stream_and_its_neighbours_do_not_wait_for_each_other(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    hold = Hold()
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("slow")), hold, wire.chunked(GOOD_END))
    peer.always(AnswerChat("quick"))
    with gateway.stream(model) as stream:
        stream.read_events(1)
        for _number in range(5):
            assert gateway.chat(model).text == "quick"
        hold.release()
        assert stream.read_to_end().done
