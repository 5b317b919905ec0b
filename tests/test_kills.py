"""Ten times `kill -9` under load: the database stays whole, and what was acknowledged is still there.

What happens to the requests of such a moment is in test_life.py, to the store alone in test_storage_processes.py.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from dataclasses import dataclass, field

from tests.checker import read_rows
from tests.conftest import StartGateway
from tests.operations import AnswerChat, Sleep
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess

KILLS = 10
CLIENTS, OWNERS = 3, 3


@dataclass
class Owner:
    """Registers, changes and deregisters one server after the other, and remembers what was acknowledged.

    `there`: registration id → description that was acknowledged last. What was asked for, but not answered before the
    kill, may have happened or not: `unsure`.
    """

    name: str
    choose: random.Random
    there: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    acknowledged: int = 0

    def work(self, gateway: GatewayProcess, stop: threading.Event) -> None:
        """Go on until the gateway is killed."""
        with contextlib.suppress(OSError, EOFError):
            while not stop.is_set():
                self._act(gateway)
                self.acknowledged += 1

    def _act(self, gateway: GatewayProcess) -> None:
        wanted = self.choose.choice(["register", "register", "change", "deregister"])
        if wanted == "register" or not self.there:
            url = f"http://127.0.0.1:1/{self.name}-{self.choose.getrandbits(60)}"
            value = {"model_name": "m", "endpoint_url": url, "description": url}
            answer = gateway.admin("POST", "/admin/register", value)
            assert answer.status == 201
            self.there[answer.json()["registration_id"]] = url
            return
        registration_id = self.choose.choice(sorted(self.there))
        self.unsure.add(registration_id)
        path = f"/admin/register/{registration_id}"
        if wanted == "change":
            text = str(self.choose.getrandbits(60))
            assert gateway.admin("PUT", path, {"description": text}).status == 200
            self.there[registration_id] = text
        else:
            assert gateway.admin("DELETE", path).status == 200
            del self.there[registration_id]
            self.gone.add(registration_id)
        self.unsure.discard(registration_id)

    def check(self, descriptions: dict[str, str]) -> None:
        """Compare with what the restarted gateway lists."""
        for registration_id, description in self.there.items():
            if registration_id not in self.unsure:
                found = descriptions.get(registration_id, "nothing")
                assert found == description, f"acknowledged and lost: {registration_id}"
        assert not self.gone & descriptions.keys(), "what was deregistered does not come back"
        self.there = {
            registration_id: descriptions[registration_id]
            for registration_id in self.there.keys() & descriptions.keys()
        }
        self.unsure.clear()


def ask(gateway: GatewayProcess, model: str, stop: threading.Event) -> None:
    """One stream after the other, until the gateway is killed."""
    with contextlib.suppress(OSError, EOFError, ValueError):
        while not stop.is_set():
            gateway.chat(model, True)


def test_ten_kills_under_load(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.2)
    peer.always(Sleep(0.01), AnswerChat())
    registration_id = gateway.register(peer, model)
    choose = random.Random(1)
    owners = [Owner(f"owner-{number}", random.Random(number)) for number in range(OWNERS)]
    for _number in range(KILLS):
        stop = threading.Event()
        threads = [threading.Thread(target=owner.work, args=[gateway, stop]) for owner in owners]
        threads += [threading.Thread(target=ask, args=[gateway, model, stop]) for _client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(choose.uniform(0.1, 0.5))
        gateway.kill()
        stop.set()
        for thread in threads:
            thread.join()
        assert_whole(gateway)
        gateway.start()
        records = gateway.admin("GET", "/admin/servers").json()["servers"]
        descriptions = {record["registration_id"]: record["description"] for record in records}
        assert registration_id in descriptions
        for owner in owners:
            owner.check(descriptions)
    assert all(owner.acknowledged >= KILLS for owner in owners), "there was load"
    clear(gateway, registration_id)
    assert gateway.chat(model).text == peer.name


def assert_whole(gateway: GatewayProcess) -> None:
    """By SQLite's own judgement, and every usage row is one."""
    with contextlib.closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    ids = [row["request_id"] for row in read_rows(gateway, "SELECT request_id FROM usage")]
    assert len(ids) == len(set(ids)), "no usage row is there twice"


def clear(gateway: GatewayProcess, kept: str) -> None:
    """Deregister all but one."""
    for record in gateway.admin("GET", "/admin/servers").json()["servers"]:
        if record["registration_id"] != kept:
            gateway.admin("DELETE", f"/admin/register/{record['registration_id']}")
