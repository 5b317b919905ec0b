"""Fixtures of the transport's tests: both event loops, a client, and what must hold after each test.

No gateway is started here. After every test the loop must not have had to handle an exception, no task may be left,
and no connection of the client may be open.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from tornado.ioloop import IOLoop

from multiverse.transport.addresses import AddressPolicy
from multiverse.transport.dialling import Dialler
from multiverse.transport.http import StreamingHTTPClient
from tests import wire
from tests.conftest import StartPeer
from tests.operations import Script
from tests.peers import ScriptedPeer
from tests.waiting import soon

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}

# What asyncio's debug mode says of a TLS server whose client leaves in the handshake; such servers share the loop here.
OF_A_SERVER = "Error on transport creation for incoming connection"

MakeClient = Callable[..., StreamingHTTPClient]


@pytest.fixture(scope="session")
def small_heap() -> Iterator[None]:
    """What was there before the tests is left out of collections, which take 2 ms instead of 100."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def peer(start_peer: StartPeer) -> ScriptedPeer:
    """One scripted peer, which answers everything with `ok` unless told otherwise."""
    return start_peer(Script(wire.answer(b"ok")))


@pytest.fixture(params=LOOPS)
def io_loop(request: pytest.FixtureRequest, small_heap: None) -> Iterator[IOLoop]:
    """The loop that the test runs on; stands in for pytest-tornasync's own."""
    asyncio_loop = LOOPS[request.param]()
    faults: list[dict[str, Any]] = []
    asyncio_loop.set_exception_handler(
        lambda _loop, context: None if context["message"] == OF_A_SERVER else faults.append(context)
    )
    loop = IOLoop(make_current=True, asyncio_loop=asyncio_loop)
    yield loop
    gc.collect()  # What nobody has asked for its exception complains when it is collected.
    tasks = asyncio.all_tasks(asyncio_loop)
    loop.run_sync(lambda: asyncio.sleep(0))
    loop.close()
    assert not tasks, f"tasks are left: {tasks}"
    assert not faults, f"the loop had to handle exceptions: {faults}"


@pytest.fixture
def make_client(io_loop: IOLoop) -> Iterator[MakeClient]:
    """Make a client: `make_client()`, or with a dialler and settings of one's own."""
    clients: list[StreamingHTTPClient] = []

    def make(**settings: Any) -> StreamingHTTPClient:
        settings.setdefault("dialler", Dialler(AddressPolicy(allow_private=True)))
        clients.append(StreamingHTTPClient(force_instance=True, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
        io_loop.run_sync(lambda: soon(lambda: not client.connections, "a closed client has no connections"))  # noqa: B023


@pytest.fixture
def client(make_client: MakeClient) -> StreamingHTTPClient:
    """A client with default settings that may dial this machine."""
    return make_client()
