"""A client that leaves stops the work within one second, at every stage, and nobody is blamed.

A client that stops reading counts as gone after CLIENT_WRITE_TIMEOUT_SECONDS, and costs no memory until then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import wire
from tests.clients import EventStream, RawClient
from tests.conftest import StartGateway, StartPeer
from tests.operations import Hold, SendForEver, Step
from tests.peers import RecordedRequest, ScriptedPeer
from tests.processes import ADMIN_KEY, HTTP_SERVER, GatewayProcess
from tests.waiting import eventually, eventually_equal, never

STOPS_WITHIN_SECONDS = 1.0
FIVE_EVENTS = wire.STREAM_HEAD + b"".join(wire.chunk(wire.chat_chunk(str(number))) for number in range(5))
HALF_A_BODY = wire.head(200, [("Content-Type", "application/json"), ("Content-Length", "1000")]) + b" " * 500


@dataclass(frozen=True)
class Stage:
    """How far a request has come when its client leaves."""

    stream: bool
    steps: tuple[Step, ...]
    events: int = 0
    comments: int = 0
    ahead_bytes: int = 0


STAGES = {
    "stream, nothing sent": Stage(True, ()),
    "stream, headers sent": Stage(True, (wire.STREAM_HEAD,)),
    "stream, half of the first event sent": Stage(True, (wire.STREAM_HEAD + wire.chunk(b'data: {"cho'),)),
    "stream, kept alive": Stage(True, (), comments=2),
    "stream, after five events": Stage(True, (FIVE_EVENTS,), events=5),
    "stream, in the sixth event": Stage(True, (FIVE_EVENTS + wire.chunk(b"data: {"),), events=5),
    "stream, kept alive after five events": Stage(True, (FIVE_EVENTS,), events=5, comments=1),
    "plain, nothing sent": Stage(False, ()),
    "plain, read no further": Stage(False, (), ahead_bytes=100_000),
    "plain, half of the body sent": Stage(False, (HALF_A_BODY,)),
}
LEAVING = {"closing": RawClient.close, "reset": RawClient.abort}


def assert_stops(request: RecordedRequest, left_at: float) -> None:
    promise = "the connection to the server is closed within 1 s of the client leaving"
    closed_at = eventually(lambda: request.connection.closed_at, promise, STOPS_WITHIN_SECONDS + 1)
    assert closed_at is not None
    assert closed_at - left_at <= STOPS_WITHIN_SECONDS, promise


def assert_nobody_blamed(gateway: GatewayProcess, registration_id: str) -> None:
    record = gateway.server(registration_id)
    assert (record["consecutive_failures"], record["health_status"]) == (0, "healthy"), "nobody is blamed"
    assert record["availability"] == "available"


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("stage_name", STAGES)
def test_leaving_stops_the_server(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, stage_name: str, how: str
) -> None:
    stage = STAGES[stage_name]
    if stage.ahead_bytes and os.environ.get(HTTP_SERVER) == "tornado":
        pytest.skip("Tornado's server hears of it when it reads on")
    registration_id = gateway.register(peer, model)
    closed_before = gateway.stats()["requests"]["client_closed"]
    peer.script(*stage.steps, Hold())
    client = gateway.client()
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, stage.stream))
    client.send(b"x" * stage.ahead_bytes)
    (request,) = peer.wait_for_requests()
    if stage.events or stage.comments:
        stream = EventStream(client)
        stream.read_events(stage.events)
        stream.read_comments(stage.comments)
    else:
        eventually(lambda: request.connection.sent_bytes >= len(b"".join(map(bytes_of, stage.steps))), "it is sent")
    left_at = time.monotonic()
    LEAVING[how](client)
    assert_stops(request, left_at)
    assert_nobody_blamed(gateway, registration_id)
    outcome = "the outcome is client_closed, once"
    eventually_equal(lambda: gateway.stats()["requests"]["client_closed"], closed_before + 1, outcome)
    assert gateway.chat(model).text == peer.name, "the next request is answered"


def bytes_of(step: Step) -> bytes:
    return step if isinstance(step, bytes) else b""


@pytest.mark.parametrize("how", LEAVING)
def test_leaving_the_queue(gateway: GatewayProcess, peer: ScriptedPeer, model: str, how: str) -> None:
    registration_id = gateway.register(peer, model, max_concurrency=1)
    closed_before = gateway.stats()["requests"]["client_closed"]
    hold = Hold()
    peer.script(hold, wire.json_answer(wire.chat_completion("first")))
    with gateway.client() as first:
        first.request("POST", "/v1/chat/completions", wire.chat_body(model))
        peer.wait_for_requests()
        waiting = gateway.client()
        waiting.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        never(lambda: len(peer.requests) > 1, "max_concurrency holds the second request back", 0.15)
        LEAVING[how](waiting)
        outcome = "leaving the queue is client_closed"
        eventually_equal(lambda: gateway.stats()["requests"]["client_closed"], closed_before + 1, outcome, 1.0)
        hold.release()
        assert first.read_response().text == "first"
    assert gateway.chat(model).text == peer.name, "the slot is free for the next one"
    assert len(peer.requests) == 2, "the server never sees the request of the client that left"
    assert_nobody_blamed(gateway, registration_id)


@contextlib.contextmanager
def unanswering_port() -> Iterator[int]:
    """A port whose queue of connections is full: connecting neither succeeds nor fails (Linux drops the SYN)."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _number in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_leaving_while_connecting(start_gateway: StartGateway, model: str) -> None:
    gateway = start_gateway(CONNECT_TIMEOUT_SECONDS=8, HEALTH_CHECK_INTERVAL_SECONDS=300)
    with unanswering_port() as port:
        value = {"model_name": model, "endpoint_url": f"http://127.0.0.1:{port}"}
        record = gateway.admin("POST", "/admin/register", value).json()
        blamed = gateway.server(record["registration_id"])["consecutive_failures"]
        client = gateway.client()
        client.request("POST", "/v1/chat/completions", wire.chat_body(model))
        connecting = "the only server is tried, even unhealthy"
        eventually(lambda: gateway.server(record["registration_id"])["in_flight"] == 1, connecting)
        client.close()
        eventually_equal(gateway.in_flight, {}, "connecting ends when the client leaves", STOPS_WITHIN_SECONDS)
        assert gateway.server(record["registration_id"])["consecutive_failures"] == blamed
        assert gateway.stats()["requests"]["client_closed"] == 1


def test_leaving_one_stream_leaves_its_neighbours_alone(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    hold = Hold()
    peer.always(
        wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), hold, wire.chunked(wire.finish_chunk() + wire.DONE)
    )
    with gateway.stream(model) as staying, gateway.stream(model) as leaving:
        for stream in (staying, leaving):
            stream.read_events(1)
        leaving.client.close()
        hold.release()
        assert staying.read_to_end().done


def test_a_reader_that_stops_is_gone_after_the_write_timeout(
    impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    registration_id = impatient_gateway.register(peer, model)
    event = wire.chunk(wire.chat_chunk("x" * 16000))
    peer.script(wire.STREAM_HEAD, SendForEver(event))
    memory_bytes = impatient_gateway.resident_bytes
    closed_before = impatient_gateway.stats()["requests"]["client_closed"]
    with RawClient(impatient_gateway.port, receive_buffer_bytes=8192) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        client.read_head()
        stopped_at = time.monotonic()
        (request,) = peer.wait_for_requests()
        closed = "a client that stops reading for CLIENT_WRITE_TIMEOUT_SECONDS is let go"
        closed_at = eventually(lambda: request.connection.closed_at, closed, 5.0)
        assert closed_at is not None
        assert 0.7 <= closed_at - stopped_at <= 2.5, "the limit is 1 s here"
        outcome = "it is the client that counts as gone, not the stream as too long"
        eventually_equal(lambda: impatient_gateway.stats()["requests"]["client_closed"], closed_before + 1, outcome)
    assert request.connection.sent_bytes < 24e6, "back-pressure: the server is not read faster than the client reads"
    assert impatient_gateway.resident_bytes - memory_bytes < 16e6, "what nobody reads is not gathered in memory"
    assert_nobody_blamed(impatient_gateway, registration_id)


def test_a_slow_reader_gets_every_byte(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    texts = [f"{number}:" + "y" * 20000 for number in range(200)]
    peer.script(wire.stream_answer(wire.good_stream(*texts)))
    with RawClient(gateway.port, receive_buffer_bytes=8192) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        (request,) = peer.wait_for_requests()
        time.sleep(0.3)
        stream = EventStream(client).read_to_end()
    assert stream.texts == texts
    assert stream.done
    assert request.connection.closed_at is None, "and the connection to the server is kept"


def test_queue_timeout_and_a_full_queue(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway = impatient_gateway
    registration_id = gateway.register(peer, model, max_concurrency=1)
    with contextlib.ExitStack() as clients:
        busy, *waiting, refused = [clients.enter_context(gateway.client()) for _number in range(4)]
        peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Hold())
        busy.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
        busy.read_head()
        for client in waiting:
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
        time.sleep(0.1)
        asked_at = time.monotonic()
        refused.request("POST", "/v1/chat/completions", wire.chat_body(model))
        answers = [client.read_response() for client in (refused, *waiting)]
    assert answers[0].ended_at - asked_at < 0.3, "a request beyond QUEUE_SIZE is refused at once"
    for answer in answers:
        assert (answer.status, answer.code) == (503, "overloaded")
        assert 1 <= int(answer.header("Retry-After") or 0) <= 60
    assert len(peer.requests) == 1, "those that waited in vain never reach the server"
    assert_nobody_blamed(gateway, registration_id)


def test_deregistering_while_a_request_waits_in_the_queue(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    busy, other = start_peer(), start_peer()
    registration_id = gateway.register(busy, model, max_concurrency=1)
    hold = Hold()
    busy.script(hold, wire.json_answer(wire.chat_completion("first")))
    with gateway.client() as first, gateway.client() as second:
        first.request("POST", "/v1/chat/completions", wire.chat_body(model))
        busy.wait_for_requests()
        second.request("POST", "/v1/chat/completions", wire.chat_body(model))
        never(lambda: len(busy.requests) > 1, "the second waits", 0.1)
        gateway.register(other, model)
        assert second.read_response().text == other.name, "a new server takes over what waits"
        response = gateway.call("DELETE", f"/admin/register/{registration_id}", None, [("X-API-Key", ADMIN_KEY)])
        assert response.status == 200
        hold.release()
        assert first.read_response().text == "first", "a running request finishes"
