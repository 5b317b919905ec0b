"""When files and sockets run out: the limit is raised at the start, and a lack of them is blamed on nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multiverse import open_files
from multiverse.web.front.door import ClientLimits, FrontDoor
from tests.clients import RawClient
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess, log_faults
from tests.waiting import eventually, eventually_equal, soon
from tests.wire import chat_body

FEW = 48
AS_ADMIN = [("X-API-Key", ADMIN_KEY)]
NO_ROOM = "this machine has no room for another connection"


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, which are put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    open_files.raise_limit()
    assert open_files.limit() == min(hard, open_files.MOST_OPEN_FILES) > 512
    open_files.raise_limit()
    assert open_files.limit() == min(hard, open_files.MOST_OPEN_FILES), "it is as high as it may be"

    now = {"soft": 256}

    def as_on_macos(_which: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > open_files.MOST_OPEN_FILES_ON_MACOS:
            raise ValueError("current limit exceeds maximum limit")
        now["soft"] = wanted[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (now["soft"], resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", as_on_macos)
    open_files.raise_limit()
    assert now["soft"] == open_files.MOST_OPEN_FILES_ON_MACOS


async def test_a_client_that_cannot_be_accepted_costs_one_try_a_second(limits: tuple[int, int]) -> None:
    loop, faults = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        door = FrontDoor(lambda *_anything: None, ClientLimits(1.0, 1.0, 1.0))  # type: ignore[arg-type]
        await door.accept_on([listener])
        next_descriptor = os.open(os.devnull, os.O_RDONLY)
        os.close(next_descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor, limits[1]))
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        await soon(lambda: faults, "the loop tells of it")
        await asyncio.sleep(0.02)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert all(open_files.is_own_lack(fault) for fault in faults)
        assert len(faults) <= 2, "one, or two as later versions of Python try"
        door.stop()


class CrampedGateway(GatewayProcess):
    """Its hard limit of open files is low."""

    program = (
        "-c",
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW // 2}, {FEW}));"
        "from multiverse.cli import run_command; sys.exit(run_command(['serve']))",
    )

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process_id}/fd"))


def ask(client: RawClient, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any], str]:
    """Status, JSON and `Retry-After` of an answer on a connection that is open already."""
    client.request(method, path, body, AS_ADMIN)
    response = client.read_response()
    return response.status, response.json(), response.header("Retry-After") or ""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how many files are open")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_servers_are_not_blamed_for_what_the_gateway_lacks(
    tmp_path: Path, peer: ScriptedPeer, model: str, loop: str
) -> None:
    hidden = {"PYTHONPATH": f"{PROJECT / 'tests' / 'plain_loop'}:{PROJECT}"} if loop == "asyncio" else {}
    settings = {"HTTP_SERVER": "multiverse", "HEALTH_CHECK_INTERVAL_SECONDS": 300, "MAX_CONSECUTIVE_FAILURES": 1}
    gateway = CrampedGateway(tmp_path, **settings, **hidden).start()
    try:
        registration_id = gateway.register(peer, model)
        peer.close_idle_connections()
        with gateway.client() as client, contextlib.ExitStack() as crowd:
            ask(client, "GET", "/health")
            for _number in range(FEW):
                crowd.enter_context(gateway.client())
            eventually_equal(gateway.open_files, FEW, "clients take all that there is")

            status, answer, retry_after = ask(client, "POST", "/v1/chat/completions", chat_body(model))
            assert (status, answer["error"]["code"], retry_after) == (503, "overloaded", "5")
            _status, answer, _header = ask(client, "POST", f"/admin/servers/{registration_id}/probe")
            assert answer["probe"]["ok"] is False
            assert "has no room" in answer["probe"]["reason"]
            assert (answer["availability"], answer["consecutive_failures"]) == ("available", 0), "not its fault"
            status, answer, _header = ask(client, "GET", f"/admin/servers/{registration_id}")
            assert [probe["ok"] for probe in answer["recent_probes"]] == [True], "and not counted"

        eventually(lambda: gateway.open_files() < FEW, "they have left")
        assert gateway.chat(model).status == 200
        eventually_equal(lambda: gateway.output.count(NO_ROOM), 1, "one line for all of it")
        assert "Too many open files" in gateway.output
        assert f"limit_of_open_files={FEW}" in gateway.output
        assert not log_faults(gateway.output)
        assert "ERROR    asyncio" not in gateway.output
    finally:
        gateway.stop()
