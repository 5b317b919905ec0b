"""What goes out of the gateway and its servers, in marshmallow, for the OpenAPI document and the tests.

Answers are not run through these: they are made right, and tests/test_openapi.py holds them to what stands here. A
field is always there unless `sometimes` names it; one that may be null says so. Times are UTC in ISO 8601.
"""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import RAISE, Schema, fields, validate

from multiverse.web.schemas import ServerSchema


class ReplySchema(Schema):
    """Base of all: every field is required, and there are no others."""

    sometimes: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = RAISE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """A field that is not always there is named in `sometimes`."""
        field_obj.required = field_name not in self.sometimes


def list_of(schema: type[Schema]) -> fields.List[Any]:
    """A list of these."""
    return fields.List(fields.Nested(schema))


def counts_of(title: str, *names: str) -> fields.Nested:
    """An object with these whole numbers; `title` is what the document calls it."""
    return fields.Nested(ReplySchema.from_dict({name: fields.Integer() for name in names}, name=title))


# -- the gateway


class RootSchema(ReplySchema):
    """`GET /`."""

    name = fields.String()
    version = fields.String()
    description = fields.String()
    docs = fields.String()
    health = fields.String()
    models = fields.String()


class HealthSchema(ReplySchema):
    """`GET /health`."""

    sometimes = frozenset({"reason"})

    status = fields.String(validate=validate.OneOf(["healthy", "unhealthy", "draining"]))
    service = fields.String()
    version = fields.String()
    database = fields.String(validate=validate.OneOf(["healthy", "unhealthy"]))
    uptime_seconds = fields.Float()
    reason = fields.String()


class SessionSchema(ReplySchema):
    """`/session`."""

    signed_in = fields.Boolean()
    name = fields.String()
    role = fields.String()
    idle_seconds = fields.Float()


# -- servers


class RecordSchema(ServerSchema, ReplySchema):
    """The record of a server."""

    class Meta:
        unknown = RAISE


class RecordWithMessageSchema(RecordSchema):
    """The record, and what was done."""

    message = fields.String()


class ProbeSchema(ReplySchema):
    """What came of a probe."""

    ok = fields.Boolean()
    reason = fields.String(allow_none=True)
    response_time_ms = fields.Float(allow_none=True)


class KeptProbeSchema(ProbeSchema):
    """A probe of the past, and the verdict after it."""

    checked_at = fields.String()
    health_status = fields.String()


class FailedRequestSchema(ReplySchema):
    """A request that failed on a server."""

    started_at = fields.String()
    request_id = fields.String()
    route = fields.String()
    outcome = fields.String()
    status = fields.Integer()
    attempts = fields.Integer()
    total_ms = fields.Float(allow_none=True)


class RecordWithProbesSchema(RecordSchema):
    """The record, its latest probes, the share of good ones in percent, and what failed in the last day."""

    recent_probes = list_of(KeptProbeSchema)
    uptime_percent = fields.Float(allow_none=True)
    recent_failures = list_of(FailedRequestSchema)


class RecordWithProbeSchema(RecordSchema):
    """The record, and the probe just made."""

    probe = fields.Nested(ProbeSchema)


class RecordsSchema(ReplySchema):
    """`GET /admin/servers`."""

    servers = list_of(RecordSchema)
    total = fields.Integer()
    filters_applied = fields.Dict(keys=fields.String(), values=fields.Raw())


class NotRegisteredSchema(ReplySchema):
    """A model that was found and could not be registered."""

    endpoint_url = fields.String()
    model_name = fields.String()
    reason = fields.String()


class LentSchema(ReplySchema):
    """`POST /admin/lend`."""

    message = fields.String()
    servers = list_of(RecordSchema)
    not_registered = list_of(NotRegisteredSchema)


class DeregisteredSchema(ReplySchema):
    """`DELETE /admin/register/{registration_id}`."""

    message = fields.String()
    registration_id = fields.String()


class ProbedAddressSchema(ProbeSchema):
    """`POST /admin/probe`."""

    endpoint_url = fields.String()
    models = fields.List(fields.String())


class MirroredSchema(ReplySchema):
    """`POST /admin/mirror`."""

    bytes = fields.Integer()


# -- numbers


class LoopSchema(ReplySchema):
    """The event loop: how late it ran last and at worst; `own` without waiting for a CPU."""

    tasks = fields.Integer()
    lag_ms_now = fields.Float()
    lag_ms_max = fields.Float()
    own_lag_ms_max = fields.Float()


class RequestCountsSchema(ReplySchema):
    """Requests since the start, and those under way by key."""

    total = fields.Integer()
    ok = fields.Integer()
    failed = fields.Integer()
    client_closed = fields.Integer()
    in_flight = fields.Integer()
    in_flight_by_key = fields.Dict(keys=fields.String(), values=fields.Integer())
    queued = fields.Integer()


class StatsSchema(ReplySchema):
    """`GET /admin/stats`."""

    servers = counts_of("ServerCounts", "total", "healthy", "unhealthy", "unknown")
    models = fields.Integer()
    requests = fields.Nested(RequestCountsSchema)
    tokens = counts_of("TokenCounts", "prompt", "completion", "total")
    probes = counts_of("ProbeCounts", "total", "failed")
    store = counts_of("StoreCounts", "queued", "dropped")
    connections = counts_of("ConnectionCounts", "open", "idle")
    event_loop = fields.Nested(LoopSchema)
    uptime_seconds = fields.Float()


class MinuteSchema(ReplySchema):
    """One minute; `first_token_ms` is a mean."""

    started_at = fields.String()
    total = fields.Integer()
    failed = fields.Integer()
    first_token_ms = fields.Float(allow_none=True)


class TodaySchema(ReplySchema):
    """Since midnight, UTC."""

    since = fields.String()
    total = fields.Integer()
    failed = fields.Integer()
    prompt_tokens = fields.Integer()
    completion_tokens = fields.Integer()


class HistorySchema(ReplySchema):
    """`GET /admin/history`."""

    minutes = list_of(MinuteSchema)
    today = fields.Nested(TodaySchema)


class ModelNumbersSchema(ReplySchema):
    """A registered model, and its last 24 hours."""

    model_name = fields.String()
    created_at = fields.String()
    servers = fields.Integer()
    healthy_servers = fields.Integer()
    in_flight = fields.Integer()
    requests = fields.Integer()
    failed = fields.Integer()
    completion_tokens = fields.Integer()
    first_token_ms = fields.Float(allow_none=True)
    tokens_per_second = fields.Float(allow_none=True)


class ModelsNumbersSchema(ReplySchema):
    """`GET /admin/models`."""

    models = list_of(ModelNumbersSchema)
    since = fields.String()


class LogRecordSchema(ReplySchema):
    """A log record; `fields` are its own."""

    id = fields.Integer()
    timestamp = fields.String()
    level = fields.String()
    component = fields.String()
    message = fields.String()
    own = fields.Dict(keys=fields.String(), values=fields.Raw(allow_none=True), data_key="fields")
    exception = fields.String(allow_none=True)


class LogRecordsSchema(ReplySchema):
    """`GET /admin/logs`."""

    records = list_of(LogRecordSchema)
    last_id = fields.Integer()


class SettingSchema(ReplySchema):
    """One setting; of a secret only whether it is set."""

    variable = fields.String()
    value = fields.String(allow_none=True)
    default = fields.String(allow_none=True)
    secret = fields.Boolean()
    meaning = fields.String()


class SettingsSchema(ReplySchema):
    """`GET /admin/settings`."""

    settings = list_of(SettingSchema)
    versions = fields.Dict(keys=fields.String(), values=fields.String())
    event_loop = fields.String()
    uptime_seconds = fields.Float()
    database = fields.Dict(keys=fields.String(), values=fields.Integer())
    sessions = fields.Integer()
