"""`/admin/aliases`: names that stand for models, and what stands in for a model that cannot answer."""

from __future__ import annotations

from typing import Any

from multiverse.errors import InvalidRequest
from multiverse.servers.aliases import Alias
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.people_schemas import AliasSchema
from multiverse.web.schemas import load
from multiverse.web.text_fields import MODEL_NAME, MODEL_NAME_HINT

ALIAS_SCHEMA = AliasSchema()


def alias_record(alias: Alias) -> dict[str, Any]:
    """An alias as it is shown."""
    return {"name": alias.name, "models": list(alias.models), "created_at": alias.created_at}


class AliasesHandler(GatewayHandler):
    """`GET /admin/aliases`."""

    def get(self) -> None:
        """All of them."""
        records = [alias_record(alias) for alias in self.gateway.aliases]
        self.reply_json({"aliases": records, "total": len(records)})


class AliasHandler(GatewayHandler):
    """`PUT` and `DELETE /admin/aliases/{name}`; names with slashes work raw and as `%2F`."""

    async def put(self, name: str) -> None:
        """Let the name stand for these models, the first of which can answer is asked."""
        if not MODEL_NAME.fullmatch(name):
            raise InvalidRequest(f"The name of an alias {MODEL_NAME_HINT}.", param="name")
        models = load(ALIAS_SCHEMA, self.read_json())["models"]
        self.reply_json(alias_record(await self.gateway.aliases.put(name, models)))

    async def delete(self, name: str) -> None:
        """The name stands for nothing else any more."""
        await self.gateway.aliases.remove(name)
        self.reply_json({"message": "Alias removed.", "name": name})
