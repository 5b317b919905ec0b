"""What goes out, in marshmallow: the shape of every JSON answer, for the OpenAPI document and the tests.

Answers are not run through these: they are made right, and tests/test_openapi.py holds them to what stands here. A
field is always there unless `sometimes` names it; one that may be null says so. Times are UTC in ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from marshmallow import RAISE, Schema, fields


class ReplySchema(Schema):
    """Base of all: every field is required, and there are no others."""

    sometimes: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = RAISE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """A field that is not always there is named in `sometimes`."""
        field_obj.required = field_name not in self.sometimes


def _list_of(schema: type[Schema]) -> fields.List[Any]:
    return fields.List(fields.Nested(schema))


class TimeSpentSchema(ReplySchema):
    """The milliseconds of each phase of a request."""

    gateway_ms = fields.Float()
    queue_ms = fields.Float()
    failed_ms = fields.Float()
    server_ms = fields.Float()
    answer_ms = fields.Float()


class StoryFactsSchema(ReplySchema):
    """What is known of a request that has ended."""

    request_id = fields.String()
    started_at = fields.String()
    key_name = fields.String()
    route = fields.String()
    model = fields.String()
    stream = fields.Boolean()
    outcome = fields.String()
    status = fields.Integer()
    code = fields.String(allow_none=True)
    attempts = fields.Integer()
    queue_ms = fields.Float()
    first_token_ms = fields.Float(allow_none=True)
    total_ms = fields.Float()
    prompt_tokens = fields.Integer(allow_none=True)
    completion_tokens = fields.Integer(allow_none=True)
    tokens_estimated = fields.Boolean()
    trace_id = fields.String(allow_none=True)
    overhead_ms = fields.Float(allow_none=True)
    time = fields.Nested(TimeSpentSchema)
    summary = fields.String()


class StoryEventSchema(ReplySchema):
    """One thing that happened; what else is told depends on `event`."""

    sometimes = frozenset({"waited_ms", "server", "code", "reason", "outcome", "status"})

    event = fields.String()
    at_ms = fields.Float()
    text = fields.String()
    waited_ms = fields.Float()
    server = fields.String()
    code = fields.String()
    reason = fields.String()
    outcome = fields.String()
    status = fields.Integer()


class StorySchema(StoryFactsSchema):
    """The whole story."""

    events = _list_of(StoryEventSchema)


class StoriesSchema(ReplySchema):
    """`GET /v1/requests`."""

    requests = _list_of(StoryFactsSchema)
    total = fields.Integer()


REPLY_SCHEMAS: Mapping[str, type[Schema]] = MappingProxyType(
    {
        "GET /v1/requests": StoriesSchema,
        "GET /v1/requests/{id}": StorySchema,
    }
)
