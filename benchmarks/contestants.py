"""What a contestant is, and the two that are no peers: the gateway, and the direct way that has none.

A contestant knows how to be found, started on a site, told of the servers, and nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answers import CLIENT_KEY, MODEL, ROUTE, PlainAnswer, RequestShape, order_number
from benchmarks.installs import NotAvailable, run
from benchmarks.processes import ProcessTree, free_ports

ROOT = Path(__file__).resolve().parent.parent
ADMIN_KEY = "an-admin-key-for-the-benchmark"
CALL_TIMEOUT_SECONDS = 10.0
LOOK_EVERY_SECONDS = 0.02


class NotReady(Exception):
    """A contestant does not answer rightly yet; the text says what it answered."""


@dataclass(frozen=True)
class Site:
    """Where a contestant runs: its directory, its ports on 127.0.0.1 (a second one for metrics), its servers' ports."""

    directory: Path
    port: int
    second_port: int
    server_ports: tuple[int, ...]

    @property
    def server_urls(self) -> list[str]:
        """The servers that it balances over."""
        return [f"http://127.0.0.1:{port}" for port in self.server_ports]


class Contestant:
    """One way from the load to the servers. `scale` is the part of the streams and turns that it is given to carry."""

    name = ""
    scale = 1.0
    start_timeout_seconds = 30.0

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """Install it where needed and `allowed`; its version. Raises NotAvailable."""
        raise NotImplementedError

    def command(self, site: Site) -> list[str]:
        """What starts it in the site's directory; files that it needs there are written."""
        raise NotImplementedError

    def environ(self, site: Site) -> dict[str, str]:
        """What it needs in its environment."""
        return {}

    def register(self, site: Site) -> None:
        """Tell it of the servers, where the command did not; raises NotReady or OSError when it cannot be told yet."""


class Direct(Contestant):
    """No gateway: what load and server cost each other, and the most that this load can ask."""

    name = "direct"

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """Nothing to do."""
        return "no gateway"


class Gateway(Contestant):
    """The gateway of this working tree, or of another one, with all its features on.

    `changes` are settings of one variation of it.
    """

    def __init__(self, changes: dict[str, str] | None = None, *, tree: Path | None = None) -> None:
        self._changes = changes or {}
        self._tree = tree.resolve() if tree is not None else ROOT
        words = [
            *([f"({self._tree.name})"] if tree is not None else []),
            *(f"{name}={value}" for name, value in self._changes.items()),
        ]
        self.name = " ".join(["gateway", *words])

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """It is here, or in the other tree; raises NotAvailable when it is not."""
        try:
            source = (self._tree / "multiverse" / "__init__.py").read_text(encoding="utf-8")
        except OSError as error:
            raise NotAvailable(f"no gateway in {self._tree}: {error}") from error
        version = source.partition("__version__ = ")[2].splitlines()[0].strip(chr(34))
        return f"{version} ({commit_of(self._tree)})"

    def command(self, site: Site) -> list[str]:
        """The command of the Procfile."""
        return [sys.executable, "-m", "multiverse", "serve"]

    def environ(self, site: Site) -> dict[str, str]:
        """Defaults, but for what is off by default: known keys and limits per client are on too."""
        return {
            "PYTHONPATH": str(self._tree),
            "ADMIN_API_KEY": ADMIN_KEY,
            "HOST": "127.0.0.1",
            "PORT": str(site.port),
            "REQUIRE_CLIENT_API_KEY": "true",
            "CLIENT_API_KEYS": CLIENT_KEY,
            "RATE_LIMIT_ENABLED": "true",
            "RATE_LIMIT_REQUESTS_PER_MINUTE": "1000000",
            **self._changes,
        }

    def register(self, site: Site) -> None:
        """Both servers over REST; a second time changes nothing."""
        for url in site.server_urls:
            value = {"model_name": MODEL, "endpoint_url": url, "owner_name": "benchmark", "require_healthy": True}
            status, body = call(site.port, "/admin/register", json.dumps(value).encode(), {"X-API-Key": ADMIN_KEY})
            if status not in (200, 201):
                raise NotReady(f"registering: {status} {body[:300]!r}")


def commit_of(tree: Path) -> str:
    """Which state of the sources a tree holds, as git names it."""
    try:
        return run(["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*"]).strip()
    except NotAvailable:  # no git, or no repository
        return "no commit"


@dataclass(frozen=True)
class Running:
    """A contestant that answers. `tree` is None for the direct way."""

    contestant: Contestant
    port: int
    direct_port: int
    tree: ProcessTree | None
    start_seconds: float


@contextlib.contextmanager
def running(
    contestant: Contestant, *, directory: Path, server_ports: tuple[int, ...], core: int | None
) -> Iterator[Running]:
    """Start a contestant, wait until it gives a right answer, and stop it in any case. Raises ProcessFailed."""
    if isinstance(contestant, Direct):
        yield Running(contestant, server_ports[0], server_ports[0], None, 0.0)
        return
    port, second_port = free_ports(2)
    site = Site(directory, port, second_port, server_ports)
    started_seconds = time.monotonic()
    command, environ = contestant.command(site), contestant.environ(site)
    with ProcessTree(contestant.name, command, directory=directory, core=core, environ=environ) as tree:
        wait_until_ready(contestant, site, tree)
        yield Running(contestant, site.port, server_ports[0], tree, time.monotonic() - started_seconds)


def wait_until_ready(contestant: Contestant, site: Site, tree: ProcessTree) -> None:
    """Returns after the first right answer; raises ProcessFailed when none comes in time."""
    deadline = time.monotonic() + contestant.start_timeout_seconds
    state = "it does not listen"
    while time.monotonic() < deadline and tree.alive:
        try:
            contestant.register(site)
            require_right_answer(site.port)
            return
        except (NotReady, OSError, http.client.HTTPException) as error:
            state = str(error) or type(error).__name__
        time.sleep(LOOK_EVERY_SECONDS)
    reason = "does not answer" if tree.alive else "ended"
    raise tree.failure(f"{contestant.name} {reason} ({state}); its log:")


def require_right_answer(port: int) -> None:
    """One plain request; raises NotReady when its answer is not the one that the server gives."""
    shape, number = RequestShape(), 0
    status, body = call(port, ROUTE, shape.body(number), shape.headers())
    if status != 200:
        raise NotReady(f"status {status}: {body[:200]!r}")
    if fault := PlainAnswer().fault(order_number(number), body):
        raise NotReady(fault)


def call(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """POST to 127.0.0.1; status and body. Raises OSError, or HTTPException for what is not HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT_SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
