"""Replacing the one `model` of a JSON body in its bytes, and asking for usage where the client did not.

Parsing and writing the body again would change what the client sent (spaces, `1.0`, big integers, escapes), so only the
bytes of those values change. The body must already be known to be a valid JSON object with a `model`.
"""

from __future__ import annotations

import json
import re

import msgspec


def _key(name: str) -> re.Pattern[bytes]:
    """A key called `name`, however its letters are escaped, and the colon behind it: at the top or of a nested object.

    Inside a string its first quote would be escaped.
    """
    letters = (rf"(?:{letter}|\\u00(?i:{ord(letter):02x}))" for letter in name)
    return re.compile(rf'"{"".join(letters)}"[ \t\r\n]*:[ \t\r\n]*'.encode())


KEY = _key("model")
STREAM_OPTIONS, INCLUDE_USAGE = _key("stream_options"), _key("include_usage")
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
BACKSLASH = b"\\"
ESCAPED_ASCII = b"\\u00"
USAGE_WANTED = b'"stream_options":{"include_usage":true},'
# What servers with Pydantic read as a boolean that is true (its docs, "Booleans").
TAKEN_FOR_TRUE = frozenset({b"1", b"1.0", b'"1"', b'"on"', b'"t"', b'"true"', b'"y"', b'"yes"'})


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


class UsageOptions(msgspec.Struct):
    """What asks for usage in a stream: the one in the body, the other in that."""

    stream_options: msgspec.Raw = msgspec.Raw(b"")
    include_usage: msgspec.Raw = msgspec.Raw(b"")


def with_usage_asked(body: bytes) -> tuple[bytes, bool] | None:
    """`body` asking for usage at the end of the stream (OpenAI's `stream_options.include_usage`), else as it was; and
    whether the client shall see it.

    None when the client has asked with `true`, or when its `stream_options` are nothing to ask in: then the server had
    better see them as they are. A client shall see what it has asked for in a way that some servers take for `true`.
    """
    if body.find(b'"stream_options"') < 0 and (body.find(ESCAPED_ASCII) < 0 or STREAM_OPTIONS.search(body) is None):
        return body.replace(b"{", b"{" + USAGE_WANTED, 1), False
    options = bytes(msgspec.json.decode(body, type=UsageOptions).stream_options)
    if not options:
        return body.replace(b"{", b"{" + USAGE_WANTED, 1), False
    asked = _asking(options)
    if asked is None:
        return None
    start = _top_level_values(body, STREAM_OPTIONS)[-1]  # Of several, parsers believe the last one; so does msgspec.
    return body[:start] + asked[0] + body[start + len(options) :], asked[1]


def _asking(options: bytes) -> tuple[bytes, bool] | None:
    """As `with_usage_asked`, for the value of `stream_options`."""
    if options == b"null":
        return b'{"include_usage":true}', False
    if options[:1] != b"{":
        return None
    value = bytes(msgspec.json.decode(options, type=UsageOptions).include_usage)
    if value == b"true":
        return None
    if value:
        start = _top_level_values(options, INCLUDE_USAGE)[-1]
        return options[:start] + b"true" + options[start + len(value) :], value.lower() in TAKEN_FOR_TRUE
    comma = b"," if options[1:-1].strip() else b""
    return options[:-1] + comma + b'"include_usage":true}', False
