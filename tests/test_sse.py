"""Cutting a stream of events: where the chunks are cut never matters, and every byte comes out."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiverse.errors import ServerTimeout
from multiverse.proxy.sse import (
    DONE_EVENT,
    KEEP_ALIVE,
    EventReader,
    EventTooLarge,
    error_event,
    event_data,
    has_data,
    split_events,
)
from tests.bench import UNHURRIED

LIMIT = 1_000_000
LINE_ENDINGS = ("\n", "\r\n", "\r")
LINES = st.sampled_from(
    ["data: {}", "data:x", "data: 北京 🌍 é", "data", "data:", ": comment", "event: ping", "id: 7", "retry: 3", "odd"]
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=8)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def streams_of(ending: str | None) -> st.SearchStrategy[bytes]:
    """Streams of events whose lines all end in `ending`, or (None) each as it likes."""
    endings = st.sampled_from(LINE_ENDINGS) if ending is None else st.just(ending)
    return st.lists(st.tuples(LINES | st.just(""), endings), max_size=24).map(
        lambda lines: "".join(line + end for line, end in lines).encode()
    )


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream`, cut at these places; no piece is empty."""
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    return [stream[start:end] for start, end in itertools.pairwise(places)]


def parsed(stream: bytes) -> list[list[str]]:
    """The complete events of a stream by the letter of WHATWG HTML §9.2.6, as lists of their lines."""
    events: list[list[str]] = []
    lines: list[str] = []
    text = stream.decode()
    while text:
        cut = min((place for ending in "\r\n" if (place := text.find(ending)) >= 0), default=-1)
        if cut < 0:
            break
        line, text = text[:cut], text[cut + 2 if text.startswith("\r\n", cut) else cut + 1 :]
        if line:
            lines.append(line)
        elif lines:
            events.append(lines)
            lines = []
    return events


def read(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """The blocks that a reader makes of the pieces, and what is left."""
    reader = EventReader(LIMIT)
    blocks = [reader.feed(piece) for piece in pieces(stream, cuts)]
    return [block for block in blocks if block], reader.leftover


# -- cutting


@pytest.mark.parametrize("ending", LINE_ENDINGS, ids=["LF", "CRLF", "CR"])
@UNHURRIED
@given(data=st.data(), cuts=CUTS)
def test_chunks_do_not_matter(ending: str, data: st.DataObject, cuts: list[int]) -> None:
    stream = data.draw(streams_of(ending))
    blocks, leftover = read(stream, cuts)
    assert b"".join(blocks) + leftover == stream, "all bytes, in their order"
    assert [event for block in blocks for event in parsed(block)] == parsed(stream), "and every event when it is due"
    assert not parsed(leftover)


@UNHURRIED
@given(stream=streams_of(None), cuts=CUTS)
@example(stream=b"data: x\r\n\rdata: y\n\n", cuts=[10])
@example(stream=b"data: x\r\r\ndata: y\n\n", cuts=[9])
def test_mixed_line_endings_neither_lose_nor_tear(stream: bytes, cuts: list[int]) -> None:
    blocks, leftover = read(stream, cuts)
    assert b"".join(blocks) + leftover == stream
    whole = parsed(stream)
    events = [event for block in blocks for event in parsed(block)]
    assert events == whole[: len(events)], "a block never ends inside an event"
    assert len(whole) - len(events) <= 1, "a lone CR at the very end may be half of a CRLF"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_byte_by_byte_every_event_comes_with_its_last_byte(ending: bytes) -> None:
    events = [b"data: one" + ending * 2, b": note" + ending + b"data: two" + ending * 2, b"id: 3" + ending * 2]
    reader = EventReader(LIMIT)
    came = [reader.feed(bytes([byte])) for byte in b"".join(events)]
    assert [block for block in came if block] == events
    assert came[len(events[0]) - 1] == events[0], "not a byte later"
    assert reader.leftover == b""


@UNHURRIED
@given(
    before=st.binary(max_size=60).filter(lambda raw: b"\n" not in raw and b"\r" not in raw),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_bytes_that_are_no_text_pass_as_they_are(before: bytes, cuts: list[int]) -> None:
    blocks, leftover = read(b"data: " + before + b"\n\n", cuts)
    assert (b"".join(blocks), leftover) == (b"data: " + before + b"\n\n", b"")


def test_what_is_not_complete_waits() -> None:
    reader = EventReader(LIMIT)
    assert reader.feed(b"data: one\n\ndata: tw") == b"data: one\n\n"
    assert reader.leftover == b"data: tw"
    assert reader.feed(b"o") == b""
    assert reader.feed(b"\n") == b""
    assert reader.feed(b"\n") == b"data: two\n\n"


# -- limits


def feed_all(reader: EventReader, data: list[bytes]) -> None:
    for piece in data:
        reader.feed(piece)


def test_an_event_of_exactly_the_limit_passes() -> None:
    event = b"data: " + b"x" * 92 + b"\n\n"
    assert EventReader(100).feed(event) == event
    reader = EventReader(100)
    assert b"".join(reader.feed(bytes([byte])) for byte in event) == event


@pytest.mark.parametrize("cut", [None, 50, 99, 101])
def test_a_complete_event_over_the_limit(cut: int | None) -> None:
    event = b"data: " + b"x" * 93 + b"\n\n"
    with pytest.raises(EventTooLarge):
        feed_all(EventReader(100), pieces(event, [cut] if cut else []))


def test_an_endless_event_is_cut_off_at_the_limit() -> None:
    reader = EventReader(100)
    feed_all(reader, [b"x" * 10] * 10)
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")


def test_many_events_in_a_chunk_are_not_one_large_event() -> None:
    events = b"data: x\n\n" * 1000
    assert EventReader(100).feed(events) == events
    crlf = events.replace(b"\n", b"\r\n")
    assert EventReader(100).feed(crlf) == crlf


@pytest.mark.parametrize("rest", [b"data: " + b"x" * 200 + b"\n\n", b"data: " + b"x" * 200])
def test_whole_events_before_the_large_one_are_not_lost(rest: bytes) -> None:
    with pytest.raises(EventTooLarge) as raised:
        EventReader(100).feed(b"data: one\n\ndata: two\n\n" + rest)
    assert raised.value.complete == b"data: one\n\ndata: two\n\n"


def test_a_long_event_in_small_pieces_is_not_quadratic() -> None:
    reader = EventReader(2_000_000)
    reader.feed(b"data: ")
    began = time.process_time()
    for _number in range(200_000):
        reader.feed(b"some text ")  # 2 MB would be copied 200 000 times
        if len(reader._pending) > 1_900_000:
            break
    assert time.process_time() - began < 5.0


# -- reading


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"data: x\n\n", True),
        (b"data:\n\n", True),
        (b"data\n\n", True),
        (b"id: 1\r\ndata: x\r\n\r\n", True),
        (b": note\rdata: x\r\r", True),
        (b": data: x\n\n", False),
        (b"event: data: x\n\n", False),
        (b"datum: x\n\n", False),
        (b"id: 1\n\n", False),
        (b"\n\n", False),
    ],
)
def test_what_has_data(block: bytes, expected: bool) -> None:
    assert has_data(block) is expected


@UNHURRIED
@given(stream=streams_of(None))
def test_events_of_a_block_make_up_the_block(stream: bytes) -> None:
    assert b"".join(split_events(stream)) == stream


@UNHURRIED
@given(streams_of("\n"))
@example(b"data:x\n\n\n\ndata:x\n\n")
def test_the_usual_line_ending_divides_as_any_other(stream: bytes) -> None:
    others = [event.replace(b"\r\n", b"\n") for event in split_events(stream.replace(b"\n", b"\r\n"))]
    assert list(split_events(stream)) == others


def test_split_and_data() -> None:
    events = list(split_events(b"data: a\n\n: note\n\nid: 1\r\ndata:b\r\ndata:  c\r\n\r\ndata: d\r\r"))
    assert [event_data(event) for event in events] == [b"a", b"", b"b\n c", b"d"]


# -- writing


def test_the_events_of_the_gateway() -> None:
    event = error_event(ServerTimeout('too "slow"\n'))
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    error = json.loads(event_data(event))["error"]
    assert (error["code"], error["type"], error["message"]) == ("server_timeout", "server_error", 'too "slow"\n')
    assert parsed(DONE_EVENT) == [["data: [DONE]"]]
    assert (KEEP_ALIVE.count(b"\n"), KEEP_ALIVE[:1]) == (1, b":")
    assert parsed(KEEP_ALIVE + KEEP_ALIVE + b"data: x\n\n") == [[": keep-alive", ": keep-alive", "data: x"]]
