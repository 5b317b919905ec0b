"""`/admin/usage`, `/admin/ledger`, `/v1/usage`: who used what, and who gave it; sums, never a word of what was said.

What the sums are made of is storage/usage_table.py's business.
"""

from __future__ import annotations

import asyncio
from typing import Any

from multiverse.people.keys import NOBODY
from multiverse.storage.usage_table import GROUPS, SUMS
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.people_schemas import FormatQuerySchema, OwnUsageQuerySchema, UsageQuerySchema, write_csv
from multiverse.web.schemas import load

USAGE_QUERY_SCHEMA, OWN_USAGE_QUERY_SCHEMA = UsageQuerySchema(), OwnUsageQuerySchema()
LEDGER_QUERY_SCHEMA = FormatQuerySchema()
PEOPLE_COLUMNS = ["person", "name", "tokens_given", "tokens_taken", "requests_given", "requests_taken"]


class ReportHandler(GatewayHandler):
    """Reports of usage."""

    async def reply_report(self, query: dict[str, Any], filters: dict[str, str], **more: Any) -> None:
        """The sums that `query` asks for, as JSON with their totals, or as CSV."""
        group_by, since, until = query.get("group_by", ["day"]), query.get("since"), query.get("until")
        rows = await self.gateway.usage_table.report(group_by, since=since, until=until, filters=filters)
        if query.get("format") == "csv":
            columns = [column for name in group_by for column in GROUPS[name]]
            # A year of a class by day and key is a hundred thousand rows: not in the loop.
            self.reply_csv("usage.csv", await asyncio.to_thread(write_csv, [*columns, *SUMS], rows))
            return
        totals = await asyncio.to_thread(_totals, rows)
        self.reply_json(
            {"since": since, "until": until, "group_by": group_by, "rows": rows, "totals": totals, **more},
        )


def _totals(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in SUMS}


class UsageHandler(ReportHandler):
    """`GET /admin/usage`."""

    async def get(self) -> None:
        """Everybody's usage."""
        query = load(USAGE_QUERY_SCHEMA, first_values(self.request))
        await self.reply_report(query, {name: query[name] for name in query if name in self.filters()})

    def filters(self) -> tuple[str, ...]:
        """What the report can be narrowed down to."""
        return ("model_name", "key_id", "registration_id")


class OwnUsageHandler(ReportHandler):
    """`GET /v1/usage`."""

    async def get(self) -> None:
        """The usage of the key that asks, and what its owner has given and taken."""
        if self.caller is NOBODY:
            raise self.wrong_key()
        query = load(OWN_USAGE_QUERY_SCHEMA, first_values(self.request))
        key_id = self.caller.key_id
        people = await self.gateway.usage_table.people(key_id)
        given, taken = (people[0][name] if people else 0 for name in ("tokens_given", "tokens_taken"))
        await self.reply_report(
            query,
            {"key_id": key_id, **({"model_name": query["model_name"]} if "model_name" in query else {})},
            key_id=key_id,
            name=self.caller.name,
            role=self.caller.role,
            tokens_given=given,
            tokens_taken=taken,
        )


class LedgerHandler(GatewayHandler):
    """`GET /admin/ledger`."""

    async def get(self) -> None:
        """Tokens given and taken, by person."""
        wanted = load(LEDGER_QUERY_SCHEMA, first_values(self.request)).get("format")
        people = await self.gateway.usage_table.people()
        if wanted == "csv":
            self.reply_csv("ledger.csv", write_csv(PEOPLE_COLUMNS, people))
        else:
            self.reply_json({"people": people, "total": len(people)})
