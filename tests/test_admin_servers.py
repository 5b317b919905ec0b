"""`/admin`: registrations after the first day: changed, taken out, probed, drained, listed, counted; and kept on disk.

What a registration may hold is in test_admin_api.py.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerModels, Hold, Reset
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually, eventually_equal

FIELDS: dict[str, Any] = {
    "served_model_name": "its-own-name",
    "owner_name": "Ada",
    "owner_email": "ada@example.org",
    "description": "A laptop.",
    "tags": ["gpu"],
    "context_length": 4096,
    "max_concurrency": 2,
}
CHANGED = {
    "served_model_name": "another-name",
    "owner_name": "Grace",
    "owner_email": None,
    "description": None,
    "tags": None,
    "context_length": 1,
    "max_concurrency": None,
}
MOVES_BY_ITSELF = {
    "updated_at",
    "response_time_ms",
    "last_checked_at",
    "recent_probes",
    "uptime_percent",
    "recent_failures",
}


def update(gateway: GatewayProcess, registration_id: str, **changes: Any) -> Response:
    return gateway.admin("PUT", f"/admin/register/{registration_id}", changes)


def servers(gateway: GatewayProcess, query: str) -> Any:
    """The answer to `GET /admin/servers?query`."""
    response = gateway.admin("GET", f"/admin/servers?{query}")
    assert response.status == 200, response.body
    return response.json()


# -- PUT


@pytest.mark.parametrize("name", CHANGED)
def test_only_the_fields_sent_change(gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str) -> None:
    registration_id = gateway.register(peer, model, **FIELDS)
    before = gateway.server(registration_id)
    response = update(gateway, registration_id, **{name: CHANGED[name]})
    assert response.status == 200
    after = gateway.server(registration_id)
    assert after[name] == ([] if name == "tags" else CHANGED[name]), "null clears"
    follows = {"slots"} if name == "max_concurrency" else set()
    unchanged = set(before) - MOVES_BY_ITSELF - {name} - follows
    assert {key: after[key] for key in unchanged} == {key: before[key] for key in unchanged}
    assert after["updated_at"] > before["updated_at"]
    assert {key: response.json()[key] for key in unchanged} == {key: after[key] for key in unchanged}


def test_an_empty_change_changes_nothing(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model, **FIELDS)
    before = gateway.server(registration_id)
    assert update(gateway, registration_id).status == 200
    after = gateway.server(registration_id)
    assert {**before, "updated_at": 0} == {**after, "updated_at": 0}


@pytest.mark.parametrize(("name", "value"), [("model_name", None), ("endpoint_url", None), ("context_length", "5")])
def test_a_wrong_change_changes_nothing(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str, value: Any
) -> None:
    registration_id = gateway.register(peer, model, **FIELDS)
    before = gateway.server(registration_id)
    assert_error(update(gateway, registration_id, owner_name="X", **{name: value}), "invalid_request", name)
    assert gateway.server(registration_id) == before


def test_moving_to_another_address(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    old, new = start_peer(), start_peer()
    registration_id = gateway.register(old, model)
    record = update(gateway, registration_id, endpoint_url=f"{new.url}/v1/").json()
    assert (record["endpoint_url"], record["health_status"]) == (new.url, "healthy"), "probed at once"
    assert gateway.chat(model).text == new.name
    new.refuse()
    record = update(gateway, registration_id, endpoint_url=new.url + "/x").json()
    assert (record["health_status"], record["consecutive_failures"]) == ("unhealthy", 1), "its old verdict is forgotten"


def test_a_look_at_its_own_address_however_it_is_written_uses_its_key(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    registration_id = gateway.register(peer, model)
    for address, key in (
        (f" HTTP://127.0.0.1:{peer.port}/v1/ ", f"Bearer {wire.PLANTED_SERVER_KEY}"),
        (f"http://localhost:{peer.port}", None),
    ):
        looked = gateway.admin("POST", "/admin/probe", {"endpoint_url": address, "registration_id": registration_id})
        assert looked.json()["ok"]
        assert peer.probes[-1].header("Authorization") == key
    bad = gateway.admin("POST", "/admin/probe", {"endpoint_url": "ftp://x", "registration_id": registration_id})
    assert_error(bad, "invalid_request", "endpoint_url")


def test_offering_another_model(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    update(gateway, registration_id, model_name=f"{model}-new")
    assert gateway.chat(f"{model}-new").status == 200
    assert_error(gateway.chat(model), "model_not_found", "model")
    names = [entry["id"] for entry in gateway.call("GET", "/v1/models").json()["data"]]
    assert f"{model}-new" in names
    assert model not in names


def test_a_new_key_is_used_from_now_on(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    update(gateway, registration_id, api_key=wire.PLANTED_SERVER_KEY + "-2")
    gateway.chat(model)
    assert peer.probes[-1].header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}-2"
    assert peer.requests[-1].header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}-2"
    assert update(gateway, registration_id, api_key=None).json()["has_api_key"] is False
    gateway.chat(model)
    assert peer.requests[-1].header("Authorization") is None


def test_two_registrations_cannot_become_the_same(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    one, two = start_peer(), start_peer()
    first = gateway.register(one, model)
    second = gateway.register(two, model)
    message = assert_error(update(gateway, second, endpoint_url=one.url), "invalid_request", "endpoint_url")
    assert first in message, "the other one is named"
    third = gateway.register(one, f"{model}-2")
    assert update(gateway, third, model_name=model).status == 400
    assert gateway.server(second)["endpoint_url"] == two.url


def test_a_change_can_require_a_healthy_server(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    peer.health.queue(wire.html_answer())
    refused = update(gateway, registration_id, owner_name="X", require_healthy=True)
    assert_error(refused, "no_server_available")
    assert gateway.server(registration_id)["owner_name"] is None
    assert update(gateway, registration_id, owner_name="X", require_healthy=True).status == 200


# -- DELETE, and what is not there


def test_deregistering(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    response = gateway.admin("DELETE", f"/admin/register/{registration_id}")
    assert response.status == 200
    assert set(response.json()) == {"message", "registration_id"}
    assert response.json()["registration_id"] == registration_id
    assert_error(gateway.chat(model), "model_not_found", "model")
    assert servers(gateway, f"model_name={model}")["total"] == 0


def test_an_unknown_registration(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    gateway.admin("DELETE", f"/admin/register/{registration_id}")
    for unknown in (registration_id, "no-such-id", "no_such.id", "a" * 65, "no%20such%2Fid"):
        calls = [("PUT", f"/admin/register/{unknown}"), ("DELETE", f"/admin/register/{unknown}")]
        calls += [("GET", f"/admin/servers/{unknown}")]
        calls += [("POST", f"/admin/servers/{unknown}/{what}") for what in ("probe", "drain", "resume")]
        for method, path in calls:
            assert_error(gateway.admin(method, path, {} if method == "PUT" else None), "server_not_found")


# -- probe, drain, resume


def test_probing_on_demand(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    counted = gateway.stats()["probes"]
    peer.health.queue(wire.html_answer(404, "ERR_NGROK_3200"))
    bad = gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()
    good = gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()
    assert set(bad["probe"]) == {"ok", "reason", "response_time_ms"}
    assert (bad["probe"]["ok"], good["probe"]["ok"], good["probe"]["reason"]) == (False, True, None)
    assert "ERR_NGROK_3200" in bad["probe"]["reason"]
    assert bad["consecutive_failures"] == 1, "counted like any other"
    assert good["consecutive_failures"] == 0
    assert (bad["health_status"], bad["registration_id"]) == ("healthy", registration_id)
    now = gateway.stats()["probes"]
    assert (now["total"] - counted["total"], now["failed"] - counted["failed"]) == (2, 1)
    record = gateway.server(registration_id)
    assert [probe["ok"] for probe in record["recent_probes"]] == [True, False, True], "newest first"
    assert set(record["recent_probes"][0]) == {"ok", "checked_at", "health_status", "reason", "response_time_ms"}
    assert record["uptime_percent"] == 66.7


def test_a_hundred_probes_are_kept(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    with gateway.client() as client:
        for _number in range(104):
            client.request("POST", f"/admin/servers/{registration_id}/probe", b"", [("X-API-Key", ADMIN_KEY)])
            assert client.read_response().status == 200
    path = f"/admin/servers/{registration_id}"
    for limit, length in ((1, 1), (99, 99), (100, 100), (5000, 100)):
        assert len(gateway.admin("GET", f"{path}?limit={limit}").json()["recent_probes"]) == length
    for query in ("limit=0", "limit=-1", "limit=x", "limit=", "limit=1.0"):
        assert_error(gateway.admin("GET", f"{path}?{query}"), "invalid_request", "limit")
    assert_error(gateway.admin("GET", f"{path}?newest=1"), "invalid_request", "newest")


def test_draining_and_resuming(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300)
    registration_id = gateway.register(peer, model)
    record = gateway.admin("POST", f"/admin/servers/{registration_id}/drain").json()
    assert (record["registration_id"], record["availability"]) == (registration_id, "draining")
    assert record["health_status"] == "healthy", "a verdict is a verdict"
    gateway.kill()
    gateway.start()
    assert gateway.server(registration_id)["availability"] == "draining", "durable before the answer"
    assert_error(gateway.chat(model), "no_server_available")
    gateway.admin("POST", f"/admin/servers/{registration_id}/resume")
    eventually_equal(lambda: gateway.server(registration_id)["availability"], "available", "it is back")
    assert gateway.chat(model).status == 200


# -- the list


def test_filters_sorting_and_pages(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    rows = (("Ada", ["a", "b"], 300), ("Grace", ["b"], None), ("Ada", [], 100), ("Linus", ["a,b"], 200))
    ids = []
    for owner_name, tags, context_length in rows:
        fields = {"owner_name": owner_name, "tags": tags, "context_length": context_length}
        ids.append(gateway.register(start_peer(), model, **fields))

    def found(query: str) -> list[int]:
        listed = servers(gateway, f"model_name={model}&{query}")["servers"]
        return [ids.index(record["registration_id"]) for record in listed]

    assert found("") == [0, 1, 2, 3], "in the order of registration"
    assert found("owner_name=Ada") == [0, 2]
    assert found("owner_name=ada") == []
    assert found("tag=a") == [0]
    assert found("tag=a,b") == [3]
    assert found("tag=b&owner_name=Ada") == [0]
    assert found("health_status=healthy") == [0, 1, 2, 3]
    assert found("health_status=unknown") == []
    assert found("sort=context_length") == [2, 3, 0, 1], "what is not known comes last"
    assert found("sort=-context_length") == [0, 3, 2, 1]
    assert found("sort=-created_at&limit=2") == [3, 2]
    assert found("sort=owner_name") == [0, 2, 1, 3]
    for field in set(servers(gateway, "limit=1")["servers"][0]) - {"tags", "friends"}:
        assert sorted(found(f"sort={field}")) == sorted(found(f"sort=-{field}")) == [0, 1, 2, 3], field
    assert found("limit=1&offset=1") == [1]
    assert found("offset=3") == [3]
    assert found("limit=5&offset=9") == []
    answer = servers(gateway, f"model_name={model}&tag=b&sort=-created_at&limit=1&offset=1")
    assert set(answer) == {"servers", "total", "filters_applied"}
    assert (len(answer["servers"]), answer["total"]) == (1, 2), "counted before the limit"
    assert answer["filters_applied"] == {"model_name": model, "tag": "b"}
    assert servers(gateway, "limit=1")["filters_applied"] == {}


NO_NUMBERS = ("-1", "x", "", "1.0", "1e3", "+1", " 1", "٣", "9" * 5000, "true")
WRONG_QUERIES = [
    *((f"{name}={quote(value)}", name) for name in ("limit", "offset") for value in NO_NUMBERS),
    *(("limit=0", "limit"), ("health_status=ill", "health_status"), ("color=red", "color"), ("tag=%FF", None)),
    *((f"sort={value}", "sort") for value in ("", "api_key", "tags", "--created_at", "-")),
]


def test_a_wrong_query_is_refused(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for query, param in WRONG_QUERIES:
        with subtests.test(query=query):
            assert_error(gateway.admin("GET", f"/admin/servers?{query}"), "invalid_request", param)


# -- the counts


def test_the_counts(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300)
    good, bad = start_peer(), start_peer()
    gateway.register(good, model)
    bad.health.always(wire.html_answer())
    gateway.register(bad, f"{model}-2")
    gateway.chat(model)
    good.script(wire.error_answer(500, "no"), times=1)
    assert gateway.chat(model).status == 502
    assert gateway.chat("nobody-has-it").status == 404
    hold = Hold()
    good.script(hold, Reset())
    client = gateway.client()
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
    good.wait_for_requests(3)
    stats = gateway.stats()
    assert stats["requests"]["in_flight"] == 1
    assert stats["requests"]["in_flight_by_key"] == {"anonymous": 1}
    assert stats["requests"]["total"] == 4
    client.close()
    eventually_equal(lambda: gateway.stats()["requests"]["client_closed"], 1, "who left is counted")
    hold.release()
    stats = gateway.stats()
    assert stats["servers"] == {"total": 2, "healthy": 1, "unhealthy": 1, "unknown": 0}
    assert stats["models"] == 2
    counted = {name: stats["requests"][name] for name in ("total", "ok", "failed", "client_closed", "in_flight")}
    assert counted == {"total": 4, "ok": 1, "failed": 2, "client_closed": 1, "in_flight": 0}
    assert stats["tokens"] == {"prompt": 3, "completion": 2, "total": 5}
    assert stats["probes"] == {"total": 2, "failed": 1}
    assert 0 <= stats["uptime_seconds"] < 60


# -- on disk


def test_what_was_acknowledged_is_kept(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway()
    peer = start_peer()
    gone = gateway.register(peer, f"{model}-gone")
    registration_id = gateway.register(peer, model, **FIELDS)
    gateway.kill()
    gateway.start()
    record = gateway.server(registration_id)
    assert {name: record[name] for name in FIELDS} == FIELDS, "a registration"
    assert (record["model_name"], record["endpoint_url"], record["has_api_key"]) == (model, peer.url, True)
    update(gateway, registration_id, description="changed", tags=None)
    gateway.admin("DELETE", f"/admin/register/{gone}")
    gateway.kill()
    gateway.start()
    record = gateway.server(registration_id)
    assert (record["description"], record["tags"], record["owner_name"]) == ("changed", [], "Ada"), "a change"
    assert_error(gateway.admin("GET", f"/admin/servers/{gone}"), "server_not_found")
    eventually(lambda: gateway.server(registration_id)["health_status"] == "healthy", "it is probed again")
    peer.requests.clear()
    assert gateway.chat(model).status == 200
    assert peer.requests[0].header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}", "its key included"


# -- a server's own key


def test_a_servers_key_never_comes_out(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    secret = wire.PLANTED_SERVER_KEY
    peer.health.queue(AnswerModels())
    peer.health.queue(wire.error_answer(401, f"{secret} is wrong"), times=2)
    registration_id = gateway.register(peer, model, api_key=secret)
    peer.script(wire.error_answer(500, f"no {secret}"), times=1)
    peer.script(wire.html_answer(200, secret), times=1)
    path = f"/admin/servers/{registration_id}"
    value = {"model_name": model, "endpoint_url": peer.url, "api_key": secret}
    answers = [
        gateway.admin("POST", f"{path}/probe"),
        gateway.admin("POST", "/admin/register", value),
        update(gateway, registration_id, api_key=secret),
        gateway.chat(model),
        gateway.admin("GET", path),
        gateway.chat(model),
        gateway.admin("GET", path),
        gateway.admin("POST", f"{path}/drain"),
        gateway.admin("POST", f"{path}/resume"),
        *(gateway.admin("GET", route) for route in (path, "/admin/servers", "/admin/stats", "/v1/models", "/health")),
        gateway.admin("POST", "/admin/register", {**value, "api_key": f"{secret} {secret}"}),
        gateway.admin("DELETE", f"/admin/register/{registration_id}"),
    ]
    for answer in answers:
        assert secret not in f"{answer.headers} {answer.body.decode()}"
    assert secret not in gateway.output
