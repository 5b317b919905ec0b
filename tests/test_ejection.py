"""When a server is skipped and when it is tried again: busy, loading, ejected, not serving, last resort.

Gateways of these tests are not probing by themselves, so that only requests (and probes asked for) move a verdict.
"""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest

from tests import wire
from tests.clients import Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold, Script, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually, never

NO_PROBES = 300
THRESHOLD = 3  # MAX_CONSECUTIVE_FAILURES by default
LOADING = wire.error_answer(503, "Loading model", code=503, type="unavailable_error")
BOOM = wire.error_answer(500, "boom")


def chat_at_once(gateway: GatewayProcess, model: str, count: int) -> list[Response]:
    """`count` chat requests that are all under way at the same time."""
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(gateway.client()) for _number in range(count)]
        for client in clients:
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
        return [client.read_response() for client in clients]


def chat_until(gateway: GatewayProcess, model: str, bad: ScriptedPeer, count: int, within_seconds: float = 5.0) -> None:
    """Chat, and be answered every time, until `bad` has been asked `count` times."""

    def answered_and_reached() -> bool:
        assert gateway.chat(model).status == 200, "the good server answers every request"
        return len(bad.requests) >= count

    eventually(answered_and_reached, f"{bad.name} is asked {count} times", within_seconds)


# -- busy and loading


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after_seconds", [None, 7])
def test_a_busy_server_is_skipped_for_its_retry_after(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, status: int, retry_after_seconds: int | None
) -> None:
    headers = [] if retry_after_seconds is None else [("Retry-After", str(retry_after_seconds))]
    script = Script(AnswerChat())
    script.queue(wire.error_answer(status, "busy", headers))
    registrations = {peer: gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    assert gateway.chat(model).status == 200
    busy = script.arrivals[0].peer
    record = gateway.server(registrations[busy])
    assert record["availability"] == "busy"
    assert (record["health_status"], record["consecutive_failures"]) == ("healthy", 0), "busy is not broken"
    for _number in range(6):
        assert gateway.chat(model).text != busy.name
    assert len(busy.requests) == 1, "skipped for its Retry-After, else for 1 s"
    if retry_after_seconds is not None:
        # For how much longer than the second of a server that says nothing: test_server.py, by a clock of its own.
        never(lambda: gateway.chat(model).text == busy.name, "skipped for its Retry-After", 1.3)
        return
    chat_until(gateway, model, busy, 2, within_seconds=4.0)
    waited_seconds = busy.requests[1].arrived_at - busy.requests[0].arrived_at
    assert 0.9 <= waited_seconds <= 3.0, "and asked again after that"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (wire.error_answer(503, "busy", [("Retry-After", "30")]), "overloaded"),
        (wire.error_answer(429, "busy", [("Retry-After", "30")]), "overloaded"),
        (LOADING, "model_loading"),
    ],
)
def test_the_only_server_needs_no_cool_down(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, answer: bytes, code: str
) -> None:
    registration_id = gateway.register(peer, model)
    peer.script(answer, times=4)
    for _number in range(4):
        response = gateway.chat(model)
        assert (response.status, response.code) == (503, code)
        assert 1 <= int(response.header("Retry-After") or 0) <= 60
    assert gateway.server(registration_id)["availability"] == {"overloaded": "busy", "model_loading": "loading"}[code]
    assert gateway.chat(model).text == peer.name, "the next request after its recovery succeeds"
    assert len(peer.requests) == 5, "the only one is never skipped"
    assert gateway.server(registration_id)["consecutive_failures"] == 0


def test_of_several_busy_servers_the_first_to_be_free_says_when(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    script = Script(AnswerChat())
    for seconds in ("3", "9"):
        script.queue(wire.error_answer(429, "busy", [("Retry-After", seconds)]))
    for _number in range(2):
        gateway.register(start_peer(script), model)
    response = gateway.chat(model)
    assert (response.status, response.code) == (503, "overloaded")
    assert (response.header("Retry-After"), response.header("X-Gateway-Attempts")) == ("3", "2")


def test_a_server_that_loads_says_so(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.health.always(LOADING)
    registration_id = gateway.register(peer, model)
    record = gateway.server(registration_id)
    assert record["availability"] == "loading", "llama.cpp's 503 is loading, not a failure"
    assert record["consecutive_failures"] == 0
    peer.script(LOADING)
    response = gateway.chat(model)
    assert (response.status, response.code) == (503, "model_loading")


def test_a_wrong_key_of_a_server_is_no_failure(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    bad, good = start_peer(), start_peer()
    bad.always(wire.error_answer(401, "invalid key"))
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    chat_until(gateway, model, bad, THRESHOLD + 1)
    record = gateway.server(registration_id)
    assert record["consecutive_failures"] == 0
    assert record["availability"] != "ejected"
    assert record["reason"], "the owner is told that the key is wrong"


def test_a_server_without_the_model_waits_for_a_good_probe(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    script = Script(AnswerChat())
    script.queue(wire.error_answer(404, "no such model", code="model_not_found"))
    registrations = {peer: gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    for _number in range(6):
        assert gateway.chat(model).status == 200
    lacking = script.arrivals[0].peer
    assert len(lacking.requests) == 1, "marked as not serving"
    assert gateway.server(registrations[lacking])["consecutive_failures"] == 0
    assert gateway.admin("POST", f"/admin/servers/{registrations[lacking]}/probe").json()["probe"]["ok"]
    for _number in range(4):
        assert gateway.chat(model).status == 200
    assert len(lacking.requests) > 1, "until the next good probe"


# -- ejection


def test_ejection_doubles_up_to_its_limit(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=0.5, EJECT_MAX_SECONDS=1.2)
    bad, good = start_peer(), start_peer()
    bad.always(BOOM)
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    chat_until(gateway, model, bad, THRESHOLD)
    record = gateway.server(registration_id)
    assert record["availability"] == "ejected"
    assert record["health_status"] == "healthy", "the verdict belongs to the probes"
    chat_until(gateway, model, bad, THRESHOLD + 3)
    arrived_at = [request.arrived_at for request in bad.requests][THRESHOLD - 1 :]
    waited_seconds = [after - before for before, after in itertools.pairwise(arrived_at)]
    for waited, wanted in zip(waited_seconds, (0.5, 1.0, 1.2), strict=True):
        assert wanted - 0.05 <= waited <= wanted + 0.4, f"ejected for 0.5, 1 and 1.2 s: {waited_seconds}"
    bad.always(AnswerChat())
    chat_until(gateway, model, bad, THRESHOLD + 4)
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("available", 0), "a good trial ends it"


def test_one_trial_among_ten_concurrent_requests(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=0.4)
    bad, good = start_peer(), start_peer()
    bad.always(BOOM)
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    chat_until(gateway, model, bad, THRESHOLD)
    bad.always(Sleep(0.4), BOOM)
    time.sleep(0.45)  # the ejection itself
    assert [response.status for response in chat_at_once(gateway, model, 10)] == [200] * 10
    assert len(bad.requests) == THRESHOLD + 1, "exactly one trial request"
    assert gateway.server(registration_id)["availability"] == "ejected"


def test_a_trial_that_flows_lets_the_others_in(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    """It may stream for minutes: once it flows, those who wait get the other slots of its server."""
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=0.2, MAX_CONSECUTIVE_FAILURES=1)
    tried, full, begins, flows, hold = start_peer(), start_peer(), Hold(), Hold(), Hold()
    registration_id = gateway.register(tried, model, max_concurrency=2)
    tried.script(BOOM)
    tried.script(begins, wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("a")), flows, wire.chunked(wire.good_stream()))
    assert gateway.chat(model).status == 502
    gateway.register(full, model, max_concurrency=1)
    full.script(hold, AnswerChat())
    with gateway.client() as other, gateway.client() as waiting:
        other.request("POST", "/v1/chat/completions", wire.chat_body(model))
        full.wait_for_requests()
        time.sleep(0.2)
        with gateway.stream(model) as trial:
            tried.wait_for_requests(2)
            waiting.request("POST", "/v1/chat/completions", wire.chat_body(model))
            eventually(lambda: gateway.stats()["requests"]["queued"] == 1, "nobody knows yet whether it works")
            begins.release()
            assert waiting.read_response().text == tried.name, "while the trial goes on"
            record = gateway.server(registration_id)
            assert (record["availability"], record["in_flight"]) == ("available", 1)
            flows.release()
            hold.release()
            trial.read_to_end()
        assert (trial.done, other.read_response().text) == (True, full.name)


def test_a_trial_that_begins_with_an_error_lets_nobody_in(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    """Nor does anybody pay for it: no content has come."""
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=0.6, MAX_CONSECUTIVE_FAILURES=1)
    tried, full, hold = start_peer(), start_peer(), Hold()
    registration_id = gateway.register(tried, model, max_concurrency=3)
    tried.script(BOOM)
    tried.always(wire.stream_answer(wire.sse('{"error": {"message": "out of memory", "code": "oom"}}')))
    assert gateway.chat(model).status == 502
    gateway.register(full, model, max_concurrency=1)
    full.script(hold, AnswerChat())
    with contextlib.ExitStack() as clients:
        first, *others = (clients.enter_context(gateway.client()) for _number in range(3))
        first.request("POST", "/v1/chat/completions", wire.chat_body(model))
        full.wait_for_requests()
        for waiting in others:
            waiting.request("POST", "/v1/chat/completions", wire.chat_body(model, stream=True))
        eventually(lambda: len(tried.requests) == 2, "the trial")
        eventually(lambda: gateway.server(registration_id)["availability"] == "ejected", "it has failed")
        assert gateway.stats()["requests"]["queued"] == 1, "the other one still waits"
        hold.release()
        assert first.read_response().status == 200
        texts = [waiting.read_response().body for waiting in others]
    assert sum(b"out of memory" in text for text in texts) == 1
    report = gateway.admin("GET", f"/admin/usage?registration_id={registration_id}").json()["totals"]
    assert (report["requests"], report["prompt_tokens"], report["completion_tokens"]) == (2, 0, 0)


def test_failures_must_be_in_a_row(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    bad, good = start_peer(), start_peer()
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    for answer in (BOOM, BOOM, None, BOOM, BOOM, None, BOOM):
        bad.script(answer or AnswerChat())
    chat_until(gateway, model, bad, 7)
    record = gateway.server(registration_id)
    assert (record["availability"], record["consecutive_failures"]) == ("available", 1)


def test_a_good_probe_ends_the_wait_but_not_the_count(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=60, EJECT_MAX_SECONDS=120)
    bad, good = start_peer(), start_peer()
    bad.always(BOOM)
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    chat_until(gateway, model, bad, THRESHOLD)
    assert gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()["probe"]["ok"]
    for _number in range(8):
        assert gateway.chat(model).status == 200
    assert len(bad.requests) == THRESHOLD + 1, "one more failure is enough: a probe does not reset the count"
    assert gateway.server(registration_id)["availability"] == "ejected"


def test_clients_mistakes_between_failures_do_not_hide_them(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    bad, good = start_peer(), start_peer()
    registration_id, _ = gateway.register(bad, model), gateway.register(good, model)
    for answer in (BOOM, wire.error_answer(429, "busy", [("Retry-After", "1")]), BOOM, BOOM):
        bad.script(answer)
    chat_until(gateway, model, bad, 4)
    assert gateway.server(registration_id)["availability"] == "ejected", "429 is neither a failure nor a success"


# -- last resort


def test_when_all_are_ejected_the_least_recently_failed_is_tried(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=NO_PROBES, EJECT_SECONDS=60, EJECT_MAX_SECONDS=120)
    script = Script(BOOM)
    registrations = {peer: gateway.register(peer, model) for peer in (start_peer(script), start_peer(script))}
    for _number in range(THRESHOLD):
        assert gateway.chat(model).status == 502
    for peer, registration_id in registrations.items():
        assert gateway.server(registration_id)["availability"] == "ejected", f"{peer.name} has failed three times"
    for _number in range(3):
        before = len(script.arrivals)
        failed_last = script.arrivals[-1].peer
        assert gateway.chat(model).status == 502, "tried rather than refused"
        assert script.arrivals[before].peer is not failed_last, "the least recently failed goes first"
    script.always(AnswerChat("back"))
    assert gateway.chat(model).text == "back", "and serves as soon as it can"


def test_an_unhealthy_server_is_the_last_resort(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    odd, good = start_peer(), start_peer()
    odd.health.always(wire.html_answer(200))
    registration_id = gateway.register(odd, model)
    assert gateway.server(registration_id)["health_status"] == "unhealthy"
    assert gateway.chat(model).text == odd.name, "tried rather than refused"
    gateway.register(good, model)
    for _number in range(4):
        assert gateway.chat(model).text == good.name, "but not while a healthy one is there"


def test_least_busy_prefers_the_idle_server(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(LOAD_BALANCING="least_busy")
    hold = Hold()
    script = Script(AnswerChat())
    script.queue(
        wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), hold, wire.chunked(wire.finish_chunk() + wire.DONE)
    )
    for _number in range(2):
        gateway.register(start_peer(script), model)
    with gateway.stream(model) as stream:
        stream.read_events(1)
        busy = script.arrivals[0].peer
        for _number in range(4):
            assert gateway.chat(model).text != busy.name
        hold.release()
        assert stream.read_to_end().done
