"""What an owner told us about a server, and how it is kept: the row of the store's `servers` table.

Nothing observed lives here (server.py), and nothing is judged: fields by web/schemas.py, addresses by transport/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from multiverse.transport.addresses import Endpoint, parse_endpoint


@dataclass(frozen=True, slots=True)
class Registration:
    """What an owner told us about a server; on disk it is the row of the same fields."""

    registration_id: str
    model_name: str
    endpoint: Endpoint
    created_at: str
    updated_at: str
    served_model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    owner_name: str | None = None
    owner_email: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    context_length: int | None = None
    max_concurrency: int | None = None
    owner_key_id: str | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Registration:
        """The registration in a row of the store's `servers` table."""
        plain = {name: row.get(name) for name in cls.__slots__ if name not in ("endpoint", "tags")}
        return cls(endpoint=parse_endpoint(row["endpoint_url"]), tags=tuple(row.get("tags") or ()), **plain)  # type: ignore[arg-type]

    def to_row(self) -> dict[str, Any]:
        """The row of the store's `servers` table, without the columns that tell the server's state."""
        row = {name: getattr(self, name) for name in self.__slots__ if name not in ("endpoint", "tags")}
        return {**row, "endpoint_url": self.endpoint.url, "tags": list(self.tags)}
