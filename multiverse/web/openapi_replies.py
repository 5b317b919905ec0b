"""Which JSON answer has which shape, by method and path as in ROUTES; what is forwarded has none of ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from multiverse.web.client_reply_schemas import ModelSchema, ModelsSchema, QueueSchema, StoriesSchema, StorySchema
from multiverse.web.people_reply_schemas import (
    AccountReplySchema,
    AliasesSchema,
    AliasRecordSchema,
    CodesSchema,
    KeySchema,
    KeysSchema,
    LedgerSchema,
    NewCodeSchema,
    NewKeySchema,
    NewKeysSchema,
    OwnUsageReportSchema,
    RemovedAliasSchema,
    RevokedKeySchema,
    ThanksSchema,
    UsageReportSchema,
    WithdrawnSchema,
)
from multiverse.web.reply_schemas import (
    DeregisteredSchema,
    HealthSchema,
    HistorySchema,
    LogRecordsSchema,
    LookedSchema,
    ModelsNumbersSchema,
    RecordSchema,
    RecordsSchema,
    RecordWithMessageSchema,
    RecordWithProbeSchema,
    RecordWithProbesSchema,
    RootSchema,
    SessionSchema,
    SettingsSchema,
    StatsSchema,
)
from multiverse.web.schemas import Schema

REPLY_SCHEMAS: Mapping[str, type[Schema]] = MappingProxyType(
    {
        "GET /": RootSchema,
        "GET /health": HealthSchema,
        "GET /session": SessionSchema,
        "POST /session": SessionSchema,
        "DELETE /session": SessionSchema,
        "POST /admin/register": RecordWithMessageSchema,
        "PUT /admin/register/{registration_id}": RecordWithMessageSchema,
        "DELETE /admin/register/{registration_id}": DeregisteredSchema,
        "GET /admin/servers": RecordsSchema,
        "GET /admin/servers/{registration_id}": RecordWithProbesSchema,
        "POST /admin/servers/{registration_id}/probe": RecordWithProbeSchema,
        "POST /admin/servers/{registration_id}/drain": RecordSchema,
        "POST /admin/servers/{registration_id}/resume": RecordSchema,
        "GET /admin/stats": StatsSchema,
        "POST /admin/probe": LookedSchema,
        "GET /admin/history": HistorySchema,
        "GET /admin/models": ModelsNumbersSchema,
        "GET /admin/logs": LogRecordsSchema,
        "GET /admin/settings": SettingsSchema,
        "GET /admin/aliases": AliasesSchema,
        "PUT /admin/aliases/{name}": AliasRecordSchema,
        "DELETE /admin/aliases/{name}": RemovedAliasSchema,
        "POST /admin/keys": NewKeySchema,
        "GET /admin/keys": KeysSchema,
        "POST /admin/keys/import": NewKeysSchema,
        "GET /admin/keys/{key_id}": KeySchema,
        "PATCH /admin/keys/{key_id}": KeySchema,
        "DELETE /admin/keys/{key_id}": RevokedKeySchema,
        "POST /admin/claim-codes": NewCodeSchema,
        "GET /admin/claim-codes": CodesSchema,
        "DELETE /admin/claim-codes/{code_id}": WithdrawnSchema,
        "POST /claim": NewKeySchema,
        "GET /v1/account": AccountReplySchema,
        "PATCH /v1/account": AccountReplySchema,
        "GET /v1/thanks": ThanksSchema,
        "PATCH /admin/servers/{registration_id}": RecordWithMessageSchema,
        "POST /admin/servers/{registration_id}/pause": RecordSchema,
        "GET /admin/usage": UsageReportSchema,
        "GET /admin/ledger": LedgerSchema,
        "GET /v1/usage": OwnUsageReportSchema,
        "GET /v1/queue": QueueSchema,
        "GET /v1/models": ModelsSchema,
        "GET /v1/models/{id}": ModelSchema,
        "GET /v1/requests": StoriesSchema,
        "GET /v1/requests/{id}": StorySchema,
    }
)
