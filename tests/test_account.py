"""What a key's holder sees and decides: account, thanks board, which pages and servers are theirs to see."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from multiverse.web.routes import ROUTES
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartPeer
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.test_keyring import bearer, make_key, post
from tests.test_sessions import cookie_of, sign_in
from tests.wire import PLANTED_SERVER_KEY

TOKENS_OF_A_CHAT = 5  # of the answer that scripted peers give


def account(gateway: GatewayProcess, key: str) -> dict[str, Any]:
    return dict(gateway.call("GET", "/v1/account", None, bearer(key)).json())


def be_thanked(gateway: GatewayProcess, key: str, wanted: object = True) -> Response:
    body = json.dumps({"on_thanks_board": wanted}).encode()
    return gateway.call("PATCH", "/v1/account", body, bearer(key))


def thanks(gateway: GatewayProcess, key: str) -> dict[str, Any]:
    return dict(gateway.call("GET", "/v1/thanks", None, bearer(key)).json())


def test_an_account_is_what_its_key_may_do(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    key_id, secret = make_key(gateway, "Ada", email="ada@example.org", tokens_per_day=1000, models=[model])
    assert gateway.chat(model, headers=bearer(secret)).status == 200
    answer = gateway.call("GET", "/v1/account", None, bearer(secret))
    assert answer.header("Cache-Control") == "no-store"
    assert secret.encode() not in answer.body
    own = answer.json()
    assert (own["key_id"], own["name"], own["email"], own["models"]) == (key_id, "Ada", "ada@example.org", [model])
    assert own["limits"] == {"requests_per_minute": None, "tokens_per_day": 1000, "requests_at_once": None}
    assert (own["tokens_today"], own["on_thanks_board"], own["status"]) == (TOKENS_OF_A_CHAT, False, "active")
    admin = account(gateway, ADMIN_KEY)
    assert (admin["key_id"], admin["role"], admin["hint"], admin["on_thanks_board"]) == ("admin", "admin", None, None)
    for headers in ([], bearer("mv-nobody")):
        assert_error(gateway.call("GET", "/v1/account", None, headers), "invalid_api_key")


def test_only_the_holder_of_a_key_decides_about_thanks(gateway: GatewayProcess) -> None:
    key_id, secret = make_key(gateway)
    for wrong in ("yes", 1, None):
        assert_error(be_thanked(gateway, secret, wrong), "invalid_request", "on_thanks_board")
    others = gateway.call("PATCH", "/v1/account", b'{"role": "admin"}', bearer(secret))
    assert_error(others, "invalid_request", "role")
    assert_error(be_thanked(gateway, ADMIN_KEY), "permission_denied")
    by_admin = gateway.admin("PATCH", f"/admin/keys/{key_id}", {"on_thanks_board": True})
    assert_error(by_admin, "invalid_request", "on_thanks_board")
    assert be_thanked(gateway, secret).json()["on_thanks_board"] is True
    assert gateway.admin("GET", f"/admin/keys/{key_id}").json()["on_thanks_board"] is True
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        kept = database.execute("SELECT on_thanks_board FROM api_keys WHERE key_id = ?", [key_id]).fetchone()
    assert kept == (1,), "it outlives a restart"
    assert gateway.admin("PATCH", f"/admin/keys/{key_id}", {}).status == 200, "nothing to change is no fault"


def test_thanks_name_who_asked_for_it(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    (ada_id, ada), (_ben_id, ben) = make_key(gateway, f"Ada of {model}"), make_key(gateway, "Ben")
    gateway.register(peer, model, key=ada)
    before = thanks(gateway, ben)
    for key in (ben, ada, ""):
        assert gateway.chat(model, headers=bearer(key) if key else []).status == 200
    unnamed = thanks(gateway, ben)
    given = 2 * TOKENS_OF_A_CHAT
    assert unnamed["tokens_given"] - before["tokens_given"] == given, "what one gives to oneself is no gift"
    assert unnamed["others"]["tokens_given"] - before["others"]["tokens_given"] == given
    assert unnamed["others"]["people"] - before["others"]["people"] == 1
    be_thanked(gateway, ada)
    named = [person for person in thanks(gateway, ada)["people"] if person["you"]]
    assert named == [{"name": f"Ada of {model}", "tokens_given": given, "requests_given": 2, "you": True}]
    assert ada_id not in json.dumps(thanks(gateway, ben))
    assert not any(person["you"] for person in thanks(gateway, ben)["people"])
    gateway.admin("DELETE", f"/admin/keys/{ada_id}")
    assert thanks(gateway, ben)["others"] == unnamed["others"], "without a key nobody could take it back"


@pytest.mark.parametrize(
    ("role", "refused"),
    [
        ("admin", set()),
        ("student", {"/keys", "/logs", "/settings"}),
        ("reader", {"/keys", "/logs", "/settings", "/register", "/servers/one"}),
        ("", {"/keys", "/logs", "/settings", "/register", "/servers/one", "/account", "/usage"}),
    ],
)
def test_whom_pages_are_for(gateway: GatewayProcess, role: str, refused: set[str]) -> None:
    headers = bearer(make_key(gateway, role=role)[1]) if role else []
    paths = ("/", "/models", "/playground", "/claim", "/thanks", "/account", "/usage", "/register", "/servers/one")
    statuses = {
        path: gateway.call("GET", path, None, headers).status for path in (*paths, "/keys", "/logs", "/settings")
    }
    assert statuses == {path: 303 if path in refused else 200 for path in statuses}


def test_a_student_s_session_is_told_nothing_of_others(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    """Whatever there is to read, read in the session of somebody who owns a server and has used others'."""
    lab, laptop = start_peer(), start_peer()
    (own_id, own), (other_id, other) = make_key(gateway, "Ada"), make_key(gateway, "Benedikta", email="ben@example.org")
    lab_id = gateway.register(lab, model, key=other, owner_name="the lab", owner_email="lab@example.org")
    gateway.register(laptop, f"{model}-b", key=own)
    for key in (own, other):
        asked = gateway.chat(model, headers=[*bearer(key), ("X-Request-ID", f"of-{key[-6:].strip('_-')}")])
    told = {}
    cookie = cookie_of(sign_in(gateway, own))
    values = {"registration_id": lab_id, "key_id": other_id, "id": str(asked.header("X-Request-ID")), "name": model}
    for route in ROUTES:
        if "GET" in route.methods and "static" not in route.shown:
            path = re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], "1"), route.shown)
            for accept in ("application/json", "text/html"):
                answer = gateway.call("GET", path, None, [cookie, ("Accept", accept)])
                told[path, accept] = answer.body.decode()
    assert laptop.url in told["/admin/servers", "application/json"], "one's own are there"
    assert own_id in told["/v1/account", "application/json"]
    for secret in (lab.url, "lab@example.org", "ben@example.org", other, other_id, "Benedikta", ADMIN_KEY):
        assert not [where for where, text in told.items() if secret in text], secret


def test_a_student_tests_connections_with_no_key_of_others(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    lab, laptop = start_peer(), start_peer()
    secret, reader = make_key(gateway)[1], make_key(gateway, role="reader")[1]
    lab_id, own_id = gateway.register(lab, model), gateway.register(laptop, model, key=secret)
    look = {"endpoint_url": laptop.url, "registration_id": own_id}
    assert post(gateway, "/admin/probe", look, bearer(secret)).json()["models"] == [model]
    assert_error(post(gateway, "/admin/probe", look, bearer(reader)), "permission_denied")
    seen = len(lab.probes)
    theirs = {"endpoint_url": lab.url, "registration_id": lab_id}
    assert_error(post(gateway, "/admin/probe", theirs, bearer(secret)), "server_not_found")
    assert post(gateway, "/admin/probe", {"endpoint_url": lab.url}, bearer(secret)).status == 200
    assert [PLANTED_SERVER_KEY in str(probe.header("Authorization")) for probe in lab.probes[seen:]] == [False]
