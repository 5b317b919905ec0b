"""The stories of requests: what happened, in order and in words, where the time went, and who may read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tornado.httpclient
import tornado.netutil

from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.proxy.stories import FAILED_KEPT_SECONDS, Stories, Story
from multiverse.proxy.telling import story_document
from multiverse.web.app import make_server
from multiverse.web.front.door import FrontDoor
from tests import wire
from tests.bench import HandClock, build_record
from tests.clients import EventStream
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold, Reset
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.test_keyring import bearer, make_key
from tests.wire import Headers, chat_body


def test_a_story_tells_what_happened_in_order(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    bad, good = start_peer(), start_peer()
    bad_id, good_id = gateway.register(bad, model), gateway.register(good, model)
    bad.always(Reset())
    stories = []
    for number in range(2):
        headers = [("X-Request-ID", f"{number}-of-{model}")]
        answer = gateway.call("POST", "/v1/chat/completions", chat_body(model), headers)
        assert answer.status == 200
        stories.append(gateway.call("GET", f"/v1/requests/{number}-of-{model}").json())
    (story,) = [story for story in stories if story["attempts"] == 2]
    told = [(event["event"], event.get("server")) for event in story["events"]]
    assert told == [
        ("admitted", None),
        ("tried", bad_id),
        ("failed", bad_id),
        ("tried", good_id),
        ("first_token", None),
        ("ended", None),
    ]
    assert story["events"][2]["code"] == "server_error"
    assert "reason" not in story["events"][2], "reasons are for owners and admins"
    assert "could not be reached" in story["events"][2]["text"], "it closed the connection: there was no answer"
    assert gateway.admin("GET", f"/v1/requests/{story['request_id']}").json()["events"][2]["reason"]


def test_stories_are_told_to_their_own(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(CLIENT_API_KEYS="key-of-ada")
    gateway.register(start_peer(), model)
    made = [gateway.admin("POST", "/admin/keys", {"name": "Ben"}).json()["key"] for _twice in range(2)]
    ada, ben, namesake = ([("Authorization", f"Bearer {key}")] for key in ("key-of-ada", *made))
    asked = {}
    for whose, key in (("ada", ada), ("ben", ben), ("nobody", [])):
        sent = gateway.call("POST", "/v1/chat/completions", chat_body(model), key)
        asked[whose] = str(sent.header("X-Request-ID"))
        path = f"/v1/requests/{asked[whose]}"
        may_read = [gateway.call("GET", path, headers=other).status == 200 for other in (ada, ben, namesake, [])]
        assert may_read == [key is ada, key is ben, False, key == []], (
            "one's own, also beside somebody of the same name"
        )
        assert gateway.admin("GET", path).status == 200
    assert gateway.call("GET", "/v1/requests/never-was").status == 404
    listed = [gateway.call("GET", "/v1/requests", headers=key) for key in (ada, ben, namesake)]
    assert [[one["request_id"] for one in answer.json()["requests"]] for answer in listed] == [
        [asked["ada"]],
        [asked["ben"]],
        [],
    ]
    assert gateway.call("GET", "/v1/requests").status == 401, "an address may be many people's"
    everybody = gateway.admin("GET", f"/v1/requests?model={model}&sort=total_ms").json()
    times = [one["total_ms"] for one in everybody["requests"]]
    assert (len(times), everybody["total"], times) == (3, 3, sorted(times))
    (newest,) = gateway.admin("GET", "/v1/requests?limit=1").json()["requests"]
    assert newest["request_id"] == asked["nobody"]
    moment = newest["started_at"]
    for query, count in (("key_name=Ben", 1), ("outcome=failed", 0), (f"until={moment}", 2), (f"since={moment}", 1)):
        assert gateway.admin("GET", f"/v1/requests?{query}").json()["total"] == count, query
    for wrong in ("since=yesterday", "sort=key", "limit=0", "outcome=fine", "who=me"):
        assert gateway.admin("GET", f"/v1/requests?{wrong}").status == 400, wrong


def test_errors_lead_to_their_story(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    headers = [("X-Request-ID", f"of/{model}")]
    peer.script(Reset())
    refused = gateway.call("POST", "/v1/chat/completions", chat_body(model), headers)
    peer.script(wire.STREAM_HEAD, wire.chunk(wire.chat_chunk("Once")), Reset())
    with gateway.client() as client:
        client.request("POST", "/v1/chat/completions", chat_body(model, True), headers)
        (broken,) = EventStream(client).read_to_end().errors
    for message in (refused.error["message"], broken["message"]):
        assert message.endswith(f" What happened: /requests/of/{model}")
    told = gateway.admin("GET", f"/v1/requests/of/{model}").json()
    assert (told["code"], told["outcome"]) == ("server_disconnected", "failed")
    assert re.fullmatch(r"Broke off after .+, in the middle of the answer\..*", told["summary"])
    # What is refused before it is admitted has no story to be told.
    assert "/requests/" not in gateway.call("POST", "/v1/chat/completions", b"{}").error["message"]


def told_story(record: dict[str, Any], *steps: tuple[float, float | None], for_admin: bool = False) -> dict[str, Any]:
    """The story of a request with these attempts: when each began and failed, in seconds."""
    story = Story(100.0)
    for number, (began, failed) in enumerate(steps, 1):
        story.tried(100.0 + began, f"server-{number}")
        if failed is not None:
            story.failed(100.0 + failed, "model_loading", "secret reason")
    story.record = build_record(**record)
    return story_document(story, story.record, for_admin=for_admin)


@pytest.mark.parametrize(
    ("record", "steps", "time", "summary"),
    [
        (
            {"outcome": "ok", "queue_ms": 9000.0, "first_token_ms": 10_500.0, "total_ms": 11_000.0},
            [(9.25, None)],
            (250.0, 9000.0, 0.0, 1250.0, 500.0),
            "Answered in 11.0 s. Most of it, 9.0 s, went to waiting for a free slot, "
            "since every server of the model was busy.",
        ),
        (
            {"outcome": "ok", "first_token_ms": 40.0, "total_ms": 100.0, "completion_tokens": 30},
            [(0.0, 0.03), (0.03, None)],
            (0.0, 0.0, 30.0, 10.0, 60.0),
            "Answered in 100 ms. Most of it, 60 ms, went to the answer itself: 30 tokens, 500.0 a second.",
        ),
        (
            {"outcome": "client_closed", "status": 499, "stream": False, "total_ms": 125_000.0},
            [(0.0, None)],
            (0.0, 0.0, 0.0, 125_000.0, 0.0),
            "The client left after 2 min 5 s, before it had its whole answer. Most of it, 2 min 5 s, went to "
            "waiting for the server's whole answer.",
        ),
        (
            {"outcome": "rejected", "status": 404, "total_ms": 0.1},
            [],
            (0.1, 0.0, 0.0, 0.0, 0.0),
            "Refused after less than 1 ms with 404.",
        ),
    ],
    ids=["queued", "failed over", "left", "never sent"],
)
def test_where_the_time_went(
    record: dict[str, Any], steps: list[tuple[float, float | None]], time: tuple[float, ...], summary: str
) -> None:
    told = told_story(record, *steps)
    assert tuple(told["time"].values()) == pytest.approx(time, abs=0.11)
    assert sum(told["time"].values()) == pytest.approx(record["total_ms"], abs=0.11)
    assert told["summary"] == summary
    moments = [event["at_ms"] for event in told["events"]]
    assert moments == sorted(moments)


def test_reasons_are_for_admins() -> None:
    record = {"outcome": "failed", "total_ms": 60.0}
    texts = [str(told_story(record, (0.0, 0.05), for_admin=for_admin)) for for_admin in (False, True)]
    assert ["secret reason" in text for text in texts] == [False, True]
    assert "it was still loading the model" in texts[0]


async def test_who_may_not_have_another_one_under_way_begins_no_story(tmp_path: Path) -> None:
    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    environ |= {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT_REQUESTS_AT_ONCE": "1"}
    async with Gateway(load_config(environ, dotenv_path=None)) as gateway:
        gateway.allowances.enter("address:127.0.0.1", None)
        server = make_server(gateway)
        assert isinstance(server, FrontDoor)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await server.accept_on([listener])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        asked = {
            "method": "POST",
            "body": chat_body("any"),
            "headers": {"Content-Type": "application/json"},
            "raise_error": False,
        }
        answer = await tornado.httpclient.AsyncHTTPClient().fetch(url, **asked)  # type: ignore[arg-type]
        server.stop()
        await server.close_all_connections()
        listener.close()
        assert answer.code == 429
        assert gateway.stories.under_way == 0, "what never ends would stay in memory for ever"


def servers_tried(gateway: GatewayProcess, path: str, headers: Headers) -> list[str]:
    events = gateway.call("GET", path, headers=headers).json()["events"]
    return [event["server"] for event in events if event["event"] == "tried"]


def test_of_two_with_one_id_nobody_hears_the_others_story(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    first, second = start_peer(), start_peer()
    first_id, second_id = gateway.register(first, f"{model}-1"), gateway.register(second, f"{model}-2")
    ada, ben = (bearer(make_key(gateway, name)[1]) for name in ("Ada", "Ben"))
    holds = [Hold(), Hold()]
    first.script(holds[0], AnswerChat())
    second.script(holds[1], AnswerChat())
    same_id = ("X-Request-ID", f"same/{model}")
    path = f"/v1/requests/same/{model}"
    with gateway.client() as of_ada, gateway.client() as of_ben:
        of_ada.request("POST", "/v1/chat/completions", chat_body(f"{model}-1"), [same_id, *ada])
        first.wait_for_requests()
        of_ben.request("POST", "/v1/chat/completions", chat_body(f"{model}-2"), [same_id, *ben])
        second.wait_for_requests()
        holds[0].release()
        assert of_ada.read_response().status == 200
        assert servers_tried(gateway, path, ada) == [first_id]
        assert gateway.call("GET", path, headers=ben).status == 404, "his own has not ended"
        holds[1].release()
        assert of_ben.read_response().status == 200
    assert servers_tried(gateway, path, ben) == [second_id]
    assert gateway.call("GET", path, headers=ada).status == 404, "of two with one id, the one that ended last is kept"


def test_stories_are_forgotten() -> None:
    clock = HandClock()
    stories = Stories(clock=clock)
    for number in (*range(2_100), 100, 2_100):
        stories.end(stories.begin(), build_record(request_id=f"good-{number}", outcome="ok"))
    stories.end(stories.begin(), build_record(request_id="bad"))
    assert stories.find("good-101") is None
    assert stories.find("good-100") is not None, "it came again"
    assert stories.find("good-102") is not None
    assert stories.find("bad") is not None
    clock.pass_time(FAILED_KEPT_SECONDS + 1)
    assert stories.find("bad") is None


def test_two_requests_with_one_id_at_once_have_a_story_each() -> None:
    stories = Stories(clock=HandClock())
    first, second = stories.begin(), stories.begin()
    first.tried(0.0, "server-of-the-first")
    stories.end(first, build_record(request_id="chosen", outcome="ok", key_name="Ada"))
    found = stories.find("chosen")
    assert found is first
    assert found.record is not None
    assert (found.record.key_name, found.steps[0].registration_id) == ("Ada", "server-of-the-first")
    stories.end(second, build_record(request_id="chosen", outcome="ok", key_name="Ben"))
    assert stories.find("chosen") is second, "of two with one id, the one that ended last is kept"
    assert stories.under_way == 0
