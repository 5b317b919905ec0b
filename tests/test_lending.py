"""What owners decide about their servers, with real processes: who gets in, what the others are told, what is kept.

The rules themselves are in test_terms.py.
"""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlite_utils import Database

from multiverse.storage.migrations import migrate
from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.stores import opened, registration
from tests.test_cli import run
from tests.test_keyring import bearer, make_key, post
from tests.waiting import eventually, eventually_equal


def patch(gateway: GatewayProcess, registration_id: str, **terms: Any) -> Response:
    return gateway.admin("PATCH", f"/admin/servers/{registration_id}", terms)


def offered(gateway: GatewayProcess, model: str, key: str | None = None) -> bool:
    """Whether `/v1/models` shows the model to the holder of this key, or to anybody."""
    answer = gateway.call("GET", "/v1/models", None, bearer(key) if key else [])
    return model in [record["id"] for record in answer.json()["data"]]


def hours_around_now() -> str:
    """Quiet hours that hold now and for the next hours, in UTC."""
    now = datetime.now(UTC)
    return f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}"


def test_a_student_lends_to_friends_only(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    """Registered on these terms at once: it is never anybody else's, not even for a moment."""
    peer.model_names.append(model)
    keys = {name: make_key(gateway, f"{name}-{model[-6:]}") for name in ("ada", "ben", "eve")}
    ada, ben, eve = (secret for _key_id, secret in keys.values())
    body = {"model_name": model, "endpoint_url": peer.url, "offered_to": "friends"}
    assert_error(post(gateway, "/admin/register", body, bearer(ada)), "invalid_request", "friends")
    stranger = post(gateway, "/admin/register", {**body, "friends": ["nobody at all"]}, bearer(ada))
    assert_error(stranger, "invalid_request", "friends")
    assert "Nobody's key here is named 'nobody at all'" in stranger.json()["error"]["message"]
    made = post(gateway, "/admin/register", {**body, "friends": [f"BEN-{model[-6:]}"]}, bearer(ada)).json()
    assert (made["friends"], made["availability"]) == ([f"ben-{model[-6:]}"], "available"), "to its owner"
    assert gateway.server(made["registration_id"])["availability"] == "not_offered", "an admin is no friend"
    assert [gateway.chat(model, headers=bearer(key)).status for key in (ada, ben)] == [200, 200]
    refused = gateway.chat(model, headers=bearer(eve))
    assert_error(refused, "permission_denied", "model")
    assert "its owner offers it to friends only" in refused.json()["error"]["message"]
    assert [offered(gateway, model, key) for key in (ada, ben, eve, None)] == [True, True, False, False]
    assert model not in gateway.chat(model[:-1], headers=bearer(eve)).json()["error"]["message"].replace(model[:-1], "")
    path = f"/admin/servers/{made['registration_id']}"
    for key, status in ((eve, 404), (ben, 404), (ada, 200)):
        answer = gateway.call("PATCH", path, b'{"offered_to": "class", "friends": null}', bearer(key))
        assert answer.status == status, "whose server it is decides"
    assert gateway.chat(model, headers=bearer(eve)).status == 200
    assert len(peer.requests) == 3
    gateway.call("DELETE", f"/admin/register/{made['registration_id']}", None, bearer(ada))


def test_a_paused_server_is_used_by_nobody_else(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    paused, other = start_peer(), start_peer()
    registration_id = gateway.register(paused, model)
    key = make_key(gateway, f"reader-{model}", role="reader")[1]
    record = gateway.admin("POST", f"/admin/servers/{registration_id}/pause").json()
    assert (record["availability"], record["reason"], record["paused"]) == ("paused", "its owner has paused it", True)
    refused = gateway.chat(model, headers=bearer(key))
    assert_error(refused, "no_server_available")
    assert "its owner has paused it" in refused.json()["error"]["message"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key) as client,
        pytest.raises(openai.InternalServerError, match="has paused it"),
    ):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello!"}])
    assert not offered(gateway, model, key)
    gateway.register(other, f"{model}-2")
    gateway.admin("PUT", f"/admin/aliases/{model}-any", {"models": [model, f"{model}-2"]})
    for terms in ({}, {"offered_to": "me"}):
        assert patch(gateway, registration_id, **terms).status == 200
        assert gateway.chat(f"{model}-any", headers=bearer(key)).text == other.name, "another model stands in"
    gateway.admin("DELETE", f"/admin/aliases/{model}-any")
    patch(gateway, registration_id, offered_to=None)
    gateway.register(other, model)
    assert {gateway.chat(model, headers=bearer(key)).text for _request in range(3)} == {other.name}
    resumed = gateway.admin("POST", f"/admin/servers/{registration_id}/resume").json()
    assert (resumed["availability"], resumed["paused"]) == ("available", False)
    assert {gateway.chat(model, headers=bearer(key)).text for _request in range(2)} == {other.name, paused.name}


SENSELESS: list[tuple[dict[str, Any], str, str]] = [
    ({"quiet_hours": "22:00-07:00"}, "time_zone", "send `time_zone` with them, such as Europe/Berlin"),
    ({"quiet_hours": "10pm-7am", "time_zone": "UTC"}, "quiet_hours", "such as 22:00-07:00"),
    ({"quiet_hours": "00:00-24:00", "time_zone": "UTC"}, "quiet_hours", "pause the server"),
    ({"time_zone": "Berlin"}, "time_zone", "did you mean Europe/Berlin"),
    ({"offered_to": "everybody"}, "offered_to", "class (everybody)"),
    ({"offered_to": "friends"}, "friends", "names nobody"),
    ({"friends": "Ben"}, "friends", "a list of names"),
    ({"daily_token_cap": 0}, "daily_token_cap", "at least 1"),
    ({"reserve_slot": "yes"}, "reserve_slot", "true or false"),
    ({"model_name": "another"}, "model_name", "Known are `offered_to`"),
]


def test_terms_that_make_no_sense(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    before = gateway.server(registration_id)
    for terms, param, text in SENSELESS:
        refused = patch(gateway, registration_id, **terms)
        assert text in assert_error(refused, "invalid_request", param)
    assert gateway.server(registration_id)["updated_at"] == before["updated_at"], "nothing was changed"


def test_the_cap_and_all_terms_survive_a_restart(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUIRE_CLIENT_API_KEY="true")
    registration_id = gateway.register(peer, model, max_concurrency=2)
    key = make_key(gateway, "Eve")[1]
    body = {**wire.chat_completion(), "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}}
    peer.always(wire.json_answer(body))
    assert patch(gateway, registration_id, daily_token_cap=100).json()["message"] == "Terms changed."
    hold = Hold()
    peer.script(hold, wire.json_answer(body))
    with gateway.client() as slow:
        slow.request("POST", "/v1/chat/completions", wire.chat_body(model), bearer(key))
        peer.wait_for_requests()
        assert [gateway.chat(model, headers=bearer(key)).status for _request in range(2)] == [200, 200]
        record = gateway.server(registration_id)
        assert (record["availability"], record["tokens_today"], record["in_flight"]) == ("capped", 120, 1)
        assert_error(gateway.chat(model, headers=bearer(key)), "no_server_available")
        hold.release()
        assert slow.read_response().status == 200, "what runs ends as ever"
    hours = hours_around_now()
    patch(gateway, registration_id, quiet_hours=hours, time_zone="UTC", reserve_slot=True)
    before = gateway.server(registration_id)
    gateway.stop()
    gateway.start()
    assert gateway.server(registration_id)["tokens_today"] == 180, "before the first request"
    eventually_equal(lambda: gateway.server(registration_id)["availability"], "quiet", "as it was")
    checked_at = gateway.server(registration_id)["last_checked_at"]
    eventually(lambda: gateway.server(registration_id)["last_checked_at"] != checked_at, "probes go on meanwhile")
    after = gateway.server(registration_id)
    told = ("tokens_today", "daily_token_cap", "quiet_hours", "time_zone", "reserve_slot", "reason")
    assert {name: after[name] for name in told} == {name: before[name] for name in told}
    assert after["quiet_hours"] == hours
    assert patch(gateway, registration_id, quiet_hours=None).json()["availability"] == "capped"
    message = gateway.chat(model, headers=bearer(key)).json()["error"]["message"]
    assert "its 100 tokens of today are used up until midnight (UTC)" in message
    assert patch(gateway, registration_id, daily_token_cap=None).json()["availability"] == "available"
    assert gateway.chat(model, headers=bearer(key)).status == 200


def test_the_owner_always_finds_the_reserved_slot(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.model_names.append(model)
    owner, eve = (make_key(gateway, f"{name}-{model}")[1] for name in ("owner", "eve"))
    body = {"model_name": model, "endpoint_url": peer.url, "max_concurrency": 2, "reserve_slot": True}
    registration_id = post(gateway, "/admin/register", body, bearer(owner)).json()["registration_id"]
    hold = Hold()
    peer.script(hold, AnswerChat())
    with gateway.client() as first, gateway.client() as second:
        first.request("POST", "/v1/chat/completions", wire.chat_body(model), bearer(eve))
        peer.wait_for_requests()
        second.request("POST", "/v1/chat/completions", wire.chat_body(model), bearer(eve))
        eventually_equal(lambda: gateway.stats()["requests"]["queued"], 1, "the last slot is not theirs")
        assert gateway.chat(model, headers=bearer(owner)).status == 200
        assert len(peer.requests) == 2
        hold.release()
        assert [client.read_response().status for client in (first, second)] == [200, 200]
    path = f"/admin/register/{registration_id}"
    alone = gateway.call("PUT", path, b'{"max_concurrency": 1}', bearer(owner))
    assert alone.status == 200
    assert gateway.chat(model, headers=bearer(owner)).status == 200
    refused = gateway.chat(model, headers=bearer(eve))
    assert_error(refused, "permission_denied", "model")
    assert "its only slot is reserved for its owner" in refused.json()["error"]["message"]
    gateway.call("DELETE", path, None, bearer(owner))


def test_terms_on_the_command_line(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)

    def servers(*words: str) -> subprocess.CompletedProcess[str]:
        return run("servers", *words, MULTIVERSE_URL=gateway.url, ADMIN_API_KEY=ADMIN_KEY)

    options = ("--quiet-hours", hours_around_now(), "--time-zone", "UTC", "--reserve-slot", "--offered-to", "friends")
    changed = servers("terms", registration_id, *options, "--friend", "admin")
    assert changed.returncode == 0, changed.stderr
    assert changed.stdout.startswith("Terms changed.\n")
    assert "it is in its quiet hours until" in changed.stdout
    record = gateway.server(registration_id)
    assert (record["offered_to"], record["friends"], record["reserve_slot"]) == ("friends", ["admin"], True)
    assert servers("terms", registration_id, "--clear", "quiet_hours", "--no-reserve-slot").returncode == 0
    paused = servers("pause", registration_id)
    assert "its owner has paused it" in paused.stdout
    assert "quiet_hours" not in paused.stdout
    record = gateway.server(registration_id)
    assert (record["paused"], record["reserve_slot"], record["quiet_hours"]) == (True, False, None)


async def test_servers_of_an_older_database_are_lent_to_everybody(tmp_path: Path, io_loop: object) -> None:
    path = tmp_path / "older.db"
    with closing(Database(path, execute_plugins=False)) as database:
        migrate(database, stop_before="0008_lending_terms")
        database.table("servers").insert({"registration_id": "reg-1", "model_name": "m", "endpoint_url": "http://h"})
    async with opened(path) as store:
        [row] = await store.load_registrations()
        assert (row["offered_to"], row["friends"], row["reserve_slot"], row["paused"]) == ("class", [], 0, 0)
        assert (row["quiet_hours"], row["time_zone"], row["daily_token_cap"]) == (None, None, None)
        terms = {"friends": ["key-1"], "offered_to": "friends", "paused": True, "quiet_hours": "22:00-07:00"}
        await store.save_registration({**registration("reg-2"), **terms})
        [_old, row] = await store.load_registrations()
        assert {name: row[name] for name in terms} == {**terms, "paused": 1}
    with closing(sqlite3.connect(path)) as connection:
        [(friends,)] = connection.execute("SELECT friends FROM servers WHERE registration_id = 'reg-2'").fetchall()
    assert friends == '["key-1"]'
