"""`/admin/keys`, `/admin/claim-codes` and `/claim`: who has a key, and how one comes by it.

Thin on purpose: schemas judge the input, people/keyring.py does the work. A secret is in one answer only: in that which
made it, and which nobody may cache (RFC 9111 §5.2.2.5).
"""

from __future__ import annotations

from typing import Any

from multiverse.errors import ClaimCodeNotValid, InvalidAPIKey, RateLimitExceeded
from multiverse.people.keyring import RECORD_FIELDS
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.handlers.pages import PageHandler
from multiverse.web.people_schemas import (
    ChangeKeySchema,
    ClaimCodeSchema,
    ClaimSchema,
    CreateKeySchema,
    FormatQuerySchema,
    RosterSchema,
    read_roster,
    write_csv,
)
from multiverse.web.schemas import load

CREATE_KEY_SCHEMA, CHANGE_KEY_SCHEMA, ROSTER_SCHEMA = CreateKeySchema(), ChangeKeySchema(), RosterSchema()
CLAIM_CODE_SCHEMA, CLAIM_SCHEMA, FORMAT_QUERY_SCHEMA = ClaimCodeSchema(), ClaimSchema(), FormatQuerySchema()
EXPORTED = [*RECORD_FIELDS, "status"]


class SecretHandler(GatewayHandler):
    """Answers that hold a secret."""

    def reply_secret(self, document: dict[str, Any]) -> None:
        """201 with `document`, to be kept by nobody on the way."""
        self.set_header("Cache-Control", "no-store")
        self.reply_json(document, status=201)


class KeysHandler(SecretHandler):
    """`POST` and `GET /admin/keys`."""

    async def post(self) -> None:
        """Make a key; the answer is the only one that shows it."""
        fields = load(CREATE_KEY_SCHEMA, self.read_json())
        ((record, secret),) = await self.gateway.keyring.create([fields])
        self.reply_secret({**record, "key": secret, "message": "Note the key now: it is not shown again."})

    def get(self) -> None:
        """All keys, without their secrets."""
        wanted = load(FORMAT_QUERY_SCHEMA, first_values(self.request)).get("format")
        records = self.gateway.keyring.records()
        if wanted == "csv":
            self.reply_csv("keys.csv", write_csv(EXPORTED, records))
        else:
            self.reply_json({"keys": records, "total": len(records)})


class KeyHandler(GatewayHandler):
    """`GET`, `PATCH` and `DELETE /admin/keys/{key_id}`."""

    def get(self, key_id: str) -> None:
        """One key, without its secret."""
        self.reply_json(self.gateway.keyring.record(key_id))

    async def patch(self, key_id: str) -> None:
        """Change the fields that are sent; null clears an optional one."""
        self.gateway.keyring.record(key_id)
        changes = load(CHANGE_KEY_SCHEMA, self.read_json())
        self.reply_json(await self.gateway.keyring.change(key_id, changes))

    async def delete(self, key_id: str) -> None:
        """Revoke: the key works no more when the answer is there, and what was asked with it has ended."""
        record = await self.gateway.keyring.revoke(key_id)
        self.gateway.proxy.end_all(InvalidAPIKey, of_key=key_id)
        self.reply_json({**record, "message": "Key revoked."})


class RosterHandler(SecretHandler):
    """`POST /admin/keys/import`."""

    async def post(self) -> None:
        """A key for everybody on the roster, or for nobody when a line is wrong."""
        fields = load(ROSTER_SCHEMA, self.read_json())
        people = [{**fields, **person} for person in read_roster(fields.pop("csv"))]
        made = await self.gateway.keyring.create(people)
        records = [{**record, "key": secret} for record, secret in made]
        self.reply_secret({"keys": records, "total": len(records)})


class ClaimCodesHandler(SecretHandler):
    """`POST` and `GET /admin/claim-codes`."""

    async def post(self) -> None:
        """Make a code; the answer is the only one that shows it."""
        record, code = await self.gateway.keyring.create_code(load(CLAIM_CODE_SCHEMA, self.read_json()))
        self.reply_secret({**record, "code": code, "message": "Note the code now: it is not shown again."})

    async def get(self) -> None:
        """All codes and how often they were used, without the codes themselves."""
        codes = await self.gateway.keyring.codes()
        self.reply_json({"claim_codes": codes, "total": len(codes)})


class ClaimCodeHandler(GatewayHandler):
    """`DELETE /admin/claim-codes/{code_id}`."""

    async def delete(self, code_id: str) -> None:
        """Nobody can claim with it any more."""
        await self.gateway.keyring.withdraw_code(code_id)
        self.reply_json({"message": "Claim code withdrawn.", "code_id": code_id})


class ClaimHandler(PageHandler, SecretHandler):
    """`GET /claim`, the page, and `POST /claim`."""

    template, title = "claim", "Claim a key"

    async def post(self) -> None:
        """Trade a claim code for a key of one's own."""
        fields = load(CLAIM_SCHEMA, self.read_json())
        try:
            record, secret = await self.gateway.keyring.claim(fields.pop("code"), fields)
        except ClaimCodeNotValid:
            wait_seconds = self.gateway.wrong_key_limit.allow(self.counted_address)
            if wait_seconds is None:
                raise
            raise RateLimitExceeded(
                "Too many wrong claim codes from this address. Wait, and check the code.",
                retry_after_seconds=wait_seconds,
            ) from None
        self.reply_secret({**record, "key": secret, "message": "Note the key now: it is not shown again."})
