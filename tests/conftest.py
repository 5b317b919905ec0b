"""Fixtures of the black-box tests: scripted peers, gateways (shared or of one's own), and the checker after each test.

Every gateway a test used must be quiet again afterwards, and one that a test started must also end well on SIGTERM:
what that means stands in checker.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import DESKTOP, Visitor, chromium
from tests.checker import assert_good_end, assert_quiet, before
from tests.operations import Script
from tests.peers import PeerLoop, ScriptedPeer
from tests.processes import DEBUG_LOOP, HTTP_SERVER, GatewayProcess

StartPeer = Callable[..., ScriptedPeer]
StartGateway = Callable[..., GatewayProcess]
Visit = Callable[..., Visitor]


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run gateways on asyncio's own loop with PYTHONASYNCIODEBUG=1; a callback that takes over 100 ms is a fault"
    parser.addoption("--debug-loop", action="store_true", help=text)
    text = "run gateways on this HTTP server: `multiverse` (the default), or `tornado`"
    parser.addoption("--http-server", choices=["multiverse", "tornado"], help=text)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and every process we start would be deaf to Ctrl-C as well.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where nobody has set a loop, Tornado has asyncio make one that nobody closes: the garbage collector tells of it,
    # in whichever test it comes to it.
    asyncio.set_event_loop(None)
    if config.getoption("--debug-loop"):
        os.environ[DEBUG_LOOP] = "1"
    if config.getoption("--http-server"):
        os.environ[HTTP_SERVER] = config.getoption("--http-server")
    config.addinivalue_line("markers", "expected_in_log(text, ...): log lines with one of these texts are no fault")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Captured output can hold lone surrogates, which a worker of pytest-xdist cannot send to the one that reports."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def loop_that_is_closed(request: pytest.FixtureRequest) -> None:
    """Async tests that ask for no `io_loop` run on one as well, not on one that nobody closes."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)) and "io_loop" not in request.fixturenames:
        request.getfixturevalue("io_loop")


# -- peers


@pytest.fixture(scope="session")
def peer_loop() -> Iterator[PeerLoop]:
    """The thread that scripted peers live in."""
    with PeerLoop() as loop:
        yield loop


@pytest.fixture
def peers() -> list[ScriptedPeer]:
    """Every peer that the test started."""
    return []


@pytest.fixture
def start_peer(peer_loop: PeerLoop, peers: list[ScriptedPeer]) -> Iterator[StartPeer]:
    """Start a scripted peer: `start_peer()`, or `start_peer(script)` with a script shared between several."""

    def start(inference: Script | None = None) -> ScriptedPeer:
        peers.append(ScriptedPeer(peer_loop, f"peer-{len(peers) + 1}", inference))
        return peers[-1]

    yield start
    for peer in peers:
        peer.stop()
    harness_errors = [error for peer in peers for error in peer.harness_errors]
    assert not harness_errors, f"a scripted peer itself failed: {harness_errors!r}"


@pytest.fixture
def peer(start_peer: StartPeer) -> ScriptedPeer:
    """One scripted peer."""
    return start_peer()


@pytest.fixture(scope="session")
def model_numbers() -> Iterator[int]:
    """Numbers that make model names unique in a session."""
    return itertools.count(1)


@pytest.fixture
def model(request: pytest.FixtureRequest, model_numbers: Iterator[int]) -> str:
    """A model name that no other test uses."""
    return f"{re.sub('[^a-z0-9]+', '-', request.node.name.lower())[:60]}/{next(model_numbers)}"


# -- gateways


class GatewayShelf:
    """Gateways that tests share, one process for each set of settings; a dead one is started anew."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, GatewayProcess] = {}
        self._started = itertools.count(1)

    def get(self, name: str, **settings: object) -> GatewayProcess:
        if name not in self._running or not self._running[name].alive:
            directory = self._directory / f"{name}-{next(self._started)}"
            self._running[name] = GatewayProcess(directory, **settings).start()
        return self._running[name]

    def close(self) -> None:
        with contextlib.ExitStack() as ends:  # all of them, even if one ends badly
            for gateway in self._running.values():
                ends.callback(assert_good_end, gateway)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayShelf]:
    """The shared gateways of this session."""
    shelf = GatewayShelf(tmp_path_factory.mktemp("gateways"))
    yield shelf
    shelf.close()


@pytest.fixture
def gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer], start_peer: StartPeer
) -> Iterator[GatewayProcess]:
    """A shared gateway that probes only when told to, so that nothing but the test moves a verdict."""
    shared = shelf.get("patient", HEALTH_CHECK_INTERVAL_SECONDS=300)
    with checked(shared, request, peers):
        yield shared


@pytest.fixture
def impatient_gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer], start_peer: StartPeer
) -> Iterator[GatewayProcess]:
    """Like `gateway`, with limits that are reached in about a second and no keep-alive before them."""
    shared = shelf.get(
        "impatient",
        HEALTH_CHECK_INTERVAL_SECONDS=300,
        REQUEST_TIMEOUT_SECONDS=0.8,
        STREAM_IDLE_TIMEOUT_SECONDS=1,
        STREAM_MAX_SECONDS=2,
        STREAM_KEEPALIVE_SECONDS=5,
        CLIENT_WRITE_TIMEOUT_SECONDS=1,
        MAX_EVENT_SIZE=65536,
        MAX_RESPONSE_BODY_SIZE=262144,
        QUEUE_TIMEOUT_SECONDS=0.5,
        QUEUE_SIZE=2,
    )
    with checked(shared, request, peers):
        yield shared


@pytest.fixture
def start_gateway(
    request: pytest.FixtureRequest, tmp_path: Path, peers: list[ScriptedPeer], start_peer: StartPeer
) -> Iterator[StartGateway]:
    """Start a gateway of one's own: `start_gateway(QUEUE_SIZE=0, ...)`; probes come every second."""
    with contextlib.ExitStack() as cleanup:
        numbers = itertools.count(1)

        def start(**settings: object) -> GatewayProcess:
            gateway = GatewayProcess(tmp_path / f"gateway-{next(numbers)}", **settings).start()
            cleanup.callback(end_own_gateway, gateway, request)
            cleanup.enter_context(checked(gateway, request, peers))
            return gateway

        yield start


# -- browsers


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. Not for longer than a module: while it lives, Playwright has an event loop running."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Somebody with a browser: `visit(gateway)`, signed in with `signed_in=True`; faults of the pages fail the test."""
    visitors: list[Visitor] = []

    def start(gateway: GatewayProcess, *, signed_in: bool = False, **options: object) -> Visitor:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        visitors.append(Visitor(context, gateway))
        if signed_in:
            visitors[-1].sign_in()
        return visitors[-1]

    yield start
    faults = [fault for visitor in visitors for fault in visitor.unexpected_faults()]
    for visitor in visitors:
        visitor.context.close()
    assert not faults, "no page may do this:\n" + "\n".join(faults)


# -- the checker


@contextlib.contextmanager
def checked(gateway: GatewayProcess, request: pytest.FixtureRequest, peers: list[ScriptedPeer]) -> Iterator[None]:
    """What must hold after every black-box test; see tests/checker.py."""
    at_first = before(gateway)
    yield
    if gateway.alive:  # a test that ends the process itself checks its end by itself
        assert_quiet(gateway, peers, at_first, expected_texts(request))


def end_own_gateway(gateway: GatewayProcess, request: pytest.FixtureRequest) -> None:
    """The end of a gateway that one test started."""
    assert_good_end(gateway, expected_texts(request))


def expected_texts(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What the test's marks say may stand in the log."""
    return tuple(str(text) for mark in request.node.iter_markers("expected_in_log") for text in mark.args)
