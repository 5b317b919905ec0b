"""What goes out to clients, in marshmallow: models, the queue, stories. The rules are those of reply_schemas.py."""

from __future__ import annotations

from marshmallow import fields

from multiverse.web.reply_schemas import ReplySchema, list_of

# -- models and the queue


class ModelSchema(ReplySchema):
    """A model on offer, or with `alias_of` a name that stands for it."""

    sometimes = frozenset({"alias_of", "pretend"})

    id = fields.String()
    object = fields.String()
    created = fields.Integer()
    owned_by = fields.String()
    servers = fields.Integer()
    healthy_servers = fields.Integer()
    alias_of = fields.String()
    pretend = fields.Boolean()


class ModelsSchema(ReplySchema):
    """`GET /v1/models`."""

    object = fields.String()
    data = list_of(ModelSchema)


class WaitingSchema(ReplySchema):
    """How many wait for a model."""

    model = fields.String()
    waiting = fields.Integer()


class PlaceSchema(ReplySchema):
    """Where one's own request stands."""

    model = fields.String()
    place = fields.Integer()
    waited_seconds = fields.Float()
    estimated_seconds = fields.Float(allow_none=True)


class QueueSchema(ReplySchema):
    """`GET /v1/queue`."""

    models = list_of(WaitingSchema)
    yours = list_of(PlaceSchema)


# -- stories


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

    events = list_of(StoryEventSchema)


class StoriesSchema(ReplySchema):
    """`GET /v1/requests`."""

    requests = list_of(StoryFactsSchema)
    total = fields.Integer()
