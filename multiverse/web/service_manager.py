"""Tells systemd, where it waits for word, that the port is open and that the end has begun.

The protocol is sd_notify(3): one datagram of NAME=value lines to a Unix socket. For a unit with `Type=notify` the
start is over when the gateway listens, and has failed when it ends before that.
"""

from __future__ import annotations

import logging
import socket

LOG = logging.getLogger(__name__)


class ServiceManager:
    """Whoever listens at `address`, a path or `@name` in the abstract namespace (Linux); None = nobody."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def tell_ready(self) -> None:
        """The gateway answers from now on."""
        self._tell("READY=1")

    def tell_stopping(self) -> None:
        """It accepts no new requests, and ends when those under way have ended."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        """Never waits; a manager that cannot be told is a warning, for the gateway can do its work without."""
        if self._address is None:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), name)
        except OSError as error:
            LOG.warning(
                "the service manager at %s cannot be told %s: %s", self._address, state, error.strerror or error
            )
