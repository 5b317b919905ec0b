"""Asking servers for usage on the client's behalf: what changes in the body, what is taken out again, to the byte."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.proxy.meter import Meter, StreamWatch, whole_when
from multiverse.proxy.rewrite import USAGE_WANTED, with_usage_asked
from multiverse.proxy.sse import EventReader
from tests import wire
from tests.bench import UNHURRIED
from tests.conftest import StartPeer
from tests.operations import Send
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_rewrite import documents

CHAT = "/v1/chat/completions"


def stream_with_usage(*texts: str) -> bytes:
    """A whole stream whose server reports 11 + 7 tokens in an event of its own."""
    return b"".join(map(wire.chat_chunk, texts)) + wire.finish_chunk() + wire.usage_chunk(11, 7) + wire.DONE


def without_usage(*texts: str) -> bytes:
    return wire.good_stream(*texts)


def tokens_of(gateway: GatewayProcess) -> tuple[int, int]:
    tokens = gateway.stats()["tokens"]
    return tokens["prompt"], tokens["completion"]


def test_a_server_that_reports_nothing_has_worked_all_the_same(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    """A lender's cap and everybody's limits would see next to nothing of prompts: they are estimated by their bytes."""
    gateway.register(peer, model, context_length=2000)
    for content, tokens in (("word " * 1000, 1250), ("word " * 10_000, 2000)):
        before = tokens_of(gateway)
        messages = [{"role": "user", "content": content}]
        with gateway.stream(model, messages=messages) as stream:
            stream.read_to_end()
        prompt, completion = tokens_of(gateway)
        assert tokens <= prompt - before[0] <= min(tokens + 50, 2000), "a token is about four bytes"
        assert completion - before[1] == 1
        story = gateway.admin("GET", f"/v1/requests/{stream.response.header('X-Request-ID')}").json()
        assert (story["prompt_tokens"], story["tokens_estimated"]) == (prompt - before[0], True)


# -- the body


@pytest.mark.parametrize(
    ("given_body", "expected"),
    [
        (b'{"model":"m"}', b'{"stream_options":{"include_usage":true},"model":"m"}'),
        (b' {\n "model" : "m" }', b' {"stream_options":{"include_usage":true},\n "model" : "m" }'),
        (b'{"a":1.0,"stream_options": null ,"b":1}', b'{"a":1.0,"stream_options": {"include_usage":true} ,"b":1}'),
        (b'{"stream_options":{},"b":[{}]}', b'{"stream_options":{"include_usage":true},"b":[{}]}'),
        (b'{"stream_options":{"include_usage":false}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":"False"}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage": 0 }}', b'{"stream_options":{"include_usage": true }}'),
        (b'{"stream_options":{"x":1.0e3}}', b'{"stream_options":{"x":1.0e3,"include_usage":true}}'),
        (b'{"stream_options":{ "x":1e400 }}', b'{"stream_options":{ "x":1e400 ,"include_usage":true}}'),
        (b'{"m":"\\"stream_options\\":1"}', b'{"stream_options":{"include_usage":true},"m":"\\"stream_options\\":1"}'),
        (b'{"t":{"stream_options":null}}', b'{"stream_options":{"include_usage":true},"t":{"stream_options":null}}'),
        (
            b'{"t":{"stream_options":1},"stream_options":null}',
            b'{"t":{"stream_options":1},"stream_options":{"include_usage":true}}',
        ),
        (b'{"stream_options":{"include_usage":true}}', None),
        (b'{"stream_options":"yes"}', None),
        (b'{"stream_options":[1]}', None),
        # Parsers believe the last one.
        (
            b'{"stream_options":null,"stream_options":{}}',
            b'{"stream_options":null,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options":{"include_usage":true,"include_usage":null}}',
            b'{"stream_options":{"include_usage":true,"include_usage":true}}',
        ),
        (b'{"stream_options":{},"stream_options":{"include_usage":true}}', None),
        # Keys in other letters are the same keys.
        (b'{"stream_\\u006Fptions":{"include\\u005fusage":true}}', None),
        (b'{"\\u0073tream_options":{"b":2}}', b'{"\\u0073tream_options":{"b":2,"include_usage":true}}'),
        (
            b'{"t":{"stream_options":[1,2,3,4,5,6,7,8,9]},"stream\\u005foptions":{"b":2}}',
            b'{"t":{"stream_options":[1,2,3,4,5,6,7,8,9]},"stream\\u005foptions":{"b":2,"include_usage":true}}',
        ),
        (
            b'{"stream_options":{"t":{"include_usage":[1]},"\\u0069nclude_usage":false}}',
            b'{"stream_options":{"t":{"include_usage":[1]},"\\u0069nclude_usage":true}}',
        ),
        (b'{"u":"\\u00e9"}', b'{"stream_options":{"include_usage":true},"u":"\\u00e9"}'),
    ],
)
def test_what_is_asked(given_body: bytes, expected: bytes | None) -> None:
    assert with_usage_asked(given_body) == (None if expected is None else (expected, False))


@pytest.mark.parametrize("value", [b"1", b'"true"', b'"YES"'])
def test_what_some_servers_take_for_yes_is_asked_for_and_shown(value: bytes) -> None:
    body = b'{"stream_options":{"include_usage":%b}}'
    assert with_usage_asked(body % value) == (body % b"true", True)


NAMES = st.text(max_size=4) | st.sampled_from(["stream_options", "include_usage"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just('"stream_options":'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@UNHURRIED
@given(
    body=st.dictionaries(st.sampled_from(["stream_options", "model", "messages", "a"]), VALUES, min_size=1),
    data=st.data(),
)
def test_any_body_keeps_all_else(body: dict[str, Any], data: st.DataObject) -> None:
    asked = with_usage_asked(data.draw(documents(body)).encode())
    options = body.get("stream_options")
    if asked is None:
        assert options is not None
        assert not isinstance(options, dict) or options.get("include_usage") is True
    else:
        assert json.loads(asked[0]) == {**body, "stream_options": {**(options or {}), "include_usage": True}}


# -- the stream


@UNHURRIED
@given(seed=st.integers(0, 2**32))
def test_that_one_event_is_taken_out_however_it_comes(seed: int) -> None:
    sizes = random.Random(seed)
    kept = [
        wire.chat_chunk("北京 🌍", usage=None),
        wire.chat_chunk('says "usage":{"x":1} itself'),
        b": comment\n\n",
        wire.finish_chunk(),
        wire.sse(json.dumps({"choices": [], "prompt_filter_results": []})),
    ]
    body = b"".join([*kept, wire.usage_chunk(3, 4), wire.DONE])
    watch, reader = StreamWatch(whole_when(CHAT), Meter(), drops_usage=True), EventReader(1_000_000)
    relayed, start = b"", 0
    while start < len(body):
        size = sizes.randint(1, 120)
        relayed += watch.observe(reader.feed(body[start : start + size]))
        start += size
    assert relayed == b"".join(kept) + wire.DONE
    assert (watch.meter.prompt_tokens, watch.meter.completion_tokens, watch.done) == (3, 4, True)


@pytest.mark.parametrize("inner", ['"choices":[]', '"x":"\\"choices\\":[]"'])
def test_choices_elsewhere_are_no_reason(inner: str) -> None:
    event = b'data: {"choices":[{"delta":{}}],"y":{%b},"usage":{"prompt_tokens":1}}\n\n' % inner.encode()
    assert StreamWatch(whole_when(CHAT), Meter(), drops_usage=True).observe(event) == event


def test_usage_beside_content_stays_where_it_is() -> None:
    """Some servers report in the last chunk that has a choice; that event is the client's."""
    event = wire.chat_chunk("end", usage={"prompt_tokens": 1, "completion_tokens": 2})
    watch = StreamWatch(whole_when(CHAT), Meter(), drops_usage=True)
    assert watch.observe(event) == event
    assert watch.meter.completion_tokens == 2


@pytest.mark.parametrize("segment_bytes", [1, 7, None])
def test_a_client_that_did_not_ask_sees_what_it_would_have_seen(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, segment_bytes: int | None
) -> None:
    gateway.register(peer, model)
    before = tokens_of(gateway)
    answer = wire.stream_answer(stream_with_usage("Hel", "lo"), size_bytes=40)
    peer.script(Send(answer, segment_bytes=segment_bytes))
    with gateway.stream(model) as stream:
        stream.read_to_end()
    assert stream.response.body == without_usage("Hel", "lo")
    assert peer.requests[0].body == wire.chat_body(model, True).replace(b"{", b"{" + USAGE_WANTED, 1)
    prompt, completion = tokens_of(gateway)
    assert (prompt - before[0], completion - before[1]) == (11, 7), "to the token"


def test_a_client_that_asks_gets_it(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.stream_answer(stream_with_usage("Hi")))
    with gateway.stream(model, stream_options={"include_usage": True}) as stream:
        stream.read_to_end()
    assert stream.response.body == stream_with_usage("Hi")
    assert peer.requests[0].body == wire.chat_body(model, True, stream_options={"include_usage": True})


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings", "/v1/rerank"])
def test_other_routes_are_not_asked(gateway: GatewayProcess, peer: ScriptedPeer, model: str, path: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.error_answer(400, "no streams here"))
    with gateway.stream(model, path) as stream:
        assert stream.response.status == 400
    assert peer.requests[0].body == wire.chat_body(model, True)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_is_asked_without(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, status: int
) -> None:
    strict, other = start_peer(), start_peer()
    gateway.register(strict, model)
    strict.script(wire.error_answer(status, "Unrecognized request argument supplied: stream_options"))
    for number in range(2):
        with gateway.stream(model) as stream:
            stream.read_to_end()
        assert (stream.done, stream.response.header("X-Gateway-Attempts")) == (True, "1"), "that is no attempt"
        assert len(strict.requests) == 2 + number, "and it is remembered"
    assert strict.requests[1].body == strict.requests[2].body == wire.chat_body(model, True)
    assert other.requests == []


def test_a_server_that_repeats_a_bad_body_refuses_nothing(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    """FastAPI answers whoever forgets `messages` with all that was sent: what the gateway has added as well."""
    gateway.register(peer, model)
    for repeated in ({"stream_options": {"include_usage": True}}, {}):
        detail = {"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": repeated}
        peer.script(wire.json_answer({"detail": [detail]}, 422))
    assert gateway.chat(model, True).status == 422
    for number in range(2):
        assert gateway.chat(model, True).status == 200
        assert peer.requests[2 + number].json()["stream_options"] == {"include_usage": True}, "it is asked as before"


def test_a_mistake_of_the_clients_is_not_sent_twice(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.error_answer(400, "temperature must be at most 2"))
    assert gateway.chat(model, True, temperature=9).status == 400
    assert len(peer.requests) == 1
    gateway.chat(model, True)
    assert peer.requests[1].json()["stream_options"] == {"include_usage": True}, "nothing was learned from it"
