"""`POST /admin/register`: what a registration may hold, what comes back, and what the first verdict is.

What can be done with a registration later is in test_admin_servers.py, who may call in test_errors.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess

Register = Callable[[dict[str, Any]], Response]

RECORD = set(
    "registration_id model_name served_model_name endpoint_url owner_name owner_email description tags context_length "
    "max_concurrency has_api_key health_status availability reason consecutive_failures response_time_ms slots "
    "in_flight last_checked_at last_successful_request_at created_at updated_at offered_to friends reserve_slot paused "
    "quiet_hours time_zone daily_token_cap tokens_today".split()
)
EVERYTHING = {
    "served_model_name": "models/llama 7b.gguf",
    "api_key": wire.PLANTED_SERVER_KEY,
    "owner_name": "Ada Løvelace",
    "owner_email": "ada@example.org",
    "description": "Two lines,\nthe second with 北京 🌍.",
    "tags": ["gpu", "room 12"],
    "context_length": 8192,
    "max_concurrency": 2,
    "offered_to": "friends",
    "friends": ["admin"],
    "reserve_slot": True,
    "paused": True,
    "quiet_hours": "12:00-13:30, 22:00-07:00",
    "time_zone": "Europe/Berlin",
    "daily_token_cap": 5000,
}
OPTIONAL = sorted(EVERYTHING)
NOTHING = {"tags": [], "friends": [], "offered_to": "class", "reserve_slot": False, "paused": False}


@pytest.fixture
def register(gateway: GatewayProcess) -> Iterator[Register]:
    """`POST /admin/register` with any body; what it registers is taken out again."""
    registered = []

    def post(value: dict[str, Any]) -> Response:
        response = gateway.admin("POST", "/admin/register", value)
        if response.status in (200, 201):
            registered.append(response.json()["registration_id"])
        return response

    yield post
    for registration_id in registered:
        gateway.admin("DELETE", f"/admin/register/{registration_id}")


def listed(gateway: GatewayProcess, model: str) -> list[dict[str, Any]]:
    """The records of all servers of `model`."""
    servers: list[dict[str, Any]] = gateway.admin("GET", f"/admin/servers?model_name={model}").json()["servers"]
    return servers


# -- register


def test_every_field_comes_back(gateway: GatewayProcess, register: Register, peer: ScriptedPeer, model: str) -> None:
    response = register({"model_name": model, "endpoint_url": peer.url, **EVERYTHING})
    assert response.status == 201
    record = response.json()
    assert set(record) == RECORD | {"message"}
    shown = {name: value for name, value in EVERYTHING.items() if name != "api_key"}
    assert {name: record[name] for name in shown} == shown
    assert (record["model_name"], record["endpoint_url"], record["has_api_key"]) == (model, peer.url, True)
    assert (record["health_status"], record["availability"]) == ("healthy", "paused"), "as it says itself"
    assert (record["consecutive_failures"], record["in_flight"]) == (0, 0)
    assert record["response_time_ms"] > 0
    assert record["last_checked_at"]
    assert record["created_at"] == record["updated_at"]
    again = gateway.server(record["registration_id"])
    assert set(again) == RECORD | {"recent_probes", "uptime_percent", "recent_failures"}
    assert {name: again[name] for name in RECORD} == {name: record[name] for name in RECORD}
    assert listed(gateway, model) == [{name: record[name] for name in RECORD}]


def test_only_two_fields_are_needed(register: Register, peer: ScriptedPeer, model: str) -> None:
    for extra in ({}, dict.fromkeys([*OPTIONAL, "require_healthy"])):
        record = register({"model_name": model, "endpoint_url": peer.url, **extra}).json()
        nothing = {name: NOTHING.get(name) for name in OPTIONAL if name != "api_key"}
        assert {name: record[name] for name in nothing} == nothing
        assert (record["tags"], record["has_api_key"]) == ([], False)


def test_tags_may_be_one_string(register: Register, peer: ScriptedPeer, model: str) -> None:
    value = {"model_name": model, "endpoint_url": peer.url, "tags": " gpu, fast ,, gpu,room 12"}
    assert register(value).json()["tags"] == ["gpu", "fast", "room 12"]


def test_an_email_address_may_be_as_short_as_browsers_take_it(
    register: Register, peer: ScriptedPeer, model: str
) -> None:
    value = {"model_name": model, "endpoint_url": peer.url, "owner_email": "a@b.c"}
    assert register(value).json()["owner_email"] == "a@b.c"


WRONG_VALUES = [
    *(("model_name", value) for value in (None, 5, "", " ", "a b", "a\nb", "a\n", " a", "ü", "x" * 201, ["a"], True)),
    *(("endpoint_url", value) for value in (None, 5, "", "127.0.0.1:1", "ftp://127.0.0.1/", "http://", "http:///v1")),
    *(
        ("endpoint_url", f"http://{rest}")
        for rest in ("u:p@h:1", "h:1?a=b", "h:1#x", "h:0", "h:70000", "h:1/\na", "h h")
    ),
    *(("served_model_name", value) for value in (5, ["a"], "a\nb", "x" * 501)),
    *(("api_key", value) for value in (5, "two words", "schlüssel", "line\nbreak", "x" * 501)),
    *(("owner_name", value) for value in (5, True, "a\nb", "x" * 201, "An\u200bna", "\u202eanna", "Anna\ufe0f")),
    *(("owner_email", value) for value in (5, "nobody", "a@b", "a@b@c", "a@.c", "a b@example.org")),
    *(("description", value) for value in (5, ["a"], "bell\x07", "x" * 2001, "gpu\u202egnp.exe", "\u2067turned")),
    *(("tags", value) for value in (5, [1], ["x" * 51], {"a": 1}, [f"tag{number}" for number in range(21)])),
    *(
        (name, value)
        for name in ("context_length", "max_concurrency")
        for value in (True, "5", 1.5, 2.0, 0, -1, 2**31, [5])
    ),
    *(("require_healthy", value) for value in ("yes", "true", 1, 0, [])),
]


def test_a_wrong_value_is_refused_with_its_name(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    for name, value in WRONG_VALUES:
        with subtests.test(name=name, value=value):
            body = {"model_name": model, "endpoint_url": peer.url, **EVERYTHING, name: value}
            assert_error(gateway.admin("POST", "/admin/register", body), "invalid_request", name)
    assert not listed(gateway, model), "nothing is stored"
    assert not peer.probes, "nor asked"


def test_an_unknown_field_is_refused_by_name(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    routes = (("POST", "/admin/register"), ("PUT", f"/admin/register/{gateway.register(peer, model)}"))
    names = ("api_keys", "registration_id", "health_status", "draining", "", "a\nb")
    for (method, path), name in itertools.product(routes, names):
        with subtests.test(method=method, name=name):
            shown = name.replace("\n", "?")
            value = {"model_name": model, "endpoint_url": peer.url, name: "x"}
            message = assert_error(gateway.admin(method, path, value), "invalid_request", shown)
            assert f"`{shown}`" in message
            assert "`endpoint_url`" in message, "and those that are known are listed"


@pytest.mark.parametrize("name", ["model_name", "endpoint_url"])
def test_a_missing_field_is_named(gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str) -> None:
    value = {"model_name": model, "endpoint_url": peer.url}
    del value[name]
    assert_error(gateway.admin("POST", "/admin/register", value), "invalid_request", name)


def test_a_body_that_is_no_json_object(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    routes = (("POST", "/admin/register"), ("PUT", f"/admin/register/{gateway.register(peer, model)}"))
    bodies = (b"", b"[]", b'"x"', b"null", b"5", b"{", b'{"model_name": NaN}', b"{}{}", b"\xff")
    for (method, path), body in itertools.product(routes, bodies):
        with subtests.test(method=method, body=body):
            response = gateway.call(method, path, body, [("X-API-Key", ADMIN_KEY)])
            assert_error(response, "invalid_request")


# -- endpoint_url


def test_an_endpoint_may_be_pasted_in_many_forms(
    gateway: GatewayProcess, register: Register, peer: ScriptedPeer, model: str
) -> None:
    name = f"localhost:{peer.port}"
    forms = ("http://{}", "http://{}/", "http://{}/v1", "http://{}/v1/", "  HTTP://{}/v1 ", "http://{}//")
    answers = [register({"model_name": model, "endpoint_url": form.format(name.upper())}) for form in forms]
    assert [answer.status for answer in answers] == [201, *[200] * (len(forms) - 1)]
    assert {answer.json()["endpoint_url"] for answer in answers} == {f"http://{name}"}
    assert {probe.path for probe in peer.probes} == {"/v1/models"}
    assert gateway.chat(model).status == 200
    assert peer.requests[0].path == "/v1/chat/completions"


def test_an_endpoint_may_have_a_prefix(
    gateway: GatewayProcess, register: Register, peer: ScriptedPeer, model: str
) -> None:
    answers = [register({"model_name": model, "endpoint_url": f"{peer.url}/a/b{end}"}) for end in ("", "/v1/", "/")]
    assert {answer.json()["endpoint_url"] for answer in answers} == {f"{peer.url}/a/b"}
    gateway.chat(model)
    assert [peer.probes[0].path, peer.requests[0].path] == ["/a/b/v1/models", "/a/b/v1/chat/completions"]


FORBIDDEN = (
    "169.254.169.254 [::ffff:169.254.169.254] [::ffff:127.0.0.1] [64:ff9b::7f00:1] [fe80::1] 0.0.0.0 [::] 224.0.0.1 "
    "255.255.255.255 127.1 0x7f.1 0x7f000001 2130706433 0177.0.0.1 ①②⑦.⓪.⓪.①"
).split()


def test_a_forbidden_address_has_one_text(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model)
    probed = len(peer.probes)
    messages = set()
    for host in FORBIDDEN:
        for port in (peer.port, 1):
            value = {"model_name": model, "endpoint_url": f"http://{host}:{port}"}
            for method, path in (("POST", "/admin/register"), ("PUT", f"/admin/register/{registration_id}")):
                messages.add(assert_error(gateway.admin(method, path, value), "invalid_request", "endpoint_url"))
    assert len(messages) == 1, "whether something listens there cannot be learned"
    assert len(peer.probes) == probed, "and nothing is sent there"
    assert [record["endpoint_url"] for record in listed(gateway, model)] == [peer.url]


def test_private_addresses_can_be_forbidden(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(ALLOW_PRIVATE_ADDRESSES="false")
    for host in ("127.0.0.1", "localhost", "10.0.0.1", "192.168.1.20", "[::1]", "[fd00::1]"):
        value = {"model_name": model, "endpoint_url": f"http://{host}:{peer.port}"}
        assert_error(gateway.admin("POST", "/admin/register", value), "invalid_request", "endpoint_url")
    assert not peer.connections


# -- the first verdict, and the same pair again


VERDICTS = {
    "a web page": (wire.html_answer(), "unhealthy", "unhealthy"),
    "no list": (wire.json_answer({"models": []}), "unhealthy", "unhealthy"),
    "a wrong key": (wire.error_answer(401, "who are you?"), "unhealthy", "unhealthy"),
    "loading": (wire.error_answer(503, "Loading model"), "unknown", "loading"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_registered_whatever_the_verdict(register: Register, peer: ScriptedPeer, model: str, name: str) -> None:
    answer, verdict, availability = VERDICTS[name]
    peer.health.always(answer)
    response = register({"model_name": model, "endpoint_url": peer.url})
    record = response.json()
    assert (response.status, record["health_status"], record["availability"]) == (201, verdict, availability)
    assert record["reason"], "a sentence for the owner"
    assert record["reason"] in record["message"]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "does-not-exist.invalid"])
def test_a_server_that_is_not_there_is_registered(register: Register, model: str, host: str) -> None:
    response = register({"model_name": model, "endpoint_url": f"http://{host}"})
    record = response.json()
    assert (response.status, record["health_status"], record["consecutive_failures"]) == (201, "unhealthy", 1)
    assert record["reason"]


def test_a_server_can_be_required_to_be_healthy(
    gateway: GatewayProcess, register: Register, peer: ScriptedPeer, model: str
) -> None:
    value = {"model_name": model, "endpoint_url": peer.url, "require_healthy": True}
    peer.health.queue(wire.html_answer())
    assert_error(register(value), "no_server_available")
    assert not listed(gateway, model), "nothing is stored"
    assert register(value).status == 201
    peer.health.queue(wire.html_answer())
    assert_error(register({**value, "description": "new"}), "no_server_available")
    assert listed(gateway, model)[0]["description"] is None, "nor changed"


def test_the_same_pair_again_is_an_update(
    gateway: GatewayProcess, register: Register, peer: ScriptedPeer, model: str
) -> None:
    pair = {"model_name": model, "endpoint_url": peer.url}
    first = register({**pair, "owner_name": "Ada", "tags": ["a"]}).json()
    response = register({**pair, "tags": ["b"], "max_concurrency": 3})
    second = response.json()
    assert response.status == 200
    assert second["registration_id"] == first["registration_id"]
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    assert (second["owner_name"], second["tags"], second["max_concurrency"]) == ("Ada", ["b"], 3)
    assert len(listed(gateway, model)) == 1
    assert register({**pair, "model_name": f"{model}-2"}).status == 201, "another model at the same address is another"
