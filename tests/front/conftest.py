"""Fixtures of the front door's tests: both event loops, and a door that serves an application of the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import tornado.netutil
import tornado.web
from tornado.ioloop import IOLoop

from multiverse.web.front.door import ClientLimits, FrontDoor
from tests.transport.conftest import io_loop as io_loop
from tests.transport.conftest import small_heap as small_heap

TIMER_SECONDS = 0.5
OpenDoor = Callable[..., AbstractAsyncContextManager[tuple[FrontDoor, int]]]


@pytest.fixture
def open_door(io_loop: IOLoop) -> OpenDoor:
    """`async with open_door(rules) as (door, port)`: a door in front of an application with these rules."""

    @contextlib.asynccontextmanager
    async def opened(rules: list[tuple[str, type[tornado.web.RequestHandler]]]) -> AsyncIterator[tuple[FrontDoor, int]]:
        limits = ClientLimits(
            header_timeout_seconds=TIMER_SECONDS,
            body_timeout_seconds=TIMER_SECONDS,
            write_timeout_seconds=TIMER_SECONDS,
        )
        application = tornado.web.Application(list(rules), log_function=lambda handler: None)
        door = FrontDoor(application, limits)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await door.accept_on([listener])
        try:
            yield door, listener.getsockname()[1]
        finally:
            door.stop()
            await door.close_all_connections()
            listener.close()
            assert not door.connections, "every connection is gone in the end"

    return opened
