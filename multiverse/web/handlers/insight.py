"""`/admin`, what there is to look at: the last hour, models, log records, settings, servers not registered yet.

Reading only: nothing here changes anything. Numbers over time come from the store, whose thread counts them.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping
from typing import Any

from tornado import version as tornado_version

from multiverse import __version__
from multiverse.clock import iso_from_unix
from multiverse.servers.server import HEALTHY
from multiverse.settings import SETTINGS
from multiverse.transport.addresses import parse_endpoint
from multiverse.web.handlers.admin import OwnerHandler
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.schemas import LogQuerySchema, ProbeAddressSchema, load

LOG_QUERY_SCHEMA, PROBE_ADDRESS_SCHEMA = LogQuerySchema(), ProbeAddressSchema()
MINUTES_SHOWN = 60
DAY_SECONDS = 86_400
DEFAULT_RECORDS = 200
# Fields of Config whose value is nobody's business, not even an admin's in a browser.
SECRET_VARIABLES = frozenset(
    {
        *("ADMIN_API_KEY", "CLIENT_API_KEYS", "METRICS_TOKEN", "NOTIFY_WEBHOOK_URL", "SMTP_PASSWORD"),
        "OTEL_EXPORTER_OTLP_HEADERS",
    }
)


class HistoryHandler(GatewayHandler):
    """`GET /admin/history`."""

    async def get(self) -> None:
        """Requests of each minute of the last hour, and of today (UTC)."""
        now = self.gateway.clock.unix_seconds()
        first_minute = int(now // 60) - MINUTES_SHOWN + 1
        rows = await self.gateway.store.usage_minutes(iso_from_unix(first_minute * 60))
        known = {row["minute"]: row for row in rows}
        minutes = [_minute(minute, known) for minute in range(first_minute, first_minute + MINUTES_SHOWN)]
        midnight = iso_from_unix(now - now % DAY_SECONDS)
        today = await self.gateway.store.usage_of_day(midnight[:10])
        self.reply_json({"minutes": minutes, "today": {"since": midnight, **today}})


def _minute(minute: int, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    started_at = iso_from_unix(minute * 60)
    row = known.get(started_at[:16], {})
    return {
        "started_at": started_at,
        "total": row.get("total", 0),
        "failed": row.get("failed", 0),
        "first_token_ms": row.get("first_token_ms"),
    }


class ModelNumbersHandler(GatewayHandler):
    """`GET /admin/models`."""

    async def get(self) -> None:
        """Every registered model, with its servers and the last 24 hours in numbers."""
        since = iso_from_unix(self.gateway.clock.unix_seconds() - DAY_SECONDS)
        numbers = {row["model_name"]: row for row in await self.gateway.store.usage_by_model(since)}
        models = []
        for model_name, created_unix, servers in self.gateway.registry.models():
            row = numbers.get(model_name, {})
            models.append(
                {
                    "model_name": model_name,
                    "created_at": iso_from_unix(created_unix),
                    "servers": len(servers),
                    "healthy_servers": sum(server.health_status == HEALTHY for server in servers),
                    "in_flight": sum(server.in_flight for server in servers),
                    "requests": row.get("total", 0),
                    "failed": row.get("failed", 0),
                    "completion_tokens": row.get("completion_tokens", 0),
                    "first_token_ms": row.get("first_token_ms"),
                    "tokens_per_second": row.get("tokens_per_second"),
                }
            )
        self.reply_json({"models": models, "since": since})


class LogsHandler(GatewayHandler):
    """`GET /admin/logs`."""

    async def get(self) -> None:
        """The latest records that match, newest first."""
        query = load(LOG_QUERY_SCHEMA, first_values(self.request))
        memory = self.gateway.log_memory
        last_id = memory.last_id
        # Redacting a thousand records takes a while: not in the loop.
        records = await asyncio.to_thread(
            memory.search,
            limit=query.pop("limit", DEFAULT_RECORDS),
            after_id=query.pop("after", 0),
            **query,
        )
        self.reply_json({"records": records, "last_id": max(last_id, records[0]["id"] if records else 0)})


class EffectiveSettingsHandler(GatewayHandler):
    """`GET /admin/settings`."""

    async def get(self) -> None:
        """What the gateway runs with; secrets only as set or not set."""
        gateway = self.gateway
        settings = [
            {
                "variable": setting.variable,
                "value": _shown_value(setting.variable, getattr(gateway.config, setting.field_name)),
                "default": setting.default,
                "secret": setting.variable in SECRET_VARIABLES,
                "meaning": setting.meaning,
            }
            for setting in SETTINGS
        ]
        versions = {"multiverse": __version__, "python": platform.python_version(), "tornado": tornado_version}
        self.reply_json(
            {
                "settings": settings,
                "versions": versions,
                "event_loop": type(asyncio.get_running_loop()).__module__,
                "uptime_seconds": round(gateway.clock.monotonic() - gateway.started_seconds, 1),
                "database": await gateway.store.row_counts(),
                "sessions": len(gateway.sessions),
            }
        )


def _shown_value(variable: str, value: object) -> Any:
    """As one would write it in `.env`."""
    if variable in SECRET_VARIABLES:
        return "set" if value else "not set"
    if variable == "DATABASE_URL":
        return f"sqlite:///{value}"
    if isinstance(value, bool):
        return str(value).lower()
    if variable == "RATE_LIMITS_BY_ROLE" and isinstance(value, tuple):
        value = tuple(f"{role}={'/'.join(map(str, limits))}" for role, limits in value)
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value) or "none"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


class ProbeAddressHandler(OwnerHandler):
    """`POST /admin/probe`."""

    async def post(self) -> None:
        """Probe an address without registering it; with a `registration_id`, that server's key is used."""
        fields = load(PROBE_ADDRESS_SCHEMA, self.read_json())
        registration_id = fields.pop("registration_id", None)
        if registration_id and not fields.get("api_key"):
            known = self.server_of_caller(registration_id).registration
            # The key goes to the address it was given for, and to no other.
            if known.endpoint.url == parse_endpoint(fields["endpoint_url"]).url:
                fields["api_key"] = known.api_key
        self.count_probe()
        endpoint_url, result, models = await self.gateway.registrations.probe_address(fields)
        self.reply_json(
            {
                "endpoint_url": endpoint_url,
                "ok": result.ok,
                "reason": result.reason,
                "response_time_ms": result.response_time_ms,
                "models": models,
            }
        )
