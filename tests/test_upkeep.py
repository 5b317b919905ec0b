"""What looks after a gateway: backups, export and import, SERVERS_FILE, the doctor; each as the process users start."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartGateway, StartPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.waiting import eventually
from tests.wire import chat_body


def run(directory: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """One command, in `directory`, with nothing of this machine's settings."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "ADMIN_API_KEY": ADMIN_KEY}
    environ |= {name: str(value) for name, value in settings.items()}
    command = [sys.executable, "-W", "error", "-m", "multiverse", *arguments]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=30, check=False)


# -- backups


def test_a_backup_of_a_running_gateway_can_be_restored(
    start_gateway: StartGateway, start_peer: StartPeer, model: str, tmp_path: Path
) -> None:
    gateway, peer = start_gateway(), start_peer()
    registration_id = gateway.register(peer, model)
    copied = run(gateway.directory, "backup", "copy.db")
    assert copied.returncode == 0, copied.stderr
    copy = gateway.directory / "copy.db"
    assert copy.stat().st_mode & 0o077 == 0, "it holds servers' keys"
    assert not list(gateway.directory.glob("copy.db*unfinished"))
    other = tmp_path / "other"
    other.mkdir()
    restored = run(other, "restore", str(copy))
    assert restored.returncode == 0, restored.stderr
    again = run(other, "restore", str(copy))
    assert again.returncode == 2, "a database that is there is not replaced unasked"
    assert run(other, "restore", str(copy), "--yes").returncode == 0
    with sqlite3.connect(other / "gateway.db") as connection:
        assert connection.execute("SELECT registration_id FROM servers").fetchall() == [(registration_id,)]
    connection.close()


@pytest.mark.parametrize(
    ("content", "told"), [(None, "does not exist"), (b"hello" * 1000, "database"), (b"", "not a gateway's database")]
)
def test_what_is_no_backup_is_not_restored(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "copy.db").write_bytes(content)
    ran = run(tmp_path, "restore", "copy.db")
    assert ran.returncode == 1
    assert told in ran.stderr
    assert not (tmp_path / "gateway.db").exists()


def test_there_must_be_something_to_back_up(tmp_path: Path) -> None:
    ran = run(tmp_path, "backup", "copy.db")
    assert ran.returncode == 1
    assert "DATABASE_URL" in ran.stderr
    assert list(tmp_path.iterdir()) == []


# -- registrations as a file


def test_registrations_go_from_one_gateway_to_another(
    gateway: GatewayProcess, start_gateway: StartGateway, start_peer: StartPeer, model: str, tmp_path: Path
) -> None:
    peer = start_peer()
    gateway.register(peer, model, owner_name="Ada", tags=["gpu"], max_concurrency=2, offered_to="me")
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
    file.write_text(json.dumps({"servers": [entry, {"model_name": "no address"}]}))
    other = start_gateway()
    imported = run(tmp_path, "servers", "import", str(file), MULTIVERSE_URL=other.url)
    assert imported.returncode == 1, "one of them is refused"
    assert "1 imported, 1 refused." in imported.stderr
    (found,) = other.admin("GET", "/admin/servers").json()["servers"]
    assert {name: found[name] for name in entry} == entry
    assert run(tmp_path, "servers", "import", "-", MULTIVERSE_URL=other.url).returncode == 2, "no JSON"


def test_a_file_seeds_an_empty_store(
    start_gateway: StartGateway, start_peer: StartPeer, model: str, tmp_path: Path
) -> None:
    peer, file = start_peer(), tmp_path / "servers.json"
    peer.model_names.append(model)
    file.write_text(json.dumps({"servers": [{"model_name": model, "endpoint_url": peer.url}]}))
    gateway = start_gateway(SERVERS_FILE=file)

    def registered() -> list[str]:
        return [server["registration_id"] for server in gateway.admin("GET", "/admin/servers").json()["servers"]]

    eventually(lambda: bool(registered()), "the file's server is registered")
    before = registered()
    assert gateway.call("POST", "/v1/chat/completions", chat_body(model)).status == 200
    gateway.stop()
    gateway.start()
    assert registered() == before, "what is registered stays as it is"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "SERVERS_FILE must be readable"),
        ("hello", "SERVERS_FILE must be JSON"),
        ("[]", "SERVERS_FILE must hold"),
        ('{"servers": [{"model_name": "a"}]}', "number 1: The field `endpoint_url` is missing."),
    ],
)
def test_a_bad_file_stops_the_start(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "servers.json").write_text(content)
    ran = run(tmp_path, "serve", "--host", "127.0.0.1", "--port", "0", SERVERS_FILE="servers.json")
    assert ran.returncode == 2
    assert told in ran.stderr


# -- the doctor


def findings(directory: Path, *arguments: str, **settings: object) -> tuple[int, dict[str, tuple[str, str]]]:
    ran = run(directory, "doctor", "--json", *arguments, **settings)
    return ran.returncode, {found["about"]: (found["state"], found["text"]) for found in json.loads(ran.stdout)}


def test_the_doctor_finds_a_healthy_gateway_well(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    gateway, peer = start_gateway(), start_peer()
    gateway.register(peer, model)
    lost = gateway.register(start_peer(), f"{model}-lost")
    gateway.admin("PUT", f"/admin/register/{lost}", {"endpoint_url": "http://127.0.0.1:9"})
    code, found = findings(
        gateway.directory, "--gateway", gateway.url, PORT=gateway.port, HOST="127.0.0.1", SERVERS_FILE=""
    )
    assert code == 0, found
    for about in ("settings", "port", "database", "disk", "clock", "from outside", f"server {model} at {peer.url}"):
        assert found[about][0] == "ok", about
    assert found[f"server {model}-lost at http://127.0.0.1:9"][0] == "warning"


def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"hello" * 1000)
    code, found = findings(tmp_path, "--gateway", "http://127.0.0.1:9", PORT="0")
    assert code == 1
    assert found["database"][0] == "fault"
    assert found["from outside"][0] == "fault"
    code, found = findings(tmp_path, ADMIN_API_KEY="short")
    assert (code, found["settings"][0]) == (1, "fault")
    assert "ADMIN_API_KEY" in found["settings"][1]


def test_the_doctor_knows_what_is_no_gateway(start_peer: StartPeer, tmp_path: Path) -> None:
    peer = start_peer()
    code, found = findings(tmp_path, PORT=peer.url.rpartition(":")[2], HOST="127.0.0.1")
    assert code == 1
    assert "no gateway" in found["port"][1] or "not well" in found["port"][1]
