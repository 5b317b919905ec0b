"""Teaching mode: pretend servers, marked as such, do what the dashboard tells them and leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from multiverse.classroom.moods import Mood
from multiverse.classroom.pretend import PretendServer
from tests.bench import HandClock
from tests.checker import assert_good_end, read_rows
from tests.conftest import StartGateway, Visit
from tests.processes import GatewayProcess
from tests.waiting import eventually, eventually_equal

MODEL = "pretend/parrot"


class ClassroomProcess(GatewayProcess):
    """`multiverse classroom` instead of `multiverse serve`."""

    program = ("-m", "multiverse", "classroom", "--servers", "2")


def pupils(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return list(gateway.admin("GET", "/admin/classroom").json()["servers"])


def open_classroom(gateway: GatewayProcess, count: int) -> list[str]:
    """The ids of the pretend servers, once all are there."""
    eventually_equal(lambda: len(pupils(gateway)), count, "the pretend servers are registered")
    return [pupil["registration_id"] for pupil in pupils(gateway)]


def make(gateway: GatewayProcess, registration_id: str, mood: str) -> None:
    answered = gateway.admin("PUT", f"/admin/classroom/{registration_id}", {"mood": mood, "minutes": 1})
    assert (answered.status, answered.json()["mood"]) == (200, mood)


def verdict(gateway: GatewayProcess, registration_id: str) -> str:
    return str(gateway.server(registration_id)["health_status"])


def test_a_class_watches_failover(start_gateway: StartGateway) -> None:
    gateway = start_gateway(CLASSROOM_SERVERS=3, HEALTH_CHECK_INTERVAL_SECONDS=0.2)
    first, second, third = open_classroom(gateway, 3)
    for server in gateway.admin("GET", "/admin/servers").json()["servers"]:
        assert (server["tags"], server["model_name"], server["health_status"]) == (["pretend"], MODEL, "healthy")
        assert server["owner_name"].startswith("Pretend ")
        assert "made up" in server["description"]
    (offered,) = gateway.call("GET", "/v1/models").json()["data"]
    assert (offered["id"], offered["pretend"], offered["healthy_servers"]) == (MODEL, True, 3)
    plain = gateway.chat(MODEL).json()
    assert plain["choices"][0]["message"]["content"].startswith("(pretend) I am Pretend ")
    assert plain["usage"]["total_tokens"] > 20
    legacy = gateway.call("POST", "/v1/completions", json.dumps({"model": MODEL, "prompt": "one two"}).encode())
    assert legacy.json()["choices"][0]["text"].startswith("(pretend)")

    make(gateway, first, "lying")
    make(gateway, second, "busy")
    answers = [first_word(gateway) for _number in range(3)]
    assert {server_id for server_id, _attempts in answers} == {third}, "the only one that is what it seems"
    assert sum(attempts for _server_id, attempts in answers) >= 5, "both others were asked"
    assert verdict(gateway, first) == verdict(gateway, second) == "healthy", "probes see nothing"

    make(gateway, first, "well")
    make(gateway, second, "broken")
    eventually_equal(lambda: verdict(gateway, second), "unhealthy", "probes find it", 5)
    with gateway.stream(MODEL) as stream:
        stream.read_events(1)
        make(gateway, stream.response.header("X-Gateway-Server-ID") or "", "broken")
        stream.read_to_end()
    assert not stream.done, "who had seen a word sees that it broke"
    assert [error["code"] for error in stream.errors] == ["server_disconnected"]
    make(gateway, second, "well")
    eventually_equal(lambda: verdict(gateway, second), "healthy", "it is back", 5)


def first_word(gateway: GatewayProcess) -> tuple[str, int]:
    """Who answers a stream, and how many were asked; nobody listens to the end."""
    with gateway.stream(MODEL) as stream:
        stream.read_events(1)
        header = stream.response.header
        return header("X-Gateway-Server-ID") or "", int(header("X-Gateway-Attempts") or 0)


@pytest.mark.parametrize(
    ("registration_id", "fields", "status"),
    [
        ("nobody", {"mood": "slow"}, 404),
        ("nobody", {"mood": "sad"}, 400),
        ("nobody", {"mood": "slow", "minutes": 61}, 400),
    ],
)
def test_without_a_classroom_there_is_nothing_to_change(
    gateway: GatewayProcess, registration_id: str, fields: dict[str, Any], status: int
) -> None:
    assert pupils(gateway) == []
    assert gateway.admin("PUT", f"/admin/classroom/{registration_id}", fields).status == status


def test_the_command_leaves_nothing_behind(tmp_path: Path) -> None:
    gateway = ClassroomProcess(tmp_path / "gateway", HEALTH_CHECK_INTERVAL_SECONDS=60).start()
    try:
        killed = open_classroom(gateway, 2)
        settings = {row["variable"]: row["value"] for row in gateway.admin("GET", "/admin/settings").json()["settings"]}
        assert settings["HEALTH_CHECK_INTERVAL_SECONDS"] == "5"
        gateway.kill()
        gateway.start()
        ids = open_classroom(gateway, 2)
        assert not set(ids) & set(killed), "the ports of those are nobody's"
        listed = gateway.admin("GET", "/admin/servers").json()["servers"]
        assert sorted(server["registration_id"] for server in listed) == sorted(ids)
    finally:
        assert_good_end(gateway)
    assert read_rows(gateway, "SELECT registration_id FROM servers") == []


def test_moods_pass() -> None:
    clock = HandClock()
    server = PretendServer("Pretend Ada", clock)
    server.set_mood(Mood.SLOW, 60)
    clock.pass_time(59)
    assert (server.mood, server.seconds_left) == (Mood.SLOW, 1)
    clock.pass_time(1)
    assert (server.mood, server.seconds_left) == (Mood.WELL, 0)


def test_the_dashboard_tells_them_what_to_do(start_gateway: StartGateway, visit: Visit) -> None:
    gateway = start_gateway(CLASSROOM_SERVERS=1)
    (only,) = open_classroom(gateway, 1)
    visitor = visit(gateway, signed_in=True)
    page = visitor.open("/")
    expect(page.get_by_role("heading", name="Classroom")).to_be_visible()
    expect(page.locator(f'tbody[data-id="{only}"] .pretend')).to_be_visible()
    page.get_by_label("What Pretend Ada does").select_option("lying")
    expect(page.locator("#pupils [role=status]")).to_contain_text("lying for another")
    eventually(lambda: pupils(gateway)[0]["mood"] == "lying", "the server has been told")
    assert visitor.serious_findings() == []
