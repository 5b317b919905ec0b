"""What people may learn and do by way of each other, of their keys and of the gateway: less than they might try."""

from __future__ import annotations

import json
from collections import Counter

from tests import wire
from tests.answers import assert_error
from tests.clients import EventStream
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import bearer, make_key, post
from tests.test_sessions import cookie_of, listen, sign_in
from tests.waiting import Stopwatch, eventually, eventually_equal


def test_a_name_opens_nothing(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    """Whoever claims a key under somebody else's name reads nothing of theirs; models that are kept stay unnamed."""
    peer.model_names.append(model)
    ada, eve = (bearer(make_key(gateway, f"Ada {model}")[1]) for _key in range(2))
    body = {"model_name": model, "endpoint_url": peer.url, "offered_to": "me", "max_concurrency": 1}
    registration_id = post(gateway, "/admin/register", body, ada).json()["registration_id"]
    request_id = gateway.chat(model, headers=ada).header("X-Request-ID")
    for headers, status in ((ada, 200), (eve, 404), ([], 404)):
        assert gateway.call("GET", f"/v1/requests/{request_id}", None, headers).status == status
    hold = Hold()
    peer.script(hold, AnswerChat())
    with gateway.client() as first, gateway.client() as second:
        first.request("POST", "/v1/chat/completions", wire.chat_body(model), ada)
        peer.wait_for_requests(2)
        second.request("POST", "/v1/chat/completions", wire.chat_body(model), ada)
        eventually_equal(lambda: gateway.stats()["requests"]["queued"], 1, "one waits")
        waiting = {"model": model, "waiting": 1}
        for headers, told in ((ada, [waiting]), (eve, []), ([], [])):
            assert gateway.call("GET", "/v1/queue", None, headers).json()["models"] == told
        hold.release()
        assert [client.read_response().status for client in (first, second)] == [200, 200]
    gateway.call("DELETE", f"/admin/register/{registration_id}", None, ada)


def test_a_student_cannot_have_the_network_scanned(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.model_names.append(model)
    student, other = (bearer(make_key(gateway, model)[1]) for _key in range(2))
    body = {"model_name": model, "endpoint_url": peer.url}
    registration_id = post(gateway, "/admin/register", body, student).json()["registration_id"]
    for url in ("http://169.254.169.254", "http://[::ffff:a9fe:a9fe]:80", "http://0.0.0.0:1"):
        assert_error(post(gateway, "/admin/probe", {"endpoint_url": url}, student), "invalid_request", "endpoint_url")
    looks = [post(gateway, "/admin/probe", {"endpoint_url": peer.url}, student).status for _look in range(27)]
    assert Counter(looks) == {200: 26, 429: 1}, "with what was refused and registered, thirty"
    path = f"/admin/register/{registration_id}"
    for refused in (
        post(gateway, "/admin/register", {**body, "model_name": f"{model}-2"}, student),
        post(gateway, f"/admin/servers/{registration_id}/probe", {}, student),
        gateway.call("PUT", path, b'{"endpoint_url": "http://127.0.0.1:9"}', student),
    ):
        assert_error(refused, "rate_limit_exceeded")
    assert gateway.call("PUT", path, b'{"description": "a laptop"}', student).status == 200, "that asks no server"
    assert post(gateway, "/admin/probe", {"endpoint_url": peer.url}, other).status == 200
    assert gateway.admin("POST", "/admin/probe", {"endpoint_url": peer.url}).status == 200
    gateway.call("DELETE", path, None, student)


def test_a_student_has_so_many_servers_and_no_more(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    """Each costs probes, memory and room on every page; what is registered again is none more."""
    peer.model_names += [f"{model}-{number}" for number in range(26)]
    student, other = (bearer(make_key(gateway, model)[1]) for _key in range(2))
    bodies = [{"model_name": name, "endpoint_url": peer.url} for name in peer.model_names[-26:]]
    made = [post(gateway, "/admin/register", body, student) for body in bodies]
    assert_error(made.pop(), "permission_denied")
    assert [answer.status for answer in made] == [201] * 25
    assert post(gateway, "/admin/register", bodies[0], student).status == 200
    theirs = post(gateway, "/admin/register", bodies[-1], other).json()["registration_id"]
    path = f"/admin/register/{made[0].json()['registration_id']}"
    moved = gateway.call("PUT", path, json.dumps({"model_name": bodies[-1]["model_name"]}).encode(), student)
    assert theirs not in assert_error(moved, "invalid_request", "endpoint_url")
    for answer in made:
        assert (
            gateway.call("DELETE", f"/admin/register/{answer.json()['registration_id']}", None, student).status == 200
        )
    gateway.call("DELETE", f"/admin/register/{theirs}", None, other)


def test_who_listens_must_still_be_an_admin(gateway: GatewayProcess) -> None:
    """A revoked key and one that has become a student's end their streams, however those came in."""
    revoked_id, revoked = make_key(gateway, role="admin")
    demoted_id, demoted = make_key(gateway, role="admin")
    cookie = cookie_of(sign_in(gateway, demoted))
    with listen(gateway, *bearer(revoked)) as first, listen(gateway, cookie) as second:
        for stream in (first, second):
            stream.read_events(3)
        gateway.admin("DELETE", f"/admin/keys/{revoked_id}")
        gateway.admin("PATCH", f"/admin/keys/{demoted_id}", {"role": "student"})
        watch = Stopwatch(gateway.process_id)
        for stream in (first, second):
            stream.read_to_end()
            assert stream.response.ended == "orderly"
        assert watch.own_seconds < 1.0, "revoked within a second"


def test_a_revoked_key_ends_what_it_has_under_way(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    """A loop of a stolen key is over at once: streams, answers that are awaited, the queue, bodies on their way."""
    streams, answers = start_peer(), start_peer()
    gateway.register(streams, f"{model}-s")
    gateway.register(answers, model, max_concurrency=1)
    key_id, key = make_key(gateway)
    streams.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("Hello")), Hold())
    answers.script(Hold())
    body = wire.chat_body(model)
    with gateway.client() as first, gateway.client() as second, gateway.client() as third, gateway.client() as fourth:
        first.request("POST", "/v1/chat/completions", wire.chat_body(f"{model}-s", True), bearer(key))
        stream = EventStream(first)
        stream.read_events(1)
        second.request("POST", "/v1/chat/completions", body, bearer(key))
        answers.wait_for_requests()
        third.request("POST", "/v1/chat/completions", body, bearer(key))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n"
        fourth.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        eventually_equal(lambda: gateway.stats()["requests"]["queued"], 1, "the third waits")
        watch = Stopwatch(gateway.process_id)
        assert gateway.admin("DELETE", f"/admin/keys/{key_id}").status == 200
        stream.read_to_end()
        assert "invalid_api_key" in stream.events[-1].data
        assert stream.response.ended == "orderly"
        fourth.send(body[10:])
        for client in (second, third, fourth):
            assert_error(client.read_response(), "invalid_api_key")
        assert watch.own_seconds < 1.0, "revoked within a second"
    assert len(answers.requests) == 1
    assert gateway.chat(model).status == 200, "its slot is free again, and nobody is blamed"
    eventually(lambda: f"key revoked key_id={key_id}" in gateway.output, "the log says whose")


def test_wrong_keys_are_limited_wherever_they_are_tried(start_gateway: StartGateway) -> None:
    """Also where `/v1` is open, and only who has a key is told anything."""
    gateway = start_gateway(METRICS_TOKEN="a-token-for-metrics")
    for path in ("/v1/account", "/v1/usage", "/metrics"):
        assert_error(gateway.call("GET", path), "invalid_api_key")
    paths = ["/v1/account", "/v1/usage", "/metrics"] * 18
    tried = [gateway.call("GET", path, None, bearer(f"mv-{number}")).status for number, path in enumerate(paths)]
    assert Counter(tried) == {401: 50, 429: 4}
    assert gateway.call("GET", "/v1/account", None, bearer(make_key(gateway)[1])).status == 200
    assert gateway.call("GET", "/metrics", None, bearer("a-token-for-metrics")).status == 200
