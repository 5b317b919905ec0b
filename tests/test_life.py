"""The life of the process: bad settings, ports, SIGTERM and SIGINT with work under way, kill -9 under load, memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import tornado.netutil

from multiverse.classroom.classroom import Classroom
from multiverse.classroom.moods import PUPILS
from multiverse.classroom.pretend import PretendServer
from multiverse.config import Config, load_config
from multiverse.gateway import Gateway
from multiverse.web.app import _fill, bind, make_server
from multiverse.web.front.door import FrontDoor
from tests import wire
from tests.answers import assert_error
from tests.bench import build_record
from tests.checker import usage_outcomes
from tests.clients import EventStream
from tests.conftest import StartGateway, StartPeer
from tests.front.talking import talk
from tests.operations import AnswerChat, Hold, Script, Sleep
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.waiting import Stopwatch, eventually, eventually_equal, never

ONE = wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one"))
REST = wire.chunked(wire.chat_chunk("two") + wire.finish_chunk() + wire.DONE)


def run_gateway(directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail: its exit code, and what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "multiverse", "serve"],
        cwd=directory,
        env={"PYTHONPATH": str(PROJECT), "HOST": "127.0.0.1", "PORT": "0", "ADMIN_API_KEY": ADMIN_KEY, **settings},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


# -- settings and ports


BAD_SETTINGS = {
    "no key": ({"ADMIN_API_KEY": ""}, ["ADMIN_API_KEY"]),
    "a short key": ({"ADMIN_API_KEY": "planted-short"}, ["ADMIN_API_KEY", "16"]),
    "the example's key": ({"ADMIN_API_KEY": "your-secure-api-key-here-minimum-16-chars"}, ["ADMIN_API_KEY"]),
    "a port that is none": ({"PORT": "eighty"}, ["PORT"]),
    "another database": ({"DATABASE_URL": "postgres://planted-password@db/x"}, ["DATABASE_URL"]),
    "several at once": (
        {"PORT": "-1", "LOG_LEVEL": "LOUD", "DRAIN_SECONDS": "soon"},
        ["PORT", "LOG_LEVEL", "DRAIN_SE"],
    ),
    "a log directory that is a file": ({"LOG_DIR": "occupied"}, ["LOG_DIR"]),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_bad_setting_stops_the_start(tmp_path: Path, name: str) -> None:
    settings, told = BAD_SETTINGS[name]
    (tmp_path / "occupied").touch()
    ended = run_gateway(tmp_path, **settings)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert all(word in line for word in told), line
    assert "planted-" not in line, "the value may be a secret"
    assert not (tmp_path / "gateway.db").exists(), "nothing has begun"


def test_a_bad_line_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("QUEUE_SIZE=many\n")
    ended = run_gateway(tmp_path)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "QUEUE_SIZE" in ended.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = run_gateway(tmp_path, PORT=str(port), ENABLE_CONSOLE_LOGGING="false")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert str(port) in line
    assert "PORT" in line, "what to change"


@pytest.mark.parametrize("host", ["192.0.2.1", "999.1.1.1"])
def test_an_address_of_another_machine(tmp_path: Path, host: str) -> None:
    ended = run_gateway(tmp_path, HOST=host, ENABLE_CONSOLE_LOGGING="false")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "HOST" in ended.stderr
    assert host in ended.stderr


@pytest.mark.parametrize("host", ["::", "127.0.0.1"])
def test_all_addresses_are_those_of_ipv4_as_well(host: str) -> None:
    """Nobody is served here: what is bound for a moment is looked at."""
    config = load_config({"ADMIN_API_KEY": ADMIN_KEY, "HOST": host, "PORT": "0"})
    listeners = bind(config)
    with contextlib.ExitStack() as open_listeners:
        bound = {open_listeners.enter_context(listener).getsockname()[:2] for listener in listeners}
    addresses = {address for address, _port in bound}
    assert len({port for _address, port in bound}) == 1
    assert addresses == {host} if host != "::" else "0.0.0.0" in addresses
    assert host != "::" or "::" in addresses or not socket.has_dualstack_ipv6()


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_text("this is a text, and long enough to be looked at as a database" * 20)
    ended = run_gateway(tmp_path, ENABLE_CONSOLE_LOGGING="false")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert "gateway.db" in ended.stderr


def test_from_an_empty_disk_with_two_settings(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = {"PYTHONPATH": str(PROJECT), "PORT": str(port), "ADMIN_API_KEY": ADMIN_KEY, "HOST": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "multiverse", "serve"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stderr is not None
            assert f"listening on http://127.0.0.1:{port}" in process.stderr.readline()
            gateway = GatewayProcess(tmp_path)
            gateway.port = port
            assert gateway.call("GET", "/health").status == 200
            assert gateway.admin("GET", "/admin/servers").json()["total"] == 0
        finally:
            process.terminate()
        assert process.wait(5) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"gateway.db", "logs"}


def test_systemd_is_told(start_gateway: StartGateway, tmp_path: Path) -> None:
    for address in (str(tmp_path / "notify"), f"@multiverse-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0"))
            manager.settimeout(10.0)
            gateway = start_gateway(NOTIFY_SOCKET=address)
            assert manager.recv(100) == b"READY=1"
            assert gateway.admin("GET", "/health").status == 200
            gateway.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert gateway.wait(10.0) == 0


def test_a_service_manager_that_does_not_listen(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(NOTIFY_SOCKET=tmp_path / "nobody")
    assert gateway.stop() == 0, "it works all the same"
    assert "nobody cannot be told READY=1: No such file or directory" in gateway.output


def test_memory_after_the_start(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    assert gateway.call("GET", "/health").status == 200
    assert 10_000_000 < gateway.resident_bytes < 80_000_000


# -- the end: SIGTERM with work under way


def begin_stream(gateway: GatewayProcess, peer: ScriptedPeer, model: str, hold: Hold) -> EventStream:
    """A stream that has said one word, and says the rest when `hold` is released."""
    peer.script(ONE, hold, REST)
    stream = gateway.stream(model)
    stream.read_events(1)
    return stream


def test_streams_finish_and_nothing_new_begins(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(DRAIN_SECONDS=5)
    gateway.register(peer, model)
    hold = Hold()
    idle = gateway.client()
    idle.request("GET", "/health")
    assert idle.read_response().status == 200
    with begin_stream(gateway, peer, model, hold) as stream, begin_stream(gateway, peer, model, hold) as other:
        gateway.terminate()
        eventually_equal(lambda: gateway.call("GET", "/health").status, 503, "/health says so at once", 1.0)
        health = gateway.call("GET", "/health").json()
        assert (health["status"], health["service"]) == ("draining", "Multiverse Inference Gateway")
        for response in (
            gateway.chat(model),
            gateway.chat(model, True),
            gateway.call("GET", "/v1/models"),
            gateway.admin("GET", "/admin/stats"),
            gateway.call("GET", "/"),
        ):
            assert_error(response, "shutting_down")
            assert response.header("Connection") == "close"
        idle.request("POST", "/v1/chat/completions", wire.chat_body(model))
        assert_error(idle.read_response(), "shutting_down")
        assert idle.at_end()
        assert gateway.alive
        hold.release()
        for each in (stream, other):
            assert each.read_to_end().done, "a stream that began is finished"
            assert (each.texts, each.errors) == (["one", "two"], [])
        ended_at = time.monotonic()
        assert gateway.wait(5.0) == 0
        assert time.monotonic() - ended_at < 3.0, "without waiting for the rest of DRAIN_SECONDS"
    idle.close()
    assert len(peer.requests) == 2
    assert usage_outcomes(gateway) == Counter(ok=2), "usage is written, the refused ones are no requests"
    with pytest.raises(ConnectionRefusedError):
        gateway.client()


def test_what_is_left_is_told(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(DRAIN_SECONDS=0.6, STREAM_KEEPALIVE_SECONDS=0.1)
    peer, waiting, plain = start_peer(), start_peer(), start_peer()
    for each in (peer, waiting, plain):
        gateway.register(each, f"{model}-{each.name}", max_concurrency=1)
    waiting.script(Hold())
    plain.script(Hold())
    client, queued = gateway.client(), gateway.client()
    client.request("POST", "/v1/chat/completions", wire.chat_body(f"{model}-{plain.name}"))
    plain.wait_for_requests()
    queued.request("POST", "/v1/chat/completions", wire.chat_body(f"{model}-{plain.name}"))
    with (
        begin_stream(gateway, peer, f"{model}-{peer.name}", Hold()) as stream,
        gateway.stream(f"{model}-{waiting.name}") as silent,
    ):
        silent.read_comments(1)
        terminated_at = time.monotonic()
        gateway.terminate()
        for each in (stream, silent):
            each.read_to_end()
            assert [error["code"] for error in each.errors] == ["shutting_down"]
            assert not each.done
            assert each.response.ended == "orderly"
        assert 0.5 < time.monotonic() - terminated_at < 4.0, "at the end of DRAIN_SECONDS"
        for each_client in (client, queued):
            response = each_client.read_response()
            assert_error(response, "shutting_down")
            each_client.close()
    assert gateway.wait(3.0) == 0
    outcomes = usage_outcomes(gateway)
    assert sum(outcomes.values()) == 4, f"one row each: {outcomes}"
    assert set(outcomes) <= {"failed", "rejected"}
    assert len(plain.requests) == 1, "who was in the queue has not reached a server"


def test_not_waiting_at_all(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(DRAIN_SECONDS=0)
    gateway.register(peer, model)
    with begin_stream(gateway, peer, model, Hold()) as stream:
        gateway.terminate()
        assert [error["code"] for error in stream.read_to_end().errors] == ["shutting_down"]
    assert gateway.wait(2.0) == 0


def test_a_body_that_comes_too_late(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway()
    gateway.register(peer, model)
    hold = Hold()
    body = wire.chat_body(model)
    late = gateway.client()
    late.send(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    with begin_stream(gateway, peer, model, hold) as stream:
        gateway.terminate()
        eventually(lambda: "draining" in gateway.output, "it is ending")
        late.send(body)
        response = late.read_response()
        assert_error(response, "shutting_down")
        assert response.header("Connection") == "close"
        hold.release()
        assert stream.read_to_end().done
    late.close()
    assert gateway.wait(3.0) == 0
    assert usage_outcomes(gateway) == Counter(ok=1)


async def test_a_request_that_comes_in_the_same_moment(tmp_path: Path) -> None:
    """It was let in before the end began, so the end waits for it, although its task has not begun yet."""
    async with Gateway(bench_config(tmp_path)) as gateway:
        server = make_server(gateway)
        assert isinstance(server, FrontDoor)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await server.accept_on([listener])
        async with talk(listener.getsockname()[1]) as client:
            while not server.connections:
                await asyncio.sleep(0.01)
            (connection,) = server.connections
            body = wire.chat_body("any")
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.data_received(head.encode() + body)
            await gateway.drain(asyncio.Event())
            assert gateway.usage.requests()["total"] == 1, "it has ended"
            assert (await client.answer()).status == 404
        server.stop()
        await server.close_all_connections()
        listener.close()


def bench_config(directory: Path, **settings: str) -> Config:
    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{directory}/gateway.db", **settings}
    return load_config(environ, dotenv_path=None)


class Stuck:
    """A request that does not end, whoever tells it to."""

    key_id = "client-1"

    def end_early(self, error: Exception) -> None:
        """Not even then."""


async def test_who_is_in_a_hurry_waits_no_longer_for_what_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiverse.gateway.LAST_WORDS_SECONDS", 0.1)
    hurry = asyncio.Event()
    hurry.set()
    async with Gateway(bench_config(tmp_path, DRAIN_SECONDS="20")) as gateway:
        gateway.proxy.under_way.add(Stuck())  # type: ignore[arg-type]
        watch = Stopwatch()
        await gateway.drain(hurry)
        assert watch.own_seconds < 2.0


async def test_what_fails_at_the_end_keeps_nothing_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_classroom: Classroom) -> None:
        raise OSError("the classroom")

    gateway = await Gateway(bench_config(tmp_path)).__aenter__()
    gateway.store.queue_usage(build_record(started_at=gateway.clock.utc_iso()).row())
    with monkeypatch.context() as patched:
        patched.setattr(Classroom, "close", fail)
        with pytest.raises(OSError, match="the classroom"):
            await gateway.__aexit__(None, None, None)
    async with Gateway(bench_config(tmp_path)) as again:
        assert (await again.store.row_counts())["usage"] == 1


async def test_what_cannot_be_registered_behind_the_port_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = PretendServer.start

    async def start_one(server: PretendServer) -> str:
        if server.name != first_name:
            raise OSError(errno.EMFILE, "Too many open files")
        return await start(server)

    first_name = f"Pretend {PUPILS[0]}"
    monkeypatch.setattr(PretendServer, "start", start_one)
    async with Gateway(bench_config(tmp_path, CLASSROOM_SERVERS="3")) as gateway:
        with caplog.at_level(logging.ERROR):
            await _fill(gateway, [({"not": "a registration"}, False)])
        assert [pupil.server.name for pupil in gateway.classroom.pupils] == [first_name]
    seeding, classroom = caplog.records
    assert "SERVERS_FILE" in seeding.getMessage()
    assert "start the gateway again" in seeding.getMessage()
    assert seeding.exc_info is not None
    assert "start the gateway again" in classroom.getMessage()
    assert "Too many open files" in classroom.__dict__["fields"]["reason"]


@pytest.mark.parametrize(
    ("signals", "patient"),
    [
        ((signal.SIGTERM, signal.SIGTERM, signal.SIGTERM), True),
        ((signal.SIGINT, signal.SIGINT), False),
        ((signal.SIGTERM, signal.SIGINT), False),
    ],
    ids=["SIGTERM often", "Ctrl-C twice", "SIGTERM and Ctrl-C"],
)
def test_who_is_in_a_hurry_says_so_with_ctrl_c(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, signals: tuple[signal.Signals, ...], patient: bool
) -> None:
    gateway = start_gateway(DRAIN_SECONDS=20)
    gateway.register(peer, model)
    hold = Hold()
    with begin_stream(gateway, peer, model, hold) as stream:
        for number in signals:
            os.kill(gateway.process_id, number)
            eventually(lambda: "draining" in gateway.output, "the first one is enough to begin")
        if patient:
            never(lambda: not gateway.alive, "a PaaS may send SIGTERM more than once", for_seconds=0.3)
            hold.release()
        assert [error["code"] for error in stream.read_to_end().errors] == ([] if patient else ["shutting_down"])
        assert gateway.wait(10.0) == 0


def test_ctrl_c(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway()
    gateway.register(peer, model)
    gateway.chat(model)
    os.kill(gateway.process_id, signal.SIGINT)
    assert gateway.wait(3.0) == 0
    assert "Traceback" not in gateway.output
    assert usage_outcomes(gateway) == Counter(ok=1)


def test_the_end_at_any_moment_of_the_start(tmp_path: Path) -> None:
    for delay_seconds in (0.12, 0.2, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-m", "multiverse", "serve"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(PROJECT), "HOST": "127.0.0.1", "PORT": "0", "ADMIN_API_KEY": ADMIN_KEY},
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            time.sleep(delay_seconds)
            process.terminate()
            _nothing, printed = process.communicate(timeout=5)
        assert process.returncode in (0, -signal.SIGTERM), "before it listens to signals, or after"
        assert "Traceback" not in printed
        assert process.returncode == 0 or "listening" not in printed


def test_an_answer_under_way_is_not_cut(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway()
    hold = Hold()
    peer.health.queue(hold, wire.json_answer(wire.model_list(model)))
    client = gateway.client()
    body = wire.json_answer({"model_name": model, "endpoint_url": peer.url}).partition(b"\r\n\r\n")[2]
    client.request("POST", "/admin/register", body, [("X-API-Key", ADMIN_KEY)])
    eventually(lambda: peer.probes, "the registration is being probed")
    gateway.terminate()
    eventually_equal(lambda: "draining" in gateway.output, True, "it is ending")
    hold.release()
    response = client.read_response()
    client.close()
    assert response.status == 201, "who was admitted is answered"
    assert gateway.wait(3.0) == 0


def test_usage_survives_the_end(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway()
    script = Script(AnswerChat())
    gateway.register(start_peer(script), model)
    sent: Counter[str] = Counter()
    with gateway.client() as client:
        for number in range(200):
            if number % 10 == 7:
                script.queue(wire.error_answer(500, "no"))
                sent["failed"] += 1
            elif number % 10 == 8:
                script.queue(wire.error_answer(400, "no"))
                sent["rejected"] += 1
            else:
                sent["ok"] += 1
            client.request("POST", "/v1/chat/completions", wire.chat_body(model, stream=number % 2 == 0))
            client.read_response()
    assert gateway.stop() == 0
    assert usage_outcomes(gateway) == sent, "one row per admitted request, each with how it ended"


# -- the sudden end


def test_killed_under_load(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=0.05)
    registered = []
    for number in range(3):
        peer = start_peer(Script(Sleep(0.01), AnswerChat()))
        registered.append(gateway.register(peer, model))
        stop = threading.Event()
        threads = [threading.Thread(target=ask_until, args=[gateway, model, stop]) for _number in range(4)]
        for thread in threads:
            thread.start()
        wait_for_rows(gateway, usage_outcomes(gateway).total() + 10)
        registered.append(gateway.register(peer, f"{model}-{number}"))
        gateway.kill()
        stop.set()
        for thread in threads:
            thread.join()
        with contextlib.closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        gateway.start()
        listed = [record["registration_id"] for record in gateway.admin("GET", "/admin/servers").json()["servers"]]
        assert listed == registered, "what was acknowledged is kept, in its order"
        eventually(lambda: gateway.call("GET", f"/v1/models/{model}").status == 200, "it is probed")
        assert gateway.chat(model).status == 200
    assert gateway.stop() == 0
    with contextlib.closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        ids = [request_id for (request_id,) in database.execute("SELECT request_id FROM usage")]
    assert len(ids) == len(set(ids)), "no row twice"


def wait_for_rows(gateway: GatewayProcess, count: int) -> None:
    eventually(lambda: usage_outcomes(gateway).total() >= count, f"{count} usage rows are on disk", 4.0)


def ask_until(gateway: GatewayProcess, model: str, stop: threading.Event) -> None:
    """One request after the other, until told to stop or cut off."""
    while not stop.is_set():
        with contextlib.suppress(OSError, EOFError, ValueError):
            gateway.chat(model, True)


def test_the_version_is_said_once(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    lines = [line for line in gateway.output.splitlines() if re.search(r"listening on http://127\.0\.0\.1:\d+", line)]
    assert len(lines) == 1
