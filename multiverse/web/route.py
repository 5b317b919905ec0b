"""What a route is: its path, who may call it, and what goes in. The table of them is routes.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.schemas import Schema

# "owner": an admin, or a student for the servers registered with that student's key.
Access = Literal["anyone", "client", "owner", "admin"]

STATIC_NAME = r"([A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*)"
REGISTRATION_ID = KEY_ID = CODE_ID = "([^/]+)"
REQUEST_ID = "([A-Za-z0-9._+/=-]{1,200})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row. `shown` is the path as people write it, `pattern` as Tornado matches it; `methods` has the documented
    ones with a sentence each. `request_schema` set means that the body is JSON.
    """

    shown: str
    pattern: str
    handler: type[GatewayHandler]
    access: Access
    methods: dict[str, str]
    request_schema: type[Schema] | None = None
    query_schema: type[Schema] | None = None
    answers_while_draining: bool = False
