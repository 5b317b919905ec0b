"""One client's request as the proxy sees it, and the client's end of the wire.

The body stays bytes; of its JSON the gateway reads `model` and `stream`, once. Whether these two are right is judged by
web/schemas.py; headers and authentication never come this far.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from multiverse.errors import InvalidRequest
from multiverse.people.allowances import Allowance
from multiverse.people.keys import Caller
from multiverse.proxy.rewrite import STRING, has_repeated_model
from multiverse.proxy.stories import Story

# Python's own limit (`sys.get_int_max_str_digits`): servers written in it fail on more, and look broken for it.
MOST_DIGITS = 4300
DIGITS = b"0123456789"


@dataclass(slots=True)  # Not frozen, though nobody changes it: that would double the time to make one.
class Call:
    """A request to forward. `started_seconds` is monotonic; `via` is what the server shall read in `Via`.

    `models` are those that may answer, in order: what `model_name` stands for. `asker` is who shares come to: the key,
    or without one the address.
    """

    request_id: str
    route: str
    body: bytes
    model_name: str
    models: tuple[str, ...]
    stream: bool
    caller: Caller
    asker: str
    allowance: Allowance | None
    client_address: str
    via: str
    started_seconds: float
    story: Story


class Reply(Protocol):
    """The client's end: what the proxy may do with it."""

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Fix status and headers; they go out with the first bytes."""

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send `data` now; an awaitable when the client does not keep up, done when it has caught up."""

    def finish(self, data: bytes = b"") -> None:
        """Send `data` and end the response in an orderly way."""


class BodyHead(msgspec.Struct):
    """The few fields of a body that the gateway itself needs, unjudged; those that are not there are UNSET."""

    model: Any = msgspec.UNSET
    stream: Any = msgspec.UNSET


READ_BODY_HEAD = msgspec.json.Decoder(BodyHead).decode


def read_body(body: bytes) -> BodyHead:
    """`model` and `stream` of a JSON body as they are.

    Raises InvalidRequest for anything that is not one JSON object in UTF-8, for numbers that no server could read, and
    for a body that names `model` twice.
    """
    try:
        if not body.isascii():
            body.decode("utf-8")
        found = READ_BODY_HEAD(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "The body is not valid UTF-8. Send JSON in UTF-8 (RFC 8259 §8.1); with PowerShell: "
            "-ContentType 'application/json; charset=utf-8'."
        ) from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply to be read.") from error
    except msgspec.ValidationError as error:
        if body.lstrip()[:1] == b"{":
            raise InvalidRequest("The body holds a number that is too large to be read.") from error
        raise InvalidRequest('The body must be a JSON object, for example {"model": …}.') from error
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.{hint(body)}") from error
    if len(body) > MOST_DIGITS and has_endless_digits(body) and has_endless_digits(STRING.sub(b"", body)):
        raise InvalidRequest(f"The body holds a number of more than {MOST_DIGITS} digits.")
    if has_repeated_model(body):
        raise InvalidRequest("The body names `model` more than once. Leave one.", param="model")
    return found


def hint(body: bytes) -> str:
    """What the first bytes of a body tell that is no JSON; they are what editors and shells add or leave."""
    if not body.strip():
        return " It is empty."
    if body.startswith(b"\xef\xbb\xbf"):
        return " It begins with a byte order mark: save it as UTF-8 without one."
    if body.startswith((b"'", b"{'")):
        return " Its quotes are single ones: JSON wants double ones, which Windows' command line takes as \\\"."
    return ""


def has_endless_digits(text: bytes) -> bool:
    """Whether more than `MOST_DIGITS` digits stand in a row. Looks at one byte in `MOST_DIGITS`, and around it."""
    for position in range(0, len(text), MOST_DIGITS):
        if text[position] in DIGITS:
            before = text[max(position - MOST_DIGITS, 0) : position]
            after = text[position : position + MOST_DIGITS + 1]
            around = len(before) - len(before.rstrip(DIGITS)) + len(after) - len(after.lstrip(DIGITS))
            if around > MOST_DIGITS:
                return True
    return False


def ways_through(models: Sequence[str]) -> list[tuple[str, bool]]:
    """What to try in turn: a model, and whether its servers may be asked although they are down.

    That is the last resort, for when no server of any of `models` can answer.
    """
    if len(models) == 1:
        return [(models[0], True)]
    return [(name, False) for name in models] + [(name, True) for name in models]
