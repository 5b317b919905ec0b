"""Finding and replacing the one `model` of a JSON body, in its bytes.

Parsing and writing the body again would change what the client sent (spaces, `1.0`, big integers, escapes), so only the
bytes of that one value change. The body must already be known to be a valid JSON object with a `model`.
"""

from __future__ import annotations

import json
import re

# `"model"` however its letters are escaped, followed by a colon: a key, at the top or of a nested object. Inside a
# string its first quote would be escaped.
KEY = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"[ \t\r\n]*:[ \t\r\n]*')
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
BACKSLASH = b"\\"


def model_values(body: bytes) -> list[int]:
    """Where the values of top-level `model` keys begin; more than one when the key is repeated."""
    keys = [match for match in KEY.finditer(body) if body[match.start() - 1 : match.start()] != BACKSLASH]
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
    if body.count(b'"model"') <= 1 and b"\\u006" not in body:
        return False
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
