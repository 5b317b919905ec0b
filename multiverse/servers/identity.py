"""What an owner told us about a server, and how it is kept: the row of the store's `servers` table.

Nothing observed lives here (server.py), and nothing is judged: fields by web/schemas.py, addresses by transport/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from multiverse.transport.addresses import Endpoint, parse_endpoint

ME, FRIENDS, CLASS = "me", "friends", "class"
LISTS, SWITCHES = ("tags", "friends"), ("reserve_slot", "paused")
PRETEND = "pretend"


@dataclass(frozen=True, slots=True)
class Registration:
    """What an owner told us about a server; on disk it is the row of the same fields.

    From `offered_to` on it is the terms on which the server is lent (terms.py); `friends` are ids of keys.
    """

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
    offered_to: str = CLASS
    friends: tuple[str, ...] = ()
    reserve_slot: bool = False
    paused: bool = False
    quiet_hours: str | None = None
    time_zone: str | None = None
    daily_token_cap: int | None = None

    @property
    def pretend(self) -> bool:
        """Whether this is one of the classroom's: by name, tag and place, since nothing else outlives a restart."""
        marked = PRETEND in self.tags and self.model_name.startswith(f"{PRETEND}/")
        return marked and self.endpoint.host == "127.0.0.1"

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Registration:
        """The registration in a row of the store's `servers` table."""
        shaped = ("endpoint", "offered_to", *LISTS, *SWITCHES)
        plain = {name: row.get(name) for name in cls.__slots__ if name not in shaped}
        lists = {name: tuple(row.get(name) or ()) for name in LISTS}
        switches = {name: bool(row.get(name)) for name in SWITCHES}
        offered_to = row.get("offered_to") or CLASS
        endpoint = parse_endpoint(row["endpoint_url"])
        return cls(endpoint=endpoint, offered_to=offered_to, **lists, **switches, **plain)  # type: ignore[arg-type]

    def to_row(self) -> dict[str, Any]:
        """The row of the store's `servers` table, without the columns that tell the server's state."""
        row = {name: getattr(self, name) for name in self.__slots__ if name != "endpoint"}
        lists = {name: list(row[name]) for name in LISTS}
        return {**row, **lists, "endpoint_url": self.endpoint.url}
