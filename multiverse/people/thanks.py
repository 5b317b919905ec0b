"""Thanks: what lenders have given to others, by name only for those who asked for it with their own key.

The ledger is only ever added to, so sums are kept and only its new rows are read: a page that is loaded often costs
next to nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from multiverse.people.keyring import KeyRing
from multiverse.storage.usage_table import UsageTable


@dataclass(slots=True)
class _Gift:
    tokens: int = 0
    requests: int = 0


class ThanksBoard:
    """Who gave how much to others. Raises StoreFailed."""

    def __init__(self, *, table: UsageTable, keyring: KeyRing) -> None:
        self._table = table
        self._keyring = keyring
        self._gifts: dict[str, _Gift] = {}
        self._last_id = 0
        self._reading = asyncio.Lock()

    async def document(self, key_id: str) -> dict[str, Any]:
        """Those who want to be named, most given first (`you` marks the one with `key_id`), and the sum of the rest."""
        await self._read_on()
        names = self._keyring.thanked()
        ranked = sorted(self._gifts.items(), key=lambda item: (-item[1].tokens, item[0]))
        others = [gift for person, gift in ranked if person not in names]
        return {
            "people": [
                {
                    "name": names[person],
                    "tokens_given": gift.tokens,
                    "requests_given": gift.requests,
                    "you": person == key_id,
                }
                for person, gift in ranked
                if person in names
            ],
            "others": {"people": len(others), "tokens_given": sum(gift.tokens for gift in others)},
            "tokens_given": sum(gift.tokens for gift in self._gifts.values()),
            "requests_given": sum(gift.requests for gift in self._gifts.values()),
        }

    async def _read_on(self) -> None:
        async with self._reading:  # Two who read the same rows would count them twice.
            last_id, rows = await self._table.given_after(self._last_id)
            for row in rows:
                gift = self._gifts.setdefault(row["giver"], _Gift())
                gift.tokens += row["tokens"]
                gift.requests += row["requests"]
            self._last_id = last_id
