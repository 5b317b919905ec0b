"""The reader of answers, without a socket: what it says does not depend on how the bytes were cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiverse.transport.answers import AnswerReader
from multiverse.transport.failures import BadAnswer
from tests import wire
from tests.transport.test_exchanges import ANSWERS
from tests.transport.test_faults import NO_ANSWERS, NO_BODIES

CHUNKED = wire.head(200, [("Transfer-Encoding", "chunked")])
SMALL_FAULTS = {name: data for name, data in NO_ANSWERS.items() if len(data) < 2000 and b"Content-Encoding" not in data}
FAULTS = {**SMALL_FAULTS, **{name: CHUNKED + data for name, data in NO_BODIES.items()}}


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in the pieces that `cuts` make of it."""
    edges = [0, *sorted(position % (len(data) + 1) for position in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


def read(pieces: list[bytes], method: str = "GET") -> dict[str, Any]:
    """What a reader says of the answer in `pieces`."""
    reader = AnswerReader()
    reader.expect(method)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    head = reader.head
    return {
        "status": head and head.status,
        "reason": head and head.reason,
        "headers": head and head.headers,
        "body": b"".join(reader.pieces),
        "complete": reader.complete,
        "keep_alive": reader.keep_alive,
    }


@given(name=st.sampled_from(sorted(ANSWERS)), cuts=st.lists(st.integers(0, 5000), max_size=30))
def test_every_cut_gives_the_same_answer(name: str, cuts: list[int]) -> None:
    data, body, reusable = ANSWERS[name]
    whole = read([data])
    assert (whole["body"], whole["complete"], whole["keep_alive"]) == (body, True, reusable)
    assert read(cut(data, cuts)) == whole


@given(name=st.sampled_from(sorted(FAULTS)), cuts=st.lists(st.integers(0, 500), max_size=30))
def test_every_cut_is_refused(name: str, cuts: list[int]) -> None:
    with pytest.raises(BadAnswer):
        read(cut(FAULTS[name], cuts))


@given(name=st.sampled_from(sorted(ANSWERS)), length=st.integers(0, 5000))
def test_what_is_cut_off_is_not_whole(name: str, length: int) -> None:
    data, body, _reusable = ANSWERS[name]
    part = read([data[: length % len(data)]]) if length % len(data) else read([])
    assert body.startswith(part["body"])
    assert not part["complete"]
    assert not part["keep_alive"]


@given(st.binary(max_size=200))
@example(b"HTTP/1.1 200 OK\r\n\r\n")
def test_noise_raises_nothing_else(noise: bytes) -> None:
    for prefix in (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", CHUNKED):
        reader = AnswerReader()
        try:
            reader.feed(prefix + noise)
        except BadAnswer:
            continue
        assert b"".join(reader.pieces) in prefix + noise or prefix == CHUNKED


@given(st.lists(st.sampled_from(sorted(name for name, answer in ANSWERS.items() if answer[2])), min_size=1, max_size=6))
def test_one_reader_reads_many(names: list[str]) -> None:
    reader = AnswerReader()
    for name in names:
        data, body, _reusable = ANSWERS[name]
        reader.expect("GET")
        reader.feed(data)
        assert (b"".join(reader.pieces), reader.complete, reader.extra_bytes) == (body, True, False)
        assert reader.head is not None
        assert "x-sum" not in reader.head.headers


def test_what_follows_is_noticed() -> None:
    for extra in (b"x", wire.answer(b"two"), b"\0" * 10):
        reader = AnswerReader()
        reader.feed(wire.answer(b"one") + extra)
        assert (b"".join(reader.pieces), reader.complete, reader.extra_bytes) == (b"one", True, True)


def test_a_closed_reader_refers_to_nothing() -> None:
    reader = AnswerReader()
    reader.close()
    assert not hasattr(reader, "_parser")
