"""The tables of API keys and claim codes: rows with digests, never a secret.

Coroutines over a `Store`, each one job on its thread. What roles may do and codes are worth is decided in people/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlite_utils import Database

from multiverse.storage.rows import CODE_COLUMNS, KEY_COLUMNS, storable_row
from multiverse.storage.store import Store

Row = dict[str, Any]

# The uses are counted where they are checked, so that two who claim the last one at once cannot both have it.
TAKE_ONE_USE = """
    UPDATE claim_codes SET used = used + 1 WHERE digest = ? AND used < uses AND expires_at > ?
    RETURNING code_id, role, models, key_expires_at
"""


class KeyTable:
    """API keys and claim codes on disk; every change is durable when it returns. Raises StoreFailed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keys(self) -> list[Row]:
        """All keys, oldest first, revoked ones included; `models` is a list or None."""
        return await self._store.read(lambda database: _rows(database, "api_keys"))

    async def add_keys(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """All of them, or none."""
        storable = [storable_row(_with_models(row), KEY_COLUMNS) for row in rows]

        def insert(database: Database) -> None:
            for row in storable:
                _insert(database, "api_keys", row)

        await self._store.write(insert)

    async def change_key(self, key_id: str, changes: Mapping[str, Any]) -> None:
        """Sets the columns in `changes`."""
        storable = storable_row(_with_models(changes), KEY_COLUMNS)
        await self._store.write(lambda database: _update(database, key_id, storable))

    async def codes(self) -> list[Row]:
        """All claim codes, oldest first."""
        return await self._store.read(lambda database: _rows(database, "claim_codes"))

    async def add_code(self, row: Mapping[str, Any]) -> None:
        """A new claim code."""
        storable = storable_row(_with_models(row), CODE_COLUMNS)
        await self._store.write(lambda database: _insert(database, "claim_codes", storable))

    async def delete_code(self, code_id: str) -> bool:
        """True if there was one."""

        def delete(database: Database) -> bool:
            return database.execute("DELETE FROM claim_codes WHERE code_id = ?", [code_id]).rowcount > 0

        return await self._store.write(delete)

    async def claim(self, digest: str, now: str, key_row: Mapping[str, Any]) -> Row | None:
        """Spends one use of the code with this digest on a key; the whole row of that key, None for no such code."""

        def spend(database: Database) -> Row | None:
            found = database.execute(TAKE_ONE_USE, [digest, now]).fetchone()
            if found is None:
                return None
            code_id, role, models, expires_at = found
            row = {**key_row, "code_id": code_id, "role": role, "models": models, "expires_at": expires_at}
            _insert(database, "api_keys", storable_row(row, KEY_COLUMNS))
            return _from_disk(row)

        return await self._store.write(spend)


def _with_models(row: Mapping[str, Any]) -> Row:
    models = row.get("models")
    return dict(row) if models is None else {**row, "models": json.dumps(list(models))}


def _from_disk(row: Row) -> Row:
    return {**row, "models": json.loads(row["models"]) if row["models"] else None}


def _rows(database: Database, table: str) -> list[Row]:
    return [_from_disk(row) for row in database.query(f"SELECT * FROM {table} ORDER BY rowid")]


def _insert(database: Database, table: str, row: Row) -> None:
    places = ", ".join(f":{column}" for column in row)
    database.conn.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", row)


def _update(database: Database, key_id: str, changes: Row) -> None:
    assignments = ", ".join(f"{column} = :{column}" for column in changes)
    database.conn.execute(f"UPDATE api_keys SET {assignments} WHERE key_id = :of_key", {**changes, "of_key": key_id})
