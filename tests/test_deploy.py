"""Behind a PaaS that cuts whoever is silent: 30 s to the first byte and 55 s between bytes, imitated by a shim.

The shim's clock runs fifty times as fast, and so does the gateway's STREAM_KEEPALIVE_SECONDS: 10 s by default.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from tests import wire
from tests.clients import EventStream, RawClient
from tests.conftest import StartGateway, StartPeer
from tests.operations import Sleep, Step
from tests.peers import ScriptedPeer

SPEED = 50
FIRST_BYTE_SECONDS, SILENCE_SECONDS = 30 / SPEED, 55 / SPEED
KEEPALIVE_SECONDS = 10 / SPEED

FIRST = wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one"))
REST = wire.chunked(wire.good_stream("two"))
SLOW_STREAMS: dict[str, tuple[Step, ...]] = {
    "a long prompt": (Sleep(1.5), FIRST + REST),
    "a model that is loaded first": (Sleep(0.7), wire.STREAM_HEAD, Sleep(0.7), FIRST[len(wire.STREAM_HEAD) :] + REST),
    "a pause in the middle": (FIRST, Sleep(1.8), REST),
    "a pause in an event": (FIRST + REST[:40], Sleep(1.8), REST[40:]),
}


class Shim:
    """Passes one connection on to `port`, and cuts it when nothing comes back for too long; a context manager."""

    def __init__(self, port: int) -> None:
        self.fired = ""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Shim:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.ExitStack() as sockets:
            client = sockets.enter_context(self._listener.accept()[0])
            gateway = sockets.enter_context(socket.create_connection(("127.0.0.1", self._port)))
            gateway.sendall(client.recv(65536))
            gateway.settimeout(FIRST_BYTE_SECONDS)
            try:
                while data := gateway.recv(65536):
                    gateway.settimeout(SILENCE_SECONDS)
                    client.sendall(data)
            except TimeoutError:
                self.fired = "nothing came for too long"
            except OSError:
                pass  # the client has what it wanted


def read_through_shim(port: int, model: str) -> tuple[EventStream, str]:
    """A streamed request that goes through a shim, read to its end, and what the shim did to it."""
    with Shim(port) as shim, RawClient(shim.port) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, True), [("Connection", "close")])
        return EventStream(client).read_to_end(), shim.fired


def test_a_paas_never_cuts_a_stream(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(STREAM_KEEPALIVE_SECONDS=KEEPALIVE_SECONDS)
    for name, steps in SLOW_STREAMS.items():
        peer = start_peer()
        gateway.register(peer, f"{model}-{name.replace(' ', '-')}")
        peer.script(*steps)
    models = [f"{model}-{name.replace(' ', '-')}" for name in SLOW_STREAMS]
    with ThreadPoolExecutor(len(models)) as clients:
        results = list(clients.map(lambda slow: read_through_shim(gateway.port, slow), models))
    for name, (stream, fired) in zip(SLOW_STREAMS, results, strict=True):
        assert not fired, f"{name}: cut after {stream.response.body!r}"
        assert (stream.texts, stream.done) == (["one", "two"], True), name


def test_without_keep_alives_it_would(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(STREAM_KEEPALIVE_SECONDS=0)
    gateway.register(peer, model)
    peer.script(*SLOW_STREAMS["a pause in the middle"])
    stream, fired = read_through_shim(gateway.port, model)
    assert fired
    assert (stream.response.ended, stream.done) == ("cut", False)
