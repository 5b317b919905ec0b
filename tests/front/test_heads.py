"""Heads that are read again: a connection's reader must judge every head as if it were the first that it sees."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest
from tornado.httputil import HTTPInputError

import multiverse.web
from multiverse.web.front.heads import LONGEST_KNOWN_BYTES, HeadReader, WrongFraming
from multiverse.web.headers import KnownHeaders, usual_spelling
from tests.front.test_differential import Writer

BEGINNING = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\n"
LINES = [
    b"",
    b"Content-Length: 5\r\n",
    b"Content-Length: 57\r\n",
    b"content-length: 057\r\n",
    b"Content-Length: 57, 57\r\n",
    b"Content-Length: \r\n",
    b"Content-Length:57\r\n",
    b"Content-Length: 5 7\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: \xb2\r\n",
    b"Content-Length: 5\r\nX: y\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: " + b"9" * 18 + b"\r\n",
    b"Content-Length: " + b"9" * 19 + b"\r\n",
    b"X: a\r\nContent-Length: 5\r\nX: b\r\nExpect: 100-continue\r\n",
    b"X: a\r\nContent-Length: 6\r\nX: b\r\nExpect: 100-continue\r\n",
    b"X: a\r\nContent-Length: 6\r\nX: c\r\nExpect: 100-continue\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X-Content-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n",
    b"X-Content-Length: 6\r\nContent-Length: 6\r\nConnection: close\r\n",
]

FIELD_ASKED_FOR = re.compile(r'fields(?:\.get\(|\[)"([^"]+)"|"([^"\n]+)" (?:not )?in [a-z_.]*fields\b')

Judged = tuple[object, ...]


def judged(reader: HeadReader, data: bytes) -> Judged:
    """Everything that a reader says of a head."""
    try:
        head = reader.read(data)
    except WrongFraming as error:
        return "framing", str(error), sorted(error.headers.get_all())
    except HTTPInputError as error:
        return "malformed", str(error)
    said = (head.start_line, head.method, head.version, head.length, head.keep_alive, head.expects_continue)
    return *said, head.expects, sorted(head.headers.get_all()), list(head.headers.items())


def test_a_head_after_any_other() -> None:
    heads = [BEGINNING + line for line in LINES]
    alone = {head: judged(HeadReader(), head) for head in heads}
    assert len({said[0] for said in alone.values()}) == 2, "some are right, and some are not"
    for first, second, third in itertools.product(heads, repeat=3):
        reader = HeadReader()
        assert [judged(reader, data) for data in (first, second, third)] == [alone[first], alone[second], alone[third]]


def test_heads_of_one_client() -> None:
    """What the conversations of the comparison with Tornado begin with, and the same with other lengths."""
    writer, choose, reader = Writer(seed=5), random.Random(5), HeadReader()
    for _number in range(300):
        head = writer.conversation().data.partition(b"\r\n\r\n")[0] + b"\r\n"
        others = [head.replace(b"Length: ", b"Length: " + digits) for digits in (b"1", b"22", b"+", b"0x", b"\r\n")]
        for data in [head, *choose.sample(others, 3), head]:
            assert judged(reader, data) == judged(HeadReader(), data)


def test_a_request_keeps_its_headers_to_itself() -> None:
    reader, data = HeadReader(), BEGINNING + b"X: a\r\nX: b\r\nContent-Length: 5\r\n"
    first, second = reader.read(data), reader.read(data.replace(b"5", b"6"))
    second.headers["Content-Length"], second.headers["X-New"] = "7", "new"
    second.headers.add("X", "c")
    assert first.headers.get_list("x") == ["a", "b"]
    assert list(reader.read(data).headers.get_all()) == [
        ("Host", "gateway.test"), ("X", "a"), ("X", "b"), ("Content-Length", "5"),
    ]  # fmt: skip


def test_a_long_head_is_not_kept() -> None:
    reader, line = HeadReader(), b"Content-Length: 5\r\nX-Long: "
    assert reader.read(BEGINNING + b"Content-Length: 5\r\n").length == 5
    assert reader.read(BEGINNING + line + b"x" * LONGEST_KNOWN_BYTES + b"\r\n").length == 5
    assert not any(getattr(reader, name) for name in HeadReader.__slots__)


def test_fields_are_asked_for_in_their_usual_spelling() -> None:
    """In any other, a plain dictionary has nothing."""
    texts = [path.read_text(encoding="utf-8") for path in Path(multiverse.web.__file__).parent.rglob("*.py")]
    texts = [text for text in texts if "request.fields" in text or "headers.fields" in text]
    names = [name for text in texts for pair in FIELD_ASKED_FOR.findall(text) for name in pair if name]
    assert len(names) > 15
    assert [name for name in names if name != usual_spelling(name)] == []


@pytest.mark.parametrize("name", ["X-A", "x-a"])
def test_headers_are_tornados(name: str) -> None:
    """Names in any spelling, one value or several."""
    headers = KnownHeaders({"Host": "gateway.test", "X-A": "1"})
    headers.add(name, "2")
    assert (headers[name], headers.get_list(name), len(headers)) == ("1,2", ["1", "2"], 2)
    assert headers.lines() == ["Host: gateway.test", "X-A: 1", "X-A: 2"]
    assert headers.copy().get_list(name) == ["1", "2"]
    headers.set_all({name: "3", "x-new": "4"})
    assert list(headers.get_all()) == [("Host", "gateway.test"), ("X-A", "3"), ("X-New", "4")]
    headers.add(name, "5")
    headers[name] = "6"
    assert headers.lines() == ["Host: gateway.test", "X-A: 6", "X-New: 4"]
    headers.add(name, "7")
    del headers[name]
    assert name not in headers
    assert (headers.get(name), headers.get_list(name), list(headers)) == (None, [], ["Host", "X-New"])
    with pytest.raises(KeyError):
        del headers[name]
