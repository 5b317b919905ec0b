"""What may come in about the terms on which a server is lent. The rules are those of schemas.py.

What the words mean is judged by servers/terms.py, whose complaints are passed on; who friends are, by people/keys.py.
"""

from __future__ import annotations

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from multiverse.servers.terms import LONGEST_ZONE, OFFERS, QuietHours, find_zone
from multiverse.web.strict_fields import PositiveInteger, StrictBoolean

MOST_FRIENDS, LONGEST_NAME, LONGEST_HOURS = 200, 200, 200
WRONG_OFFER = "must be me (nobody but you), friends (those in `friends`) or class (everybody)"


class QuietHoursText(fields.String):
    """Times of the day, as in `22:00-07:00`; nothing counts as null."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or len(value) > LONGEST_HOURS:
            raise ValidationError("must be a string such as 22:00-07:00")
        try:
            return str(QuietHours.parse(value)) if value.strip() else None
        except ValueError as error:
            raise ValidationError(str(error)) from None


class ZoneName(fields.String):
    """The name of a time zone in the IANA database; nothing counts as null."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str):
            raise ValidationError("must be the name of a time zone, such as Europe/Berlin")
        try:
            return find_zone(value.strip()).key if value.strip() else None
        except ValueError as error:
            raise ValidationError(str(error)) from None


class Friends(fields.List[str]):
    """Names or ids of keys, each once."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
            raise ValidationError('must be a list of names or ids of keys, such as ["Ben", "key-1f0c52a9e3b7"]')
        if len(value) > MOST_FRIENDS or any(len(name) > LONGEST_NAME for name in value):
            raise ValidationError(f"must be at most {MOST_FRIENDS} names of at most {LONGEST_NAME} characters")
        return list(dict.fromkeys(name.strip() for name in value))


class TermsSchema(Schema):
    """The terms on which a server is lent; null takes one back."""

    class Meta:
        unknown = RAISE

    offered_to = fields.String(allow_none=True, validate=validate.OneOf(OFFERS, error=WRONG_OFFER))
    friends = Friends(fields.String(), allow_none=True)
    reserve_slot = StrictBoolean(allow_none=True)
    paused = StrictBoolean(allow_none=True)
    quiet_hours = QuietHoursText(allow_none=True)
    time_zone = ZoneName(allow_none=True)
    daily_token_cap = PositiveInteger(allow_none=True)


def limits_of_terms(field: fields.Field[Any]) -> dict[str, Any]:
    """What the fields above judge in code, in the words of JSON Schema."""
    if isinstance(field, QuietHoursText):
        return {"maxLength": LONGEST_HOURS}
    if isinstance(field, ZoneName):
        return {"maxLength": LONGEST_ZONE}
    if isinstance(field, Friends):
        return {"maxItems": MOST_FRIENDS, "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}}
    return {}
