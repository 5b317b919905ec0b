"""What is shown of a server, and what is kept of its state: records for people, rows for the store.

Keys never come out: neither the server's own, nor whose key registered it.
"""

from __future__ import annotations

import contextlib
from typing import Any

from multiverse.clock import unix_from_iso
from multiverse.servers.lending import ANYBODY, Asker
from multiverse.servers.server import Server


def record_of(server: Server, asker: Asker = ANYBODY) -> dict[str, Any]:
    """The record as docs/api.md has it, with what the asker's requests would find; `friends` are ids of keys."""
    row = server.registration.to_row()
    api_key, _owner = row.pop("api_key"), row.pop("owner_key_id")
    availability, closed = server.availability_for(asker), server.closed_for(asker)
    return {
        **row,
        "has_api_key": api_key is not None,
        "health_status": server.health_status,
        "availability": availability,
        "reason": closed.reason if closed is not None and closed.word == availability else server.reason,
        "consecutive_failures": server.consecutive_failures,
        "response_time_ms": server.response_time_ms,
        "slots": server.slots,
        "in_flight": server.in_flight,
        "tokens_today": server.lending.tokens_today,
        "last_checked_at": server.last_checked_at,
        "last_successful_request_at": server.last_successful_request_at,
    }


def state_row(server: Server) -> dict[str, Any]:
    """The columns of the store's row that tell what was observed; `draining` is an admin's word, not ours."""
    return {
        "health_status": server.health_status,
        "reason": server.reason,
        "consecutive_failures": server.consecutive_failures,
        "response_time_ms": server.response_time_ms,
        "last_checked_at": server.last_checked_at,
        "last_successful_request_at": server.last_successful_request_at,
        "unhealthy_since": server.unhealthy_since,
    }


def restore(server: Server, row: dict[str, Any]) -> None:
    """Take over from the store what outlives a restart; the verdict does not: it starts `unknown`."""
    server.draining = bool(row.get("draining"))
    server.last_successful_request_at = row.get("last_successful_request_at")
    server.last_checked_at = row.get("last_checked_at")
    with contextlib.suppress(TypeError, ValueError):  # A time that cannot be read is as good as none.
        unix_from_iso(row["unhealthy_since"])
        server.unhealthy_since = row["unhealthy_since"]
