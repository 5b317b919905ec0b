"""Usage in sums: the daily roll-ups, the ledger of tokens, and how long single requests are kept.

Roll-ups, the ledger and its sums are written with each batch, in its transaction (statements.py), so that no figure is
counted twice or lost; dropping old rows of `usage` changes none. Reports read roll-ups and the ledger's sums, never the
ledger, which grows with every request; one person's are found by an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlite_utils import Database

from multiverse.storage.store import Store

Row = dict[str, Any]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "day": ("day",),
    "model": ("model_name",),
    "key": ("key_id", "key_name"),
    "server": ("registration_id",),
}
FILTERS: Final = ("model_name", "key_id", "registration_id")
SUMS: Final = (
    "requests",
    "ok",
    "failed",
    "client_closed",
    "rejected",
    "prompt_tokens",
    "completion_tokens",
    "estimated_tokens",
)
# A name may change; the id does not, so it is what is grouped by. Shown is today's, of a key that was ever made here.
NAME_NOW: Final = "(SELECT api_keys.name FROM api_keys WHERE api_keys.key_id = {key_id})"
SHOWN: Final = {"key_name": f"coalesce({NAME_NOW.format(key_id='usage_daily.key_id')}, max(key_name)) AS key_name"}

# `{of_giver}` and `{of_taker}` narrow it down to one person, so that the indexes find the rows.
PEOPLE: Final = f"""
    SELECT person, coalesce({NAME_NOW.format(key_id="person")}, max(name)) AS name,
           CAST(total(given) AS INTEGER) AS tokens_given, CAST(total(taken) AS INTEGER) AS tokens_taken,
           CAST(total(requests_given) AS INTEGER) AS requests_given,
           CAST(total(requests_taken) AS INTEGER) AS requests_taken
      FROM (SELECT giver AS person, giver_name AS name, prompt_tokens + completion_tokens AS given, 0 AS taken,
                   requests AS requests_given, 0 AS requests_taken FROM ledger_sums {{of_giver}}
             UNION ALL
            SELECT taker, taker_name, 0, prompt_tokens + completion_tokens, 0, requests FROM ledger_sums {{of_taker}})
     GROUP BY person ORDER BY tokens_given DESC, person
"""

# What one gives to oneself is no gift.
GIVEN: Final = """
    SELECT giver, CAST(total(prompt_tokens + completion_tokens) AS INTEGER) AS tokens,
           CAST(total(requests) AS INTEGER) AS requests
      FROM ledger_sums WHERE giver <> taker AND giver <> 'nobody' GROUP BY giver
"""

EVERYBODY: Final = PEOPLE.format(of_giver="", of_taker="")
ONE_PERSON: Final = PEOPLE.format(of_giver="WHERE giver = :person", of_taker="WHERE taker = :person")
# At a time, so that whoever wants to write waits for milliseconds only.
FORGOTTEN_AT_ONCE: Final = 5_000
FORGET: Final = "DELETE FROM usage WHERE id IN (SELECT id FROM usage WHERE started_at < ? LIMIT ?)"


class UsageTable:
    """Reads sums of usage; each coroutine sees every request that has ended. Raises StoreFailed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def report(
        self, group_by: Sequence[str], *, since: str | None, until: str | None, filters: Mapping[str, str]
    ) -> list[Row]:
        """Sums of `SUMS` by the `GROUPS` in `group_by`, from day to day (`2027-01-31`, both included)."""
        sql, values = report_query(group_by, since, until, filters)
        return await self._store.report(lambda database: list(database.query(sql, values)))

    async def people(self, person: str | None = None) -> list[Row]:
        """What each person has given and taken, most given first; one of them if `person` is given."""
        sql, values = (EVERYBODY, {}) if person is None else (ONE_PERSON, {"person": person})
        return await self._store.report(lambda database: list(database.query(sql, values)))

    async def given(self) -> list[Row]:
        """`tokens` and `requests` that each `giver` gave to others."""
        return await self._store.report(lambda database: list(database.query(GIVEN)))

    async def tokens_on(self, day: str) -> dict[str, int]:
        """Tokens used on that day, by `key_id`."""
        sql = "SELECT key_id, CAST(total(prompt_tokens + completion_tokens) AS INTEGER) AS tokens FROM usage_daily"
        sql += " WHERE day = ? GROUP BY key_id"
        rows = await self._store.read(lambda database: list(database.query(sql, [day])))
        return {row["key_id"]: row["tokens"] for row in rows}

    async def tokens_since(self, moment: str) -> dict[str, int]:
        """Tokens of requests that began at `moment` (UTC, ISO 8601) or later and have ended by now, by
        `registration_id`; all of these requests, and none that ends while this is being read.
        """
        sql = "SELECT registration_id, CAST(total(prompt_tokens) + total(completion_tokens) AS INTEGER) AS tokens"
        sql += " FROM usage WHERE started_at >= ? AND registration_id IS NOT NULL GROUP BY registration_id"
        rows = await self._store.read(lambda database: list(database.query(sql, [moment])), misses_nothing=True)
        return {row["registration_id"]: row["tokens"] for row in rows}

    async def forget_before(self, moment: str) -> int:
        """Drop the rows of single requests that began before `moment` (UTC, ISO 8601); returns how many.

        What is written meanwhile comes in between. If it raises, some may have been dropped.
        """

        def forget(database: Database) -> int:
            return database.execute(FORGET, [moment, FORGOTTEN_AT_ONCE]).rowcount

        forgotten = 0
        while rows := await self._store.write(forget):
            forgotten += rows
        return forgotten


def report_query(
    group_by: Sequence[str], since: str | None, until: str | None, filters: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The SQL of a report and its values; column names come from the tables above only."""
    columns = [column for name in group_by for column in GROUPS[name]]
    shown = [SHOWN.get(column, column) for column in columns]
    shown += [f"CAST(total({name}) AS INTEGER) AS {name}" for name in SUMS]
    conditions = [f"{name} = :{name}" for name in FILTERS if name in filters]
    values = {name: filters[name] for name in FILTERS if name in filters}
    for name, bound, sign in (("since", since, ">="), ("until", until, "<=")):
        if bound is not None:
            conditions.append(f"day {sign} :{name}")
            values[name] = bound
    sql = f"SELECT {', '.join(shown)} FROM usage_daily"
    if conditions:
        sql += f" WHERE {' AND '.join(conditions)}"
    keys = [column for column in columns if column not in SHOWN]
    if keys:
        sql += f" GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}"
    return sql, values
