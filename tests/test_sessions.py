"""Sessions, and what guards the pages: cookies, other sites, limits, policies, static files, the event stream."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from multiverse.people.keys import Keys
from multiverse.people.sessions import MOST_SESSIONS, MOST_SESSIONS_OF_A_KEY, Sessions
from tests import wire
from tests.answers import assert_error
from tests.bench import HandClock
from tests.clients import EventStream, Response
from tests.conftest import StartGateway
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    *("/", "/models", "/playground", "/sign-in", "/claim", "/thanks", "/account", "/usage", "/register"),
    *("/servers/some-id", "/keys", "/logs", "/settings"),
)


def sign_in(gateway: GatewayProcess, key: str = ADMIN_KEY, headers: wire.Headers = ()) -> Response:
    return gateway.call("POST", "/session", json.dumps({"key": key}).encode(), headers)


def cookie_of(response: Response) -> tuple[str, str]:
    """The header with which a browser sends the session back."""
    (morsel,) = SimpleCookie(response.header("Set-Cookie") or "").values()
    return ("Cookie", f"{morsel.key}={morsel.value}")


def test_who_must_sign_in_comes_back_to_what_was_asked_for(gateway: GatewayProcess) -> None:
    answer = gateway.call("GET", "/logs?level=error&text=a%20b")
    assert (answer.status, answer.header("Location")) == (303, "/sign-in?next=/logs%3Flevel%3Derror%26text%3Da%2520b")


# -- the table of sessions


def test_a_session_lasts_while_it_is_used() -> None:
    clock, keys = HandClock(), Keys(admin_key="the-admin-s-key")
    sessions = Sessions(keys=keys, clock=clock, idle_seconds=60)
    assert sessions.begin("wrong") is None
    session_id = sessions.begin("the-admin-s-key")
    assert session_id is not None
    assert len(session_id) >= 43, "256 bits"
    for _use in range(3):
        clock.pass_time(59)
        caller = sessions.caller(session_id)
        assert caller is not None
        assert caller.is_admin
    clock.pass_time(61)
    assert sessions.caller(session_id) is None
    assert len(sessions) == 0


def test_sessions_are_bounded_and_die_with_their_key() -> None:
    clock, students = HandClock(), [f"key-{number}" for number in range(60)]
    sessions = Sessions(keys=Keys(admin_key="the-admin-s-key", client_keys=students), clock=clock, idle_seconds=60)
    admins = [str(sessions.begin("the-admin-s-key")) for _number in range(2)]
    ids = [str(sessions.begin(students[0])) for _number in range(MOST_SESSIONS_OF_A_KEY)]
    assert sessions.caller(ids[0]) is not None, "seen last from now on"
    ids += [str(sessions.begin(students[0])) for _number in range(MOST_SESSIONS)]
    assert len(sessions) == MOST_SESSIONS_OF_A_KEY + 2, "a loop signs out nobody else"
    assert [sessions.caller(session_id) is not None for session_id in (*admins, *ids[-2:])] == [True] * 4
    for student in students:
        ids += [str(sessions.begin(student)) for _number in range(MOST_SESSIONS_OF_A_KEY)]
    assert len(sessions) == MOST_SESSIONS
    assert sessions.caller(admins[0]) is None
    assert sessions.caller(ids[-1]) is not None
    sessions._keys = Keys(admin_key="another-admin-s-key")
    assert sessions.caller(ids[-1]) is None
    clock.pass_time(61)
    sessions._keys = Keys(admin_key="the-admin-s-key")
    sessions.end(str(sessions.begin("the-admin-s-key")))
    assert (len(sessions), sessions._of_key) == (0, {}), "nothing is left behind"


# -- over HTTP


def test_a_session_in_place_of_a_key(gateway: GatewayProcess) -> None:
    response = sign_in(gateway)
    assert response.json()["role"] == "admin"
    written = response.header("Set-Cookie") or ""
    assert "HttpOnly" in written
    assert "SameSite=Strict" in written
    assert "Path=/" in written
    assert "Secure" not in written, "over http it would be lost"
    assert ADMIN_KEY not in written
    cookie = cookie_of(response)
    assert gateway.call("GET", "/admin/stats", None, [cookie]).status == 200
    assert gateway.call("GET", "/session", None, [cookie]).json()["signed_in"] is True
    assert gateway.call("DELETE", "/session", None, [cookie]).status == 200
    assert_error(gateway.call("GET", "/admin/stats", None, [cookie]), "invalid_api_key")
    assert gateway.call("GET", "/session", None, [cookie]).json()["signed_in"] is False


def test_behind_a_proxy_with_https_the_cookie_is_secure(start_gateway: StartGateway) -> None:
    gateway = start_gateway(TRUST_PROXY_HEADERS="true")
    over_https = [("X-Forwarded-For", "2001:db8::1"), ("X-Forwarded-Proto", "https")]
    assert "Secure" in (sign_in(gateway, headers=over_https).header("Set-Cookie") or "")
    for _attempt in range(10):
        assert_error(sign_in(gateway, "a wrong key", over_https), "invalid_api_key")
    refused = sign_in(gateway, "a wrong key", [("X-Forwarded-For", "2001:db8::2"), over_https[1]])
    assert_error(refused, "rate_limit_exceeded")
    assert refused.header("Retry-After")
    assert sign_in(gateway, headers=over_https).status == 200, "the right key always works"
    elsewhere = [("X-Forwarded-For", "192.0.2.2")]
    assert_error(sign_in(gateway, "a wrong key", elsewhere), "invalid_api_key")


def foreign(gateway: GatewayProcess) -> Iterator[list[tuple[str, str]]]:
    """What a browser adds when a page of another site asks; on plain http there is no Sec-Fetch-Site."""
    yield [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")]
    yield [("Origin", f"http://127.0.0.1:{gateway.port + 1}"), ("Sec-Fetch-Site", "same-site")]
    yield [("Origin", "https://evil.example")]
    yield [("Origin", f"http://127.0.0.1:{gateway.port}.evil.example")]
    yield [("Origin", "null")]


def test_pages_of_other_sites_can_do_nothing(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    registration_id = gateway.register(peer, model)
    cookie = cookie_of(sign_in(gateway))
    for headers in foreign(gateway):
        with subtests.test(headers=headers):
            drain = gateway.call("POST", f"/admin/servers/{registration_id}/drain", b"", [cookie, *headers])
            assert_error(drain, "permission_denied")
            assert_error(sign_in(gateway, headers=headers), "permission_denied")
            assert_error(gateway.call("GET", "/admin/stats", None, [cookie, *headers]), "invalid_api_key")
            asked = gateway.call("POST", "/v1/chat/completions", wire.chat_body(model), [cookie, *headers])
            assert asked.status == 200, "/v1 may be called from anywhere, but not in a session"
    assert gateway.server(registration_id)["availability"] == "available"
    own = ("Origin", "http://gateway.test")
    assert gateway.call("POST", f"/admin/servers/{registration_id}/drain", b"", [cookie, own]).status == 200


def test_a_session_does_not_leave_the_gateway(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    cookie = cookie_of(sign_in(gateway))
    gateway.call("POST", "/v1/chat/completions", wire.chat_body(model), [cookie])
    assert peer.wait_for_requests()[0].header("Cookie") is None


def test_the_policy_of_every_page(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    cookie = cookie_of(sign_in(gateway))
    for path in PAGES:
        with subtests.test(path=path):
            response = gateway.call("GET", path, None, [cookie, ("Accept", "text/html")])
            assert response.status == 200
            policy = response.header("Content-Security-Policy") or ""
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert response.header("Cache-Control") == "no-store"
            body = response.body.decode()
            assert "<style" not in body
            assert " style=" not in body
            assert all("src=" in tag.partition(">")[0] for tag in body.split("<script")[1:]), "no script in a page"


def test_static_files(gateway: GatewayProcess) -> None:
    page = gateway.call("GET", "/", None, [("Accept", "text/html")]).body.decode()
    address = page.partition('<script type="module" src="')[2].partition('"')[0]
    response = gateway.call("GET", address, None, [("Accept-Encoding", "gzip, br")])
    assert response.header("Content-Encoding") == "gzip"
    assert "immutable" in (response.header("Cache-Control") or "")
    etag = response.header("ETag") or ""
    assert gateway.call("GET", address, None, [("If-None-Match", etag)]).status == 304
    old = address.replace(address.split("/")[2], "0123456789ab")
    assert gateway.call("GET", old).header("Cache-Control") == "no-cache"
    for path in ("/static/0/../assets.py", "/static/0/%2e%2e/assets.py", "/static/0/nothing.js", "/static/0/js/"):
        assert_error(gateway.call("GET", path), "not_found")


# -- the event stream


def listen(gateway: GatewayProcess, *headers: tuple[str, str]) -> EventStream:
    """The event stream, of whoever sends these headers."""
    client = gateway.client()
    client.request("GET", "/admin/events", None, headers or [("X-API-Key", ADMIN_KEY)])
    return EventStream(client)


class Told:
    """The events of a stream, one after the other."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._seen = 0

    def next_named(self, name: str) -> dict[str, Any]:
        """The data of the next event with this name."""
        while True:
            events = self._stream.read_events(self._seen + 1)
            assert len(events) > self._seen, "the stream ended"
            self._seen += 1
            if events[self._seen - 1].name == name:
                return dict(events[self._seen - 1].json())


def test_events_tell_what_changes(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    with listen(gateway) as stream:
        assert stream.response.header("Content-Type") == "text/event-stream"
        assert [event.name for event in stream.read_events(3)] == ["hello", "counts", "logs"]
        assert stream.events[1].json()["servers"]["total"] == 0
        registration_id, told = gateway.register(peer, model), Told(stream)
        (record,) = told.next_named("servers")["changed"]
        assert record == {name: value for name, value in gateway.server(registration_id).items() if name in record}
        assert told.next_named("counts")["servers"]["total"] == 1
        gateway.admin("DELETE", f"/admin/register/{registration_id}")
        assert told.next_named("servers") == {"changed": [], "removed": [registration_id]}
        assert wire.PLANTED_SERVER_KEY.encode() not in stream.response.body


def test_the_stream_ends_with_its_session(gateway: GatewayProcess) -> None:
    cookie = cookie_of(sign_in(gateway))
    with listen(gateway, cookie) as stream:
        stream.read_events(3)
        gateway.call("DELETE", "/session", None, [cookie])
        stream.read_to_end()
        assert stream.response.ended == "orderly"
    assert_error(gateway.call("GET", "/admin/events"), "invalid_api_key")


def test_the_stream_ends_when_the_gateway_drains(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    with listen(gateway) as stream:
        stream.read_events(3)
        gateway.terminate()
        stream.read_to_end()
        assert stream.response.ended == "orderly"
    assert gateway.wait(5.0) == 0


# -- vendored files


def test_vendored_files_are_what_the_list_says() -> None:
    script = ROOT / "scripts" / "vendor_assets.py"
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assets = json.loads((ROOT / "scripts" / "vendored.json").read_text(encoding="utf-8"))["assets"]
    assert all(asset["version"] and asset["licence"] and asset["package"] for asset in assets)
    places = ("multiverse/web/static/vendor", "multiverse/web/api_docs/vendor", "tests/vendor")
    on_disk = {path for place in places for path in (ROOT / place).iterdir()}
    assert {ROOT / asset["path"] for asset in assets} == on_disk, "nothing is vendored that is not listed"
