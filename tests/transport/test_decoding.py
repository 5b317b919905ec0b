"""Undoing compression, without a socket: every slicing gives the same bytes, and damage is noticed."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.transport.decoding import STEP_BYTES, ContentDecoder, decoder_for
from multiverse.transport.failures import BadAnswer


def raw_deflate(body: bytes) -> bytes:
    """deflate without its zlib wrapper."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "raw": raw_deflate}


def decode(decoder: ContentDecoder, pieces: list[bytes]) -> bytes:
    """Everything that comes of `pieces`."""
    decoded = []
    for piece in pieces:
        decoder.feed(piece)
        while data := decoder.read():
            assert len(data) <= STEP_BYTES
            decoded.append(data)
    return b"".join(decoded)


def a_decoder(packer: str) -> ContentDecoder:
    """The decoder for what `packer` made."""
    decoder = decoder_for("gzip" if packer == "gzip" else "deflate")
    assert decoder is not None
    return decoder


@given(
    body=st.binary(max_size=300).map(lambda seed: seed * 7),
    packer=st.sampled_from(sorted(PACKERS)),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_every_slicing_gives_the_same_bytes(body: bytes, packer: str, cuts: list[int]) -> None:
    packed = PACKERS[packer](body)
    edges = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    pieces = [packed[start:end] for start, end in itertools.pairwise(edges)]
    decoder = a_decoder(packer)
    assert decode(decoder, pieces) == body
    assert decoder.complete


@given(packer=st.sampled_from(sorted(PACKERS)), body=st.binary(min_size=1, max_size=200), data=st.data())
def test_what_is_cut_off_is_not_complete(packer: str, body: bytes, data: st.DataObject) -> None:
    packed = PACKERS[packer](body)
    length = data.draw(st.integers(0, len(packed) - 1))
    decoder = a_decoder(packer)
    assert body.startswith(decode(decoder, [packed[:length]]))
    assert not decoder.complete
    assert decoder.started


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_noise_is_refused_or_decoded_but_nothing_else(noise: bytes, encoding: str) -> None:
    decoder = decoder_for(encoding)
    assert decoder is not None
    with contextlib.suppress(BadAnswer):
        decode(decoder, [noise])


def test_several_members_are_one_body() -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two")
    for size in (1, 7, len(packed)):
        decoder = a_decoder("gzip")
        pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
        assert decode(decoder, pieces) == b"onetwo"
        assert decoder.complete


def test_padding_with_zeros_is_no_damage() -> None:
    decoder = a_decoder("gzip")
    assert decode(decoder, [gzip.compress(b"one") + b"\0" * 600]) == b"one"
    assert decoder.complete


@pytest.mark.parametrize("packer", PACKERS)
def test_anything_else_behind_the_end_is(packer: str) -> None:
    decoder = a_decoder(packer)
    with pytest.raises(BadAnswer):
        decode(decoder, [PACKERS[packer](b"one") + b"junk"])
    decoder = a_decoder(packer)
    decode(decoder, [PACKERS[packer](b"one"), b"j"])
    assert not decoder.complete, "one byte alone cannot be told from the beginning of a further member"


def test_a_bomb_comes_in_steps() -> None:
    body = bytes(10_000_000)
    decoder = a_decoder("gzip")
    decoder.feed(gzip.compress(body, 9))
    sizes = []
    while data := decoder.read():
        sizes.append(len(data))
    assert sum(sizes) == len(body)
    assert max(sizes) == STEP_BYTES


@pytest.mark.parametrize("size", [STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 3 * STEP_BYTES])
def test_whole_steps_are_whole(size: int) -> None:
    decoder = a_decoder("gzip")
    assert len(decode(decoder, [gzip.compress(bytes(size))])) == size
    assert decoder.complete


def test_which_encodings_there_are() -> None:
    for encoding in (None, "", "identity", " Identity "):
        assert decoder_for(encoding) is None
    for encoding in ("gzip", "GZIP", "x-gzip", " deflate "):
        assert decoder_for(encoding) is not None
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "gzip;q=1"):
        with pytest.raises(BadAnswer, match="did not ask for"):
            decoder_for(encoding)
