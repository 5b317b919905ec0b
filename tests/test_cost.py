"""What a request costs, in calls of Python functions: a number that does not depend on how busy the machine is.

A change that makes a request or an event dearer by more than a tenth fails here. Who has made it cheaper writes the new
number down; who has good reasons to make it dearer does too, and gives them in the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import tornado.netutil
import uvloop

from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.logs import open_logs
from multiverse.web.app import make_server
from tests import wire
from tests.clients import EventStream, RawClient
from tests.conftest import StartPeer
from tests.operations import Script, Send, Sleep
from tests.processes import ADMIN_KEY

# Calls of Python functions in the thread of the loop, counted on Python 3.11; newer ones make fewer.
CALLS_PER_REQUEST = 222
CALLS_PER_EVENT = 13
TOLERANCE = 1.1
REQUESTS, EVENTS = 100, 400
# Long enough for each event to travel alone.
PAUSE = Sleep(0.002)


class Calls:
    """Counts calls while it is switched on, by the function that is called."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            self.counts[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1

    def shown(self, per: int) -> str:
        """The dearest functions, for whoever wants to know what has changed."""
        lines = [f"{count / per:7.2f} {name}" for name, count in self.counts.most_common(60)]
        return "\n".join([f"{self.counts.total() / per:7.2f} in all", *lines])


async def counted(directory: Path, peer_url: str, ask: Callable[[int], None]) -> Calls:
    """The calls in the loop of a gateway while `ask(port)` runs in another thread."""
    environ = {
        "ADMIN_API_KEY": ADMIN_KEY,
        "DATABASE_URL": f"sqlite:///{directory}/gateway.db",
        "LOG_DIR": str(directory),
        "ENABLE_CONSOLE_LOGGING": "false",
        "HEALTH_CHECK_INTERVAL_SECONDS": "300",
    }
    config = load_config(environ, dotenv_path=None)
    logs, calls = open_logs(config), Calls()
    try:
        async with Gateway(config) as gateway:
            server = make_server(gateway)
            (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
            with listener:
                await server.accept_on([listener])
                port = listener.getsockname()[1]
                await asyncio.to_thread(prepare, port, peer_url, ask)
                gateway.loop_watch.stop()  # It goes by the clock.
                sys.setprofile(calls.on_event)
                try:
                    await asyncio.to_thread(ask, port)
                finally:
                    sys.setprofile(None)
                server.stop()
                await server.close_all_connections()
    finally:
        logs.close()
    return calls


def prepare(port: int, peer_url: str, ask: Callable[[int], None]) -> None:
    """Register the peer, and ask once, so that every connection is open and every cache filled."""
    with RawClient(port) as client:
        body = f'{{"model_name":"model","endpoint_url":"{peer_url}"}}'.encode()
        client.request("POST", "/admin/register", body, [("X-API-Key", ADMIN_KEY)])
        assert client.read_response().status == 201
    ask(port)


def plain_requests(port: int) -> None:
    with RawClient(port) as client:
        for _number in range(REQUESTS):
            client.request("POST", "/v1/chat/completions", wire.chat_body("model"))
            assert client.read_response().status == 200


def one_stream(port: int) -> None:
    with RawClient(port) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body("model", True))
        assert len(EventStream(client).read_to_end().events) == EVENTS + 2


@contextlib.contextmanager
def only_the_gateway_logs() -> Iterator[None]:
    """The handlers of pytest itself would be counted."""
    root = logging.getLogger()
    others, root.handlers = root.handlers, []
    yield
    root.handlers = others


def run(directory: Path, peer_url: str, ask: Callable[[int], None]) -> Calls:
    with only_the_gateway_logs(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(counted(directory, peer_url, ask))


def test_a_plain_request(tmp_path: Path, start_peer: StartPeer) -> None:
    peer = start_peer()
    peer.model_names.append("model")
    calls = run(tmp_path, peer.url, plain_requests)
    assert calls.counts.total() / REQUESTS <= CALLS_PER_REQUEST * TOLERANCE, calls.shown(REQUESTS)


def test_an_event(tmp_path: Path, start_peer: StartPeer) -> None:
    events = [Send(wire.chunk(wire.chat_chunk("x"))) for _number in range(EVENTS)]
    last = wire.chunked(wire.finish_chunk() + wire.DONE)
    steps = [step for event in events for step in (event, PAUSE)]
    peer = start_peer(Script(wire.STREAM_HEAD, *steps, last))
    peer.model_names.append("model")
    calls = run(tmp_path, peer.url, one_stream)
    assert calls.counts.total() / EVENTS <= CALLS_PER_EVENT * TOLERANCE, calls.shown(EVENTS)
