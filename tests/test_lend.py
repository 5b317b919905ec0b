"""`POST /admin/lend`: asked from the machine that is to be lent, the gateway finds what runs there and registers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiverse.cli import run_command
from multiverse.errors import InvalidRequest
from multiverse.servers.discovery import host_of_caller, usual_addresses
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PLANTED_SERVER_KEY, GatewayProcess
from tests.test_keyring import Headers, bearer, make_key, post

Servers = Callable[..., tuple[int, str, str]]

PATH = "/admin/lend"
NOBODYS_PORT = 9


@pytest.fixture
def student(gateway: GatewayProcess) -> Iterator[Headers]:
    """A student's headers; what was lent with them is taken back."""
    key_id, secret = make_key(gateway, "Ada Lovelace")
    yield bearer(secret)
    for server in gateway.call("GET", "/admin/servers", None, bearer(secret)).json()["servers"]:
        gateway.admin("DELETE", f"/admin/register/{server['registration_id']}")
    gateway.admin("DELETE", f"/admin/keys/{key_id}")


def lent(answer: Response) -> list[str]:
    return [server["model_name"] for server in answer.json()["servers"]]


def test_every_model_of_the_machine_that_asks(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    peer.model_names[:] = [model, f"{model}-large"]
    first, again = (post(gateway, PATH, {"ports": [peer.port]}, student) for _time in range(2))
    assert (first.status, lent(first)) == (201, [model, f"{model}-large"])
    assert f"{model}, {model}-large." in first.json()["message"]
    ids = [[server["registration_id"] for server in answer.json()["servers"]] for answer in (first, again)]
    assert (again.status, ids[0]) == (200, ids[1])
    (server, _large) = first.json()["servers"]
    told = {name: server[name] for name in ("endpoint_url", "owner_name", "health_status")}
    assert told == {"endpoint_url": peer.url, "owner_name": "Ada Lovelace", "health_status": "healthy"}
    assert gateway.chat(model, headers=student).status == 200


def test_some_of_them_and_what_else_is_to_be_known(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    odd = f"{model} (4 bit)"
    peer.model_names[:] = [model, odd]
    body = {"ports": [peer.port], "models": [odd], "tags": ["laptop"], "api_key": PLANTED_SERVER_KEY, "owner_name": "A"}
    answer = post(gateway, PATH, body, student)
    (server,) = answer.json()["servers"]
    assert (server["model_name"], server["served_model_name"]) == (f"{model}-4-bit-", odd)
    assert (server["tags"], server["has_api_key"], server["owner_name"]) == (["laptop"], True, "A")
    assert {str(probe.header("Authorization")) for probe in peer.probes} == {f"Bearer {PLANTED_SERVER_KEY}"}
    refused = post(gateway, PATH, {"ports": [peer.port], "models": ["other"]}, student)
    assert_error(refused, "invalid_request", "models")
    assert f"{model}, {odd}" in refused.json()["error"]["message"]


def test_what_cannot_be_registered_keeps_nothing_else_out(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    peer.model_names[:] = [model, f"{model}-mine", f"{model}-\u202eeno"]
    gateway.register(peer, model)
    answer = post(gateway, PATH, {"ports": [peer.port]}, student)
    assert lent(answer) == [f"{model}-mine"]
    reasons = {failure["model_name"]: failure["reason"] for failure in answer.json()["not_registered"]}
    assert set(reasons) == {model, f"{model}-\u202eeno"}
    assert "Somebody else" in reasons[model]
    assert "Not registered: 2" in answer.json()["message"]


def test_one_model_does_not_take_the_place_of_another(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    peer.model_names[:] = [f"{model} \u5343", f"{model} \u4e66", f"{model}-", f"{model}--"]
    for _time in range(2):
        answer = post(gateway, PATH, {"ports": [peer.port]}, student).json()
        assert [(server["model_name"], server["served_model_name"]) for server in answer["servers"]] == [
            (f"{model}-", None), (f"{model}--", None),
        ]  # fmt: skip
        assert [failure["model_name"] for failure in answer["not_registered"]] == [f"{model} \u4e66", f"{model} \u5343"]


def test_what_is_paused_is_not_told_to_be_lent(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    peer.model_names[:] = [model]
    (server,) = post(gateway, PATH, {"ports": [peer.port]}, student).json()["servers"]
    post(gateway, f"/admin/servers/{server['registration_id']}/pause", {}, student)
    assert "1 can take no requests yet" in post(gateway, PATH, {"ports": [peer.port]}, student).json()["message"]


def test_an_address_of_a_tunnel_may_be_sent(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, student: Headers
) -> None:
    peer.model_names[:] = [model]
    assert lent(post(gateway, PATH, {"endpoint_url": f"{peer.url}/v1/"}, student)) == [model]
    assert_error(post(gateway, PATH, {"endpoint_url": peer.url, "ports": [1]}, student), "invalid_request", "ports")
    assert_error(post(gateway, PATH, {"endpoint_url": "laptop"}, student), "invalid_request", "endpoint_url")


def test_a_key_goes_to_one_server(gateway: GatewayProcess, peer: ScriptedPeer, student: Headers) -> None:
    for where in ({}, {"ports": [NOBODYS_PORT, peer.port]}):
        answer = post(gateway, PATH, {**where, "api_key": PLANTED_SERVER_KEY}, student)
        assert_error(answer, "invalid_request", "api_key")
    assert not peer.connections


def test_nothing_is_there(gateway: GatewayProcess, peer: ScriptedPeer, student: Headers) -> None:
    peer.model_names[:] = []
    answer = post(gateway, PATH, {"ports": [NOBODYS_PORT, peer.port]}, student)
    assert_error(answer, "no_server_available")
    message = answer.json()["error"]["message"]
    assert f"You ask from 127.0.0.1; port {NOBODYS_PORT}: the server refused the connection" in message
    assert f"port {peer.port}: it lists no model yet" in message
    assert "OLLAMA_HOST=0.0.0.0" in message, "what to do about it"


def test_it_may_be_asked_without_a_body(gateway: GatewayProcess, student: Headers) -> None:
    """One line to paste. What runs on this machine is nobody's business here: it is only looked for."""
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP"):
        answer = gateway.call("POST", PATH, None, [*student, (header, "192.0.2.7")])
        assert_error(answer, "invalid_request", "endpoint_url")
        assert "TRUST_PROXY_HEADERS" in answer.json()["error"]["message"], "nothing of the proxy's machine is looked at"
    assert list(usual_addresses("192.0.2.7").values()) == [
        "http://192.0.2.7:11434", "http://192.0.2.7:1234", "http://192.0.2.7:8080", "http://192.0.2.7:8000",
    ]  # fmt: skip


@pytest.mark.parametrize("ports", [[], [0], [65_536], ["11434"], [True], [1] * 9, 11_434])
def test_ports_are_ports(gateway: GatewayProcess, student: Headers, ports: object) -> None:
    assert_error(post(gateway, PATH, {"ports": ports}, student), "invalid_request", "ports")


def test_who_may(gateway: GatewayProcess, peer: ScriptedPeer, student: Headers) -> None:
    assert_error(post(gateway, PATH, {"ports": [peer.port]}, []), "invalid_api_key")
    reader = bearer(make_key(gateway, role="reader")[1])
    assert_error(post(gateway, PATH, {"ports": [peer.port]}, reader), "permission_denied")
    looks = [post(gateway, PATH, {"ports": [1, 2, 3, 4, 5, 6, 7]}, student).status for _look in range(5)]
    assert looks == [503, 503, 503, 503, 429], "a student has so many addresses looked at within a minute"
    assert not peer.probes


def test_behind_a_proxy(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    peer.model_names[:] = [model]
    gateway = start_gateway(TRUST_PROXY_HEADERS="true")
    for address, status in {"127.0.0.1": 201, "::ffff:127.0.0.1": 200, "unknown": 400, "fe80::1%eth0": 400}.items():
        headers = [*bearer(ADMIN_KEY), ("X-Forwarded-For", f"192.0.2.7, {address}")]
        assert post(gateway, PATH, {"ports": [peer.port]}, headers).status == status, address


def test_the_address_policy_is_asked(start_gateway: StartGateway, peer: ScriptedPeer) -> None:
    gateway = start_gateway(ALLOW_PRIVATE_ADDRESSES="false")
    assert_error(gateway.admin("POST", PATH, {"ports": [peer.port]}), "invalid_request", "endpoint_url")
    assert not peer.connections


# -- the command line


@pytest.fixture
def lends(
    gateway: GatewayProcess, student: Headers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Servers:
    """`multiverse servers …` with a student's key: its exit code, what it printed and what it told."""
    monkeypatch.setenv("MULTIVERSE_URL", gateway.url)
    monkeypatch.setenv("MULTIVERSE_API_KEY", student[0][1].removeprefix("Bearer "))

    def servers(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(["servers", *words])
        return code, *capsys.readouterr()

    return servers


def test_lending_on_the_command_line(gateway: GatewayProcess, peer: ScriptedPeer, model: str, lends: Servers) -> None:
    taken = f"{model}-taken"
    peer.model_names[:] = [model, taken, f"{model}-unwanted"]
    gateway.register(peer, taken)
    wanted = ("--model", model, "--model", taken)
    code, shown, _told = lends("lend", "--port", str(peer.port), *wanted, "--owner", "Ada", "--tags", "lab,gpu")
    assert code == 0
    told, *lines = shown.splitlines()
    assert f"Lent now: {model}." in told
    assert [model in line.split() for line in lines if peer.url in line] == [True, False], "lent, and not lent"
    assert lines[-1].startswith(taken)
    assert "unwanted" not in shown
    [record] = json.loads(lends("list", "--owner", "Ada", "--tag", "lab", "--json")[1])["servers"]
    assert (record["model_name"], record["tags"]) == (model, ["lab", "gpu"])
    assert lends("lend", "--endpoint-url", peer.url, "--model", taken)[0] == 1, "nothing of it"
    assert lends("lend", "--endpoint-url", peer.url, "--model", taken, "--json")[0] == 1
    code, shown, told = lends("lend", "--port", str(NOBODYS_PORT))
    assert (code, shown) == (1, "")
    assert f"port {NOBODYS_PORT}: the server refused the connection" in told


def test_all_of_a_laptop_at_once(gateway: GatewayProcess, peer: ScriptedPeer, model: str, lends: Servers) -> None:
    """Each model is a registration of its own; another's at the same address is not touched."""
    peer.model_names[:] = [model, f"{model}-large", f"{model}-other"]
    others = gateway.register(peer, f"{model}-other")
    assert lends("lend", "--port", str(peer.port), "--model", model, "--model", f"{model}-large")[0] == 0

    def of_all(*words: str) -> list[dict[str, Any]]:
        code, shown, told = lends(*words, "--endpoint", f"{peer.url}/v1/", "--json")
        assert code == 0, told
        found: list[dict[str, Any]] = json.loads(shown)["servers"]
        assert [server["model_name"] for server in found] == [model, f"{model}-large"]
        return found

    assert [server["paused"] for server in of_all("pause")] == [True, True]
    assert [server["paused"] for server in of_all("resume")] == [False, False]
    assert [server["daily_token_cap"] for server in of_all("terms", "--daily-token-cap", "9")] == [9, 9]
    assert [server["daily_token_cap"] for server in of_all("terms")] == [9, 9], "and seen"
    assert gateway.server(others)["daily_token_cap"] is None
    code, shown, _told = lends("pause", "--endpoint", peer.url)
    assert (code, shown.count("its owner has paused it")) == (0, 2)
    assert lends("pause", "--endpoint", "http://127.0.0.1:9")[::2] == (
        1,
        "multiverse: None of your servers is at http://127.0.0.1:9. `multiverse servers list` shows them.\n",
    )
    assert [lends(*words)[0] for words in (["pause"], ["resume", others, "--endpoint", peer.url])] == [2, 2]
    assert lends("terms", "--endpoint", "laptop")[0] == 2


@pytest.mark.parametrize(
    ("client_address", "host"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::7", "[2001:db8::7]")],
)
def test_addresses_as_hosts(client_address: str, host: str) -> None:
    assert host_of_caller(client_address) == host


@pytest.mark.parametrize("client_address", ["", "unknown", "192.0.2.7:4711", "fe80::7%en0", "_hidden", "/tmp/socket"])
def test_no_address_of_a_machine(client_address: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        host_of_caller(client_address)
    assert caught.value.param == "endpoint_url"
