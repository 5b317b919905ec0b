"""`max_concurrency`: how many requests a server gets at once, who waits for a slot, and for how long."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import RawClient
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold, Reset
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import Stopwatch, eventually, eventually_equal, never


def ask(gateway: GatewayProcess, model: str, stream: bool | None = None, **fields: object) -> RawClient:
    """A request on its way; its answer is to be read, or not."""
    client = gateway.client()
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, stream, **fields))
    return client


def queued(gateway: GatewayProcess) -> int:
    return int(gateway.stats()["requests"]["queued"])


def test_the_second_waits_for_the_first(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    peer.script(hold, AnswerChat("first"))
    peer.script(AnswerChat("second"))
    with ask(gateway, model) as first:
        peer.wait_for_requests()
        record = gateway.server(registration_id)
        assert (record["availability"], record["in_flight"]) == ("busy", 1)
        with ask(gateway, model) as second:
            eventually(lambda: queued(gateway) == 1, "it is in the queue")
            never(lambda: len(peer.requests) > 1, "and not on the server", for_seconds=0.2)
            hold.release()
            assert first.read_response().text == "first"
            assert second.read_response().text == "second"
    assert gateway.server(registration_id)["availability"] == "available"


def test_first_come_first_served(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    hold = Hold()
    peers = [start_peer(), start_peer()]
    for peer in peers:
        gateway.register(peer, model, max_concurrency=2)
        peer.always(hold, AnswerChat())
    clients = []
    for number in range(12):
        clients.append(ask(gateway, model, number=number))
        eventually(lambda: len(clients) == sum(len(peer.requests) for peer in peers) + queued(gateway), "it is in")
    assert [len(peer.requests) for peer in peers] == [2, 2]
    hold.release()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    arrived = sorted((request for peer in peers for request in peer.requests), key=lambda request: request.arrived_at)
    order = [request.json()["number"] for request in arrived]
    assert all(abs(place - number) < 4 for place, number in enumerate(order)), f"nobody is overtaken by far: {order}"


def test_a_free_server_is_not_waited_for(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    hold = Hold()
    full, free = start_peer(), start_peer()
    full.always(hold, AnswerChat())
    gateway.register(full, model, max_concurrency=1)
    first = ask(gateway, model)
    full.wait_for_requests()
    gateway.register(free, model)
    assert {gateway.chat(model).text for _number in range(4)} == {free.name}
    hold.release()
    assert first.read_response().text == full.name
    first.close()


def test_failing_over_to_a_full_server_waits(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    hold = Hold()
    full, bad = start_peer(), start_peer()
    full.script(hold, AnswerChat())
    gateway.register(full, model, max_concurrency=1)
    first = ask(gateway, model)
    full.wait_for_requests()
    gateway.register(bad, model)
    bad.always(Reset())
    with ask(gateway, model) as second:
        bad.wait_for_requests()
        eventually(lambda: queued(gateway) == 1, "the next server is full: it waits")
        hold.release()
        response = second.read_response()
        assert (response.text, response.header("X-Gateway-Attempts")) == (full.name, "2")
    assert first.read_response().status == 200
    first.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("settings", [{"QUEUE_SIZE": 0}, {"QUEUE_TIMEOUT_SECONDS": 0}])
def test_nobody_waits_without_a_queue(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, settings: dict[str, int], stream: bool
) -> None:
    gateway = start_gateway(**settings)
    gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    peer.script(hold, AnswerChat())
    with ask(gateway, model) as first:
        peer.wait_for_requests()
        watch = Stopwatch()
        assert_error(gateway.chat(model, stream), "overloaded")
        assert watch.seconds < 3.0
        hold.release()
        assert first.read_response().status == 200
    assert gateway.chat(model, stream).status == 200
    assert len(peer.requests) == 2


def test_a_full_queue_and_a_wait_that_is_too_long(
    impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    """QUEUE_SIZE is 2 here, QUEUE_TIMEOUT_SECONDS 0.5."""
    gateway = impatient_gateway
    gateway.register(peer, model, max_concurrency=1)
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Hold())
    with gateway.stream(model) as stream:
        stream.read_events(1)
        asked_at = time.monotonic()
        waiting = [ask(gateway, model), ask(gateway, model, True)]
        eventually(lambda: queued(gateway) == 2, "both wait")
        refused = gateway.chat(model)
        assert_error(refused, "overloaded")
        for client in waiting:
            response = client.read_response()
            assert refused.ended_at < response.ended_at, "a full queue is told at once"
            assert_error(response, "overloaded")
            assert response.header("X-Gateway-Attempts") is None, "no server was asked"
            assert 0.4 < response.ended_at - asked_at < 5.0, "QUEUE_TIMEOUT_SECONDS"
            client.close()
    assert len(peer.requests) == 1


def test_waiting_twice_takes_no_longer_than_once(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(QUEUE_TIMEOUT_SECONDS=1, HEALTH_CHECK_INTERVAL_SECONDS=300)
    failing, busy = start_peer(), start_peer()
    hold = Hold()
    failing.script(hold, AnswerChat("first"))
    failing.script(Reset())
    busy.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Hold())
    gateway.register(failing, model, max_concurrency=1)
    with ask(gateway, model) as first:
        failing.wait_for_requests()
        gateway.register(busy, model, max_concurrency=1)
        with gateway.stream(model) as stream, ask(gateway, model) as third:
            asked_at = time.monotonic()
            stream.read_events(1)
            eventually(lambda: queued(gateway) == 1, "it waits")
            time.sleep(max(asked_at + 0.7 - time.monotonic(), 0))
            hold.release()
            response = third.read_response()
            assert_error(response, "server_error")
            assert response.header("X-Gateway-Attempts") == "1"
            assert 0.9 < response.ended_at - asked_at < 1.5, "what it waited before its first attempt counts"
        assert first.read_response().status == 200


def test_the_queue_of_one_model_holds_up_no_other(
    impatient_gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    gateway = impatient_gateway
    full, other = start_peer(), start_peer()
    gateway.register(full, model, max_concurrency=1)
    gateway.register(other, f"{model}-2", max_concurrency=1)
    full.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Hold())
    with gateway.stream(model) as stream:
        stream.read_events(1)
        waiting = [ask(gateway, model), ask(gateway, model)]
        eventually(lambda: queued(gateway) == 2, "a full queue")
        assert gateway.chat(f"{model}-2").text == other.name
        for client in waiting:
            client.close()


@pytest.mark.parametrize("how", [RawClient.close, RawClient.abort])
def test_leaving_the_queue(gateway: GatewayProcess, peer: ScriptedPeer, model: str, how: object) -> None:
    gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    peer.script(hold, AnswerChat("first"))
    peer.script(AnswerChat("third"))
    with ask(gateway, model) as first:
        peer.wait_for_requests()
        second = ask(gateway, model, True)
        eventually(lambda: queued(gateway) == 1, "it waits")
        third = ask(gateway, model)
        eventually(lambda: queued(gateway) == 2, "and another one behind it")
        how(second)  # type: ignore[operator]
        eventually(lambda: queued(gateway) == 1, "who leaves is out of the queue within a second", 1.0)
        hold.release()
        assert [first.read_response().text, third.read_response().text] == ["first", "third"]
        third.close()
    assert len(peer.requests) == 2, "and never reaches the server"


def test_keep_alives_while_a_stream_waits(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    peer.script(hold, AnswerChat())
    with ask(gateway, model) as first:
        peer.wait_for_requests()
        with gateway.stream(model) as stream:
            stream.read_comments(2)
            assert len(peer.requests) == 1, "it is in the queue all the while"
            hold.release()
            assert stream.read_to_end().done
        assert first.read_response().status == 200


def test_keep_alives_after_half_a_plain_answer(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    """Nothing goes out beside a plain answer; when that breaks off, the stream waits for another server's slot."""
    half, busy = start_peer(), start_peer()
    gateway.register(half, model)
    gateway.register(busy, model, max_concurrency=1)
    half.inference.always(AnswerChat())
    hold = Hold()
    busy.script(hold, AnswerChat())
    busy.always(AnswerChat())
    with ask(gateway, model) as first, ask(gateway, model) as second:
        busy.wait_for_requests()
        half.inference.always(wire.head(200, [("Content-Type", "application/json"), ("Content-Length", "9")]), Reset())
        with gateway.stream(model) as stream:
            stream.read_comments(2)
            hold.release()
            assert stream.read_to_end().texts == [busy.name]
        assert {first.read_response().status, second.read_response().status} == {200}


@pytest.mark.parametrize("way", ["deregister", "a second server"])
def test_the_queue_follows_what_the_admin_does(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, way: str
) -> None:
    peer, other = start_peer(), start_peer()
    registration_id = gateway.register(peer, model, max_concurrency=1)
    hold = Hold()
    peer.script(hold, AnswerChat())
    with ask(gateway, model) as first:
        peer.wait_for_requests()
        with ask(gateway, model) as second:
            eventually(lambda: queued(gateway) == 1, "it waits")
            if way == "a second server":
                gateway.register(other, model)
                assert second.read_response().text == other.name
            else:
                gateway.admin("DELETE", f"/admin/register/{registration_id}")
                assert_error(second.read_response(), "model_not_found", "model")
        hold.release()
        assert first.read_response().text == peer.name, "who has the slot keeps it"


def test_a_slot_is_free_before_the_last_byte_is_seen(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str
) -> None:
    gateway = start_gateway(QUEUE_SIZE=0, HEALTH_CHECK_INTERVAL_SECONDS=300)
    registration_id = gateway.register(peer, model, max_concurrency=1)
    bodies = [wire.chat_body(model), wire.chat_body(model, stream=True)]
    statuses: Counter[int] = Counter()
    with gateway.client() as client, gateway.client() as other:
        for number in range(200):
            turn = client if number % 2 else other
            turn.request("POST", "/v1/chat/completions", bodies[number // 2 % 2])
            statuses[turn.read_response().status] += 1
    assert statuses == {200: 200}, "the next request, sent at once, finds the slot free"
    assert gateway.server(registration_id)["in_flight"] == 0


def test_never_more_than_the_slots(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    peers = [start_peer() for _number in range(2)]
    hold = Hold()
    for peer in peers:
        gateway.register(peer, model, max_concurrency=3)
        peer.always(hold, AnswerChat())
    clients = [ask(gateway, model, number % 2 == 0) for number in range(20)]
    eventually(lambda: queued(gateway) == 14, "six are served, fourteen wait")
    eventually_equal(lambda: [len(peer.requests) for peer in peers], [3, 3], "as many as there are slots")
    for client in clients[::3]:
        client.close()
    hold.release()
    for number, client in enumerate(clients):
        if number % 3:
            assert client.read_response().status == 200
            client.close()
    eventually_equal(lambda: queued(gateway), 0, "nobody is forgotten")
