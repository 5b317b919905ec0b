"""The schema and its history: steps are only ever added at the end; one that was released is never changed.

Columns are spelled out here, not taken from rows.py: a step describes the past. Locking, retries and files live in
database.py. A step that needs data moved does so in SQL, inside the transaction it is run in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlite_utils import Database, Migrations
from sqlite_utils.db import ForeignKey, Table

SET_NAME: Final = "multiverse"
Step = tuple[str, Callable[[Database], None]]


def steps() -> tuple[Step, ...]:
    """All steps, oldest first; the names are stored in the database and must not change."""
    return (
        ("0001_servers", _create_servers),
        ("0002_health_checks", _create_health_checks),
        ("0003_usage", _create_usage),
        ("0004_keys", _create_keys),
        ("0005_usage_sums", _create_usage_sums),
        ("0006_aliases", _create_aliases),
        ("0007_thanks_board", _create_thanks_board),
        ("0008_lending_terms", _add_lending_terms),
        ("0009_ledger_sums", _create_ledger_sums),
    )


def why_not_ours(database: Database) -> str | None:
    """None if this version can use the database, a new or an older one included, else why not; only reads."""
    applied = {step.name for step in schema_history().applied(database)}
    if applied - {name for name, _create in steps()}:
        return "was written by a newer multiverse; upgrade, or point DATABASE_URL elsewhere"
    foreign_tables = {"servers", "health_checks", "usage"} & set(database.table_names())
    if foreign_tables and not applied:
        return "belongs to another program (it has tables of the same names); point DATABASE_URL elsewhere"
    return None


def migrate(database: Database, stop_before: str | None = None) -> None:
    """Applies the steps that are missing, up to `stop_before` if given; the caller holds the write transaction."""
    schema_history().apply(database, stop_before=stop_before)


def schema_history() -> Migrations:
    """The steps as sqlite-utils wants them; it keeps the record of those applied in `_sqlite_migrations`."""
    history = Migrations(SET_NAME)
    for name, create in steps():
        history(name=name)(create)
    return history


def _create_servers(database: Database) -> None:
    servers = _table(database, "servers")
    servers.create(
        {
            "registration_id": str,
            "model_name": str,
            "served_model_name": str,
            "endpoint_url": str,
            "api_key": str,
            "owner_name": str,
            "owner_email": str,
            "description": str,
            "tags": str,
            "context_length": int,
            "max_concurrency": int,
            "draining": int,
            "health_status": str,
            "reason": str,
            "consecutive_failures": int,
            "response_time_ms": float,
            "last_checked_at": str,
            "last_successful_request_at": str,
            "unhealthy_since": str,
            "created_at": str,
            "updated_at": str,
        },
        pk="registration_id",
        not_null={"registration_id", "model_name", "endpoint_url"},
        defaults={"draining": 0, "health_status": "unknown", "consecutive_failures": 0},
    )
    servers.create_index(["model_name", "endpoint_url"], unique=True)


def _create_health_checks(database: Database) -> None:
    health_checks = _table(database, "health_checks")
    health_checks.create(
        {
            "id": int,
            "registration_id": str,
            "checked_at": str,
            "ok": int,
            "health_status": str,
            "reason": str,
            "response_time_ms": float,
        },
        pk="id",
        not_null={"registration_id"},
        foreign_keys=[
            ForeignKey("health_checks", "registration_id", "servers", "registration_id", on_delete="CASCADE"),
        ],
    )
    # Finds the newest of a server, and so what is older than the last hundred, without a scan.
    health_checks.create_index(["registration_id", "id"])


def _create_usage(database: Database) -> None:
    usage = _table(database, "usage")
    usage.create(
        {
            "id": int,
            "request_id": str,
            "started_at": str,
            "key_name": str,
            "client_address": str,
            "route": str,
            "model_name": str,
            # No foreign key: what was used outlives the server that served it.
            "registration_id": str,
            "stream": int,
            "outcome": str,
            "status": int,
            "attempts": int,
            "queue_ms": float,
            "first_token_ms": float,
            "total_ms": float,
            "prompt_tokens": int,
            "completion_tokens": int,
            "tokens_estimated": int,
        },
        pk="id",
    )
    usage.create_index(["started_at"])


def _create_keys(database: Database) -> None:
    api_keys = _table(database, "api_keys")
    api_keys.create(
        {
            "key_id": str,
            # SHA-256 of the secret, in hex: the secret itself is shown once and kept nowhere.
            "digest": str,
            "hint": str,
            "name": str,
            "email": str,
            "role": str,
            "models": str,
            "weight": int,
            "requests_per_minute": int,
            "tokens_per_day": int,
            "requests_at_once": int,
            "code_id": str,
            "expires_at": str,
            "created_at": str,
            "revoked_at": str,
        },
        pk="key_id",
        not_null={"key_id", "digest", "name", "role"},
        defaults={"weight": 1},
    )
    api_keys.create_index(["digest"], unique=True)
    claim_codes = _table(database, "claim_codes")
    claim_codes.create(
        {
            "code_id": str,
            "digest": str,
            "role": str,
            "models": str,
            "uses": int,
            "used": int,
            "expires_at": str,
            "key_expires_at": str,
            "created_at": str,
        },
        pk="code_id",
        not_null={"code_id", "digest", "role", "uses", "expires_at"},
        defaults={"used": 0},
    )
    claim_codes.create_index(["digest"], unique=True)
    _table(database, "servers").add_column("owner_key_id", str)


def _create_usage_sums(database: Database) -> None:
    usage = _table(database, "usage")
    for column in ("key_id", "owner_key_id", "owner_name"):
        usage.add_column(column, str)
    counts = ("requests", "ok", "failed", "client_closed", "rejected")
    tokens = ("prompt_tokens", "completion_tokens", "estimated_tokens")
    names = ("day", "key_id", "key_name", "model_name", "registration_id")
    _table(database, "usage_daily").create(
        {**dict.fromkeys(names, str), **dict.fromkeys((*counts, *tokens), int)},
        pk=("day", "key_id", "model_name", "registration_id"),
        not_null={*names, *counts, *tokens},
    )
    database.conn.execute(DAYS_OF_OLD_USAGE)
    people = ("day", "giver", "giver_name", "taker", "taker_name")
    ledger = _table(database, "token_ledger")
    ledger.create(
        {"id": int, **dict.fromkeys(people, str), "requests": int, "prompt_tokens": int, "completion_tokens": int},
        pk="id",
        not_null={*people, "requests", "prompt_tokens", "completion_tokens"},
    )
    for change in ("UPDATE", "DELETE"):
        database.conn.execute(
            f"CREATE TRIGGER token_ledger_no_{change.lower()} BEFORE {change} ON token_ledger "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END"
        )


# What was used before there were roll-ups; who owned the servers then was not noted, so the ledger begins empty.
DAYS_OF_OLD_USAGE: Final = """
    INSERT INTO usage_daily
    SELECT substr(started_at, 1, 10), coalesce(key_name, 'anonymous'), coalesce(key_name, 'anonymous'),
           CASE WHEN registration_id IS NULL AND status = 404 THEN '' ELSE coalesce(model_name, '') END,
           coalesce(registration_id, ''), count(*),
           count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
           count(*) FILTER (WHERE outcome = 'client_closed'), count(*) FILTER (WHERE outcome = 'rejected'),
           CAST(total(prompt_tokens) AS INTEGER), CAST(total(completion_tokens) AS INTEGER),
           CAST(total(completion_tokens) FILTER (WHERE tokens_estimated = 1) AS INTEGER)
      FROM usage WHERE started_at IS NOT NULL GROUP BY 1, 2, 3, 4, 5
"""


def _create_aliases(database: Database) -> None:
    _table(database, "model_aliases").create(
        {"name": str, "models": str, "created_at": str}, pk="name", not_null={"name", "models"}
    )


def _create_thanks_board(database: Database) -> None:
    _table(database, "api_keys").add_column("on_thanks_board", int, not_null_default=0)


def _add_lending_terms(database: Database) -> None:
    """Servers that were registered before stay lent to everybody, at all hours."""
    servers = _table(database, "servers")
    servers.add_column("offered_to", str, not_null_default="class")
    for column in ("reserve_slot", "paused"):
        servers.add_column(column, int, not_null_default=0)
    for column in ("friends", "quiet_hours", "time_zone"):
        servers.add_column(column, str)
    servers.add_column("daily_token_cap", int)


def _create_ledger_sums(database: Database) -> None:
    """The ledger in sums, and an index for each question about one person or one server."""
    people, counts = ("giver", "giver_name", "taker", "taker_name"), ("requests", "prompt_tokens", "completion_tokens")
    ledger_sums = _table(database, "ledger_sums")
    ledger_sums.create(
        {**dict.fromkeys(people, str), **dict.fromkeys(counts, int)}, pk=("giver", "taker"), not_null={*people, *counts}
    )
    ledger_sums.create_index(["taker"])
    database.conn.execute(SUMS_OF_OLD_LEDGER)
    _table(database, "usage_daily").create_index(["key_id", "day"])
    # Failures are few: the index costs next to nothing.
    database.conn.execute(
        "CREATE INDEX idx_usage_failed ON usage (registration_id, started_at) WHERE outcome = 'failed'"
    )


SUMS_OF_OLD_LEDGER: Final = """
    INSERT INTO ledger_sums (giver, giver_name, taker, taker_name, requests, prompt_tokens, completion_tokens)
    SELECT giver, max(giver_name), taker, max(taker_name), CAST(total(requests) AS INTEGER),
           CAST(total(prompt_tokens) AS INTEGER), CAST(total(completion_tokens) AS INTEGER)
      FROM token_ledger GROUP BY giver, taker
"""


def _table(database: Database, name: str) -> Table:
    return database.table(name)
