"""The fair queue in a real gateway: turns between keys, room in a full queue, what those who wait are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import EventStream, Response
from tests.conftest import StartGateway
from tests.operations import AnswerChat, Hold, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import Headers, bearer, make_key, post
from tests.waiting import eventually, eventually_equal


@contextmanager
def asked(
    gateway: GatewayProcess, model: str, headers: Headers, answers: list[Response], times: int = 1
) -> Iterator[None]:
    """So many requests with this key, each in the queue (or on its way) before the next begins."""
    threads = []
    for _number in range(times):
        before = gateway.stats()["requests"]["total"]
        thread = threading.Thread(target=lambda: answers.append(gateway.chat(model, headers=headers)))
        thread.start()
        threads.append(thread)
        eventually(lambda before=before: gateway.stats()["requests"]["total"] > before, "it has come")
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def test_a_light_user_passes_a_flood(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model, max_concurrency=1)
    (_flood_id, flood), (_light_id, light) = make_key(gateway, "flood"), make_key(gateway, "light")
    hold = Hold()
    peer.inference.always(hold, AnswerChat())
    answers: list[Response] = []
    with asked(gateway, model, bearer(flood), answers, times=6), asked(gateway, model, bearer(light), answers):
        eventually_equal(lambda: gateway.stats()["requests"]["queued"], 6, "all wait but the first")
        standing = gateway.call("GET", "/v1/queue", None, bearer(light)).json()
        assert standing["models"] == [{"model": model, "waiting": 6}]
        assert [(mine["place"], mine["estimated_seconds"]) for mine in standing["yours"]] == [(1, None)]
        flooded = gateway.call("GET", "/v1/queue", None, bearer(flood)).json()["yours"]
        assert [mine["place"] for mine in flooded] == [2, 3, 4, 5, 6]
        hold.release()
    assert [answer.status for answer in answers] == [200] * 7
    report = gateway.admin("GET", f"/admin/usage?group_by=key&model_name={model}").json()
    assert sum(row["requests"] for row in report["rows"]) == 7


def test_owners_go_first_on_their_own_server(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    owner, other = (bearer(make_key(gateway, name)[1]) for name in ("owner", "other"))
    peer.model_names.append(model)
    body = {"model_name": model, "endpoint_url": peer.url, "max_concurrency": 1}
    server = post(gateway, "/admin/register", body, owner).json()["registration_id"]
    costly = {**wire.chat_completion(), "usage": {"prompt_tokens": 50_000, "completion_tokens": 50_000}}
    peer.inference.queue(wire.json_answer(costly))
    gateway.chat(model, headers=owner)  # The owner has used the most by far.
    hold = Hold()
    peer.inference.always(hold, AnswerChat())
    ours: list[Response] = []
    theirs: list[Response] = []
    with asked(gateway, model, other, theirs, times=2), asked(gateway, model, owner, ours):
        eventually_equal(lambda: gateway.stats()["requests"]["queued"], 2, "two wait")
        mine = gateway.call("GET", "/v1/queue", None, owner).json()["yours"]
        assert [standing["place"] for standing in mine] == [2], "while it is busy it is nobody's"
        hold.release()
    # As the server got them, after the costly one: answers that follow each other at once may be read in another order.
    assert peer.requests[2].header("X-Request-ID") == ours[0].header("X-Request-ID"), "but its free slot is the owner's"
    assert len(theirs) == 2
    gateway.admin("DELETE", f"/admin/register/{server}")


def test_a_full_queue_makes_room(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(QUEUE_SIZE=3, HEALTH_CHECK_INTERVAL_SECONDS=300)
    gateway.register(peer, model, max_concurrency=1)
    flood, light = (bearer(make_key(gateway, name)[1]) for name in ("flood", "light"))
    hold = Hold()
    peer.inference.always(hold, AnswerChat())
    answers: list[Response] = []
    with asked(gateway, model, flood, answers, times=4):
        refused = gateway.chat(model, headers=flood)
        assert "queue is full" in assert_error(refused, "overloaded")
        light_answers: list[Response] = []
        with asked(gateway, model, light, light_answers):
            eventually_equal(lambda: len(answers), 1, "the flood's last has made room")
            assert "made room" in assert_error(answers[0], "overloaded")
            assert gateway.stats()["requests"]["queued"] == 3
            hold.release()
        assert light_answers[0].status == 200
    assert [answer.status for answer in answers[1:]] == [200] * 3


@pytest.mark.parametrize("leaves", ["cancel", "close"])
def test_who_waits_is_told_and_who_leaves_is_gone(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, leaves: str
) -> None:
    gateway = start_gateway(STREAM_KEEPALIVE_SECONDS=0.1, HEALTH_CHECK_INTERVAL_SECONDS=300)
    gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    for _number in range(6):
        peer.inference.queue(Sleep(0.05), AnswerChat())
    peer.inference.queue(hold, AnswerChat())
    answers: list[Response] = []
    with asked(gateway, model, [], answers, times=1):
        threads = [threading.Thread(target=gateway.chat, args=(model,)) for _number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.3)
        with gateway.client() as first_client, gateway.client() as second_client:
            first_client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
            first = EventStream(first_client)
            second_client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
            second = EventStream(second_client)
            comments = [text for _moment, text in first.read_comments(4)]
            assert ": keep-alive" in comments
            assert any(text.startswith(": queued 1st") for text in comments), comments
            assert any(text.startswith(": queued 2nd") for text in (text for _at, text in second.read_comments(4)))
            first_client.abort() if leaves == "cancel" else first_client.close()
            eventually_equal(lambda: gateway.stats()["requests"]["queued"], 1, "its place is free at once")
            hold.release()
            second.read_to_end()
            assert second.done
        for thread in threads:
            thread.join()
