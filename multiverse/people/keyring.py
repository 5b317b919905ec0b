"""The keys that people hold: made, changed, revoked, and traded for claim codes. Store first, memory second.

A secret leaves here once, when it is made; what is kept is its digest. Revoking is the mirror: memory first, so that a
key is dead before the answer goes out. What fields may hold is judged by web/people_schemas.py.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from multiverse.clock import Clock, iso_from_unix, unix_from_iso
from multiverse.errors import ClaimCodeNotValid, KeyNotFound
from multiverse.people.keys import STUDENT, Caller, Keys, digest_of
from multiverse.storage.key_table import KeyTable

LOG = logging.getLogger(__name__)

PREFIX = "mv-"
# Without what is read wrongly from a blackboard: 0 O, 1 I L, U V. Thirty letters, so ten of them are 49 bits.
CODE_LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 10
RECORD_FIELDS = (
    "key_id",
    "name",
    "email",
    "role",
    "models",
    "weight",
    "requests_per_minute",
    "tokens_per_day",
    "requests_at_once",
    "on_thanks_board",
    "hint",
    "expires_at",
    "created_at",
    "revoked_at",
)
CODE_FIELDS = ("code_id", "role", "models", "uses", "used", "expires_at", "key_expires_at", "created_at")
OPTIONAL_FIELDS = ("email", "models", "requests_per_minute", "tokens_per_day", "requests_at_once", "expires_at")

Record = dict[str, Any]


class KeyRing:
    """Keys beyond those of the settings. Raises StoreFailed, with nothing changed."""

    def __init__(self, *, keys: Keys, table: KeyTable, clock: Clock) -> None:
        self._keys = keys
        self._table = table
        self._clock = clock
        self._rows: dict[str, Record] = {}

    async def load(self) -> None:
        """Make the keys on disk known."""
        for row in await self._table.keys():
            try:
                self._know(row)
            except (TypeError, ValueError):
                fields = {"key_id": row["key_id"]}
                LOG.error("key skipped: its row cannot be understood", extra={"fields": fields})

    def _know(self, row: Record) -> None:
        if row["revoked_at"] is None:
            self._keys.put(bytes.fromhex(row["digest"]), caller_of(row))
        self._rows[row["key_id"]] = row

    # -- keys ----------------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All keys, oldest first, revoked ones included."""
        return [self._record(row) for row in self._rows.values()]

    def record(self, key_id: str) -> Record:
        """One key. Raises KeyNotFound."""
        return self._record(self._row(key_id))

    def own_record(self, caller: Caller) -> Record:
        """The record of whoever calls; a key of the settings has none here, only what is known of its caller."""
        if caller.key_id in self._rows:
            return self.record(caller.key_id)
        known = {"key_id": caller.key_id, "name": caller.name, "role": caller.role, "weight": caller.weight}
        return {**dict.fromkeys(RECORD_FIELDS), **known, "status": "active"}

    def thanked(self) -> dict[str, str]:
        """Who wants to be thanked by name: names by `key_id`. With a revoked key nobody could take it back."""
        rows = self._rows.values()
        return {row["key_id"]: row["name"] for row in rows if row["on_thanks_board"] and row["revoked_at"] is None}

    def email_of(self, key_id: str) -> str | None:
        """The e-mail of who holds a key; None for a key that is gone or revoked, or has none."""
        row = self._rows.get(key_id)
        return None if row is None or row["revoked_at"] is not None else row["email"]

    def _row(self, key_id: str) -> Record:
        row = self._rows.get(key_id)
        if row is None:
            raise KeyNotFound("No key has this id. GET /admin/keys lists them all.")
        return row

    def _record(self, row: Record) -> Record:
        record = {name: row[name] for name in RECORD_FIELDS}
        return {**record, "on_thanks_board": bool(row["on_thanks_board"]), "status": self._status(row)}

    def _status(self, row: Record) -> str:
        if row["revoked_at"] is not None:
            return "revoked"
        expires_at = row["expires_at"]
        expired = expires_at is not None and unix_from_iso(expires_at) <= self._clock.unix_seconds()
        return "expired" if expired else "active"

    async def create(self, people: Sequence[Record]) -> list[tuple[Record, str]]:
        """One key for each of `people`, all or none: its record, and its secret, which nobody can read again."""
        made = [self._new_row(fields) for fields in people]
        await self._table.add_keys(row for row, _secret in made)
        for row, _secret in made:
            self._know(row)
        LOG.info("keys made", extra={"fields": {"keys": [row["key_id"] for row, _secret in made]}})
        return [(self._record(row), secret) for row, secret in made]

    def _new_row(self, fields: Record) -> tuple[Record, str]:
        secret = PREFIX + secrets.token_urlsafe(32)
        row = {
            **dict.fromkeys(OPTIONAL_FIELDS),
            "role": STUDENT,
            "weight": 1,
            "on_thanks_board": False,
            **fields,
            "key_id": f"key-{secrets.token_hex(6)}",
            "digest": digest_of(secret).hex(),
            "hint": secret[-4:],
            "code_id": None,
            "created_at": self._clock.utc_iso(),
            "revoked_at": None,
        }
        return row, secret

    async def change(self, key_id: str, changes: Record) -> Record:
        """Change fields; None clears an optional one. Raises KeyNotFound, also for one that is revoked."""
        self._living(key_id)
        if not changes:
            return self.record(key_id)
        await self._table.change_key(key_id, changes)
        self._know({**self._row(key_id), **changes})
        self._living(key_id)  # It may have been revoked meanwhile.
        LOG.info("key changed", extra={"fields": {"key_id": key_id, "changed": sorted(changes)}})
        return self.record(key_id)

    def _living(self, key_id: str) -> Record:
        row = self._row(key_id)
        if row["revoked_at"] is not None:
            raise KeyNotFound("This key was revoked. Make a new one.")
        return row

    async def revoke(self, key_id: str) -> Record:
        """The key is nobody's from now on, before anything is written. Raises KeyNotFound."""
        row = self._row(key_id)
        if row["revoked_at"] is None:
            self._keys.drop(key_id)
            # Before anything is awaited: a change that is being written must not bring the key back.
            row["revoked_at"] = revoked_at = self._clock.utc_iso()
            try:
                await self._table.change_key(key_id, {"revoked_at": revoked_at})
            except Exception:
                # It would be back after a restart, so say so now rather than then.
                self._know({**self._row(key_id), "revoked_at": None})
                raise
            LOG.info("key revoked", extra={"fields": {"key_id": key_id}})
        return self.record(key_id)

    # -- claim codes ---------------------------------------------------------------------------------------------------

    async def create_code(self, fields: Record) -> tuple[Record, str]:
        """A code that `uses` people can trade for a key of their own during `lifetime_minutes`; (record, code)."""
        code = "".join(secrets.choice(CODE_LETTERS) for _position in range(CODE_LENGTH))
        row = {
            "code_id": f"code-{secrets.token_hex(6)}",
            "digest": digest_of(code).hex(),
            "role": fields.get("role", STUDENT),
            "models": fields.get("models"),
            "uses": fields["uses"],
            "used": 0,
            "expires_at": iso_from_unix(self._clock.unix_seconds() + fields["lifetime_minutes"] * 60),
            "key_expires_at": fields.get("key_expires_at"),
            "created_at": self._clock.utc_iso(),
        }
        await self._table.add_code(row)
        LOG.info("claim code made", extra={"fields": {"code": row["code_id"], "uses": row["uses"]}})
        return {name: row[name] for name in CODE_FIELDS}, f"{code[:5]}-{code[5:]}"

    async def codes(self) -> list[Record]:
        """All claim codes, spent and expired ones included, without the codes themselves."""
        return [{name: row[name] for name in CODE_FIELDS} for row in await self._table.codes()]

    async def withdraw_code(self, code_id: str) -> None:
        """Nobody can claim with it from now on; keys that were claimed stay. Raises ClaimCodeNotValid."""
        if not await self._table.delete_code(code_id):
            raise ClaimCodeNotValid("No claim code has this id. GET /admin/claim-codes lists them all.")

    async def claim(self, code: str, fields: Record) -> tuple[Record, str]:
        """Trade a code for a key; its record and secret. Raises ClaimCodeNotValid, with one text for all reasons."""
        letters = "".join(letter for letter in code.upper() if letter.isalnum())
        row, secret = self._new_row(fields)
        claimed = await self._table.claim(digest_of(letters).hex(), self._clock.utc_iso(), row)
        if claimed is None:
            raise ClaimCodeNotValid(
                "This claim code is wrong, has expired or is used up. Check it letter by letter, or ask for a new one."
            )
        self._know(claimed)
        LOG.info("key claimed", extra={"fields": {"key_id": claimed["key_id"], "code": claimed["code_id"]}})
        return self._record(claimed), secret


def caller_of(row: Record) -> Caller:
    """The caller that a row of the table of keys stands for."""
    expires_at, models = row["expires_at"], row["models"]
    return Caller(
        name=row["name"],
        role=row["role"],
        key_id=row["key_id"],
        models=None if models is None else frozenset(models),
        expires_unix=None if expires_at is None else unix_from_iso(expires_at),
        weight=row["weight"],
        requests_per_minute=row["requests_per_minute"],
        tokens_per_day=row["tokens_per_day"],
        requests_at_once=row["requests_at_once"],
    )
