"""What the OpenAPI document shows of sessions, insight, keys, claim codes, aliases and usage: requests and answers.

As openapi_examples.py, of which it is the second half; tests/test_openapi.py holds them to the answers of a gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from multiverse import __version__

JSON, EVENTS, CSV, PAGE = "application/json", "text/event-stream", "text/csv", "text/html"
Reply = tuple[int, str, str, Any]
STATIC = "text/css text/javascript image/svg+xml text/plain application/octet-stream"

SESSION: Mapping[str, Any] = MappingProxyType(
    {"signed_in": True, "name": "admin", "role": "admin", "idle_seconds": 43200.0}
)
KEY: Mapping[str, Any] = MappingProxyType(
    {
        "key_id": "key-1f0c52a9e3b7",
        "name": "Ada Lovelace",
        "email": "ada@example.org",
        "role": "student",
        "models": None,
        "weight": 1,
        "requests_per_minute": None,
        "tokens_per_day": None,
        "requests_at_once": None,
        "on_thanks_board": True,
        "hint": "x1Fw",
        "expires_at": "2027-06-30T23:59:59.999Z",
        "created_at": "2026-11-23T09:13:05.013Z",
        "revoked_at": None,
        "status": "active",
    }
)
NEW_KEY: Mapping[str, Any] = MappingProxyType(
    {**KEY, "key": "mv-…", "message": "Note the key now: it is not shown again."}
)
ACCOUNT: Mapping[str, Any] = MappingProxyType(
    {
        **KEY,
        "limits": {"requests_per_minute": 60, "tokens_per_day": None, "requests_at_once": 4},
        "tokens_today": 2635,
    }
)
THANKS: Mapping[str, Any] = MappingProxyType(
    {
        "people": [{"name": "Ada Lovelace", "tokens_given": 51200, "requests_given": 240, "you": True}],
        "others": {"people": 3, "tokens_given": 20480},
        "tokens_given": 71680,
        "requests_given": 321,
    }
)
CODE: Mapping[str, Any] = MappingProxyType(
    {
        "code_id": "code-9c2f6c0a77d1",
        "role": "student",
        "models": None,
        "uses": 40,
        "used": 28,
        "expires_at": "2026-11-23T10:43:05.013Z",
        "key_expires_at": None,
        "created_at": "2026-11-23T09:13:05.013Z",
    }
)
ALIAS: Mapping[str, Any] = MappingProxyType(
    {"name": "class-default", "models": ["llama-2-7b", "qwen2.5-7b"], "created_at": "2026-11-23T09:13:05.013Z"}
)
PUPIL: Mapping[str, Any] = MappingProxyType(
    {
        "registration_id": "c6f1edb3-49a2-4cc7-a3ee-0c88e39f3ef3",
        "name": "Pretend Ada",
        "mood": "slow",
        "seconds_left": 87,
    }
)
SUMS: Mapping[str, Any] = MappingProxyType(
    {
        "requests": 12,
        "ok": 11,
        "failed": 0,
        "client_closed": 1,
        "rejected": 0,
        "prompt_tokens": 480,
        "completion_tokens": 2155,
        "estimated_tokens": 17,
    }
)
REPORT: Mapping[str, Any] = MappingProxyType(
    {
        "since": "2026-11-01",
        "until": None,
        "group_by": ["day", "key"],
        "rows": [{"day": "2026-11-23", "key_id": "key-1f0c52a9e3b7", "key_name": "Ada Lovelace", **SUMS}],
        "totals": {**SUMS},
    }
)
EVENTS_SHOWN = 'event: counts\ndata: {"servers":{"total":8,"healthy":6,"unhealthy":2,"unknown":0}}\n\n'

ADMIN_REQUESTS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "POST /session": {"key": "mv-…"},
        "POST /admin/probe": {"endpoint_url": "http://localhost:11434"},
        "POST /admin/lend": {"ports": [11434], "tags": ["laptop"]},
        "PUT /admin/aliases/{name}": {"models": ["llama-2-7b", "qwen2.5-7b"]},
        "PUT /admin/classroom/{registration_id}": {"mood": "slow", "minutes": 2},
        "POST /admin/keys": {"name": "Ada Lovelace", "email": "ada@example.org", "expires_at": "2027-06-30"},
        "POST /admin/keys/import": {"csv": "name,email\nAda,ada@example.org\nBen,\n", "role": "student"},
        "PATCH /admin/keys/{key_id}": {"models": ["llama-2-7b"], "tokens_per_day": 200_000},
        "POST /admin/claim-codes": {"uses": 40, "lifetime_minutes": 90},
        "POST /claim": {"code": "k7qm3 xwpa9", "name": "Ada Lovelace", "email": None},
        "PATCH /v1/account": {"on_thanks_board": True},
    }
)

ADMIN_REPLIES: Mapping[str, tuple[Reply, ...]] = MappingProxyType(
    {
        "GET /static/{version}/{name}": (
            (200, "The file.", STATIC, None),
            (304, "It is as the ETag in `If-None-Match` says.", "", None),
        ),
        "GET /session": ((200, "Who is signed in.", JSON, {**SESSION}),),
        "POST /session": ((200, "Signed in; the session's id is in a cookie.", JSON, {**SESSION}),),
        "DELETE /session": (
            (200, "Signed out.", JSON, {**SESSION, "signed_in": False, "name": "anonymous", "role": "anonymous"}),
        ),
        "POST /admin/probe": (
            (
                200,
                "What the server answered, if it did.",
                JSON,
                {
                    "endpoint_url": "http://localhost:11434",
                    "ok": True,
                    "reason": None,
                    "response_time_ms": 3.1,
                    "models": ["llama3.2:latest"],
                },
            ),
        ),
        "GET /admin/events": ((200, "Events, for as long as one listens.", EVENTS, EVENTS_SHOWN),),
        "GET /admin/mirror": ((200, "What of the request arrived, and three events by the clock.", EVENTS, None),),
        "POST /admin/mirror": ((200, "How many arrived.", JSON, {"bytes": 2_097_152}),),
        "GET /admin/classroom": (
            (
                200,
                "The pretend servers, if there are any.",
                JSON,
                {"servers": [{**PUPIL}], "moods": {"well": "It answers, a word every 30 ms."}},
            ),
        ),
        "PUT /admin/classroom/{registration_id}": ((200, "What it does now.", JSON, {**PUPIL}),),
        "GET /admin/history": (
            (
                200,
                "The last 60 minutes, oldest first, and today.",
                JSON,
                {
                    "minutes": [
                        {"started_at": "2026-11-23T09:14:00.000Z", "total": 12, "failed": 1, "first_token_ms": 210.4}
                    ],
                    "today": {
                        "since": "2026-11-23T00:00:00.000Z",
                        "total": 311,
                        "failed": 4,
                        "prompt_tokens": 9120,
                        "completion_tokens": 20411,
                    },
                },
            ),
        ),
        "GET /admin/models": (
            (
                200,
                "The models.",
                JSON,
                {
                    "models": [
                        {
                            "model_name": "llama-2-7b",
                            "created_at": "2026-11-23T09:13:05.013Z",
                            "servers": 2,
                            "healthy_servers": 1,
                            "in_flight": 0,
                            "requests": 48,
                            "failed": 1,
                            "completion_tokens": 2155,
                            "first_token_ms": 210.4,
                            "tokens_per_second": 31.5,
                        }
                    ],
                    "since": "2026-11-22T09:14:16.784Z",
                },
            ),
        ),
        "GET /admin/logs": (
            (
                200,
                "The records that match, newest first.",
                JSON,
                {
                    "records": [
                        {
                            "id": 512,
                            "timestamp": "2026-11-23T09:14:16.784Z",
                            "level": "WARNING",
                            "component": "multiverse.servers.health",
                            "message": "server verdict changed",
                            "fields": {"verdict": "unhealthy"},
                            "exception": None,
                        }
                    ],
                    "last_id": 512,
                },
            ),
        ),
        "GET /admin/settings": (
            (
                200,
                "The settings.",
                JSON,
                {
                    "settings": [
                        {
                            "variable": "PORT",
                            "value": "8000",
                            "default": "8000",
                            "secret": False,
                            "meaning": "port to listen on; 0 = any free one",
                        }
                    ],
                    "versions": {"multiverse": __version__, "python": "3.11.7", "tornado": "6.6.1"},
                    "event_loop": "uvloop",
                    "uptime_seconds": 93.7,
                    "database": {"servers": 8, "probes": 311, "usage": 48, "size_bytes": 94208},
                    "sessions": 1,
                },
            ),
        ),
        "GET /v1/queue": (
            (
                200,
                "Who waits.",
                JSON,
                {
                    "models": [{"model": "llama-2-7b", "waiting": 12}],
                    "yours": [{"model": "llama-2-7b", "place": 3, "waited_seconds": 4.2, "estimated_seconds": 20.5}],
                },
            ),
        ),
        "GET /admin/aliases": ((200, "The aliases.", JSON, {"aliases": [{**ALIAS}], "total": 1}),),
        "PUT /admin/aliases/{name}": ((200, "The alias.", JSON, {**ALIAS}),),
        "DELETE /admin/aliases/{name}": (
            (200, "Removed.", JSON, {"message": "Alias removed.", "name": "class-default"}),
        ),
        "POST /admin/keys": ((201, "The key, this once.", JSON, {**NEW_KEY}),),
        "GET /admin/keys": ((200, "The keys.", f"{JSON} {CSV}", {"keys": [{**KEY}], "total": 1}),),
        "POST /admin/keys/import": (
            (201, "The keys, this once.", JSON, {"keys": [{**KEY, "key": "mv-…"}], "total": 1}),
        ),
        "GET /admin/keys/{key_id}": ((200, "The key.", JSON, {**KEY}),),
        "PATCH /admin/keys/{key_id}": ((200, "The key as it is now.", JSON, {**KEY}),),
        "DELETE /admin/keys/{key_id}": (
            (
                200,
                "Revoked.",
                JSON,
                {**KEY, "revoked_at": "2026-11-23T09:14:16.784Z", "status": "revoked", "message": "Key revoked."},
            ),
        ),
        "POST /admin/claim-codes": (
            (
                201,
                "The code, this once.",
                JSON,
                {**CODE, "used": 0, "code": "K7QM3-XWPA9", "message": "Note the code now: it is not shown again."},
            ),
        ),
        "GET /admin/claim-codes": ((200, "The codes.", JSON, {"claim_codes": [{**CODE}], "total": 1}),),
        "DELETE /admin/claim-codes/{code_id}": (
            (200, "Withdrawn.", JSON, {"message": "Claim code withdrawn.", "code_id": "code-9c2f6c0a77d1"}),
        ),
        "POST /claim": ((201, "The key, this once.", JSON, {**NEW_KEY}),),
        "GET /v1/account": ((200, "The key's record, its limits, and today's tokens.", JSON, {**ACCOUNT}),),
        "PATCH /v1/account": ((200, "The same, as it is now.", JSON, {**ACCOUNT}),),
        "GET /v1/thanks": ((200, "Most given first.", JSON, {**THANKS}),),
        "GET /admin/usage": ((200, "The sums.", f"{JSON} {CSV}", {**REPORT}),),
        "GET /admin/ledger": (
            (
                200,
                "Given and taken.",
                f"{JSON} {CSV}",
                {
                    "people": [
                        {
                            "person": "key-1f0c52a9e3b7",
                            "name": "Ada Lovelace",
                            "tokens_given": 51200,
                            "tokens_taken": 2635,
                            "requests_given": 240,
                            "requests_taken": 12,
                        }
                    ],
                    "total": 1,
                },
            ),
        ),
        "GET /v1/usage": (
            (
                200,
                "The sums of the key that asks.",
                f"{JSON} {CSV}",
                {
                    **REPORT,
                    "key_id": "key-1f0c52a9e3b7",
                    "name": "Ada Lovelace",
                    "role": "student",
                    "tokens_given": 51200,
                    "tokens_taken": 2635,
                },
            ),
        ),
    }
)
