"""How many requests a server takes at a time: as declared, as llama.cpp says itself, as usual, or any number."""

from __future__ import annotations

import json
import threading

import pytest

from multiverse.servers.probe import MOST_SLOTS, read_slots
from tests import wire
from tests.conftest import StartGateway
from tests.operations import AnswerChat, AnswerModels, Hold
from tests.peers import PeerConnection, RecordedRequest, ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually_equal


class AnswerAsLlamaCpp:
    """Probes are answered as llama.cpp does; `answers` has the bodies of further routes."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        route = request.path.rpartition("/")[2]
        if route == "models":
            models = wire.model_list(*connection.peer.model_names)
            for model in models["data"]:
                model["owned_by"] = "llamacpp"
            await connection.send(wire.json_answer(models))
        elif route in self.answers:
            await connection.send(wire.json_answer(self.answers[route]))
        else:
            await connection.send(wire.error_answer(501, "not enabled"))


def paths_of(peer: ScriptedPeer) -> list[str]:
    return [request.path for request in peer.probes]


@pytest.mark.parametrize(
    ("body", "slots"),
    [
        (b'{"total_slots": 4, "chat_template": ""}', 4),
        (b'[{"id":0},{"id":1}]', 2),
        (b"[]", None),
        (b'{"total_slots": 0}', None),
        (b'{"total_slots": -1}', None),
        (b'{"total_slots": %d}' % (MOST_SLOTS + 1), None),
        (b'{"total_slots": "4"}', None),
        (b'{"error": "no"}', None),
        (b"<html>", None),
        (b"[" * 100_000, None),
    ],
)
def test_what_is_a_number_of_slots(body: bytes, slots: int | None) -> None:
    assert read_slots(body) == slots


def test_llama_cpp_says_it_itself(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.health.always(AnswerAsLlamaCpp(props={"total_slots": 2}))
    server = gateway.register(peer, model)
    assert gateway.server(server)["slots"] == 2
    labels = f'gen_ai_request_model="{model}",registration_id="{server}"'
    assert f"multiverse_server_slots{{{labels}}} 2.0" in gateway.call("GET", "/metrics").body.decode()
    assert paths_of(peer) == ["/v1/models", "/props"]
    for _number in range(3):
        gateway.admin("POST", f"/admin/servers/{server}/probe")
    assert paths_of(peer).count("/props") == 1, "known is known"
    hold = Hold()
    peer.inference.always(hold, AnswerChat())
    threads = [threading.Thread(target=gateway.chat, args=(model,)) for _number in range(3)]
    for thread in threads:
        thread.start()
    eventually_equal(lambda: gateway.stats()["requests"]["queued"], 1, "the third waits")
    eventually_equal(lambda: len(peer.requests), 2, "two are there")
    assert gateway.server(server)["availability"] == "busy"
    hold.release()
    for thread in threads:
        thread.join()


def test_where_props_are_not_offered_slots_are(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.health.always(AnswerAsLlamaCpp(slots=[{"id": 0}, {"id": 1}, {"id": 2}]))
    assert gateway.server(gateway.register(peer, model))["slots"] == 3


def test_a_server_that_comes_back_is_asked_again(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.health.always(AnswerAsLlamaCpp(props={"total_slots": 2}))
    server = gateway.register(peer, model)
    peer.health.queue(wire.error_answer(500, "down"), times=2)
    gateway.admin("POST", f"/admin/servers/{server}/probe")
    peer.health.always(AnswerAsLlamaCpp(props={"total_slots": 8}))
    gateway.admin("POST", f"/admin/servers/{server}/probe")
    assert gateway.server(server)["slots"] == 8


def test_what_took_its_place_has_slots_of_its_own(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    llama_cpp = AnswerAsLlamaCpp(props={"total_slots": 1})
    peer.health.always(llama_cpp)
    server = gateway.register(peer, model)

    def slots_after_probe() -> object:
        gateway.admin("POST", f"/admin/servers/{server}/probe")
        return gateway.server(server)["slots"]

    peer.health.queue(wire.error_answer(500, "down"), times=2)
    assert slots_after_probe() == 1, "one that is down has not said otherwise"
    peer.health.queue(llama_cpp)
    peer.health.queue(wire.error_answer(503, "not now"))
    assert slots_after_probe() == 1, "nor has one that did not get to answer"
    peer.health.always(AnswerModels())
    assert slots_after_probe() is None, "another program answers there, which tells nothing"
    peer.health.always(llama_cpp)
    assert slots_after_probe() == 1
    peer.health.queue(wire.error_answer(500, "down"), times=2)
    gateway.admin("POST", f"/admin/servers/{server}/probe")
    peer.health.always(AnswerAsLlamaCpp())
    assert slots_after_probe() is None, "it does not tell any more"


def test_the_owners_word_counts(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.health.always(AnswerAsLlamaCpp(props={"total_slots": 2}))
    server = gateway.register(peer, model, max_concurrency=1)
    assert gateway.server(server)["slots"] == 1
    gateway.admin("PUT", f"/admin/register/{server}", {"max_concurrency": None})
    assert gateway.server(server)["slots"] == 2


def test_a_server_that_tells_nothing(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(DEFAULT_MAX_CONCURRENCY=5, HEALTH_CHECK_INTERVAL_SECONDS=300)
    assert gateway.server(gateway.register(peer, model))["slots"] == 5
    assert paths_of(peer) == ["/v1/models"], "and others than llama.cpp are not asked"
    assert json.loads(gateway.admin("GET", "/admin/servers?sort=-slots").body)["total"] == 1
