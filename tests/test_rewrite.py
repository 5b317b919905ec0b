"""The one `model` of a body: found however it is written, replaced without touching another byte, and fast."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiverse.errors import InvalidRequest
from multiverse.proxy.call import MOST_DIGITS, BodyHead, has_endless_digits, read_body
from multiverse.proxy.rewrite import has_repeated_model, model_values, replace_model
from tests.bench import UNHURRIED

NEW_NAME = 'new "name" \\ é 🌍'
KEYS = st.sampled_from(["model", "models", "Model", 'a"model', "model\\", "", "x"]) | st.text(max_size=6)
TEXTS = st.sampled_from(['"model": "x"', '{"model":', '\\"model\\":', '"', "\\", "model", "}", "[{"]) | st.text(
    max_size=8
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from(["", "  ", "\n", "\t \r\n"])


@st.composite
def strings(draw: st.DrawFn, text: str) -> str:
    """`text` as JSON, any of its characters escaped."""
    written = ""
    for character in text:
        plain = json.dumps(character, ensure_ascii=draw(st.booleans()))[1:-1]
        if len(character.encode("utf-16-le", "surrogatepass")) == 2 and draw(st.integers(0, 3)) == 0:
            digits = f"{ord(character):04x}"
            plain = "\\u" + (digits.upper() if draw(st.booleans()) else digits)
        written += plain
    return f'"{written}"'


@st.composite
def documents(draw: st.DrawFn, value: Any) -> str:
    """`value` as JSON, with whatever spaces and escapes."""
    space = draw(SPACES)
    if isinstance(value, str):
        return space + draw(strings(value)) + space
    if isinstance(value, list):
        inner = ",".join(draw(documents(item)) for item in value)
        return f"{space}[{inner or space}]{space}"
    if isinstance(value, dict):
        members = (draw(strings(key)) + draw(SPACES) + ":" + draw(documents(item)) for key, item in value.items())
        return f"{space}{{{','.join(members) or space}}}{space}"
    return space + json.dumps(value) + space


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A body with one top-level model, as what comes before its value, the value, and what comes after."""
    members = draw(st.lists(st.tuples(KEYS.filter(lambda key: key != "model"), VALUES), max_size=5))
    place = draw(st.integers(0, len(members)))
    written = [draw(strings(key)) + draw(SPACES) + ":" + draw(documents(value)) for key, value in members]
    space = draw(SPACES)
    before = space + "{" + "".join(member + "," for member in written[:place])
    before += draw(SPACES) + draw(strings("model")) + draw(SPACES) + ":" + draw(SPACES)
    after = draw(SPACES) + "".join("," + member for member in written[place:]) + "}" + space
    return tuple(part.encode("utf-8") for part in (before, draw(strings(draw(TEXTS))), after))  # type: ignore[return-value]


@UNHURRIED
@given(parts=bodies())
@example(parts=(b'{"model\\\\":1,"a":{"model":"x"},"\\u006dode\\u006C" : ', b'"y"', b',"b":["model",{"model":1}]}'))
@example(parts=(b'{"say \\"model":"x","model":', b'"y"', b"}"))
def test_exactly_the_models_value_changes(parts: tuple[bytes, bytes, bytes]) -> None:
    before, value, after = parts
    body = before + value + after
    assert not has_repeated_model(body)
    assert model_values(body) == [len(before)]
    assert replace_model(body, NEW_NAME) == before + json.dumps(NEW_NAME).encode() + after, "and not a byte elsewhere"
    expected = {**json.loads(body), "model": NEW_NAME}
    assert json.loads(replace_model(body, NEW_NAME)) == expected


@UNHURRIED
@given(parts=bodies(), key=strings("model"), value=st.sampled_from(['"other"', "7", "null", '{"model":1}']))
def test_a_repeated_model_is_found_however_it_is_written(
    parts: tuple[bytes, bytes, bytes], key: str, value: str
) -> None:
    before, first, after = parts
    end = after.rindex(b"}")
    body = before + first + after[:end] + b"," + key.encode() + b":" + value.encode() + after[end:]
    assert json.loads(body)
    assert has_repeated_model(body)
    assert len(model_values(body)) == 2
    with pytest.raises(InvalidRequest) as raised:
        read_body(body)
    assert raised.value.param == "model"


@UNHURRIED
@given(value=st.dictionaries(KEYS.filter(lambda key: key != "model"), VALUES, max_size=5), data=st.data())
def test_nested_models_are_no_repetition(value: dict[str, Any], data: st.DataObject) -> None:
    body = data.draw(
        documents({**value, "model": "one", "tools": [{"model": "two"}, {"model": {"model": 3}}]})
    ).encode()
    assert not has_repeated_model(body)
    assert json.loads(replace_model(body, "x"))["tools"] == [{"model": "two"}, {"model": {"model": 3}}]


@pytest.mark.parametrize("body", [b'{"model": 7}', b'{"model": null, "x": {"model": "y"}}', b"{}"])
def test_no_string_to_replace(body: bytes) -> None:
    with pytest.raises(ValueError):
        replace_model(body, "x")


def test_numbers_spaces_and_escapes_stay() -> None:
    body = b' { "n":1.0,"big":12345678901234567890123,"e":1E+2 ,"s":"\\u00e9\\/\xc3\xa9", "model" :\t"old" }\n'
    assert replace_model(body, "a/b") == body.replace(b'"old"', b'"a/b"')


# -- speed

MEGABYTES_20 = 20_000_000
NESTED = b'"model":"x","tools":[{"model":{"type":"string"}}]}'
LARGE = {
    "an image": b'{"image":"data:image/png;base64,' + b"QUJD" * (MEGABYTES_20 // 4) + b'",' + NESTED,
    "a long chat": b'{"messages":[' + b'{"role":"user","content":"a \\"word\\"\\nor two"},' * 400_000 + b"1]," + NESTED,
    "token ids": b'{"input":[' + b"[101,2023,2003,102]," * 1_000_000 + b"[]]," + NESTED,
    "brackets": b'{"input":[' + b"[]," * 6_000_000 + b"[]]," + NESTED,
    "escapes": b'{"input":"' + b"\\n" * 10_000_000 + b'",' + NESTED,
}


@pytest.mark.parametrize("kind", LARGE)
def test_twenty_megabytes(kind: str) -> None:
    body = LARGE[kind]
    began = time.process_time()
    assert not has_repeated_model(body)
    assert len(replace_model(body, "longer")) == len(body) + 5
    seconds = time.process_time() - began
    assert seconds < 3.0, f"{seconds:.2f} s; a loop over tokens takes ten times as long"


def test_the_usual_body_is_not_read_twice() -> None:
    body = LARGE["brackets"].replace(NESTED, b'"model":"x"}')
    began = time.process_time()
    assert not has_repeated_model(body)
    replace_model(body, "y")
    assert time.process_time() - began < 0.5, "one `model` in it: that is the one"


# -- reading a body


def test_what_the_gateway_reads() -> None:
    assert read_body(b'{"model":"x","stream":true,"more":[1]}') == BodyHead(model="x", stream=True)
    assert read_body(b'{"stream":null}') == BodyHead(stream=None), "null is there, absent is not"
    assert read_body(b'{"stream":null}') != BodyHead()
    assert read_body(b'{"model":5}') == BodyHead(model=5), "judged elsewhere"
    assert read_body(b'{"\\u006dodel":"x"}') == BodyHead(model="x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"model"',
        b"7",
        b"{",
        b'{"model":"x"} {}',
        b"model=x",
        b'{"model":"x","a":NaN}',
        b'{"model":"x","a":-Infinity}',
        b'{"model":"x",}',
        b"{'model':'x'}",
        b'{"model":"x","a":"\xff"}',
        b'{"model":"x","a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"model":"x"}',
        '{"model":"x"}'.encode("utf-16"),
        b'{"model":"x","a":"\\ud800"}',
        b'{"model":"\\udfff"}',
        b'{"model":"x","a":"\\ud800 and more"}',
        b'{"model":"x","a":"\x01"}',
        b'{"model":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"model":"x","a":' + b"1" * 5000 + b"}",
        b'{"model":' + b"1" * 5000 + b"}",
        b'{"model":"x","a":-0.' + b"1" * 5000 + b"}",
    ],
    ids=range(24),
)
def test_what_is_no_body(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest) as raised:
        read_body(body)
    assert time.process_time() - began < 0.2
    assert len(raised.value.message) < 200


def test_long_numbers_are_nobodys_business_up_to_a_point() -> None:
    assert read_body(b'{"model":"x","a":' + b"7" * MOST_DIGITS + b"}")
    assert read_body(b'{"model":"x","a":"' + b"7" * 50_000 + b'"}'), "digits in a string are text"
    assert read_body(b'{"model":"x","a":[' + b"123456789," * 10_000 + b"1]}")


@UNHURRIED
@given(
    before=st.binary(max_size=20),
    digits=st.sampled_from([0, 1, MOST_DIGITS - 1, MOST_DIGITS, MOST_DIGITS + 1, 2 * MOST_DIGITS]),
    offset=st.integers(0, 3 * MOST_DIGITS),
)
def test_digits_in_a_row(before: bytes, digits: int, offset: int) -> None:
    text = before + b"x" * offset + b"5" * digits + b"x" + before
    assert has_endless_digits(text) is (digits > MOST_DIGITS)
