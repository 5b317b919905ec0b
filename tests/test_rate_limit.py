"""A caller's own limit: RATE_LIMIT_REQUESTS_PER_MINUTE, by key, else by address, on `POST /v1/…` only."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess

KEYS = [f"{wire.PLANTED_CLIENT_KEY}-{number}" for number in range(3)]


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


def limited(start_gateway: StartGateway, per_minute: int, **settings: object) -> GatewayProcess:
    return start_gateway(RATE_LIMIT_ENABLED="true", RATE_LIMIT_REQUESTS_PER_MINUTE=per_minute, **settings)


def test_exactly_as_many_as_allowed(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = limited(start_gateway, 25)
    gateway.register(peer, model)
    answers: list[Response] = []
    start = threading.Barrier(50)

    def ask() -> None:
        with gateway.client() as client:
            start.wait()
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
            answers.append(client.read_response())

    threads = [threading.Thread(target=ask) for _number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answer.status for answer in answers) == {200: 25, 429: 25}
    assert len(peer.requests) == 25
    for answer in answers:
        if answer.status == 429:
            message = assert_error(answer, "rate_limit_exceeded")
            assert "Retry-After" in message
    assert gateway.stats()["requests"]["total"] == 25, "who is refused is not admitted"


def test_by_key_else_by_address(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = limited(start_gateway, 2, CLIENT_API_KEYS=",".join(KEYS), TRUST_PROXY_HEADERS="true")
    gateway.register(peer, model)

    def allowed(*headers: tuple[str, str]) -> list[int]:
        return [gateway.chat(model, headers=headers).status for _number in range(3)]

    here, there = ("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2")
    twice = [200, 200, 429]
    assert allowed(bearer(KEYS[0]), here) == twice
    assert allowed(bearer(KEYS[0]), there) == [429] * 3, "a key is the same from everywhere"
    assert allowed(bearer(KEYS[1]), here) == twice, "another key from the same address is another caller"
    assert allowed(here) == twice, "without a key it is the address that counts"
    assert allowed(bearer("anything"), here) == [429] * 3, "and an unknown key does not make another caller"
    assert allowed(there) == twice


def test_only_what_costs_something_counts(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = limited(start_gateway, 3)
    gateway.register(peer, model)
    for _number in range(5):
        for path in ("/v1/models", f"/v1/models/{model}", "/health", "/", "/nope"):
            assert gateway.call("GET", path).status in (200, 404)
        assert gateway.call("OPTIONS", "/v1/chat/completions").status == 204
        assert gateway.call("GET", "/v1/chat/completions").status == 405
        assert gateway.admin("GET", "/admin/servers").status == 200
    paths = ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/v1/completions")
    statuses = [gateway.call("POST", path, wire.chat_body(model)).status for path in paths]
    assert statuses == [200, 200, 200, 429], "all routes together"
    refused = gateway.chat(model, True)
    assert_error(refused, "rate_limit_exceeded")


@pytest.mark.parametrize("per_minute", [60, 120])
def test_retry_after_is_honest(start_gateway: StartGateway, peer: ScriptedPeer, model: str, per_minute: int) -> None:
    gateway = limited(start_gateway, per_minute)
    gateway.register(peer, model)
    with gateway.client() as client:

        def ask() -> Response:
            client.request("POST", "/v1/chat/completions", wire.chat_body(model))
            return client.read_response()

        began_at = time.monotonic()
        first_refused = next(answer for answer in iter(ask, None) if answer.status == 429)
        meanwhile = int((time.monotonic() - began_at) * per_minute / 60)
        assert per_minute <= len(peer.requests) <= per_minute + meanwhile + 1, "a minute's worth at once"
        seconds = int(first_refused.header("Retry-After") or 0)
        assert seconds == 1, "the next one in a second, not in a minute"
        time.sleep(seconds)
        assert ask().status == 200, "as told"


def test_off_unless_switched_on(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(RATE_LIMIT_REQUESTS_PER_MINUTE=1)
    gateway.register(peer, model)
    assert [gateway.chat(model).status for _number in range(5)] == [200] * 5
    told = "settings: RATE_LIMIT_REQUESTS_PER_MINUTE: set, but not in force without RATE_LIMIT_ENABLED=true"
    assert gateway.output.count(told) == 1, "whoever has set a limit thinks that there is one"
