"""Finds out that the machine at the other end is gone: a closed lid says no goodbye, and silence alone means nothing.

The kernel knows whether a machine still acknowledges what it gets, however busy the program on it is. It asks while
nothing else is on its way (TCP keep-alive, RFC 9293 §3.8.4) and gives up after `seconds` (RFC 5482). Linux does so as
well when a program leaves unread what does not fit into its window: such requests need `bear_with_slow_reading`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import Callable
from typing import Protocol

LOOKS = 4
# The last two: what a router or the system itself says of a machine that has left the network.
ERRORS_OF_ABSENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
# What Linux takes.
LONGEST_INTERVAL_SECONDS, MOST_LOOKS, LONGEST_TIMEOUT_MS = 32_767, 127, 2**31 - 1


class SocketOptions(Protocol):
    """A socket, or what a transport shows of one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """As `socket.socket` has it."""

    def getsockopt(self, level: int, option: int, /) -> int:
        """Likewise."""


def notice_absence(connection: SocketOptions, seconds: float) -> None:
    """Let `connection` end with an OSError when its other machine has acknowledged nothing for `seconds`.

    On a listening socket it holds for every connection accepted there. 0 leaves it to the system: hours of silence, or
    a quarter of an hour with something to send. Systems without an option do what they can with the others, and ask no
    more often than once a second.
    """
    if seconds <= 0:
        return
    interval_seconds = min(max(int(seconds / LOOKS), 1), LONGEST_INTERVAL_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": interval_seconds,
        "TCP_KEEPALIVE": interval_seconds,  # macOS' name for it
        "TCP_KEEPINTVL": interval_seconds,
        "TCP_KEEPCNT": min(max(math.ceil(seconds / interval_seconds) - 1, 1), MOST_LOOKS),
        "TCP_USER_TIMEOUT": min(math.ceil(seconds * 1000), LONGEST_TIMEOUT_MS),
    }
    for name, value in options.items():
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def bear_with_slow_reading(connection: SocketOptions) -> Callable[[], None]:
    """Let the other machine take its time to read what is sent now; call the result when it has.

    Until all of it has been acknowledged, nobody notices that the machine is gone.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    timeout_ms = 0

    def set_timeout(milliseconds: int) -> None:
        if option is not None and timeout_ms:
            with contextlib.suppress(OSError, ValueError):  # It is closed; ValueError is uvloop's word for that.
                connection.setsockopt(socket.IPPROTO_TCP, option, milliseconds)

    with contextlib.suppress(OSError, ValueError):
        timeout_ms = 0 if option is None else connection.getsockopt(socket.IPPROTO_TCP, option)
    set_timeout(0)
    return lambda: set_timeout(timeout_ms)


def tells_absence(error: Exception | None) -> bool:
    """Whether a connection ended with `error` because the other machine was gone."""
    return isinstance(error, OSError) and error.errno in ERRORS_OF_ABSENCE
