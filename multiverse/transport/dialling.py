"""From an endpoint to an open connection: resolve off the loop, ask the address policy, connect, secure.

The policy is asked about every resolved address at every dial, so a name that changes its mind between registration
and use (DNS rebinding) gains nothing. Timeouts live with the exchange that waits; cancelling a dial frees everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from multiverse.clock import Clock
from multiverse.open_files import LackLog, check_room, is_own_lack
from multiverse.transport.absence import notice_absence
from multiverse.transport.addresses import AddressPolicy, Endpoint, ForbiddenAddress
from multiverse.transport.failures import AddressRefused, ConnectFailed, NoRoom, TLSFailed
from multiverse.transport.resolving import Lookup, Resolver

FIRST_ADDRESS_SECONDS = 1.5

# OpenSSL's verify codes (x509_vfy.h) in words for the server's owner; its own texts may carry an address.
CERTIFICATE_FAULTS = {
    9: "it is not valid yet; is the clock right?",
    10: "it has expired",
    18: "it is self-signed",
    19: "it is signed by an authority nobody knows (self-signed)",
    20: "it is signed by an authority nobody knows, or an intermediate certificate is missing",
    21: "it is signed by an authority nobody knows, or an intermediate certificate is missing",
    62: "it was issued for another name",
    64: "it was issued for another address",
}
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class Dialler:
    """Opens connections to endpoints the policy permits.

    `tls_context` defaults to the system's trust store; `lookup` answers like `socket.getaddrinfo`, in a thread.
    Connections end when the other machine has acknowledged nothing for `absence_seconds`; 0 = as the system has it.
    What this machine lacks for one more is told to `lack_log`.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        tls_context: ssl.SSLContext | None = None,
        lookup: Lookup = socket.getaddrinfo,
        absence_seconds: float = 0.0,
        lack_log: LackLog | None = None,
    ) -> None:
        self._policy = policy
        self._tls_context = tls_context
        self._absence_seconds = absence_seconds
        self._lack_log = lack_log or LackLog(Clock())
        self._resolver = Resolver(lookup)

    async def dial(
        self, endpoint: Endpoint, protocol_factory: Callable[[], ProtocolT]
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """An open connection to `endpoint`: its TCP transport, which lies beneath TLS if there is any, and protocol.

        Raises ConnectFailed or one of its kinds, and NoRoom; nothing has been sent then.
        """
        try:
            return await self._dial(endpoint, protocol_factory)
        except NoRoom as error:
            self._lack_log.note(error.__cause__ or error)
            raise

    async def _dial(
        self, endpoint: Endpoint, protocol_factory: Callable[[], ProtocolT]
    ) -> tuple[asyncio.Transport, ProtocolT]:
        addresses = await self._permitted_addresses(endpoint)
        failures: list[ConnectFailed] = []
        for position, address in enumerate(addresses):
            # A first address that swallows packets (IPv6 without a route) must leave time for the second.
            limit_seconds = FIRST_ADDRESS_SECONDS if position < len(addresses) - 1 else None
            try:
                return await self._open(endpoint, address, limit_seconds, protocol_factory)
            except ConnectFailed as error:
                failures.append(error)
        self._resolver.forget(endpoint.host, endpoint.port)
        raise failures.pop()  # Popped, so that this frame does not hold what holds this frame.

    async def check(self, endpoint: Endpoint) -> None:
        """Ask the policy about `endpoint` without dialling.

        Raises AddressRefused, NameNotResolved where DNS knows no address, or NoRoom where it could not be asked.
        """
        await self._permitted_addresses(endpoint)

    async def _permitted_addresses(self, endpoint: Endpoint) -> list[str]:
        try:
            self._policy.check_host(endpoint.host)
        except ForbiddenAddress as error:
            raise AddressRefused() from error
        host = endpoint.host
        addresses = [host] if _is_literal(host) else await self._resolver.addresses(host, endpoint.port)
        permitted = self._policy.permitted(addresses)
        if not permitted:
            raise AddressRefused()
        return permitted

    async def _open(
        self, endpoint: Endpoint, address: str, limit_seconds: float | None, protocol_factory: Callable[[], ProtocolT]
    ) -> tuple[asyncio.Transport, ProtocolT]:
        if endpoint.scheme == "https":
            inlet, _ = await self._connect_watched(address, endpoint.port, limit_seconds, asyncio.Protocol)
            return inlet, await self._secure(inlet, endpoint.host, protocol_factory())
        return await self._connect_watched(address, endpoint.port, limit_seconds, protocol_factory)

    async def _connect_watched(
        self, address: str, port: int, limit_seconds: float | None, protocol_factory: Callable[[], ProtocolT]
    ) -> tuple[asyncio.Transport, ProtocolT]:
        transport, protocol = await _connect(address, port, limit_seconds, protocol_factory)
        with contextlib.suppress(OSError):  # It is broken already, as its protocol is told in a moment.
            notice_absence(transport.get_extra_info("socket"), self._absence_seconds)
        return transport, protocol

    async def _secure(self, inlet: asyncio.Transport, host: str, protocol: ProtocolT) -> ProtocolT:
        """TLS on top of an open TCP connection, which is closed when that fails."""
        try:
            context = await self._context()
            if inlet.is_closing():
                raise TLSFailed()
            loop = asyncio.get_running_loop()
            transport = await loop.start_tls(inlet, protocol, context, server_hostname=host)
            if transport is None:  # asyncio's way to say that the server closed in the middle of the handshake.
                raise TLSFailed()
            protocol.connection_made(transport)
        except (OSError, ValueError) as error:
            inlet.abort()
            raise (NoRoom() if is_own_lack(error) else _tls_failure(error)) from error
        except BaseException:
            inlet.abort()
            raise
        return protocol

    async def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            # Reading the trust store takes 40 ms: not in the loop.
            try:
                self._tls_context = await asyncio.get_running_loop().run_in_executor(None, _default_context)
            except RuntimeError as error:  # No thread can be started.
                raise NoRoom() from error
        return self._tls_context


async def _connect(
    address: str, port: int, limit_seconds: float | None, protocol_factory: Callable[[], ProtocolT]
) -> tuple[asyncio.Transport, ProtocolT]:
    try:
        async with asyncio.timeout(limit_seconds):
            return await asyncio.get_running_loop().create_connection(protocol_factory, address, port)
    except TimeoutError as error:
        raise ConnectFailed("the server's machine does not answer") from error
    except ConnectionRefusedError as error:
        raise ConnectFailed() from error
    except ConnectionError as error:
        raise ConnectFailed("the server reset the connection while it was being opened") from error
    except OSError as error:
        if is_own_lack(error) or _no_port_is_free(error, address):
            raise NoRoom() from error
        raise ConnectFailed("the server's machine cannot be reached") from error


def _no_port_is_free(error: OSError, address: str) -> bool:
    """Whether all local ports are taken; of IPv6, the same number says that this machine does not have it."""
    return error.errno == errno.EADDRNOTAVAIL and ":" not in address


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    check_room()  # Without, OpenSSL has left out silently what it could not open, and would trust nobody from now on.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _tls_failure(error: OSError | ValueError) -> TLSFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = CERTIFICATE_FAULTS.get(error.verify_code, error.verify_message)
        return TLSFailed(f"the server's TLS certificate is not valid: {fault}")
    if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
        return TLSFailed("the server does not speak TLS; does its address start with http:// instead of https://?")
    return TLSFailed()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
