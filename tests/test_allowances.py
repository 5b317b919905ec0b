"""What a caller may use: by key, by role, by address; exact, told in OpenAI's headers, and kept through a restart."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.errors import RateLimitExceeded
from multiverse.people.allowances import Allowance, Allowances, Limit, as_duration
from multiverse.people.keys import Caller
from multiverse.people.limits import RateLimit
from tests import wire
from tests.answers import assert_error
from tests.bench import UNHURRIED, HandClock
from tests.clients import Response
from tests.conftest import StartGateway
from tests.operations import AnswerChat, Hold
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import bearer, make_key
from tests.waiting import eventually_equal

STUDENT = Caller("Ada", "student", "key-a")


def build(clock: HandClock, **limits: Any) -> Allowances:
    return Allowances(by_role={"student": Limit(**limits)}, clock=clock)


def allowance_of(allowances: Allowances, caller: Caller = STUDENT, name: str = "key-a") -> Allowance:
    found = allowances.of(caller, name)
    assert found is not None
    return found


def test_a_key_s_own_limits_go_before_those_of_its_role() -> None:
    allowances = build(HandClock(), requests_per_minute=7, tokens_per_day=50)
    own = Caller("Ada", "student", "key-a", tokens_per_day=9, requests_at_once=2)
    assert allowances.limit_of(own) == Limit(requests_per_minute=7, tokens_per_day=9, requests_at_once=2)
    assert allowances.limit_of(STUDENT) == Limit(requests_per_minute=7, tokens_per_day=50)


# -- by hand


@UNHURRIED
@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.one_of(st.just(None), st.floats(0, 40)), max_size=80),
)
def test_the_headers_never_lie(limit: int, steps: list[float | None]) -> None:
    """After any history, exactly as many pass as `remaining` says, and all of them after `reset`."""
    clock = HandClock()
    rate = RateLimit(limit=limit, period_seconds=60.0, clock=clock)
    for step in steps:
        if step is None:
            rate.allow("somebody")
        else:
            clock.pass_time(step)
    remaining, reset_seconds = rate.state("somebody")
    passed = sum(1 for _pass in itertools.takewhile(lambda _number: rate.allow("somebody") is None, range(limit + 1)))
    assert passed == remaining
    clock.pass_time(reset_seconds + 60.0)
    assert rate.state("somebody") == (limit, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0124, "13ms"), (0.999, "999ms"), (1, "1s"), (1.2, "2s"), (59.9, "60s"), (60, "1m0s"), (90, "1m30s"),
     (3600, "1h0m0s"), (86400, "24h0m0s")],
)  # fmt: skip
def test_times_as_openai_writes_them(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text.replace("60s", "1m0s")


def test_whose_limits_hold() -> None:
    allowances = build(HandClock(), requests_per_minute=5, tokens_per_day=100)
    assert allowances.of(Caller("admin", "admin"), "admin") is None, "nothing limits it"
    own = Caller("Ben", "student", "key-b", requests_per_minute=2)
    headers = allowance_of(allowances, own, "key-b").headers()
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("2", "100")
    only_own = Caller("Eve", "admin", "key-e", tokens_per_day=7)
    assert set(allowance_of(allowances, only_own, "key-e").headers()) == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }


def test_tokens_of_a_day() -> None:
    clock = HandClock(unix_seconds=1_800_000_000 // 86400 * 86400 + 86400 - 90)
    allowances = build(clock, tokens_per_day=100)
    allowance = allowance_of(allowances)
    for tokens, left in ((60, "40"), (39, "1"), (11, "0")):
        allowance.count()
        allowances.spend("key-a", tokens)
        assert allowance.headers()["x-ratelimit-remaining-tokens"] == left
    with pytest.raises(RateLimitExceeded, match="in 1m30s") as refused:
        allowance.count()
    assert refused.value.headers() == {"Retry-After": "60", "X-Should-Retry": "false"}, "a library would ask in vain"
    assert allowance.headers()["x-ratelimit-reset-tokens"] == "1m30s"
    allowance_of(allowances, name="key-b").count()
    clock.pass_time(90)
    allowance.count()
    assert allowance.headers()["x-ratelimit-remaining-tokens"] == "100"


@UNHURRIED
@given(moves=st.lists(st.booleans(), max_size=60), limit=st.integers(1, 4))
def test_never_more_at_once(moves: list[bool], limit: int) -> None:
    allowances = build(HandClock(), requests_at_once=limit)
    inside: list[Allowance] = []
    for enters in moves:
        if enters:
            allowance = allowance_of(allowances)
            if len(inside) == limit:
                with pytest.raises(RateLimitExceeded):
                    allowance.enter()
                allowance.leave()  # What never began ends nothing.
            else:
                allowance.enter()
                inside.append(allowance)
        elif inside:
            ended = inside.pop()
            ended.leave()
            ended.leave()
        assert len(inside) <= limit
    for allowance in inside:
        allowance.leave()
    assert not vars(allowances)["_at_once"], "nothing is kept of those who have left"


def test_who_asks_too_much_at_once_loses_nothing_of_the_minute() -> None:
    allowances = build(HandClock(), requests_per_minute=5, requests_at_once=2)
    under_way = [allowance_of(allowances) for _request in range(2)]
    for allowance in under_way:
        allowance.count()
        allowance.enter()
    for _request in range(20):
        with pytest.raises(RateLimitExceeded, match="2 requests under way"):
            allowance_of(allowances).count()
    under_way[0].leave()
    last = allowance_of(allowances)
    last.count()
    assert last.headers()["x-ratelimit-remaining-requests"] == "2"


# -- as clients see it


def limited(start_gateway: StartGateway, **settings: object) -> GatewayProcess:
    return start_gateway(RATE_LIMIT_ENABLED="true", **settings)


def test_headers_on_every_answer(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = limited(start_gateway, RATE_LIMIT_REQUESTS_PER_MINUTE=3, RATE_LIMIT_TOKENS_PER_DAY=1000)
    gateway.register(peer, model)
    answers = [gateway.chat(model), gateway.chat(model, True), gateway.chat("no-such-model"), gateway.chat(model)]
    assert [answer.status for answer in answers] == [200, 200, 404, 429]
    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.header("x-ratelimit-limit-requests") for answer in answers} == {"3"}
    assert answers[1].header("x-ratelimit-remaining-tokens") == "995", "the first one's tokens are known by then"
    assert answers[0].header("x-ratelimit-reset-requests") in ("20s", "1m0s")
    exposed = answers[0].header("Access-Control-Expose-Headers") or ""
    assert "x-ratelimit-remaining-requests" in exposed, "pages may read them"


def test_tokens_are_remembered_over_a_restart(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    limits = "student=0/9/0,anonymous=0/0/0"
    gateway = limited(start_gateway, RATE_LIMITS_BY_ROLE=limits)
    settings = {row["variable"]: row["value"] for row in gateway.admin("GET", "/admin/settings").json()["settings"]}
    assert (settings["RATE_LIMITS_BY_ROLE"], settings["SMTP_HOST"]) == (limits, "none"), "as in .env"
    gateway.register(peer, model)
    secret = make_key(gateway)[1]
    assert [gateway.chat(model, headers=bearer(secret)).status for _number in range(3)] == [200, 200, 429]
    gateway.stop()
    gateway.start()
    refused = gateway.chat(model, headers=bearer(secret))
    assert "midnight" in assert_error(refused, "rate_limit_exceeded")
    eventually_equal(lambda: gateway.chat(model).status, 200, "the others are not limited")


def test_a_slot_is_free_before_the_last_byte(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = limited(start_gateway, RATE_LIMIT_REQUESTS_AT_ONCE=1, RATE_LIMIT_REQUESTS_PER_MINUTE=100000)
    gateway.register(peer, model)
    with gateway.client() as client:
        for number in range(200):
            client.request("POST", "/v1/chat/completions", wire.chat_body(model, stream=bool(number % 2)))
            assert client.read_response().status == 200


def test_so_many_at_once(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway()
    gateway.register(peer, model)
    secret = make_key(gateway, requests_at_once=2)[1]  # A key's own limits hold although there are no others.
    hold = Hold()
    peer.inference.always(hold, AnswerChat())
    answers: list[Response] = []

    def ask() -> None:
        answers.append(gateway.chat(model, headers=bearer(secret)))

    threads = [threading.Thread(target=ask) for _number in range(6)]
    for thread in threads:
        thread.start()
    eventually_equal(lambda: len(answers), 4, "four are refused at once")
    with gateway.client() as leaver:
        other = make_key(gateway, "Ben", requests_at_once=1)[1]
        leaver.request("POST", "/v1/chat/completions", wire.chat_body(model), bearer(other))
        eventually_equal(lambda: len(peer.requests), 3, "another key is another caller")
    eventually_equal(lambda: gateway.stats()["requests"]["in_flight"], 2, "it left")
    hold.release()
    for thread in threads:
        thread.join()
    assert Counter(answer.status for answer in answers) == {200: 2, 429: 4}
    assert gateway.chat(model, headers=bearer(other)).status == 200, "who has left has given the place back"
