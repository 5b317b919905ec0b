"""Thanks: what lenders have given to others, by name only for those who asked for it with their own key.

Read anew each time: the ledger's sums have one row for two people, however much they gave each other.
"""

from __future__ import annotations

from typing import Any

from multiverse.people.keyring import KeyRing
from multiverse.storage.usage_table import UsageTable


class ThanksBoard:
    """Who gave how much to others. Raises StoreFailed."""

    def __init__(self, *, table: UsageTable, keyring: KeyRing) -> None:
        self._table = table
        self._keyring = keyring

    async def document(self, key_id: str) -> dict[str, Any]:
        """Those who want to be named, most given first (`you` marks the one with `key_id`), and the sum of the rest."""
        gifts = sorted(await self._table.given(), key=lambda gift: (-gift["tokens"], gift["giver"]))
        names = self._keyring.thanked()
        others = [gift for gift in gifts if gift["giver"] not in names]
        return {
            "people": [
                {
                    "name": names[gift["giver"]],
                    "tokens_given": gift["tokens"],
                    "requests_given": gift["requests"],
                    "you": gift["giver"] == key_id,
                }
                for gift in gifts
                if gift["giver"] in names
            ],
            "others": {"people": len(others), "tokens_given": sum(gift["tokens"] for gift in others)},
            "tokens_given": sum(gift["tokens"] for gift in gifts),
            "requests_given": sum(gift["requests"] for gift in gifts),
        }
