"""The harness holds what the black-box tests build on: scripts, records, framing, leaving, waiting, reading logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests import wire
from tests.clients import EventStream, RawClient
from tests.operations import AnswerChat, Fin, Hold, Reset, Script, Send, SendForEver, Sleep
from tests.peers import ScriptedPeer
from tests.processes import log_faults
from tests.waiting import eventually, eventually_equal, never

CHAT = "/v1/chat/completions"
GREETING = "北京 🌍 é"


def post(peer: ScriptedPeer, body: bytes = wire.chat_body("any")) -> RawClient:
    client = RawClient(peer.port, timeout_seconds=3.0)
    client.request("POST", CHAT, body)
    return client


def test_a_request_is_recorded_as_it_was_sent(peer: ScriptedPeer) -> None:
    body = b'{ "model":"any",\t"x": 1.0}'
    with RawClient(peer.port) as client:
        client.request("POST", CHAT, body, [("X-One", "1"), ("x-two", "2")])
        assert client.read_response().text == peer.name
    (request,) = peer.requests
    assert (request.method, request.path, request.body) == ("POST", CHAT, body)
    assert request.headers[:3] == [("Host", "gateway.test"), ("X-One", "1"), ("x-two", "2")]
    assert request.header("X-TWO") == "2"


def test_a_chunked_request_body_is_put_together(peer: ScriptedPeer) -> None:
    body = wire.chat_body("any")
    with RawClient(peer.port) as client:
        client.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + wire.chunked(body, 7))
        client.read_response()
    assert peer.requests[0].body == body


def test_probes_do_not_consume_inference_scripts(peer: ScriptedPeer) -> None:
    peer.model_names.append("org/model")
    peer.script(wire.json_answer({"play": 1}))
    with RawClient(peer.port) as client:
        client.request("GET", "/v1/models")
        assert client.read_response().json()["data"][0]["id"] == "org/model"
        client.request("GET", "/health")
        assert client.read_response().status == 404
        client.request("POST", CHAT, b"{}")
        assert client.read_response().json() == {"play": 1}
    assert (len(peer.probes), len(peer.requests), len(peer.connections)) == (2, 1, 1)


def test_a_shared_script_is_played_by_order_of_arrival(start_peer: Callable[..., ScriptedPeer]) -> None:
    script = Script(AnswerChat("good"))
    script.queue(wire.error_answer(500, "first"))
    one, two = start_peer(script), start_peer(script)
    for peer, status in ((two, 500), (one, 200), (two, 200)):
        with post(peer) as client:
            assert client.read_response().status == status
    assert [request.peer for request in script.arrivals] == [two, one, two]


@pytest.mark.parametrize("segment_bytes", [None, 1, 3])
@pytest.mark.parametrize("chunk_bytes", [None, 1, 5])
def test_streams_arrive_whole_in_any_slicing(
    peer: ScriptedPeer, segment_bytes: int | None, chunk_bytes: int | None
) -> None:
    body = wire.good_stream(GREETING, "two")
    peer.script(Send(wire.stream_answer(body, chunk_bytes), segment_bytes))
    with EventStream(post(peer)) as stream:
        stream.read_to_end()
    assert stream.response.body == body
    assert (stream.texts, stream.done, stream.errors, stream.response.ended) == (
        [GREETING, "two"],
        True,
        [],
        "orderly",
    )


def test_random_slicing_is_the_same_for_the_same_seed(peer: ScriptedPeer) -> None:
    body = wire.good_stream(GREETING)
    peer.script(Send(wire.stream_answer(body), seed=7))
    with EventStream(post(peer)) as stream:
        assert stream.read_to_end().response.body == body


def test_events_comments_and_fields_are_told_apart(peer: ScriptedPeer) -> None:
    body = b': hi\nid: 7\r\nevent: e\r\ndata: a\r\ndata: b\r\n\r\n: keep-alive\ndata: {"error": {"code": "x"}}\n\n'
    peer.script(wire.STREAM_HEAD_UNTIL_CLOSE + body, Fin())
    with EventStream(post(peer)) as stream:
        first, second = stream.read_to_end().events
    assert (first.data, first.name, first.event_id) == ("a\nb", "e", "7")
    assert second.error == {"code": "x"}
    assert [text for _when, text in stream.comments] == [": hi", ": keep-alive"]


@pytest.mark.parametrize(
    ("steps", "ended"),
    [
        ((wire.stream_answer(b"data: 1\n\n"),), "orderly"),
        ((wire.STREAM_HEAD + wire.chunk(b"data: 1\n\n"), Fin()), "cut"),
        ((wire.STREAM_HEAD + wire.chunk(b"data: 1\n\n"), Sleep(0.05), Reset()), "cut"),
        ((wire.answer(b"data: 1\n\n", headers=[("X", "y")]),), "orderly"),
        ((wire.head(200, [("Content-Length", "50")]) + b"data: 1\n\n", Fin()), "cut"),
        ((wire.STREAM_HEAD_UNTIL_CLOSE + b"data: 1\n\n", Fin()), "orderly"),
    ],
)
def test_how_a_body_ended_is_noticed(peer: ScriptedPeer, steps: tuple[bytes, ...], ended: str) -> None:
    peer.script(*steps)
    with post(peer) as client:
        response = client.read_response()
    assert (response.body, response.ended) == (b"data: 1\n\n", ended)


def test_a_reset_reaches_the_client(peer: ScriptedPeer) -> None:
    peer.script(Reset())
    with post(peer) as client, pytest.raises(ConnectionResetError):
        client.read_head()


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.abort])
def test_leaving_is_noticed_at_once(peer: ScriptedPeer, leave: Callable[[RawClient], None]) -> None:
    peer.script(Hold())
    client = post(peer)
    (request,) = peer.wait_for_requests()
    eventually(peer.busy_connections, "a held request is busy")
    left_at = time.monotonic()
    leave(client)
    eventually(lambda: request.connection.closed_at, "the peer notices")
    assert request.connection.closed_at is not None
    assert request.connection.closed_at - left_at < 0.5
    eventually_equal(peer.busy_connections, [], "nothing is busy any more")


def test_a_hold_ends_when_released(peer: ScriptedPeer) -> None:
    hold = Hold()
    peer.always(hold, AnswerChat("after"))
    with post(peer) as client:
        peer.wait_for_requests()
        hold.release()
        assert client.read_response().text == "after"
        client.request("POST", CHAT, b"{}")
        assert client.read_response().text == "after", "released once is released for good"


def test_a_reader_that_stops_holds_the_peer_up(peer: ScriptedPeer) -> None:
    peer.script(SendForEver(b"x" * 65536))
    with post(peer):
        (request,) = peer.wait_for_requests()
        time.sleep(0.2)
        sent_bytes = request.connection.sent_bytes
        time.sleep(0.1)
        assert request.connection.sent_bytes == sent_bytes, "the peer waits while nobody reads"


def test_a_refused_port_and_its_return(peer: ScriptedPeer) -> None:
    peer.refuse()
    with pytest.raises(ConnectionRefusedError):
        RawClient(peer.port)
    peer.listen()
    with post(peer) as client:
        assert client.read_response().status == 200


def test_idle_connections_can_be_closed(peer: ScriptedPeer) -> None:
    with post(peer) as client:
        client.read_response()
        peer.close_idle_connections()
        assert client.at_end()
    assert not peer.open_connections()


async def test_peers_serve_async_tests_too(peer: ScriptedPeer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    assert await reader.readline() == b"HTTP/1.1 200 Whatever\r\n"
    await asyncio.to_thread(peer.wait_for_requests, 1)
    writer.close()
    await writer.wait_closed()


def test_waiting_tells_what_was_promised() -> None:
    with pytest.raises(AssertionError, match=r"the moon is green.*last seen: 0"):
        eventually(lambda: 0, "the moon is green", within_seconds=0.02)
    with pytest.raises(AssertionError, match=r"one.*should be 1.*last seen: 2"):
        eventually_equal(lambda: 2, 1, "one", within_seconds=0.02)
    with pytest.raises(AssertionError, match="nothing happens"):
        never(lambda: True, "nothing happens", for_seconds=0.02)
    assert eventually(lambda: "yes", "at once") == "yes"


def test_log_faults_are_found_unless_expected() -> None:
    clean = "INFO listening\nINFO request done\n"
    assert log_faults(clean) == []
    bad = clean + "ERROR Exception in callback x\nINFO key=planted-admin-key-0123456789\n"
    assert len(log_faults(bad)) == 2
    assert log_faults(bad, ["callback x"]) == ["INFO key=planted-admin-key-0123456789"]
