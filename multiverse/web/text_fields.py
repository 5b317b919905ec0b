"""Texts that may come in: names, paragraphs, keys, addresses, tags, each with what it may be made of.

Characters that nobody sees get in nowhere: with them a name could look like somebody else's.
"""

from __future__ import annotations

import re
from typing import Any

from marshmallow import ValidationError, fields, validate

MODEL_NAME = re.compile(r"[A-Za-z0-9._\-:/@+]{1,200}")
MODEL_NAME_HINT = "must be 1 to 200 characters out of letters, digits and . _ - : / @ +"
# Control characters and others that nobody sees: with them a name could look like somebody else's or like none, or turn
# the text around it. What Persian and emoji are written with (joiners, tags, variation selectors) stays where a letter
# of theirs can be before it, and in keycaps; fillers of Hangul, the empty pattern of Braille and the like do not.
UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff]"
    r"|(?<![^\x00-\x7f])(?:[\u200c\u200d\U000e0020-\U000e007f\U000e0100-\U000e01ef]|[\ufe00-\ufe0f](?!\u20e3))"
)
# Nobody is told apart by a paragraph: there only what controls a terminal, or turns text round, is refused.
UNSEEN_IN_PARAGRAPHS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PRINTABLE_ASCII = re.compile(r"[!-~]{1,500}")
# HTML, "valid email address"; with a dot, since mail goes to nobody at a bare name.
EMAIL = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]+@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]", re.ASCII | re.IGNORECASE
)
MAX_TAGS, MAX_TAG_LENGTH = 20, 50


class Line(fields.String):
    """One line of text that can be seen; surrounding space is dropped, nothing left counts as null."""

    def __init__(self, *, longest: int, allowed: re.Pattern[str] | None = None, hint: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.longest = longest
        self.allowed = allowed
        self._hint = hint

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        text = value.strip()
        if not text and self.allow_none:
            return None
        if self.allowed is not None and not self.allowed.fullmatch(text):
            raise ValidationError(self._hint)
        if len(text) > self.longest or UNSEEN.search(text):
            raise ValidationError(f"must be at most {self.longest} characters, all of them visible, on one line")
        return text


class ModelName(Line):
    """What clients ask for, spelled as it is: a space at its end is no character of a name either."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(longest=200, allowed=MODEL_NAME, hint=MODEL_NAME_HINT, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text != value:
            raise ValidationError(self._hint)
        return text


class Paragraph(fields.String):
    """Text that may have line breaks."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        if len(value) > 2000 or UNSEEN_IN_PARAGRAPHS.search(value):
            raise ValidationError("must be at most 2000 characters, none of which controls or turns text")
        return value.strip() or None


class ServerKey(Line):
    """The key that a server asks for."""

    def __init__(self, **kwargs: Any) -> None:
        hint = "must be 1 to 500 printable ASCII characters without spaces"
        super().__init__(longest=500, allowed=PRINTABLE_ASCII, hint=hint, **kwargs)


class Email(Line):
    """An e-mail address: what marshmallow takes for one, and what browsers do where its last label is short."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text is None or EMAIL.fullmatch(text):
            return text
        return validate.Email(error="must be an e-mail address")(text)


class Tags(fields.Field[tuple[str, ...]]):
    """A list of words, or one string with commas between them; doubles are dropped."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValidationError("must be a list of strings, or one string with commas")
        tags = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
        too_long = any(len(tag) > MAX_TAG_LENGTH or UNSEEN.search(tag) for tag in tags)
        if len(tags) > MAX_TAGS or too_long:
            raise ValidationError(f"must be at most {MAX_TAGS} tags of at most {MAX_TAG_LENGTH} characters")
        return tags
