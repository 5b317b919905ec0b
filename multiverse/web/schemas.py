"""What may come in and what goes out, in marshmallow: the only module that knows the library.

Types are strict: `"yes"` is no boolean and `true` no number. `load()` maps every complaint to `InvalidRequest` with the
field's name in `param`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate
from msgspec import UNSET

from multiverse.errors import InvalidRequest
from multiverse.proxy.call import BodyHead
from multiverse.web.strict_fields import MAX_NUMBER, PositiveInteger, StrictBoolean
from multiverse.web.terms_schema import TermsSchema, limits_of_terms

__all__ = [
    "CallSchema",
    "LogQuerySchema",
    "LookSchema",
    "PositiveInteger",
    "ProbesQuerySchema",
    "QueryInteger",
    "RegisterSchema",
    "Schema",
    "ServerQuerySchema",
    "ServerSchema",
    "SignInSchema",
    "TermsSchema",
    "UpdateSchema",
    "limits_of",
    "load",
    "load_call",
]

MODEL_NAME = re.compile(r"[A-Za-z0-9._\-:/@+]{1,200}")
MODEL_NAME_HINT = "must be 1 to 200 characters out of letters, digits and . _ - : / @ +"
# And those that nobody sees: with them a name could look like somebody else's or like none, or turn the text around it.
# What Persian and emoji are written with, the joiners U+200C and U+200D and tags, stays where a letter of theirs can be
# before it; fillers of Hangul, the empty pattern of Braille and the like do not.
CONTROL_CHARACTERS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d\U000e0020-\U000e007f]"
)
CONTROL_CHARACTERS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
PRINTABLE_ASCII = re.compile(r"[!-~]{1,500}")
# HTML, "valid email address"; with a dot, since mail goes to nobody at a bare name.
EMAIL = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]+@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]", re.ASCII | re.IGNORECASE
)
MAX_TAGS, MAX_TAG_LENGTH = 20, 50
MAX_MODEL_NAMES = 200


class Line(fields.String):
    """One line of text without control characters; surrounding space is dropped, nothing left counts as null."""

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
        if len(text) > self.longest or CONTROL_CHARACTERS.search(text):
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
        if len(value) > 2000 or CONTROL_CHARACTERS_BUT_BREAKS.search(value):
            raise ValidationError("must be at most 2000 characters, without control characters")
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
        too_long = any(len(tag) > MAX_TAG_LENGTH or CONTROL_CHARACTERS.search(tag) for tag in tags)
        if len(tags) > MAX_TAGS or too_long:
            raise ValidationError(f"must be at most {MAX_TAGS} tags of at most {MAX_TAG_LENGTH} characters")
        return tags


class UpdateSchema(TermsSchema):
    """Any field of a registration; null clears an optional one."""

    class Meta:
        unknown = RAISE

    model_name = ModelName()
    endpoint_url = fields.String()
    served_model_name = Line(longest=500, allow_none=True)
    api_key = ServerKey(allow_none=True, load_only=True)
    owner_name = Line(longest=200, allow_none=True)
    owner_email = Email(longest=254, allow_none=True)
    description = Paragraph(allow_none=True)
    tags = Tags(allow_none=True)
    context_length = PositiveInteger(allow_none=True)
    max_concurrency = PositiveInteger(allow_none=True)
    require_healthy = StrictBoolean(allow_none=True)


class RegisterSchema(UpdateSchema):
    """A registration: `model_name` and `endpoint_url`, the rest as one likes."""

    model_name = ModelName(required=True)
    endpoint_url = fields.String(required=True)


class LookSchema(Schema):
    """The body of `POST /admin/probe`."""

    class Meta:
        unknown = RAISE

    endpoint_url = fields.String(required=True)
    api_key = ServerKey(allow_none=True, load_only=True)
    registration_id = Line(longest=64, allow_none=True)


class CallSchema(Schema):
    """The fields of a `/v1` body that the gateway itself needs; all others are the server's business."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(required=True, validate=validate.Length(min=1, max=200))
    stream = StrictBoolean(allow_none=True)


class ModelNames(fields.Field[list[str]]):
    """Names of models, each once; an empty list would mean nothing."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_MODEL_NAMES:
            raise ValidationError(f"must be a list of 1 to {MAX_MODEL_NAMES} model names")
        if not all(isinstance(name, str) and MODEL_NAME.fullmatch(name) for name in value):
            raise ValidationError(f"each name {MODEL_NAME_HINT}")
        return list(dict.fromkeys(value))


class SignInSchema(Schema):
    """The body of `POST /session`."""

    class Meta:
        unknown = RAISE

    key = fields.String(required=True, validate=validate.Length(min=1, max=500))


CALL_SCHEMA = CallSchema()
REMEMBERED_CALLS = 512


class QueryInteger(fields.Integer):
    """A whole number in a query, in plain digits."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10):
            raise ValidationError("must be a whole number")
        return int(value)


# All fields of the record but its lists.
SORT_FIELDS = (
    "registration_id model_name served_model_name endpoint_url owner_name owner_email description context_length "
    "max_concurrency offered_to reserve_slot paused quiet_hours time_zone daily_token_cap has_api_key health_status "
    "availability reason consecutive_failures response_time_ms slots in_flight tokens_today last_checked_at "
    "last_successful_request_at created_at updated_at"
).split()


class ServerQuerySchema(Schema):
    """The query of `GET /admin/servers`."""

    class Meta:
        unknown = RAISE

    model_name = fields.String()
    health_status = fields.String(validate=validate.OneOf(["healthy", "unhealthy", "unknown"]))
    owner_name = fields.String()
    tag = fields.String()
    sort = fields.String(validate=validate.OneOf([sign + name for name in SORT_FIELDS for sign in ("", "-")]))
    limit = QueryInteger(validate=validate.Range(min=1))
    offset = QueryInteger(validate=validate.Range(min=0))


class ProbesQuerySchema(Schema):
    """The query of `GET /admin/servers/{registration_id}`."""

    class Meta:
        unknown = RAISE

    limit = QueryInteger(validate=validate.Range(min=1))


class LogQuerySchema(Schema):
    """The query of `GET /admin/logs`."""

    class Meta:
        unknown = RAISE

    level = fields.String(validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]))
    component = fields.String()
    request_id = fields.String()
    text = fields.String()
    after = QueryInteger()
    limit = QueryInteger(validate=validate.Range(min=1, max=1000))


class ServerSchema(Schema):
    """The record of a server, as it goes out; it has no field for the server's key."""

    class Meta:
        unknown = EXCLUDE  # answers show more beside it

    registration_id = fields.String()
    model_name = fields.String()
    served_model_name = fields.String(allow_none=True)
    endpoint_url = fields.String()
    owner_name = fields.String(allow_none=True)
    owner_email = fields.String(allow_none=True)
    description = fields.String(allow_none=True)
    tags = fields.List(fields.String())
    context_length = fields.Integer(allow_none=True)
    max_concurrency = fields.Integer(allow_none=True)
    offered_to = fields.String()
    friends = fields.List(fields.String())
    reserve_slot = fields.Boolean()
    paused = fields.Boolean()
    quiet_hours = fields.String(allow_none=True)
    time_zone = fields.String(allow_none=True)
    daily_token_cap = fields.Integer(allow_none=True)
    has_api_key = fields.Boolean()
    health_status = fields.String()
    availability = fields.String()
    reason = fields.String(allow_none=True)
    consecutive_failures = fields.Integer()
    response_time_ms = fields.Float(allow_none=True)
    slots = fields.Integer(allow_none=True)
    in_flight = fields.Integer()
    tokens_today = fields.Integer()
    last_checked_at = fields.String(allow_none=True)
    last_successful_request_at = fields.String(allow_none=True)
    created_at = fields.String()
    updated_at = fields.String()


def limits_of(field: fields.Field[Any]) -> dict[str, Any]:
    """What the fields above judge in code, in the words of JSON Schema."""
    if isinstance(field, Line):
        pattern = field.allowed
        shortest = {} if field.allow_none else {"minLength": 1}
        return {"maxLength": field.longest, **shortest, **({"pattern": f"^{pattern.pattern}$"} if pattern else {})}
    if isinstance(field, PositiveInteger):
        return {"minimum": 1, "maximum": MAX_NUMBER}
    if isinstance(field, Paragraph):
        return {"maxLength": 2000}
    if isinstance(field, Tags):
        words = {"type": "array", "items": {"type": "string", "maxLength": MAX_TAG_LENGTH}, "maxItems": MAX_TAGS}
        return {"anyOf": [words, {"type": "string"}, {"type": "null"}]}
    return limits_of_terms(field)


def load(schema: Schema, document: Any) -> dict[str, Any]:
    """`document` as `schema` reads it.

    Raises InvalidRequest that names the first field at fault in `param` and says what it must be.
    """
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.")
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        raise _invalid_request(schema, error) from error
    return loaded


def load_call(body: BodyHead) -> Mapping[str, Any]:
    """The fields of a `/v1` body as `CallSchema` reads them. Raises InvalidRequest.

    A class asks for a few models again and again: what was found right is remembered, which takes a tenth of the time.
    """
    model, stream = body.model, body.stream
    # 1 and True are equal, and not the same here; a list has no place in a memory.
    if type(model) is str and (stream is UNSET or stream is None or type(stream) is bool):
        return _load_remembered(model, stream)
    return _load_call(model, stream)


def _load_call(model: Any, stream: Any) -> Mapping[str, Any]:
    given = {"model": model, "stream": stream}
    return MappingProxyType(load(CALL_SCHEMA, {name: value for name, value in given.items() if value is not UNSET}))


_load_remembered = lru_cache(REMEMBERED_CALLS)(_load_call)


def _invalid_request(schema: Schema, error: ValidationError) -> InvalidRequest:
    messages: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]
    name = next(iter(messages))
    complaint = messages[name]
    while isinstance(complaint, (list, dict)):
        complaint = complaint[0] if isinstance(complaint, list) else next(iter(complaint.values()))
    shown = CONTROL_CHARACTERS.sub("?", str(name))[:100]
    if name not in schema.fields:
        known = ", ".join(f"`{field}`" for field in schema.fields)
        return InvalidRequest(f"Unknown field `{shown}`. Known are {known}.", param=shown)
    if complaint == fields.Field.default_error_messages["required"]:
        return InvalidRequest(f"The field `{shown}` is missing.", param=shown)
    text = str(complaint).rstrip(".")
    return InvalidRequest(f"The field `{shown}`: {text[:1].lower()}{text[1:]}.", param=shown)
