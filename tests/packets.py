"""What a closed lid does to a connection: its packets arrive nowhere, and nobody acknowledges them (Linux only)."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Protocol

SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
RETURN_CONSTANT = 0x06  # BPF_RET | BPF_K: how many bytes of a packet get through


class Filterable(Protocol):
    """A socket, or what a transport shows of one."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None: ...


def drop_all_packets(connection: Filterable) -> None:
    """Have the kernel drop whatever comes for `connection` before TCP sees it, with a socket filter (socket(7))."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", RETURN_CONSTANT, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
