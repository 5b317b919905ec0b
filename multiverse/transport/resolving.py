"""From a host name to its addresses, off the loop and in daemon threads of its own.

A lookup can hang for half a minute and cannot be cancelled. In the loop's shared executor a few such names would hold
up every other name, and the end of the process; here each name is looked up once at a time, whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from multiverse.transport.failures import NameNotResolved

RESOLVED_FOR_SECONDS = 30.0
MAX_REMEMBERED_NAMES = 1024
MAX_THREADS = 32

Name = tuple[str, int]
Lookup = Callable[..., list[Any]]


class Resolver:
    """Looks names up with `lookup`, which is `socket.getaddrinfo` or answers like it; belongs to one event loop."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._known: dict[Name, tuple[float, list[str]]] = {}
        self._under_way: dict[Name, asyncio.Future[list[str] | None]] = {}
        self._waiting: deque[Name] = deque()
        self._threads = 0

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, in the order in which they should be tried; remembered for a short while.

        Raises NameNotResolved.
        """
        loop = asyncio.get_running_loop()
        name = (host, port)
        known = self._known.get(name)
        if known is not None and known[0] > loop.time():
            return known[1]
        lookup = self._under_way.get(name)
        if lookup is None:
            lookup = self._under_way[name] = loop.create_future()
            self._waiting.append(name)
            self._start_thread(loop)
        found = await asyncio.shield(lookup)  # Whoever stops waiting must not end it for the others.
        if found is None:
            raise NameNotResolved()
        return found

    def forget(self, host: str, port: int) -> None:
        """These addresses are of no use: ask again next time."""
        self._known.pop((host, port), None)

    # -- in the loop ---------------------------------------------------------------------------------------------------

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and self._threads < MAX_THREADS:
            self._threads += 1
            threading.Thread(target=self._look_up_names, args=(loop,), name="resolver", daemon=True).start()

    def _thread_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads -= 1
        self._start_thread(loop)  # A name may have come while the thread was on its way out.

    def _finish(self, name: Name, addresses: list[str] | None, now: float) -> None:
        if addresses is not None:
            if len(self._known) >= MAX_REMEMBERED_NAMES:
                self._known.clear()
            self._known[name] = (now + RESOLVED_FOR_SECONDS, addresses)
        lookup = self._under_way.pop(name)
        if not lookup.done():
            lookup.set_result(addresses)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _look_up_names(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime: nobody waits any more.
            with contextlib.suppress(IndexError):
                while True:
                    name = self._waiting.popleft()
                    addresses = self._ask(name)
                    loop.call_soon_threadsafe(self._finish, name, addresses, loop.time())
            loop.call_soon_threadsafe(self._thread_ended, loop)

    def _ask(self, name: Name) -> list[str] | None:
        try:
            found = self._lookup(*name, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))
