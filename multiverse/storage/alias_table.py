"""The table of model aliases: a name, and the models it stands for, in order.

Coroutines over a `Store`, each one job on its thread. What a name may stand for is decided in servers/aliases.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlite_utils import Database

from multiverse.storage.store import Store

Row = dict[str, Any]

SAVE_ALIAS = """
    INSERT INTO model_aliases (name, models, created_at) VALUES (:name, :models, :created_at)
        ON CONFLICT (name) DO UPDATE SET models = excluded.models
"""


class AliasTable:
    """Aliases on disk; every change is durable when it returns. Raises StoreFailed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def aliases(self) -> list[Row]:
        """All of them, oldest first; `models` is a list."""

        def read(database: Database) -> list[Row]:
            rows = database.query("SELECT * FROM model_aliases ORDER BY rowid")
            return [{**row, "models": json.loads(row["models"])} for row in rows]

        return await self._store.read(read)

    async def save(self, name: str, models: Sequence[str], created_at: str) -> None:
        """A new alias, or other models for one that is there."""
        row = {"name": name, "models": json.dumps(list(models)), "created_at": created_at}

        def write(database: Database) -> None:
            database.conn.execute(SAVE_ALIAS, row)

        await self._store.write(write)

    async def delete(self, name: str) -> None:
        """No longer an alias."""

        def write(database: Database) -> None:
            database.conn.execute("DELETE FROM model_aliases WHERE name = ?", [name])

        await self._store.write(write)
