"""A laptop's lid closes, a server's or a client's: nothing is reset or closed, there is just nobody any more."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter

import pytest

from tests import wire
from tests.checker import usage_outcomes
from tests.clients import RawClient, Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, CloseLid, Hold, Script, SendForEver, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually, eventually_equal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")

# A moment for machines that are gone, and much longer for those that think; no probes that notice it first.
LIMITS = {
    "TCP_USER_TIMEOUT_SECONDS": 2,
    "CLIENT_WRITE_TIMEOUT_SECONDS": 1,
    "REQUEST_TIMEOUT_SECONDS": 60,
    "HEALTH_CHECK_INTERVAL_SECONDS": 60,
}
NOTICED_WITHIN_SECONDS = 7.0
PIECE = wire.chunk(wire.chat_chunk("x"))
FAILED = re.compile("attempt failed .*the server's machine does not answer any more; is it asleep")


class Asking(threading.Thread):
    """Somebody who asks, and waits for the answer."""

    def __init__(self, gateway: GatewayProcess, model: str, *, stream: bool) -> None:
        super().__init__()
        self._gateway, self._model, self._stream = gateway, model, stream
        self.answer: Response
        self.start()

    def run(self) -> None:
        self.answer = self._gateway.chat(self._model, self._stream)

    def wait(self) -> Response:
        self.join(NOTICED_WITHIN_SECONDS)
        assert not self.is_alive(), "it is noticed"
        return self.answer


def test_a_server_s_lid_closes(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway, script = start_gateway(**LIMITS), Script()
    asleep, awake = start_peer(script), start_peer()
    gateway.register(asleep, model)
    script.queue(AnswerChat(), CloseLid())
    script.queue(CloseLid())
    script.queue(wire.STREAM_HEAD, PIECE, CloseLid())
    assert gateway.chat(model).status == 200
    before_it_hears = Asking(gateway, model, stream=False)
    eventually_equal(lambda: gateway.stats()["requests"]["in_flight"], 1, "it goes out on the same connection")
    while_it_thinks = Asking(gateway, model, stream=True)
    asleep.wait_for_requests(2)
    in_the_middle = Asking(gateway, model, stream=True)
    asleep.wait_for_requests(3)
    gateway.register(awake, model)
    assert (before_it_hears.wait().status, before_it_hears.answer.header("X-Gateway-Attempts")) == (200, "2")
    assert while_it_thinks.wait().body.endswith(wire.DONE)
    assert b'"code":"server_disconnected"' in in_the_middle.wait().body
    eventually_equal(lambda: len(FAILED.findall(gateway.output)), 3, "and it is known why")
    assert len(awake.requests) == 2


def test_a_client_s_lid_closes(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(**LIMITS, STREAM_KEEPALIVE_SECONDS=0)
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, *(PIECE, Sleep(0.2)) * 100)
    peer.script(Hold())
    with gateway.client() as reading, gateway.client() as waiting:
        for client, stream in ((reading, True), (waiting, False)):
            client.request("POST", "/v1/chat/completions", wire.chat_body(model, stream))
            peer.wait_for_requests(2 - stream)
        reading.read_head()
        for client in (reading, waiting):
            client.close_lid()
        for request in peer.requests:
            eventually(lambda request=request: request.connection.closed_at, "it is noticed", NOTICED_WITHIN_SECONDS)
    eventually_equal(lambda: usage_outcomes(gateway), Counter(client_closed=2), "and nobody is to blame", 4.0)


def test_a_client_that_only_stops_reading_has_its_time(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str
) -> None:
    gateway = start_gateway(TCP_USER_TIMEOUT_SECONDS=1, CLIENT_WRITE_TIMEOUT_SECONDS=3)
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, SendForEver(wire.chunk(wire.chat_chunk("x" * 16000))))
    with RawClient(gateway.port, receive_buffer_bytes=8192) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        (request,) = peer.wait_for_requests()
        stopped_at = time.monotonic()
        closed_at = eventually(lambda: request.connection.closed_at, "it is let go in the end", NOTICED_WITHIN_SECONDS)
    assert closed_at is not None
    assert closed_at - stopped_at > 2.8, "its machine acknowledges every packet: it is not gone"
