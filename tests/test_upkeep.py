"""What looks after a gateway: backups, export and import, SERVERS_FILE, the doctor.

Commands run in this process, as the entry of the command line calls them: starting Python took most of the time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multiverse.cli import run_command
from multiverse.config import ConfigError
from multiverse.doctor_outside import look_from_outside
from multiverse.web.seeding import read_servers_file
from tests.conftest import StartGateway, StartPeer
from tests.paas import CLIENT_ADDRESS, Router, free_port
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually
from tests.wire import chat_body


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]
Found = dict[str, tuple[str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """One command, in `directory`, with nothing of this machine's settings: `run(directory, "backup", "copy.db")`."""

    def run_in(directory: Path, *arguments: str, **settings: object) -> Ran:
        with monkeypatch.context() as patch:
            patch.chdir(directory)
            for name in set(os.environ) - {"PATH", "HOME"}:
                patch.delenv(name)
            for name, value in {"ADMIN_API_KEY": ADMIN_KEY, **settings}.items():
                patch.setenv(name, str(value))
            capsys.readouterr()
            code = run_command(arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run_in


# -- backups


def test_a_backup_of_a_running_gateway_can_be_restored(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, tmp_path: Path, run: Run
) -> None:
    peer.model_names.append(model)
    (tmp_path / "servers.json").write_text(json.dumps({"servers": [{"model_name": model, "endpoint_url": peer.url}]}))
    gateway = start_gateway(SERVERS_FILE=tmp_path / "servers.json")
    eventually(lambda: registered(gateway), "the file's server is registered in an empty store")
    before = registered(gateway)
    copied = run(gateway.directory, "backup", "copy.db")
    assert copied.returncode == 0, copied.stderr
    copy = gateway.directory / "copy.db"
    assert copy.stat().st_mode & 0o077 == 0, "it holds servers' keys"
    assert not list(gateway.directory.glob("copy.db*unfinished"))
    gateway.register(peer, f"{model}-later")
    too_early = run(gateway.directory, "restore", "copy.db", "--yes")
    assert too_early.returncode == 1
    assert "stop it first; nothing was changed" in too_early.stderr
    assert len(registered(gateway)) == 2
    assert gateway.admin("GET", "/health").status == 200
    gateway.stop()
    refused = run(gateway.directory, "restore", "copy.db")
    assert refused.returncode == 2, "a database that is there is not replaced unasked"
    assert run(gateway.directory, "restore", "copy.db", "--yes").returncode == 0
    gateway.start()
    assert registered(gateway) == before, "the copy's server under its id, no later one, and the file is not read again"
    assert gateway.call("POST", "/v1/chat/completions", chat_body(model)).status == 200


def registered(gateway: GatewayProcess) -> list[str]:
    return [server["registration_id"] for server in gateway.admin("GET", "/admin/servers").json()["servers"]]


@pytest.mark.parametrize(
    ("content", "told"), [(None, "does not exist"), (b"hello" * 1000, "database"), (b"", "not a gateway's database")]
)
def test_what_is_no_backup_is_not_restored(tmp_path: Path, content: bytes | None, told: str, run: Run) -> None:
    if content is not None:
        (tmp_path / "copy.db").write_bytes(content)
    ran = run(tmp_path, "restore", "copy.db")
    assert ran.returncode == 1
    assert told in ran.stderr
    assert not (tmp_path / "gateway.db").exists()


def test_there_must_be_something_to_back_up(tmp_path: Path, run: Run) -> None:
    ran = run(tmp_path, "backup", "copy.db")
    assert ran.returncode == 1
    assert "DATABASE_URL" in ran.stderr
    assert list(tmp_path.iterdir()) == []


# -- registrations as a file


def test_registrations_go_out_and_come_in(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, tmp_path: Path, run: Run
) -> None:
    fields = {"owner_name": "Ada", "tags": ["gpu"], "max_concurrency": 2, "offered_to": "me"}
    registration_id = gateway.register(peer, model, **fields)
    file = tmp_path / "servers.json"
    exported = run(tmp_path, "servers", "export", str(file), MULTIVERSE_URL=gateway.url)
    assert exported.returncode == 0, exported.stderr
    assert "have a key of their own" in exported.stderr
    (entry,) = [entry for entry in json.loads(file.read_text())["servers"] if entry["model_name"] == model]
    assert entry == {
        "model_name": model,
        "endpoint_url": peer.url,
        "owner_name": "Ada",
        "tags": ["gpu"],
        "max_concurrency": 2,
        "offered_to": "me",
    }
    gateway.admin("DELETE", f"/admin/register/{registration_id}")
    file.write_text(json.dumps({"servers": [entry, {"model_name": "no address"}]}))
    imported = run(tmp_path, "servers", "import", str(file), MULTIVERSE_URL=gateway.url)
    assert imported.returncode == 1, "one of them is refused"
    assert "1 imported, 1 refused." in imported.stderr
    (found,) = gateway.admin("GET", f"/admin/servers?model_name={model}").json()["servers"]
    assert {name: found[name] for name in entry} == entry
    gateway.admin("DELETE", f"/admin/register/{found['registration_id']}")
    file.write_text("no JSON")
    assert run(tmp_path, "servers", "import", str(file), MULTIVERSE_URL=gateway.url).returncode == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "SERVERS_FILE must be readable"),
        ("hello", "SERVERS_FILE must be JSON"),
        ("[]", "SERVERS_FILE must hold"),
        ('{"servers": [{"model_name": "a"}]}', "number 1: The field `endpoint_url` is missing."),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "servers.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_servers_file(str(file))


def test_a_bad_file_stops_the_start(start_gateway: StartGateway) -> None:
    with pytest.raises(AssertionError, match="SERVERS_FILE must be readable"):
        start_gateway(SERVERS_FILE="nowhere.json")


# -- the doctor


def findings(run: Run, directory: Path, *arguments: str, **settings: object) -> tuple[int, Found]:
    ran = run(directory, "doctor", "--json", *arguments, **settings)
    return ran.returncode, {found["about"]: (found["state"], found["text"]) for found in json.loads(ran.stdout)}


def test_the_doctor_finds_a_healthy_gateway_well(
    gateway: GatewayProcess, start_peer: StartPeer, model: str, run: Run
) -> None:
    peer = start_peer()
    gateway.register(peer, model)
    lost = gateway.register(start_peer(), f"{model}-lost")
    gateway.admin("PUT", f"/admin/register/{lost}", {"endpoint_url": "http://127.0.0.1:9"})
    code, found = findings(run, gateway.directory, "--from", gateway.url, PORT=gateway.port, HOST="127.0.0.1")
    assert code == 0, found
    assert found.pop(f"server {model}-lost at http://127.0.0.1:9")[0] == "warning"
    assert {state for state, _text in found.values()} == {"ok"}, found
    looked_at = {"settings", "port", "database", "disk", "clock", f"server {model} at {peer.url}"}
    from_outside = {"from outside", "headers", "client address", "answers", "streams", "large requests"}
    assert set(found) == looked_at | from_outside


def test_the_doctor_says_what_is_wrong(tmp_path: Path, run: Run) -> None:
    (tmp_path / "gateway.db").write_bytes(b"hello" * 1000)
    code, found = findings(run, tmp_path, "--from", "http://127.0.0.1:9", PORT="0")
    assert code == 1
    assert found["database"][0] == "fault"
    assert found["from outside"][0] == "fault"
    assert found["settings"][0] == "ok"
    idle = {"CLIENT_API_KEYS": "long-enough,sk-b", "RATE_LIMIT_TOKENS_PER_DAY": "50000"}
    state, told = findings(run, tmp_path, PORT="0", **idle)[1]["settings"]
    assert state == "warning"
    for text in ("can be guessed", "REQUIRE_CLIENT_API_KEY=true", "RATE_LIMIT_ENABLED=true"):
        assert text in told
    code, found = findings(run, tmp_path, ADMIN_API_KEY="short")
    assert (code, found["settings"][0]) == (1, "fault")
    assert "ADMIN_API_KEY" in found["settings"][1]


def test_the_doctor_looks_for_the_ways_to_people(peer: ScriptedPeer, tmp_path: Path, run: Run) -> None:
    mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": free_port(), "SMTP_FROM": "gateway@class.example"}
    code, found = findings(run, tmp_path, PORT="0", NOTIFY_WEBHOOK_URL=f"{peer.url}/hooks/planted", **mail)
    assert code == 0
    assert found["webhook"][0] == "ok"
    assert found["mail server"][0] == "warning"
    assert "planted" not in str(found)
    assert not peer.requests, "nothing is sent"


def test_the_doctor_knows_what_is_no_gateway(peer: ScriptedPeer, tmp_path: Path, run: Run) -> None:
    code, found = findings(run, tmp_path, PORT=peer.port, HOST="127.0.0.1")
    assert code == 1
    assert "no gateway" in found["port"][1] or "not well" in found["port"][1]
    assert [finding.state for finding in look_from_outside(peer.url, ADMIN_KEY)] == ["fault"]
    sent = [value for request in (*peer.probes, *peer.requests) for _name, value in request.headers]
    assert sent
    assert not [value for value in sent if ADMIN_KEY in value], "the key goes to gateways alone"


# What somebody in between does → what the doctor says about it.
MEDDLING: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "takes keys away": (
        {"strips": ("authorization", "last-event-id", "x-forwarded-for")},
        {"header authorization": "fault", "header last-event-id": "warning"},
    ),
    "takes the id away": ({"strips": ("x-request-id",)}, {"header x-request-id": "warning", "answers": "warning"}),
    "holds streams back": ({"buffers": True}, {"streams": "fault"}),
    "refuses large bodies": ({"most_bytes": 1024 * 1024}, {"large requests": "warning"}),
}


@pytest.mark.parametrize("meddling", MEDDLING)
def test_the_doctor_knows_what_proxies_do(gateway: GatewayProcess, meddling: str) -> None:
    options, expected = MEDDLING[meddling]
    with Router(gateway.port, speed=1, **options) as router:
        found = {one.about: one for one in look_from_outside(f"http://127.0.0.1:{router.port}", ADMIN_KEY)}
    if "x-forwarded-for" not in options.get("strips", ()):
        expected = {**expected, "client address": "warning"}  # TRUST_PROXY_HEADERS is off here
    assert {about: one.state for about, one in found.items() if one.state != "ok"} == expected
    assert not [one for one in found.values() if ADMIN_KEY in one.text or CLIENT_ADDRESS in one.text]


def test_the_doctor_looks_no_further_than_it_may(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    without_key = [(one.about, one.state) for one in look_from_outside(gateway.url, None)]
    assert without_key == [("from outside", "ok"), ("proxies", "warning")]
    wrong_key = [(one.about, one.state) for one in look_from_outside(gateway.url, "another-admins-key")]
    assert wrong_key == [("from outside", "ok"), ("proxies", "fault")]
    monkeypatch.setattr("multiverse.doctor_outside._is_near", lambda host: False)
    from_afar = [(one.about, one.state) for one in look_from_outside(gateway.url, ADMIN_KEY)]
    assert from_afar == [("from outside", "ok"), ("secrecy", "fault")], "no key goes there"
    assert [one.state for one in look_from_outside(f"http://127.0.0.1:{free_port()}", ADMIN_KEY)] == ["fault"]
