"""What may come in, and the record of a server that goes out, in marshmallow; other schemas build on these fields.

Types are strict: `"yes"` is no boolean and `true` no number. `load()` maps every complaint to `InvalidRequest` with the
field's name in `param`.
"""

from __future__ import annotations

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
from multiverse.web.text_fields import (
    MAX_TAG_LENGTH,
    MAX_TAGS,
    MODEL_NAME,
    MODEL_NAME_HINT,
    UNSEEN,
    Email,
    Line,
    ModelName,
    Paragraph,
    ServerKey,
    Tags,
)

__all__ = [
    "CallSchema",
    "LogQuerySchema",
    "PositiveInteger",
    "ProbeAddressSchema",
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

MAX_MODEL_NAMES = 200


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


class ProbeAddressSchema(Schema):
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


# All fields of the record but its lists.
SORT_FIELDS = tuple(name for name, field in ServerSchema().fields.items() if not isinstance(field, fields.List))


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
    shown = UNSEEN.sub("?", str(name))[:100]
    if name not in schema.fields:
        known = ", ".join(f"`{field}`" for field in schema.fields)
        return InvalidRequest(f"Unknown field `{shown}`. Known are {known}.", param=shown)
    if complaint == fields.Field.default_error_messages["required"]:
        return InvalidRequest(f"The field `{shown}` is missing.", param=shown)
    text = str(complaint).rstrip(".")
    return InvalidRequest(f"The field `{shown}`: {text[:1].lower()}{text[1:]}.", param=shown)
