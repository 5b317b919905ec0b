"""`/v1/account` and `/v1/thanks`: what the key that asks is and may do, and who is thanked for lending."""

from __future__ import annotations

from dataclasses import asdict

from multiverse.errors import PermissionDenied
from multiverse.people.keys import NOBODY
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.people_schemas import AccountSchema
from multiverse.web.schemas import load

ACCOUNT_SCHEMA = AccountSchema()


class AccountHandler(GatewayHandler):
    """`GET` and `PATCH /v1/account`."""

    def admit(self) -> None:
        """Only who has a key has an account."""
        if self.caller is NOBODY:
            raise self.wrong_key()

    def get(self) -> None:
        """The key that asks: its record, what it may use, and what it has used today."""
        gateway, caller = self.gateway, self.caller
        self.set_header("Cache-Control", "no-store")
        self.reply_json(
            {
                **gateway.keyring.own_record(caller),
                "limits": asdict(gateway.allowances.limit_of(caller)),
                "tokens_today": gateway.allowances.tokens_used(caller.key_id),
            }
        )

    async def patch(self) -> None:
        """Change what is the holder's own to decide."""
        changes = load(ACCOUNT_SCHEMA, self.read_json())
        if self.gateway.keyring.own_record(self.caller)["on_thanks_board"] is None:
            raise PermissionDenied("This key stands in the gateway's settings and is nobody's own. Use a key of yours.")
        await self.gateway.keyring.change(self.caller.key_id, changes)
        self.get()


class ThanksHandler(GatewayHandler):
    """`GET /v1/thanks`."""

    async def get(self) -> None:
        """Who has given how much, by name where it was asked for."""
        self.reply_json(await self.gateway.thanks.document(self.caller.key_id))
