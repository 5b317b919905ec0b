"""Before a server has been reached: a machine that does not answer, and clients that leave while it is dialled."""

from __future__ import annotations

import time

import pytest

from tests import wire
from tests.checker import assert_nothing_under_way
from tests.conftest import StartGateway
from tests.operations import Fin
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_client_leaves import unanswering_port
from tests.waiting import Stopwatch, eventually_equal

CONNECT_TIMEOUT_SECONDS = 0.4


@pytest.mark.parametrize("stream", [False, True])
def test_a_machine_that_does_not_answer(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, stream: bool
) -> None:
    gateway = start_gateway(
        CONNECT_TIMEOUT_SECONDS=CONNECT_TIMEOUT_SECONDS,
        HEALTH_CHECK_TIMEOUT_SECONDS=CONNECT_TIMEOUT_SECONDS,
        HEALTH_CHECK_INTERVAL_SECONDS=300,
    )
    with unanswering_port() as port:
        value = {"model_name": model, "endpoint_url": f"http://127.0.0.1:{port}"}
        record = gateway.admin("POST", "/admin/register", value).json()
        assert record["health_status"] == "unhealthy"
        asked_at = time.monotonic()
        response = gateway.chat(model, stream)
        waited_seconds = time.monotonic() - asked_at
        if stream:  # a keep-alive has brought the status with it
            assert b'"code":"server_error"' in response.body
        else:
            assert (response.status, response.code) == (502, "server_error")
        assert CONNECT_TIMEOUT_SECONDS - 0.1 < waited_seconds < CONNECT_TIMEOUT_SECONDS + 2.0
        gateway.register(peer, model)
        watch = Stopwatch(gateway.process_id)
        for _number in range(3):
            assert gateway.chat(model, stream).status == 200
        assert watch.own_seconds < CONNECT_TIMEOUT_SECONDS, "nobody waits for it while another server is there"
        gateway.admin("DELETE", f"/admin/register/{record['registration_id']}")


def test_leaving_while_dialling_leaves_no_connection(
    gateway: GatewayProcess, peer: ScriptedPeer, peers: list[ScriptedPeer], model: str
) -> None:
    peer.always(wire.head(200, [("Content-Type", "application/json"), ("Connection", "close")]), Fin())
    gateway.register(peer, model)
    for number in range(400):
        with gateway.client() as client:
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
            # Dialling on the same machine takes a fraction of a millisecond; one of these moments lies within.
            time.sleep((number % 100) * 0.00004)
            if number % 2:
                client.abort()
    assert_nothing_under_way(gateway, peers)
    gone = "what was dialled in vain is closed and forgotten, like what was used"
    eventually_equal(lambda: gateway.stats()["connections"], {"open": 0, "idle": 0}, gone, 8.0)
