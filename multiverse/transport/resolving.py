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

from multiverse.open_files import check_room, is_own_lack
from multiverse.transport.failures import NameNotResolved, NoRoom

RESOLVED_FOR_SECONDS = 30.0
MAX_REMEMBERED_NAMES = 1024
MAX_THREADS = 32

Name = tuple[str, int]
Lookup = Callable[..., list[Any]]
Found = list[str] | Exception


class Resolver:
    """Looks names up with `lookup`, which is `socket.getaddrinfo` or answers like it; belongs to one event loop."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._known: dict[Name, tuple[float, list[str]]] = {}
        self._under_way: dict[Name, asyncio.Future[Found]] = {}
        self._waiting: deque[Name] = deque()
        self._threads = 0

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, in the order in which they should be tried; remembered for a short while.

        Raises NameNotResolved, and NoRoom where this machine could not ask.
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
        elif not self._threads:
            self._start_thread(loop)  # None serves it.
        found = await asyncio.shield(lookup)  # Whoever stops waiting must not end it for the others.
        if isinstance(found, list):
            return found
        raise (NoRoom() if is_own_lack(found) or isinstance(found, _NoThread) else NameNotResolved()) from found

    def forget(self, host: str, port: int) -> None:
        """These addresses are of no use: ask again next time."""
        self._known.pop((host, port), None)

    # -- in the loop ---------------------------------------------------------------------------------------------------

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting or self._threads >= MAX_THREADS:
            return
        try:
            threading.Thread(target=self._look_up_names, args=(loop,), name="resolver", daemon=True).start()
        except RuntimeError as error:
            if not self._threads:  # Otherwise one of those will come to it.
                self._fail_waiting(_NoThread(str(error)), loop)
        else:
            self._threads += 1

    def _fail_waiting(self, error: Exception, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            self._finish(self._waiting.popleft(), error, loop.time())

    def _thread_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads -= 1
        self._start_thread(loop)  # A name may have come while the thread was on its way out.

    def _finish(self, name: Name, found: Found, now: float) -> None:
        if isinstance(found, list):
            if len(self._known) >= MAX_REMEMBERED_NAMES:
                self._known.clear()
            self._known[name] = (now + RESOLVED_FOR_SECONDS, found)
        lookup = self._under_way.pop(name)
        if not lookup.done():
            lookup.set_result(found)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _look_up_names(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime: nobody waits any more.
            with contextlib.suppress(IndexError):
                while True:
                    name = self._waiting.popleft()
                    found = self._ask(name)
                    loop.call_soon_threadsafe(self._finish, name, found, loop.time())
            loop.call_soon_threadsafe(self._thread_ended, loop)

    def _ask(self, name: Name) -> Found:
        try:
            found = self._lookup(*name, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except Exception as error:  # Whatever it is: somebody waits for it.
            try:
                check_room()  # getaddrinfo does not tell that it could open no socket to ask.
            except OSError as lack:
                return lack
            return error


class _NoThread(Exception):
    """This machine starts no further thread."""
