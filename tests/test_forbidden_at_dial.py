"""An address that may not be dialled is refused at every dial: a registration from another day opens no door.

What is refused at registration is in test_admin_api.py, the spellings of an address in test_addresses.py.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import StartGateway
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess

# How a database that somebody has changed, or an older version has written, may spell the canary's address.
SPELLINGS = (
    "127.0.0.1",
    "localhost",
    "127.1",
    "0x7f.1",
    "2130706433",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "0.0.0.0",
)


def names_of_this_machine() -> list[str]:
    """Names that only turn out to be the canary's when they are resolved, if there are any here."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        return [name] if socket.gethostbyname(name) == "127.0.0.1" else []
    return []


def respell(path: Path, port: int, ids: dict[str, str]) -> None:
    """Change registrations behind the gateway's back, each to its own spelling."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        for spelling, registration_id in ids.items():
            values = [f"http://{spelling}:{port}", registration_id]
            database.execute("UPDATE servers SET endpoint_url = ? WHERE registration_id = ?", values)
        database.commit()


@pytest.mark.expected_in_log("registration skipped")
def test_a_canary_hears_nothing(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.1)
    models = {spelling: f"{model}-{number}" for number, spelling in enumerate([*SPELLINGS, *names_of_this_machine()])}
    ids = {spelling: gateway.register(peer, name) for spelling, name in models.items()}
    gateway.stop()
    respell(gateway.directory / "gateway.db", peer.port, ids)
    gateway.settings["ALLOW_PRIVATE_ADDRESSES"] = "false"
    heard = len(peer.connections)
    gateway.start()
    there = {record["registration_id"] for record in gateway.admin("GET", "/admin/servers").json()["servers"]}
    assert {ids["127.0.0.1"], ids["localhost"]} <= there, "what can be read is taken over from the database"
    for spelling, registration_id in ids.items():
        if registration_id in there:
            assert_probe_refused(gateway, registration_id, peer.port)
        for stream in (False, True):
            assert gateway.chat(models[spelling], stream).status in (404, 502, 503), spelling
    assert len(peer.connections) == heard, "neither probes nor requests reach it, however it is spelled"


def assert_probe_refused(gateway: GatewayProcess, registration_id: str, port: int) -> None:
    answer = gateway.admin("POST", f"/admin/servers/{registration_id}/probe").json()
    assert (answer["probe"]["ok"], answer["health_status"]) == (False, "unhealthy")
    assert str(port) not in str(answer["reason"]), "the reason does not tell what listens there"
