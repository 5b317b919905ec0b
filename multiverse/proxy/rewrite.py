"""Finding and replacing the one `model` of a JSON body, in its bytes.

Parsing and writing the body again would change what the client sent (spaces, `1.0`, big integers, escapes), so only the
bytes of that one value change. The body must already be known to be a valid JSON object.
"""

from __future__ import annotations

import json
import re

# `"model"` however its letters are escaped, followed by a colon: perhaps a key, and perhaps of a nested object.
PERHAPS_A_KEY = re.compile(
    rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"[ \t\r\n]*:[ \t\r\n]*'
)
STRING = rb'"(?:[^"\\]++|\\.)*+"'
NEXT_TOKEN = re.compile(rb'[^"{}\[\]]*+(' + STRING + rb"|[{}\[\]])", re.DOTALL)
STRING_VALUE = re.compile(STRING, re.DOTALL)
OPENING, CLOSING = b"{[", b"}]"


def model_values(body: bytes) -> list[int]:
    """Where the values of top-level `model` keys begin; more than one when the key is repeated."""
    candidates = {match.start(): match.end() for match in PERHAPS_A_KEY.finditer(body)}
    if not candidates:
        return []
    found: list[int] = []
    depth = position = 0
    last_candidate = max(candidates)
    while position <= last_candidate and (token := NEXT_TOKEN.match(body, position)) is not None:
        start = token.start(1)
        first_byte = body[start : start + 1]
        if first_byte in OPENING:
            depth += 1
        elif first_byte in CLOSING:
            depth -= 1
        elif depth == 1 and start in candidates:
            found.append(candidates[start])
        position = token.end()
    return found


def has_repeated_model(body: bytes) -> bool:
    """Whether the top level names `model` twice: the gateway and the server might each believe another one."""
    if body.count(b'"model"') <= 1 and b"\\u006" not in body:
        return False
    return len(model_values(body)) > 1


def replace_model(body: bytes, model_name: str) -> bytes:
    """`body` with the value of its top-level `model` replaced, every other byte as it was.

    Raises ValueError when there is no such string.
    """
    for start in model_values(body):
        value = STRING_VALUE.match(body, start)
        if value is not None:
            return body[:start] + json.dumps(model_name).encode() + body[value.end() :]
    raise ValueError("the body has no top-level string `model`")
