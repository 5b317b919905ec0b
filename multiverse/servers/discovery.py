"""Finds the servers on a machine of which only the address is known: whoever lends a laptop need not know what it has.

Programs are looked for on the ports on which they listen when nobody says otherwise. Nothing is stored here; that is
registration.py's business.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from multiverse.errors import InvalidRequest
from multiverse.servers.registration import RegistrationService

PROGRAMS: Mapping[int, str] = MappingProxyType({11434: "Ollama", 1234: "LM Studio", 8080: "llama.cpp", 8000: "vLLM"})
NO_MODEL = "it lists no model yet; give it one, for example with `ollama pull llama3.2`"
HOW_TO_LISTEN = (
    "A program has to listen for the network and not for its own machine alone (Ollama: OLLAMA_HOST=0.0.0.0; LM "
    "Studio: Serve on Local Network; llama.cpp and vLLM: --host 0.0.0.0), and the machine's firewall has to let the "
    "gateway in. From another network, send the address of a tunnel as `endpoint_url`."
)


@dataclass(frozen=True, slots=True)
class Found:
    """What is at `endpoint_url`: the models that it lists, or the reason why it has none to lend. `place` is where, in
    words for whoever asks.
    """

    place: str
    endpoint_url: str
    models: Sequence[str]
    reason: str | None


class Discovery:
    """Looks for servers through `registrations`, which ask the address policy first."""

    def __init__(self, registrations: RegistrationService) -> None:
        self._registrations = registrations

    async def look(self, addresses: Mapping[str, str], *, api_key: str | None = None) -> list[Found]:
        """What is at each of `addresses`, by place, asked side by side.

        Raises InvalidRequest for one that is malformed or not permitted.
        """
        looks = [self._look_at(place, address, api_key) for place, address in addresses.items()]
        return await asyncio.gather(*looks)

    async def _look_at(self, place: str, address: str, api_key: str | None) -> Found:
        fields: dict[str, Any] = {"endpoint_url": address, "api_key": api_key}
        endpoint_url, result, models = await self._registrations.probe_address(fields)
        return Found(place, endpoint_url, models, None if result.ok and models else result.reason or NO_MODEL)


def usual_addresses(host: str, ports: Iterable[int] = PROGRAMS) -> dict[str, str]:
    """Where servers are looked for on `host`: addresses by their places."""
    known = {port: f" ({program})" for port, program in PROGRAMS.items()}
    return {f"port {port}{known.get(port, '')}": f"http://{host}:{port}" for port in ports}


def host_of_caller(client_address: str) -> str:
    """`client_address` as the host of a URL. Raises InvalidRequest for one that is no address of a machine."""
    try:
        address = ipaddress.ip_address(client_address)
    except ValueError:
        raise _unknown_machine("your address did not arrive here as one") from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.scope_id is not None:
        raise _unknown_machine("you ask from an address that means something on one wire alone")
    return f"[{address}]"


def behind_a_proxy() -> InvalidRequest:
    """The gateway sees its own machine's proxy and nobody behind it."""
    return _unknown_machine("a proxy stands before the gateway, and TRUST_PROXY_HEADERS is not set")


def _unknown_machine(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"Which machine is yours cannot be told: {why}. Send the server's address as `endpoint_url`.",
        param="endpoint_url",
    )


def nothing_found(found: Sequence[Found], *, seen_at: str) -> str:
    """Why none of `found` can be lent, and what to do; `seen_at` is the caller's own address."""
    places_by_reason: dict[str, list[str]] = {}
    for server in found:
        places_by_reason.setdefault(str(server.reason), []).append(server.place)
    reasons = "; ".join(f"{', '.join(places)}: {reason}" for reason, places in places_by_reason.items())
    end = "" if reasons.endswith((".", "?", "!")) else "."
    return f"No server was found that can be lent. You ask from {seen_at}; {reasons}{end} {HOW_TO_LISTEN}"
