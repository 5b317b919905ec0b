"""The SQL of the batches and totals, written out: 4 to 20 times faster than row by row through sqlite-utils.

No transaction is opened here and no error is caught; the caller does both. Column names come from rows.py only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from multiverse.storage.backlog import Batch, Changes
from multiverse.storage.rows import PROBE_COLUMNS, STATE_COLUMNS, USAGE_COLUMNS

PROBES_KEPT: Final = 100

DELETE_SERVER: Final = "DELETE FROM servers WHERE registration_id = ?"

# A minute is the first 16 characters of an ISO 8601 text in UTC; the index on started_at bounds what is read.
USAGE_MINUTES: Final = """
    SELECT substr(started_at, 1, 16) AS minute,
           count(*) AS total,
           count(*) FILTER (WHERE outcome IN ('failed', 'rejected')) AS failed,
           round(avg(first_token_ms), 1) AS first_token_ms
      FROM usage
     WHERE started_at >= :since
     GROUP BY minute
     ORDER BY minute
"""

# From the roll-ups: the dashboard asks again and again, and a day may have a hundred thousand requests.
# TOTAL, not SUM, here and below: servers that claim 2**63 tokens twice make SUM raise "integer overflow".
USAGE_OF_DAY: Final = """
    SELECT CAST(total(requests) AS INTEGER) AS total,
           CAST(total(failed + rejected) AS INTEGER) AS failed,
           CAST(total(prompt_tokens) AS INTEGER) AS prompt_tokens,
           CAST(total(completion_tokens) AS INTEGER) AS completion_tokens
      FROM usage_daily
     WHERE day = :day
"""

# Tokens per second count from the first token on: before it, the prompt is read.
USAGE_BY_MODEL: Final = """
    SELECT model_name,
           count(*) AS total,
           count(*) FILTER (WHERE outcome IN ('failed', 'rejected')) AS failed,
           CAST(total(completion_tokens) AS INTEGER) AS completion_tokens,
           round(avg(first_token_ms), 1) AS first_token_ms,
           round(total(completion_tokens) FILTER (WHERE outcome = 'ok' AND stream AND total_ms > first_token_ms)
               / nullif(total(total_ms - first_token_ms)
                   FILTER (WHERE outcome = 'ok' AND stream AND total_ms > first_token_ms) / 1000, 0), 1)
               AS tokens_per_second
      FROM usage
     WHERE started_at >= :since
     GROUP BY model_name
"""

FAILED_REQUESTS: Final = """
    SELECT started_at, request_id, route, outcome, status, attempts, total_ms
      FROM usage
     WHERE registration_id = :registration_id AND outcome = 'failed' AND started_at >= :since
     ORDER BY id DESC LIMIT :limit
"""

COUNT_ROWS: Final = """
    SELECT (SELECT count(*) FROM servers) AS servers,
           (SELECT count(*) FROM health_checks) AS probes,
           (SELECT count(*) FROM usage) AS usage
"""


def _parameters(columns: Iterable[str]) -> str:
    return ", ".join(f":{column}" for column in columns)


INSERT_USAGE: Final = f"INSERT INTO usage ({', '.join(USAGE_COLUMNS)}) VALUES ({', '.join('?' * len(USAGE_COLUMNS))})"

# The server may have been deleted since; its probe must not fail the foreign key, and the batch with it.
INSERT_PROBE: Final = (
    f"INSERT INTO health_checks ({', '.join(PROBE_COLUMNS)}) SELECT {_parameters(PROBE_COLUMNS)} "
    "WHERE EXISTS (SELECT 1 FROM servers WHERE registration_id = :registration_id)"
)

TRIM_PROBES: Final = f"""
    DELETE FROM health_checks
     WHERE registration_id = :registration_id
       AND id <= (SELECT id FROM health_checks WHERE registration_id = :registration_id
                   ORDER BY id DESC LIMIT 1 OFFSET {PROBES_KEPT})
"""


# What a client wrongly calls a model must not make a row that is kept for ever, however its request ended.
ADD_TO_DAYS: Final = """
    INSERT INTO usage_daily (day, key_id, key_name, model_name, registration_id, requests, ok, failed, client_closed,
                             rejected, prompt_tokens, completion_tokens, estimated_tokens)
    SELECT substr(started_at, 1, 10), coalesce(key_id, key_name, 'anonymous'), max(coalesce(key_name, '')),
           CASE WHEN registration_id IS NOT NULL THEN coalesce(model_name, '')
                WHEN status <> 404 AND (model_name IN (SELECT model_name FROM servers)
                                        OR model_name IN (SELECT name FROM model_aliases)) THEN model_name
                ELSE '' END,
           coalesce(registration_id, ''), count(*),
           count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
           count(*) FILTER (WHERE outcome = 'client_closed'), count(*) FILTER (WHERE outcome = 'rejected'),
           CAST(total(prompt_tokens) AS INTEGER), CAST(total(completion_tokens) AS INTEGER),
           CAST(total(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) FILTER (WHERE tokens_estimated = 1)
                AS INTEGER)
      FROM usage WHERE id > :last AND started_at IS NOT NULL GROUP BY 1, 2, 4, 5
        ON CONFLICT (day, key_id, model_name, registration_id) DO UPDATE SET
           key_name = excluded.key_name, requests = requests + excluded.requests, ok = ok + excluded.ok,
           failed = failed + excluded.failed, client_closed = client_closed + excluded.client_closed,
           rejected = rejected + excluded.rejected, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
           completion_tokens = completion_tokens + excluded.completion_tokens,
           estimated_tokens = estimated_tokens + excluded.estimated_tokens
"""

# A person is a key where there is one; a server that an admin registered belongs to the owner that was named.
ADD_TO_LEDGER: Final = """
    INSERT INTO token_ledger (day, giver, giver_name, taker, taker_name, requests, prompt_tokens, completion_tokens)
    SELECT substr(started_at, 1, 10), coalesce(owner_key_id, owner_name, 'nobody'), max(coalesce(owner_name, '')),
           coalesce(key_id, key_name, 'anonymous'), max(coalesce(key_name, '')), count(*),
           CAST(total(prompt_tokens) AS INTEGER), CAST(total(completion_tokens) AS INTEGER)
      FROM usage WHERE id > :last AND registration_id IS NOT NULL
       AND coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) > 0 AND started_at IS NOT NULL
     GROUP BY 1, 2, 4
"""

# The ledger has rows for nearly every request, for ever; this has one for two people, and is what reports read.
ADD_TO_LEDGER_SUMS: Final = """
    INSERT INTO ledger_sums (giver, giver_name, taker, taker_name, requests, prompt_tokens, completion_tokens)
    SELECT giver, max(giver_name), taker, max(taker_name), CAST(total(requests) AS INTEGER),
           CAST(total(prompt_tokens) AS INTEGER), CAST(total(completion_tokens) AS INTEGER)
      FROM token_ledger WHERE id > :last GROUP BY giver, taker
        ON CONFLICT (giver, taker) DO UPDATE SET
           giver_name = excluded.giver_name, taker_name = excluded.taker_name, requests = requests + excluded.requests,
           prompt_tokens = prompt_tokens + excluded.prompt_tokens,
           completion_tokens = completion_tokens + excluded.completion_tokens
"""


def write_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Usage, probes (only the newest hundred of a server stay) and states; for a deleted server, nothing."""
    if batch.usage:
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM usage").fetchone()
        connection.executemany(INSERT_USAGE, batch.usage)
        add_to_sums(connection, last)
    connection.executemany(INSERT_PROBE, _complete(batch.probes, PROBE_COLUMNS))
    probed = sorted({probe["registration_id"] for probe in batch.probes})
    connection.executemany(TRIM_PROBES, ({"registration_id": registration_id} for registration_id in probed))
    for registration_id, changes in batch.states.items():
        _update_state(connection, registration_id, changes)


def add_to_sums(connection: sqlite3.Connection, last: int) -> None:
    """Count the rows of usage behind the id `last` into the roll-ups and the ledger, and the ledger into its sums."""
    connection.execute(ADD_TO_DAYS, {"last": last})
    (last_in_ledger,) = connection.execute("SELECT coalesce(max(id), 0) FROM token_ledger").fetchone()
    connection.execute(ADD_TO_LEDGER, {"last": last})
    connection.execute(ADD_TO_LEDGER_SUMS, {"last": last_in_ledger})


def _complete(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    """Every named parameter needs a value."""
    return ({column: row.get(column) for column in columns} for row in rows)


def _update_state(connection: sqlite3.Connection, registration_id: str, changes: Changes) -> None:
    columns = [column for column in STATE_COLUMNS if column in changes]
    assignments = ", ".join(f"{column} = ?" for column in columns)
    values = [changes[column][1] for column in columns]
    connection.execute(f"UPDATE servers SET {assignments} WHERE registration_id = ?", [*values, registration_id])
