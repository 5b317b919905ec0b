"""Names that stand for models: `class-default` for whichever is used this week, or a model and what stands in for it.

An alias has models in order: the first whose servers can answer is asked. They are taken literally; a name in its own
list is the model of that name. Store first, memory second; a request looks a name up and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multiverse.clock import Clock, unix_from_iso
from multiverse.errors import InvalidRequest, ModelNotFound
from multiverse.storage.alias_table import AliasTable

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """A name and the models it stands for, in order."""

    name: str
    models: tuple[str, ...]
    created_at: str

    @property
    def created_unix(self) -> float:
        """When it was made, in seconds since 1970."""
        return unix_from_iso(self.created_at)


class Aliases:
    """All aliases. Raises StoreFailed, with nothing changed."""

    def __init__(self, *, table: AliasTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._by_name: dict[str, Alias] = {}

    async def load(self) -> None:
        """Make those on disk known."""
        for row in await self._table.aliases():
            self._by_name[row["name"]] = Alias(row["name"], tuple(row["models"]), row["created_at"])

    def __iter__(self) -> Iterator[Alias]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Alias | None:
        """The alias of this name."""
        return self._by_name.get(name)

    def models_of(self, name: str) -> tuple[str, ...]:
        """What to ask when somebody asks for `name`, in order; just itself when it is no alias."""
        alias = self._by_name.get(name)
        return (name,) if alias is None else alias.models

    async def put(self, name: str, models: Sequence[str]) -> Alias:
        """Let `name` stand for `models`. Raises InvalidRequest when that would lead nowhere."""
        if tuple(models) == (name,):
            raise InvalidRequest("A name that stands only for itself is no alias. Name another model.", param="models")
        through = [model for model in models if model != name and model in self._by_name]
        through = [model for model in through if model not in self._by_name[model].models]
        if through:
            raise InvalidRequest(
                f"'{through[0]}' is an alias itself; name the models that it stands for.", param="models"
            )
        known = self._by_name.get(name)
        alias = Alias(name, tuple(models), known.created_at if known else self._clock.utc_iso())
        await self._table.save(name, models, alias.created_at)
        self._by_name[name] = alias
        LOG.info("alias set", extra={"fields": {"alias": name, "models": list(models)}})
        return alias

    async def remove(self, name: str) -> None:
        """The name is an ordinary one again. Raises ModelNotFound."""
        if name not in self._by_name:
            raise ModelNotFound("No alias has this name. GET /admin/aliases lists them all.")
        await self._table.delete(name)
        self._by_name.pop(name, None)
        LOG.info("alias removed", extra={"fields": {"alias": name}})
