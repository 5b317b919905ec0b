"""From a host name to an open connection: resolve off the loop, ask the address policy, connect.

The policy is asked about every resolved address at every dial, so a name that changes its mind between registration
and use (DNS rebinding) gains nothing. Timeouts live with the exchange that waits; cancelling a dial frees everything.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from multiverse.transport.addresses import AddressPolicy, Endpoint, ForbiddenAddress
from multiverse.transport.failures import AddressRefused, ConnectFailed, NameNotResolved, TLSFailed

RESOLVED_FOR_SECONDS = 30.0
MAX_REMEMBERED_NAMES = 1024
FIRST_ADDRESS_SECONDS = 1.5

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class Dialler:
    """Opens connections to endpoints the policy permits. `tls_context` defaults to the system's trust store."""

    def __init__(self, policy: AddressPolicy, *, tls_context: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._tls_context = tls_context
        self._resolved: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def dial(self, endpoint: Endpoint, protocol_factory: Callable[[], ProtocolT]) -> ProtocolT:
        """An open connection to `endpoint`.

        Raises ConnectFailed or one of its kinds; nothing has been sent then.
        """
        addresses = await self._permitted_addresses(endpoint)
        failure: ConnectFailed = ConnectFailed()
        for position, address in enumerate(addresses):
            is_last = position == len(addresses) - 1
            try:
                # A first address that swallows packets (IPv6 without a route) must leave time for the second.
                async with asyncio.timeout(None if is_last else FIRST_ADDRESS_SECONDS):
                    return await self._connect(endpoint, address, protocol_factory)
            except TimeoutError:
                failure = ConnectFailed("the server's machine does not answer")
            except ConnectFailed as error:
                failure = error
        self._resolved.pop((endpoint.host, endpoint.port), None)
        raise failure

    async def check(self, endpoint: Endpoint) -> None:
        """Ask the policy about `endpoint` without dialling.

        Raises AddressRefused, or NameNotResolved where DNS knows no address.
        """
        await self._permitted_addresses(endpoint)

    async def _permitted_addresses(self, endpoint: Endpoint) -> list[str]:
        try:
            self._policy.check_host(endpoint.host)
        except ForbiddenAddress as error:
            raise AddressRefused() from error
        addresses = self._policy.permitted(await self._resolve(endpoint.host, endpoint.port))
        if not addresses:
            raise AddressRefused()
        return addresses

    async def _resolve(self, host: str, port: int) -> list[str]:
        if _is_literal(host):
            return [host]
        loop = asyncio.get_running_loop()
        known = self._resolved.get((host, port))
        if known is not None and known[0] > loop.time():
            return known[1]
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameNotResolved() from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(self._resolved) >= MAX_REMEMBERED_NAMES:
            self._resolved.clear()
        self._resolved[(host, port)] = (loop.time() + RESOLVED_FOR_SECONDS, addresses)
        return addresses

    async def _connect(self, endpoint: Endpoint, address: str, protocol_factory: Callable[[], ProtocolT]) -> ProtocolT:
        loop = asyncio.get_running_loop()
        secure = endpoint.scheme == "https"
        try:
            _, protocol = await loop.create_connection(
                protocol_factory,
                address,
                endpoint.port,
                ssl=self._context() if secure else None,
                server_hostname=endpoint.host if secure else None,
            )
        except ssl.SSLCertVerificationError as error:
            raise TLSFailed(f"the server's TLS certificate is not valid: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise TLSFailed() from error
        except ConnectionRefusedError as error:
            raise ConnectFailed() from error
        except OSError as error:
            raise (TLSFailed() if secure and isinstance(error, ConnectionError) else _unreachable(error)) from error
        return protocol

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unreachable(error: OSError) -> ConnectFailed:
    if isinstance(error, ConnectionError):
        return ConnectFailed("the server reset the connection while it was being opened")
    return ConnectFailed("the server's machine cannot be reached")
