"""SERVERS_FILE: what registers servers in an empty store, where a PaaS throws the disk away with every deploy.

The file is what `multiverse servers export` writes. It is read before the port opens, so that a bad one stops the
start; its servers are registered behind the open port, side by side, as anybody's registration is.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec

from multiverse.config import ConfigError
from multiverse.errors import GatewayError
from multiverse.gateway import Gateway
from multiverse.web.handlers.admin import REGISTER_SCHEMA, registration_fields, with_friends_known
from multiverse.web.schemas import load

LOG = logging.getLogger(__name__)

Registered = tuple[dict[str, Any], bool]


def read_servers_file(path: str) -> list[Registered]:
    """The registrations in the file at `path`. Raises ConfigError, which says what is wrong with which of them."""
    try:
        document = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"SERVERS_FILE must be readable ({error.strerror})") from None
    except (msgspec.DecodeError, ValueError):
        raise ConfigError("SERVERS_FILE must be JSON, as `multiverse servers export` writes it") from None
    entries = document.get("servers") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ConfigError('SERVERS_FILE must hold {"servers": [...]}, as `multiverse servers export` writes it')
    loaded = []
    for number, entry in enumerate(entries, 1):
        try:
            loaded.append(registration_fields(load(REGISTER_SCHEMA, entry)))
        except GatewayError as error:
            raise ConfigError(f"SERVERS_FILE must hold registrations; number {number}: {error.message}") from None
    return loaded


async def seed(gateway: Gateway, entries: list[Registered]) -> None:
    """Register `entries` if nothing is registered yet; what is refused is logged, and the others go on."""
    if gateway.registry.servers:
        return
    await asyncio.gather(*(_register(gateway, *entry) for entry in entries))


async def _register(gateway: Gateway, fields: dict[str, Any], require_healthy: bool) -> None:
    try:
        fields = with_friends_known(fields, gateway.keys)
        await gateway.registrations.register(fields, require_healthy=require_healthy)
    except GatewayError as error:
        told = {"model": fields["model_name"], "reason": error.message}
        LOG.warning("a server of SERVERS_FILE was not registered", extra={"fields": told})
