"""What the OpenAPI document shows beside ROUTES and schemas: meanings of fields, examples of requests and answers.

A route that is not in REPLIES has an answer all the same, made of its schema. tests/test_openapi.py holds the
examples to the answers of a gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from multiverse import __version__
from multiverse.web.openapi_admin_examples import ADMIN_REPLIES, ADMIN_REQUESTS, EVENTS, JSON, PAGE, Reply

__all__ = ["ERROR_MESSAGES", "EVENTS", "FIELD_MEANINGS", "JSON", "PAGE", "REPLIES", "REQUESTS"]

FIELD_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "model_name": "What clients ask for.",
        "endpoint_url": "Where the gateway reaches the server, with or without `/v1`, `/` or a path prefix.",
        "served_model_name": "What the server itself calls the model, when that differs.",
        "api_key": "The server's own key; it goes to this server only and never comes out again.",
        "owner_name": "Who runs the server.",
        "owner_email": "Where its owner can be reached.",
        "description": "Anything that others should know.",
        "tags": "Words to find it by: a list, or one string with commas.",
        "context_length": "In tokens.",
        "max_concurrency": "Requests that the server takes at a time; more wait in the gateway's queue.",
        "offered_to": "Who may use it: me (its owner), friends, or class (everybody).",
        "friends": "Whose requests it takes when it is offered to friends: names or ids of keys.",
        "reserve_slot": "Whether one slot is kept for its owner.",
        "paused": "Whether it is lent to nobody for now.",
        "quiet_hours": "Times of the day at which it is not lent, such as 22:00-07:00.",
        "time_zone": "Whose clock quiet hours and days go by, such as Europe/Berlin.",
        "daily_token_cap": "Tokens after which it is lent no more today.",
        "tokens_today": "Tokens of prompts and completions since midnight in its time zone.",
        "require_healthy": "Register only if the probe is good.",
        "registration_id": "The registration's own name.",
        "has_api_key": "Whether the server has a key of its own.",
        "health_status": "What probes say: healthy, unhealthy or unknown.",
        "availability": "What your requests find: available, busy, ejected, loading, draining, unhealthy, unknown, "
        "or as its owner wishes: paused, quiet, capped, not_offered, reserved.",
        "reason": "Why it is not available, in words for its owner.",
        "consecutive_failures": "Failed probes or requests in a row, whichever are more.",
        "response_time_ms": "How long the latest good probe took, in milliseconds.",
        "in_flight": "Requests under way on it.",
        "last_checked_at": "When it was probed last (UTC).",
        "last_successful_request_at": "When a request last ended well there (UTC).",
        "created_at": "When it was registered (UTC).",
        "updated_at": "When its record last changed (UTC).",
        "tag": "Only servers with this tag.",
        "sort": "A field of the record; `-` before it turns the order round.",
        "limit": "How many at most.",
        "offset": "How many to leave out first.",
        "model": "A registered model.",
        "stream": "true = an answer in server-sent events.",
    }
)

RECORD: Mapping[str, Any] = MappingProxyType(
    {
        "registration_id": "c6f1edb3-49a2-4cc7-a3ee-0c88e39f3ef3",
        "model_name": "llama-2-7b",
        "served_model_name": None,
        "endpoint_url": "http://localhost:8080",
        "owner_name": "Your Name",
        "owner_email": None,
        "description": None,
        "tags": ["gpu", "lab"],
        "context_length": None,
        "max_concurrency": 2,
        "offered_to": "friends",
        "friends": ["Ben"],
        "reserve_slot": True,
        "paused": False,
        "quiet_hours": "22:00-07:00",
        "time_zone": "Europe/Berlin",
        "daily_token_cap": None,
        "has_api_key": False,
        "health_status": "healthy",
        "availability": "available",
        "reason": None,
        "consecutive_failures": 0,
        "response_time_ms": 1.2,
        "slots": 2,
        "in_flight": 0,
        "tokens_today": 0,
        "last_checked_at": "2026-11-23T09:14:16.784Z",
        "last_successful_request_at": "2026-11-23T09:14:16.517Z",
        "created_at": "2026-11-23T09:13:05.013Z",
        "updated_at": "2026-11-23T09:14:16.817Z",
    }
)
PROBE: Mapping[str, Any] = MappingProxyType({"ok": True, "reason": None, "response_time_ms": 1.2})
RECENT_PROBE: Mapping[str, Any] = MappingProxyType(
    {**PROBE, "checked_at": "2026-11-23T09:14:16.784Z", "health_status": "healthy"}
)
MODEL: Mapping[str, Any] = MappingProxyType(
    {
        "id": "llama-2-7b",
        "object": "model",
        "created": 1795425185,
        "owned_by": "Your Name",
        "servers": 1,
        "healthy_servers": 1,
    }
)
HEALTH: Mapping[str, Any] = MappingProxyType(
    {
        "status": "healthy",
        "service": "Multiverse Inference Gateway",
        "version": __version__,
        "database": "healthy",
        "uptime_seconds": 4.8,
    }
)
STATS: Mapping[str, Any] = MappingProxyType(
    {
        "servers": {"total": 8, "healthy": 6, "unhealthy": 2, "unknown": 0},
        "models": 7,
        "requests": {
            "total": 11,
            "ok": 8,
            "failed": 3,
            "client_closed": 0,
            "in_flight": 0,
            "in_flight_by_key": {},
            "queued": 0,
        },
        "tokens": {"prompt": 36, "completion": 2155, "total": 2191},
        "probes": {"total": 11, "failed": 2},
        "store": {"queued": 2, "dropped": 0},
        "connections": {"open": 1, "idle": 1},
        "event_loop": {"tasks": 8, "lag_ms_now": 0.0, "lag_ms_max": 1.0, "own_lag_ms_max": 0.8},
        "uptime_seconds": 93.7,
    }
)

STORY: Mapping[str, Any] = MappingProxyType(
    {
        "request_id": "req-0b3b7b1daafb126d0530ba3e",
        "started_at": "2026-11-23T09:14:16.517Z",
        "key_name": "client-1",
        "route": "/v1/chat/completions",
        "model": "llama-2-7b",
        "stream": True,
        "outcome": "ok",
        "status": 200,
        "code": None,
        "attempts": 2,
        "queue_ms": 0.0,
        "first_token_ms": 182.4,
        "total_ms": 2914.0,
        "prompt_tokens": 12,
        "completion_tokens": 80,
        "tokens_estimated": False,
        "trace_id": None,
        "overhead_ms": 0.3,
        "time": {"gateway_ms": 0.4, "queue_ms": 0.0, "failed_ms": 1.6, "server_ms": 180.4, "answer_ms": 2731.6},
        "summary": "Answered in 2.9 s. Most of it, 2.7 s, went to the answer itself: 80 tokens, 29.3 a second.",
        "events": [
            {"event": "admitted", "at_ms": 0.0, "text": "client-1 asked for llama-2-7b, as a stream."},
            {
                "event": "tried",
                "at_ms": 0.3,
                "server": "5d1f1a0e-4f0b-4bb0-9f0e-1f6f4f0f3c11",
                "text": "It was sent to a server.",
            },
            {
                "event": "failed",
                "at_ms": 1.9,
                "server": "5d1f1a0e-4f0b-4bb0-9f0e-1f6f4f0f3c11",
                "code": "server_error",
                "text": "That server failed after 2 ms: it could not be reached, or its answer was no good.",
            },
            {
                "event": "tried",
                "at_ms": 2.0,
                "server": "c6f1edb3-49a2-4cc7-a3ee-0c88e39f3ef3",
                "text": "It was sent to another server, the second.",
            },
            {
                "event": "first_token",
                "at_ms": 182.4,
                "text": "The first piece of the answer came, 180 ms after this server was asked.",
            },
            {
                "event": "ended",
                "at_ms": 2914.0,
                "outcome": "ok",
                "status": 200,
                "text": "Answered in 2.9 s. The answer had 80 tokens.",
            },
        ],
    }
)

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hello!"}]
REQUESTS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        **ADMIN_REQUESTS,
        "POST /admin/register": {
            "model_name": "llama-2-7b",
            "endpoint_url": "http://localhost:8080/v1/",
            "owner_name": "Your Name",
            "tags": ["gpu", "lab"],
        },
        "PUT /admin/register/{registration_id}": {"description": "In the lab until Friday", "max_concurrency": 2},
        "PATCH /admin/servers/{registration_id}": {"quiet_hours": "22:00-07:00", "time_zone": "Europe/Berlin"},
        "POST /v1/chat/completions": {"model": "llama-2-7b", "stream": True, "messages": MESSAGES},
        "POST /v1/completions": {"model": "llama-2-7b", "prompt": "Once upon a time", "max_tokens": 32},
        "POST /v1/embeddings": {"model": "llama-2-7b", "input": "The food was delicious."},
        "POST /v1/responses": {"model": "llama-2-7b", "input": "Hello!"},
        "POST /v1/{route}": {"model": "llama-2-7b", "query": "What is a panda?", "documents": ["a bear"]},
    }
)

METRICS = "# TYPE multiverse_requests_in_flight gauge\nmultiverse_requests_in_flight 3.0\n"
NOT_CHANGED: Reply = (304, "It is as the ETag in `If-None-Match` says.", "", None)


def _forwarded(kinds: str = f"{JSON} {EVENTS}") -> tuple[Reply, ...]:
    return ((200, "The server's own answer, byte for byte; events when `stream` is true.", kinds, None),)


LENT = MappingProxyType({"message": "Thank you. Lent now: llama-2-7b.", "servers": [{**RECORD}], "not_registered": []})
REPLIES: Mapping[str, tuple[Reply, ...]] = MappingProxyType(
    {
        **ADMIN_REPLIES,
        "GET /": (
            (
                200,
                "Where everything is; for a browser the dashboard.",
                f"{JSON} {PAGE}",
                {
                    "name": "Multiverse Inference Gateway",
                    "version": __version__,
                    "description": "Shares the AI models of a class through one OpenAI-compatible address.",
                    "docs": "/docs",
                    "health": "/health",
                    "models": "/v1/models",
                },
            ),
        ),
        "GET /health": (
            (200, "Requests are taken and the database answers.", JSON, {**HEALTH}),
            (
                503,
                "It drains, or its database does not answer; `reason` then says why.",
                JSON,
                {**HEALTH, "status": "unhealthy", "database": "unhealthy", "reason": "the database is locked"},
            ),
        ),
        "GET /metrics": ((200, "Prometheus' text format.", "text/plain", METRICS),),
        "GET /v1/requests": (
            (
                200,
                "Those that match.",
                JSON,
                {"requests": [{name: STORY[name] for name in STORY if name != "events"}], "total": 1},
            ),
        ),
        "GET /v1/requests/{id}": ((200, "The story.", JSON, {**STORY}),),
        "GET /docs": ((200, "A page.", PAGE, None), NOT_CHANGED),
        "GET /redoc": ((200, "A page.", PAGE, None), NOT_CHANGED),
        "GET /docs/{name}": ((200, "The file.", "text/javascript text/css text/plain", None), NOT_CHANGED),
        "GET /openapi.json": ((200, "The document.", JSON, {"openapi": "3.1.0"}), NOT_CHANGED),
        "POST /admin/register": (
            (200, "It was registered already; it is updated.", JSON, {**RECORD, "message": "It is updated."}),
            (201, "Registered, whatever the probe said.", JSON, {**RECORD, "message": "Server registered."}),
        ),
        "POST /admin/lend": (
            (200, "All of it was registered already; it is updated.", JSON, {**LENT}),
            (201, "Found, and registered.", JSON, {**LENT}),
        ),
        "PUT /admin/register/{registration_id}": (
            (200, "The record as it is now.", JSON, {**RECORD, "message": "Registration updated."}),
        ),
        "DELETE /admin/register/{registration_id}": (
            (
                200,
                "Deregistered.",
                JSON,
                {"message": "Server deregistered.", "registration_id": RECORD["registration_id"]},
            ),
        ),
        "GET /admin/servers": (
            (
                200,
                "Those that match.",
                JSON,
                {"servers": [{**RECORD}], "total": 1, "filters_applied": {"owner_name": "Your Name"}},
            ),
        ),
        "GET /admin/servers/{registration_id}": (
            (
                200,
                "The record, its latest probes and the share of good ones.",
                JSON,
                {**RECORD, "recent_probes": [{**RECENT_PROBE}], "uptime_percent": 100.0, "recent_failures": []},
            ),
        ),
        "PATCH /admin/servers/{registration_id}": (
            (200, "The record as it is now.", JSON, {**RECORD, "message": "Terms changed."}),
        ),
        "POST /admin/servers/{registration_id}/probe": (
            (200, "The record, and what came of the probe.", JSON, {**RECORD, "probe": {**PROBE}}),
        ),
        "POST /admin/servers/{registration_id}/drain": ((200, "The record.", JSON, {**RECORD}),),
        "POST /admin/servers/{registration_id}/pause": ((200, "The record.", JSON, {**RECORD}),),
        "POST /admin/servers/{registration_id}/resume": ((200, "The record.", JSON, {**RECORD}),),
        "GET /admin/stats": ((200, "The counts.", JSON, {**STATS}),),
        "GET /v1/models": ((200, "The list.", JSON, {"object": "list", "data": [{**MODEL}]}),),
        "GET /v1/models/{id}": ((200, "The model.", JSON, {**MODEL}),),
        "POST /v1/chat/completions": _forwarded(),
        "POST /v1/completions": _forwarded(),
        "POST /v1/embeddings": _forwarded(JSON),
        "POST /v1/responses": _forwarded(),
        "POST /v1/{route}": _forwarded(f"{JSON} {EVENTS} audio/* application/octet-stream"),
    }
)

ERROR_MESSAGES: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "invalid_request": ("The field `model` is missing.", "model"),
        "permission_denied": ("This key may not do this. Use the admin's key.", None),
        "not_found": ("There is no such route. GET / tells where the API is; GET /docs describes it.", None),
        "key_not_found": ("No key has this id. GET /admin/keys lists them all.", None),
        "server_not_found": ("No server is registered under this id. GET /admin/servers lists them.", None),
        "claim_code_not_valid": ("This claim code is wrong, has expired or is used up.", None),
        "model_not_found": ("The model 'llama-2-7' is not registered here. Did you mean 'llama-2-7b'?", "model"),
        "method_not_allowed": ("This route takes GET, HEAD, OPTIONS.", None),
        "request_too_large": ("The body is larger than 20971520 bytes. Send less.", None),
        "unsupported_media_type": ("The body must be JSON. Send the header 'Content-Type: application/json'.", None),
        "rate_limit_exceeded": (
            "Your limit of requests per minute is reached. Wait as `Retry-After` says.",
            None,
        ),
        "server_error": ("The servers that were tried failed. Send the request again in a moment.", None),
        "server_timeout": ("The server was too slow. Send the request again, or ask for less.", None),
        "no_server_available": ("No server can answer for this model now. Try again in a moment.", None),
        "overloaded": ("Every server of this model is busy. Try again in a moment.", None),
        "model_loading": ("The servers are loading the model. Try again in a moment.", None),
        "loop_detected": ("This request came from this gateway: it is registered at itself. Deregister it.", None),
    }
)
