"""Replacing the one `model` of a JSON body in its bytes, and asking for usage where the client did not.

Parsing and writing the body again would change what the client sent (spaces, `1.0`, big integers, escapes), so only the
bytes of those values change. The body must already be known to be a valid JSON object with a `model`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

# `"model"` however its letters are escaped, followed by a colon: a key, at the top or of a nested object. Inside a
# string its first quote would be escaped.
KEY = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"[ \t\r\n]*:[ \t\r\n]*')
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
BACKSLASH = b"\\"
STREAM_OPTIONS = re.compile(rb'"stream_options"[ \t\r\n]*:[ \t\r\n]*')
USAGE_WANTED = b'"stream_options":{"include_usage":true},'


def model_values(body: bytes) -> list[int]:
    """Where the values of top-level `model` keys begin; more than one when the key is repeated."""
    return _top_level_values(body, KEY)


def _top_level_values(body: bytes, pattern: re.Pattern[bytes]) -> list[int]:
    """Where the values of a key begin that is known to be at the top at least once."""
    keys = [match for match in pattern.finditer(body) if body[match.start() - 1 : match.start()] != BACKSLASH]
    if len(keys) == 1:
        return [keys[0].end()]  # There is one at the top, so this is it.
    found: list[int] = []
    depth = position = 0
    for key in keys:
        depth += _depth_gained(body[position : key.start()])
        position = key.end()
        if depth == 1:
            found.append(position)
    return found


def _depth_gained(text: bytes) -> int:
    """How many objects and arrays `text`, which begins and ends outside of strings, leaves open.

    The regular expression engine drops the strings and the rest is counting: a loop over tokens in Python would hold
    the event loop for seconds, were the body 20 MB of them.
    """
    bare = STRING.sub(b"", text)
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


def has_repeated_model(body: bytes) -> bool:
    """Whether the top level names `model` twice: the gateway and the server might each believe another one."""
    if body.count(b'"model"') <= 1 and (BACKSLASH not in body or b"\\u006" not in body):
        return False  # A single byte is found, or not, six times as fast as several.
    return len(model_values(body)) > 1


def replace_model(body: bytes, model_name: str) -> bytes:
    """`body` with the value of its top-level `model` replaced, every other byte as it was.

    Raises ValueError when that is not a string.
    """
    for start in model_values(body):
        value = STRING.match(body, start)
        if value is not None:
            return body[:start] + json.dumps(model_name).encode() + body[value.end() :]
    raise ValueError("the body has no top-level string `model`")


class StreamOptions(msgspec.Struct):
    """The part of a body that asks for usage in a stream."""

    stream_options: msgspec.Raw = msgspec.Raw(b"")


def with_usage_asked(body: bytes) -> bytes | None:
    """`body` asking for usage at the end of the stream (OpenAI's `stream_options.include_usage`), else as it was.

    None when the client has asked for it, or has put something there that the server had better see as it is.
    """
    if body.find(b'"stream_options"') < 0:
        return _with_options(body)
    given = bytes(msgspec.json.decode(body, type=StreamOptions).stream_options)
    if not given:
        return _with_options(body)
    try:
        value: Any = msgspec.json.decode(given)
        if not (value is None or isinstance(value, dict)) or (value and value.get("include_usage")):
            return None  # Also 1 or "true": many a server takes that for yes.
        written = msgspec.json.encode({**(value or {}), "include_usage": True})
    except (msgspec.DecodeError, RecursionError):
        return None  # A number beyond all bounds, or depths: JSON, but not Python's.
    places = _top_level_values(body, STREAM_OPTIONS)
    if len(places) != 1:
        return None
    return body[: places[0]] + written + body[places[0] + len(given) :]


def _with_options(body: bytes) -> bytes:
    """In front of all others: should the key be there in other letters, parsers believe the last one, the client's."""
    start = body.index(b"{") + 1
    return body[:start] + USAGE_WANTED + body[start:]
