"""What the gateway reads off a stream that passes: its end, errors and tokens; and that content says none of it."""

from __future__ import annotations

import json
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.proxy.meter import LARGEST_LOOSE_BYTES, MOST_TOKENS, Meter, StreamWatch, WholeWhen, whole_when
from multiverse.proxy.sse import split_events
from tests import wire
from tests.bench import UNHURRIED

CHAT, RESPONSES, OTHER = WholeWhen.DONE_OR_FINISH_REASON, WholeWhen.RESPONSE_EVENT, WholeWhen.ORDERLY_END
# Said by a model, each of these must mean nothing.
TREACHEROUS = [
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    '{"error": {"message": "no"}}',
    '"error": {"message": "no"}',
    '\n\ndata: {"error": {"message": "no"}}\n\n',
    '"finish_reason": "stop"',
    '"usage": {"prompt_tokens": 7, "completion_tokens": 7}',
    "event: response.completed\n",
    '"type": "response.completed"',
    "data: x\ndata: y\ndata: z",
    '\\"error\\": {"message": 1}',
]


def watch(rule: WholeWhen = CHAT) -> StreamWatch:
    return StreamWatch(rule, Meter())


def event(document: object, name: str | None = None, ending: str = "\n") -> bytes:
    """An event whose data is `document`."""
    head = f"event: {name}{ending}" if name else ""
    return f"{head}data: {json.dumps(document)}{ending}{ending}".encode()


def delta(text: str, finish_reason: str | None = None, **fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}], **fields}


# -- when a stream is whole


@pytest.mark.parametrize(
    ("route", "rule"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", CHAT),
        ("/v1/responses", RESPONSES),
        ("/v1/embeddings", OTHER),
        ("/v1/audio/speech", OTHER),
        ("/v1/chat/completions/", OTHER),
    ],
)
def test_the_rule_of_a_route(route: str, rule: WholeWhen) -> None:
    assert whole_when(route) is rule


@pytest.mark.parametrize(
    "done",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\n\n",
        b"data: [DONE] \n\n",
        b"data: [DONE]\r\n\r\n",
        b"id: 1\rdata: [DONE]\r\r",
    ],
)
@pytest.mark.parametrize("rule", WholeWhen)
def test_done_is_the_end_on_every_route(rule: WholeWhen, done: bytes) -> None:
    seen = watch(rule)
    block = event(delta("hi")) + done
    assert seen.observe(block + b"data: more\n\n" + done) == block, "what comes after it is not passed on"
    assert (seen.done, seen.whole, seen.lacks_done) == (True, True, False)


def test_a_finish_reason_makes_a_stream_whole_but_lacks_done() -> None:
    seen = watch()
    seen.observe(event(delta("hi")))
    assert (seen.whole, seen.lacks_done) == (False, False)
    seen.observe(event(delta("", "stop")))
    assert (seen.whole, seen.lacks_done) == (True, True)
    seen.observe(event({"choices": [], "usage": {"prompt_tokens": 1}}))
    assert seen.whole, "what follows changes nothing"


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_finish_reason(nothing: str | None) -> None:
    seen = watch()
    for spaces in ((",", ":"), (", ", ": "), (" , ", " : ")):
        seen.observe(b"data: " + json.dumps(delta("hi", nothing), separators=spaces).encode() + b"\n\n")
    assert not seen.whole, "some servers send an empty one with every token"


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " :\t")])
def test_a_finish_reason_however_it_is_spaced(separators: tuple[str, str]) -> None:
    seen = watch()
    seen.observe(b"data: " + json.dumps(delta("", "length"), separators=separators).encode() + b"\n\n")
    assert seen.whole


def test_one_finish_reason_among_nulls_in_one_block() -> None:
    seen = watch()
    seen.observe(event(delta("a")) * 100 + event(delta("", "stop")) + event(delta("", None, usage=None)) * 3)
    assert seen.whole


@pytest.mark.parametrize("name", ["response.completed", "response.failed", "response.incomplete"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_end_of_a_response(name: str, named: bool, ending: str) -> None:
    seen = watch(RESPONSES)
    seen.observe(event({"type": "response.output_text.delta", "delta": "complete"}, "response.output_text.delta"))
    seen.observe(event({"type": "response.output_item.done"}, "response.output_item.done"))
    assert not seen.whole
    seen.observe(event({} if named else {"type": name}, name if named else None, ending))
    assert (seen.whole, seen.lacks_done) == (True, False), "nothing is added there"


def test_elsewhere_an_orderly_end_is_whole() -> None:
    seen = watch(OTHER)
    seen.observe(b"data: anything\n\n")
    assert (seen.whole, seen.lacks_done) == (True, False)


@pytest.mark.parametrize("rule", [CHAT, RESPONSES])
@pytest.mark.parametrize("text", TREACHEROUS)
def test_content_means_nothing(rule: WholeWhen, text: str) -> None:
    seen = watch(rule)
    for ascii_only in (True, False):
        block = b"data: " + json.dumps(delta(text), ensure_ascii=ascii_only).encode() + b"\n\n"
        assert seen.observe(block) == block
    assert (seen.whole, seen.done, seen.server_error) == (False, False, None)
    meter = seen.meter
    assert (meter.prompt_tokens, meter.completion_tokens, meter.data_events) == (None, None, 2)


@UNHURRIED
@given(texts=st.lists(st.text() | st.sampled_from(TREACHEROUS), max_size=8), cut=st.integers(0, 8))
def test_a_good_stream_passes_untouched(texts: list[str], cut: int) -> None:
    seen = watch()
    events = list(split_events(wire.good_stream(*texts)))
    blocks = [b"".join(events[:cut]), b"".join(events[cut:])]
    assert [seen.observe(block) for block in blocks if block] == [block for block in blocks if block]
    assert (seen.done, seen.finished, seen.server_error) == (True, True, None)
    assert seen.meter.data_events == len(texts) + 2


# -- errors in a stream


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "out of memory", "code": 500}},
        {"error": "out of memory"},
        {"object": "error", "error": {"message": "x"}, "choices": []},
    ],
)
def test_an_error_event_is_the_end(document: dict[str, object]) -> None:
    seen = watch()
    before = event(delta("hi")) + event(document)
    assert seen.observe(before + event(delta("", "stop")) + b"data: [DONE]\n\n") == before
    assert seen.server_error == document["error"]
    assert not seen.done, "the error came first: nothing broken looks whole"


def test_an_error_event_of_responses() -> None:
    seen = watch(RESPONSES)
    document = {"type": "error", "code": "server_error", "message": "no", "param": None}
    block = event(document, "error")
    assert seen.observe(block) == block
    assert seen.server_error == document


def test_what_comes_after_done_is_no_error() -> None:
    seen = watch()
    block = event(delta("", "stop")) + b"data: [DONE]\n\n"
    assert seen.observe(block + event({"error": {"message": "too late"}})) == block
    assert (seen.done, seen.server_error) == (True, None)


@pytest.mark.parametrize("nothing", [None, {}, "", False, []])
def test_no_error(nothing: object) -> None:
    seen = watch()
    block = event({"error": nothing, **delta("hi")}) + event({"x": ["error"], "type": "x"}) + b'data: {"error"\n\n'
    assert seen.observe(block) == block
    assert seen.server_error is None


# -- tokens


def test_the_usage_of_a_stream() -> None:
    seen = watch()
    seen.observe(event(delta("hi", usage=None)))
    assert seen.meter.prompt_tokens is None
    seen.observe(event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}))
    meter = seen.meter
    meter.estimate(1000)
    assert (meter.prompt_tokens, meter.completion_tokens, meter.estimated) == (11, 5, False)


def test_the_last_report_counts_and_an_empty_one_erases_nothing() -> None:
    seen = watch()
    for tokens in (1, 2, 3):
        seen.observe(event(delta("x", usage={"prompt_tokens": 9, "completion_tokens": tokens})))
    seen.observe(event({"usage": {}}) + event({"usage": {"completion_tokens": None}}))
    assert (seen.meter.prompt_tokens, seen.meter.completion_tokens) == (9, 3)


def test_the_usage_of_a_response() -> None:
    seen = watch(RESPONSES)
    response = {"usage": {"input_tokens": 4, "output_tokens": 6}}
    seen.observe(event({"type": "response.completed", "response": response}, "response.completed"))
    assert (seen.meter.prompt_tokens, seen.meter.completion_tokens) == (4, 6)


@pytest.mark.parametrize(
    ("document", "good", "counts"),
    [
        (wire.chat_completion(), True, (3, 2)),
        ({"usage": {"input_tokens": 3, "output_tokens": 2}}, True, (3, 2)),
        ({"usage": {"prompt_tokens": 3}}, True, (3, None)),
        ({"message": {"usage": {"input_tokens": 3, "output_tokens": 2}}}, True, (3, None)),
        ({"message": "hi", "usage": {"prompt_tokens": 3}}, True, (3, None)),
        ({"message": {"usage": "many"}}, True, (None, None)),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, True, (0, 0)),
        ({"data": []}, True, (None, None)),
        ([1, 2], True, (None, None)),
        ({"usage": None}, True, (None, None)),
        ({"usage": "many"}, True, (None, None)),
        ({"usage": {"prompt_tokens": "3", "completion_tokens": 2}}, True, (None, None)),
        ({"usage": {"prompt_tokens": 1.5}}, True, (None, None)),
        ({"usage": {"prompt_tokens": True}}, True, (None, None)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": -(10**30)}}, True, (None, None)),
        ({"usage": {"prompt_tokens": 2**62, "completion_tokens": 10**30}}, True, (MOST_TOKENS, MOST_TOKENS)),
        ({"usage": {"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS + 1}}, True, (MOST_TOKENS,) * 2),
    ],
)
def test_the_usage_of_an_answer(document: object, good: bool, counts: tuple[int | None, int | None]) -> None:
    meter = Meter()
    assert meter.read_usage(json.dumps(document).encode()) is good
    assert (meter.prompt_tokens, meter.completion_tokens) == counts


@pytest.mark.parametrize(
    "document",
    [
        b'\xef\xbb\xbf{"usage":{"prompt_tokens":3,"completion_tokens":2}}',
        b'{"a":NaN,"b":[-Infinity, NaN,NaN , NaN],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":3,"completion_tokens":2},"said":"[NaN]","logprob": -Infinity}',
    ],
    ids=range(3),
)
def test_json_as_python_writes_it(document: bytes) -> None:
    meter = Meter()
    assert meter.read_usage(document) is True
    assert (meter.prompt_tokens, meter.completion_tokens) == (3, 2)
    assert not Meter().read_usage(document[:-1] + b" " * LARGEST_LOOSE_BYTES + b"}"), "not looked for in what is large"


@pytest.mark.parametrize(
    "document",
    [
        b"NaN",
        b"\xef\xbb\xbf",
        b'{"a":NaN',
        b'{"a":NaN1}',
        b"{NaN:1}",
        b"",
        b"hello",
        b'"text"',
        b"7",
        b"<html>",
        b'{"usage":',
        b'{"choices":[]',
        b'{"usage":{"prompt_tokens":"3"},"choices":[',
        b"[" * 100_000,
    ],
    ids=range(14),
)
def test_what_is_no_answer(document: bytes) -> None:
    assert Meter().read_usage(document) is False


def test_the_usage_of_a_stream_of_messages() -> None:
    seen = watch(OTHER)
    seen.observe(event({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}))
    seen.observe(event({"type": "content_block_delta", "delta": {"text": '"usage":{"input_tokens":9}'}}))
    seen.observe(event({"type": "message_delta", "usage": {"output_tokens": 15}}))
    assert (seen.meter.prompt_tokens, seen.meter.completion_tokens) == (25, 15)


def test_a_stream_of_messages_that_was_left_is_counted_by_its_events() -> None:
    seen = watch(OTHER)
    seen.observe(event({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}))
    for _number in range(11):
        seen.observe(event({"type": "content_block_delta", "delta": {"text": "word"}}))
    seen.meter.estimate(400)
    assert (seen.meter.prompt_tokens, seen.meter.completion_tokens, seen.meter.estimated) == (25, 10, True)


@pytest.mark.parametrize(("events", "tokens"), [(0, None), (1, 1), (2, 1), (3, 1), (12, 10)])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_an_estimate_where_nothing_is_reported(events: int, tokens: int | None, ending: bytes) -> None:
    seen = watch()
    for size in (events // 2, events - events // 2):
        block = (b": note" + ending + b"data: x" + ending * 2 + b": ping" + ending * 2) * size
        if block:
            seen.observe(block)
    seen.meter.estimate(400)
    assert (seen.meter.completion_tokens, seen.meter.estimated) == (tokens, True)


@pytest.mark.parametrize(
    ("request_bytes", "context_length", "tokens"),
    [(3, None, 1), (400, None, 100), (400, 64, 64), (4_000_000, None, 8192), (4_000_000, 131_072, 8192)],
)
def test_an_estimate_of_a_prompt(request_bytes: int, context_length: int | None, tokens: int) -> None:
    meter = Meter()
    meter.estimate(request_bytes, context_length)
    assert (meter.prompt_tokens, meter.completion_tokens, meter.estimated) == (tokens, None, True)


def test_what_is_reported_in_part_is_estimated_in_part() -> None:
    seen = watch()
    seen.observe(event(delta("x", usage={"prompt_tokens": 9})) * 5)
    seen.meter.estimate(400)
    assert (seen.meter.prompt_tokens, seen.meter.completion_tokens, seen.meter.estimated) == (9, 3, True)


# -- speed


def test_a_token_costs_about_a_microsecond() -> None:
    token = event(delta(" word"), ending="\n")
    seen = watch()
    best = min(timeit.repeat(lambda: seen.observe(token), number=2000, repeat=20)) / 2000
    plain = min(timeit.repeat(lambda: token.find(b"[DONE]"), number=2000, repeat=20)) / 2000
    assert best < 18 * plain, f"{best * 1e6:.2f} µs, where one search takes {plain * 1e6:.2f}: no JSON for a token"
