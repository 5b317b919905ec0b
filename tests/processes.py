"""The real gateway as a process, with fast timers, and the few calls that nearly every black-box test makes.

Each process gets a directory of its own (database, logs) and a free port that it chooses itself. What it prints is
kept; log_faults() says what must never stand in it. Nothing of the package is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.clients import EventStream, RawClient, Response
from tests.peers import ScriptedPeer
from tests.waiting import eventually
from tests.wire import PLANTED, PLANTED_SERVER_KEY, Headers, chat_body

PROJECT = Path(__file__).resolve().parent.parent
ADMIN_KEY = PLANTED + "admin-key-0123456789"
START_SECONDS = 15.0
HTTP_SERVER = "MULTIVERSE_TEST_HTTP_SERVER"  # set by the option --http-server
DEBUG_LOOP = "MULTIVERSE_TEST_DEBUG_LOOP"  # set by the option --debug-loop
LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")

FAST_TIMERS = {
    "HEALTH_CHECK_INTERVAL_SECONDS": "1",
    "HEALTH_CHECK_TIMEOUT_SECONDS": "1",
    "CONNECT_TIMEOUT_SECONDS": "1",
    "REQUEST_TIMEOUT_SECONDS": "10",
    "STREAM_IDLE_TIMEOUT_SECONDS": "10",
    "STREAM_KEEPALIVE_SECONDS": "0.3",
    "EJECT_SECONDS": "1",
    "EJECT_MAX_SECONDS": "4",
    "DRAIN_SECONDS": "3",
}
FORBIDDEN_IN_LOG = (
    "Uncaught exception",
    "Exception in callback",
    "exception was never retrieved",
    "never awaited",
    "was destroyed but it is pending",
    "ResourceWarning",
    "Traceback (most recent call last)",
    PLANTED,
)


def log_faults(text: str, expected: Iterable[str] = ()) -> list[str]:
    """The lines of a log that must not be there, except those that contain one of `expected`."""
    allowed = tuple(expected)
    bad_lines = [line for line in text.splitlines() if any(mark in line for mark in FORBIDDEN_IN_LOG)]
    return [line for line in bad_lines if not any(mark in line for mark in allowed)]


class GatewayProcess:
    """One `python -m multiverse serve` (or what `program` says); start() returns when it listens."""

    program: tuple[str, ...] = ("-m", "multiverse", "serve")

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.port = 0
        self.settings = {name: str(value) for name, value in settings.items()}
        self.starts = 0
        self._lines: list[str] = []
        self._registered: list[str] = []

    # -- life

    def start(self) -> GatewayProcess:
        """Start (again, in the same directory); AssertionError with what it printed when it does not come up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        already = len(self._lines)
        self.starts += 1
        self._process = subprocess.Popen(
            [sys.executable, *self.program],
            cwd=self.directory,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()
        with contextlib.suppress(AssertionError):  # what it printed says more
            eventually(lambda: self._announced(already) or not self.alive, "it listens", START_SECONDS)
        match = self._announced(already)
        if match is None:
            self.kill()
            raise AssertionError(f"the gateway did not start:\n{self.output}")
        self.port = int(match.group(1))
        return self

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self.wait(5.0)

    def wait(self, timeout_seconds: float) -> int:
        """The exit code; kills the process and fails when it does not come in time."""
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the gateway did not exit within {timeout_seconds} s:\n{self.output}") from None
        finally:
            self._reader.join(5.0)
            assert self._process.stdout is not None
            self._process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM and the exit code, which must come within DRAIN_SECONDS (and a moment)."""
        self.terminate()
        return self.wait(float(self._environ()["DRAIN_SECONDS"]) + 3.0)

    @property
    def process_id(self) -> int:
        return self._process.pid

    def waited_for_cpu_seconds(self) -> float:
        """How long its event loop was ready to run while others had the CPU; 0 where the system does not tell."""
        times = Path(f"/proc/{self.process_id}/schedstat")
        return int(times.read_text().split()[1]) / 1e9 if times.exists() else 0.0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """Everything it printed so far."""
        return "".join(self._lines)

    @property
    def resident_bytes(self) -> int:
        """Its resident memory; 0 where the system does not tell."""
        status = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(found.group(1)) * 1024 if found else 0

    def _environ(self) -> dict[str, str]:
        """Nothing of this machine's settings gets in, only what Python needs to run."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONASYNCIODEBUG") if name in os.environ}
        fixed = {"PYTHONPATH": str(PROJECT), "HOST": "127.0.0.1", "PORT": "0", "ADMIN_API_KEY": ADMIN_KEY}
        if DEBUG_LOOP in os.environ:
            fixed |= {"PYTHONPATH": f"{PROJECT / 'tests' / 'plain_loop'}:{PROJECT}", "PYTHONASYNCIODEBUG": "1"}
        if HTTP_SERVER in os.environ:
            fixed["HTTP_SERVER"] = os.environ[HTTP_SERVER]
        return kept | fixed | FAST_TIMERS | self.settings

    def _announced(self, after_line: int) -> re.Match[str] | None:
        return LISTENING.search("".join(self._lines[after_line:]))

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))

    # -- calls

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout_seconds: float = 10.0) -> RawClient:
        """A connection of its own."""
        return RawClient(self.port, timeout_seconds)

    def call(self, method: str, path: str, body: bytes | None = None, headers: Headers = ()) -> Response:
        """One request on a connection of its own."""
        with self.client() as client:
            client.request(method, path, body, headers)
            return client.read_response()

    def admin(self, method: str, path: str, value: dict[str, Any] | None = None) -> Response:
        """One call of the admin API."""
        body = None if value is None else json.dumps(value).encode()
        return self.call(method, path, body, [("X-API-Key", ADMIN_KEY)])

    def register(self, peer: ScriptedPeer, model: str, key: str = ADMIN_KEY, **fields: Any) -> str:
        """Register a peer for `model` (it then lists that model), with `key`, and return the registration id."""
        if model not in peer.model_names:
            peer.model_names.append(model)
        value = {"model_name": model, "endpoint_url": peer.url, "api_key": PLANTED_SERVER_KEY, **fields}
        response = self.call("POST", "/admin/register", json.dumps(value).encode(), [("X-API-Key", key)])
        assert response.status in (200, 201), f"registering failed: {response.status} {response.body!r}"
        registration_id = str(response.json()["registration_id"])
        self._registered.append(registration_id)
        return registration_id

    def deregister_all(self) -> None:
        """Take out whatever register() put in since the last time."""
        while self._registered:
            self.admin("DELETE", f"/admin/register/{self._registered.pop()}")

    def server(self, registration_id: str) -> dict[str, Any]:
        """The record of one registration."""
        response = self.admin("GET", f"/admin/servers/{registration_id}")
        assert response.status == 200, f"{response.status} {response.body!r}"
        return dict(response.json())

    def stats(self) -> dict[str, Any]:
        """`GET /admin/stats`."""
        return dict(self.admin("GET", "/admin/stats").json())

    def in_flight(self) -> dict[str, int]:
        """Every in-flight gauge that is not 0."""
        requests = self.stats()["requests"]
        gauges = {"all": requests["in_flight"], **requests["in_flight_by_key"]}
        for server in self.admin("GET", "/admin/servers").json()["servers"]:
            gauges[server["registration_id"]] = server["in_flight"]
        return {name: value for name, value in gauges.items() if value}

    def chat(self, model: str, stream: bool | None = None, headers: Headers = (), **fields: Any) -> Response:
        """A chat completion, read to its end."""
        return self.call("POST", "/v1/chat/completions", chat_body(model, stream, **fields), headers)

    def stream(self, model: str, path: str = "/v1/chat/completions", **fields: Any) -> EventStream:
        """A streamed request whose events can be read one by one; use it as a context manager."""
        client = self.client()
        try:
            client.request("POST", path, chat_body(model, True, **fields))
            return EventStream(client)
        except BaseException:
            client.close()
            raise
