"""Errors, all of them: every error class, every route with every method and every kind of key, malformed requests.

What an error looks like is in answers.py. Bodies have their own file, test_request_bodies.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import tornado.httpclient
import tornado.netutil

from multiverse import errors
from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.proxy.forwarding import Forwarding
from multiverse.web.app import make_server
from multiverse.web.dispatch import GatewayApplication
from multiverse.web.front.door import ClientLimits, FrontDoor
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.handlers.inference import ForwardHandler
from multiverse.web.routes import ROUTES, Route
from tests import wire
from tests.answers import ERRORS, assert_error, assert_error_headers
from tests.clients import Response
from tests.conftest import GatewayShelf, StartGateway, checked
from tests.operations import Hold
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually

CLIENT_KEY = wire.PLANTED_CLIENT_KEY
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW")
NO_SUCH_ID = "00000000-0000-0000-0000-000000000000"
EVENTS_ONLY = {"server_disconnected", "stream_truncated"}


@pytest.fixture
def keyed_gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer]
) -> Iterator[GatewayProcess]:
    """A shared gateway where `/v1` asks for a key."""
    settings = {"REQUIRE_CLIENT_API_KEY": "true", "CLIENT_API_KEYS": CLIENT_KEY, "TRUST_PROXY_HEADERS": "true"}
    shared = shelf.get("keyed", HEALTH_CHECK_INTERVAL_SECONDS=300, **settings)
    with checked(shared, request, peers):
        yield shared


# So that nobody's real servers are looked for on this machine, and lent.
FROM_NOWHERE = ("X-Forwarded-For", "unknown")


def bearer(key: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


def path_of(route: Route) -> str:
    """A path that this route matches."""
    names = {"{registration_id}": NO_SUCH_ID, "{id}": "some/model", "{route}": "rerank"}
    names |= {
        "{version}": "0",
        "{name}": "docs.js" if route.shown == "/docs/{name}" else "icon.svg",
        "{key_id}": "key-0",
        "{code_id}": "code-0",
    }
    path = route.shown
    for name, value in names.items():
        path = path.replace(name, value)
    return path


def ends(route: Route, method: str) -> bool:
    """Whether an answer has a length; streams of events do not."""
    return method != "GET" or route.shown not in ("/admin/events", "/admin/mirror")


def methods_of(route: Route) -> set[str]:
    """What the route takes; who may GET may HEAD."""
    return {*route.methods, *(["HEAD"] if "GET" in route.methods else [])}


# -- the classes


def error_classes(base: type[errors.GatewayError] = errors.GatewayError) -> list[type[errors.GatewayError]]:
    """Every class of error there is."""
    below = [found for subclass in base.__subclasses__() for found in error_classes(subclass)]
    return [base, *below]


def example_of(kind: type[errors.GatewayError]) -> errors.GatewayError:
    if kind in (errors.InvalidAPIKey, errors.ShuttingDown):
        return kind()  # type: ignore[call-arg]
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed("no", allow=("GET", "HEAD"))
    if kind is errors.ServerRefused:
        return errors.ServerRefused("no", status=418)
    return kind("no", param="field", retry_after_seconds=3)


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_class_has_the_status_and_type_of_its_code(kind: type[errors.GatewayError]) -> None:
    error = example_of(kind)
    body = errors.envelope(error)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == error.code
    if kind is errors.ServerRefused:
        assert (error.status, error.type) == (418, "invalid_request_error"), "a server's own status"
    elif error.code in EVENTS_ONLY:
        assert error.type == "server_error"
    else:
        assert ERRORS[error.code] == (error.status, error.type), "as the contract has it"
    assert ("WWW-Authenticate" in error.headers()) == (error.status == 401)
    assert ("Allow" in error.headers()) == (error.status == 405)
    once = error.status in (502, 504) or kind is errors.ServersWithheld
    assert (error.headers().get("X-Should-Retry") == "false") == once


def test_every_code_of_the_contract_has_a_class() -> None:
    assert {kind.code for kind in error_classes()} == set(ERRORS) | EVENTS_ONLY


@pytest.mark.parametrize(("seconds", "shown"), [(0, 1), (0.2, 1), (1.0, 1), (1.1, 2), (59.5, 60), (1e9, 60), (-5, 1)])
def test_retry_after_is_a_whole_number(seconds: float, shown: int) -> None:
    assert errors.Overloaded("later", retry_after_seconds=seconds).headers()["Retry-After"] == str(shown)


# -- every route: methods, keys


def test_a_wrong_method(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for route, method in itertools.product(ROUTES, METHODS):
        if method not in methods_of(route):
            with subtests.test(route=route.shown, method=method):
                response = keyed_gateway.call(method, path_of(route), None, bearer(ADMIN_KEY))
                assert_wrong_method(response, route, method)


def assert_wrong_method(response: Response, route: Route, method: str) -> None:
    nothing_there = route.shown == "/v1/{route}"  # nothing is known to be there but for those who forward
    if method == "HEAD":
        assert response.status == (404 if nothing_there else 405)
        assert_error_headers(response)
    elif nothing_there:
        assert_error(response, "not_found")
    else:
        assert_error(response, "method_not_allowed")
        assert set((response.header("Allow") or "").split(", ")) == methods_of(route) | {"OPTIONS"}


def test_a_key_that_does_not_open(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    wrong = ([], bearer("wrong-key"), [("X-API-Key", "wrong-key")], bearer(""), [("Authorization", "x")])
    bodies = set()
    for route, headers in itertools.product(ROUTES, wrong):
        for method in route.methods:
            with subtests.test(route=route.shown, method=method, headers=headers):
                # Each route asks from an address of its own: 50 wrong keys from one would be too many.
                seen_from = ("X-Forwarded-For", f"192.0.2.{ROUTES.index(route)}")
                response = keyed_gateway.call(method, path_of(route), None, [*headers, seen_from])
                if route.access == "anyone":
                    # A page for admins leads to where one signs in; signing in needs a body.
                    assert response.status == 200 or (method, response.status) in (("GET", 303), ("POST", 400))
                else:
                    assert_error(response, "invalid_api_key")
                    bodies.add(response.body)
    assert len(bodies) == 1, "one text for all, so that nothing can be learned from it"


def test_a_key_that_opens(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    admins = [bearer(ADMIN_KEY), [("X-API-Key", ADMIN_KEY)], [("Authorization", f"bearer  {ADMIN_KEY} ")]]
    for route, headers in itertools.product(ROUTES, [*admins, bearer(CLIENT_KEY)]):
        for method in route.methods:
            if headers in admins and not ends(route, method):
                continue
            with subtests.test(route=route.shown, method=method, headers=headers):
                response = keyed_gateway.call(method, path_of(route), None, [*headers, FROM_NOWHERE])
                if route.access in ("admin", "owner") and headers not in admins:
                    assert_error(response, "permission_denied")
                else:
                    assert response.status in (200, 303, 400, 404), "it comes to the matter itself"


def test_without_the_setting_any_key_is_taken(gateway: GatewayProcess) -> None:
    for headers in ([], bearer("not-needed"), bearer("schlüssel"), [("Authorization", "Basic x")]):
        assert gateway.call("GET", "/v1/models", None, headers).status == 200


UNKNOWN_PATHS = (
    "/nope /v1 /v1/ /admin /admin/ /admin/servers/ /Health /health/ /v2/models /favicon.ico //health /v1//models "
    "/admin/register/a/b /admin/servers/a/b /.env /health%00 /%2e%2e/health * http://gateway.test/nope"
).split()


def test_an_unknown_path(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    with gateway.client() as client:
        for path, method in itertools.product(UNKNOWN_PATHS, ("GET", "POST", "DELETE", "BREW")):
            with subtests.test(path=path, method=method):
                client.request(method, path, b"{}" if method == "POST" else None)
                assert_error(client.read_response(), "not_found")


# -- HEAD and OPTIONS


def test_head_is_get_without_a_body(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for route in ROUTES:
        if "GET" not in route.methods or not ends(route, "GET"):
            continue
        with subtests.test(route=route.shown):
            path, key = path_of(route), bearer(ADMIN_KEY)
            head, get = (keyed_gateway.call(method, path, None, key) for method in ("HEAD", "GET"))
            assert (head.status, head.body, head.ended) == (get.status, b"", "orderly")
            assert int(head.header("Content-Length") or 0) > 0
            assert steady_headers(head) == steady_headers(get)


def test_head_of_a_stream_ends(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for route in ROUTES:
        if "GET" not in route.methods or ends(route, "GET"):
            continue
        with subtests.test(route=route.shown), keyed_gateway.client() as client:
            client.request("HEAD", path_of(route), None, bearer(ADMIN_KEY))
            head = client.read_response()
            assert (head.status, head.body, head.header("Content-Type")) == (200, b"", "text/event-stream")
            client.request("GET", "/health")
            assert client.read_response().status == 200, "the connection is free again: nothing is being streamed"


def steady_headers(response: Response) -> list[tuple[str, str]]:
    moving = {"date", "x-request-id", "content-length"}
    return [(name, value) for name, value in response.headers if name.lower() not in moving]


def test_options_tells_the_methods(keyed_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for route in ROUTES:
        with subtests.test(route=route.shown):
            response = keyed_gateway.call("OPTIONS", path_of(route))
            assert (response.status, response.body) == (204, b""), "no key is needed to ask"
            assert set((response.header("Allow") or "").split(", ")) == methods_of(route) | {"OPTIONS"}
            assert response.header("X-Request-ID")


def test_options_of_nothing(gateway: GatewayProcess) -> None:
    assert_error(gateway.call("OPTIONS", "/nope"), "not_found")


# -- an error is no reason to hang up


def test_a_connection_outlives_errors(keyed_gateway: GatewayProcess) -> None:
    with keyed_gateway.client() as client:
        for method, path, headers, status in (
            ("GET", "/nope", [], 404),
            ("GET", "/v1/models", [], 401),
            ("GET", "/admin/stats", bearer(CLIENT_KEY), 403),
            ("GET", f"/admin/servers/{NO_SUCH_ID}", bearer(ADMIN_KEY), 404),
            ("GET", "/v1/embeddings", [], 405),
            ("POST", "/nope", [], 404),
            ("POST", "/v1/embeddings", [], 401),
            ("POST", "/v1/embeddings", bearer(CLIENT_KEY), 400),
            ("PUT", "/v1/embeddings", [], 405),
            ("POST", "/v1/embeddings", [*bearer(CLIENT_KEY), ("Content-Type", "text/plain")], 415),
            ("GET", "/health", [], 200),
        ):
            client.request(method, path, b"{}" if method in ("POST", "PUT") else None, headers)
            response = client.read_response()
            assert response.status == status
            assert response.header("Connection") is None


# -- requests that are no HTTP

HOST = b"Host: gateway.test\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
SECOND = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
MALFORMED = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "one word": b"GET\r\n\r\n",
    "only empty lines": b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a whole address without a host": b"GET http://gateway.test/health HTTP/1.1\r\n\r\n",
    "a wrong host beside a whole address": b"GET http://gateway.test/health HTTP/1.1\r\nHost: a b<c>\r\n\r\n",
    "a whole address of a wrong host": b"GET http://a<b>/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a wrong host": b"GET / HTTP/1.1\r\nHost: a b<c>\r\n\r\n",
    "a line without a colon": b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\n" + HOST + b"Name : value\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\n" + HOST + b"Name: one\r\n two\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\n" + HOST + b"Name: a\0b\r\n\r\n",
    "a lone CR": b"GET / HTTP/1.1\r\n" + HOST + b"Name: a\rb\r\n\r\n",
    "a head of 100 KB": b"GET / HTTP/1.1\r\n" + HOST + b"Name: " + b"x" * 100_000 + b"\r\n\r\n",
    "a path of 70 KB": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "too many arguments": b"GET /admin/servers?" + b"&".join([b"a=1"] * 3000) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "length and chunks": CHAT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": CHAT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length of x": CHAT + b"Content-Length: x\r\n\r\nhello",
    "a length of +5": CHAT + b"Content-Length: +5\r\n\r\nhello",
    "a length of -5": CHAT + b"Content-Length: -5\r\n\r\nhello",
    "a length of 5_0": CHAT + b"Content-Length: 5_0\r\n\r\nhello",
    "another encoding": CHAT + b"Transfer-Encoding: gzip\r\n\r\n",
    "two encodings": CHAT + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": CHAT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a chunk of ZZ": CHAT + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a chunk of -1": CHAT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk that is longer": CHAT + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n",
    "chunks in HTTP/1.0": CHAT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}


def test_a_malformed_request(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for name, data in MALFORMED.items():
        with subtests.test(name), gateway.client() as client:
            client.send(data + SECOND)
            response = client.read_response()
            assert_error(response, "invalid_request")
            assert response.header("Connection") == "close"
            assert response.ended == "orderly"
            assert client.at_end(), "what follows belongs to no request, least of all to another one"
    assert gateway.call("GET", "/health").status == 200


@pytest.mark.parametrize("scheme", [b"http", b"HTTPS"])
def test_a_target_may_be_a_whole_address(gateway: GatewayProcess, scheme: bytes) -> None:
    """RFC 9112 §3.2.2: a server must take it, and its host instead of the header's."""
    key = b"Authorization: Bearer " + ADMIN_KEY.encode() + b"\r\n"
    with gateway.client() as client:
        client.send(b"GET " + scheme + b"://class.test:81/admin/mirror HTTP/1.1\r\n" + HOST + key + b"\r\n")
        assert b'"host":"class.test:81"' in client.read_response().body
    with gateway.client() as client:
        for target, status in {b"": 200, b"?a=b": 200, b"/health?a=b": 200, b"/nowhere?a=b": 404}.items():
            client.send(b"GET " + scheme + b"://class.test" + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert client.read_response().status == status


def test_a_malformed_request_keeps_its_id(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        client.send(CHAT + b"X-Request-ID: mine-1\r\nContent-Length: x\r\n\r\n")
        assert client.read_response().header("X-Request-ID") == "mine-1"


def test_a_path_that_is_not_utf8(gateway: GatewayProcess) -> None:
    for path in ("/v1/models/%ff%fe", "/v1/models/%c3%28"):
        assert_error(gateway.call("GET", path), "invalid_request")


# -- situations that no other file has


def test_a_slow_server(impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    impatient_gateway.register(peer, model)
    peer.always(Hold())
    assert_error(impatient_gateway.chat(model), "server_timeout")
    assert_error(impatient_gateway.chat(model, True), "server_timeout")


class FailingHandler(GatewayHandler):
    """What nobody has foreseen; a CancelledError comes of something that was waited for, nobody ends the task."""

    async def get(self) -> None:
        raise RuntimeError("planted-detail")

    async def put(self) -> None:
        raise asyncio.CancelledError("planted-detail")


async def cancelled(*_arguments: object) -> None:
    raise asyncio.CancelledError("planted-detail")


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_an_unforeseen_fault(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    forwarded = method == "POST"
    path = "/v1/chat/completions" if forwarded else "/"
    handler = ForwardHandler if forwarded else FailingHandler
    route = Route(shown=path, pattern=path, handler=handler, access="anyone", methods={method: "Fails."})
    monkeypatch.setattr(Forwarding, "_ask_one_after_the_other", cancelled)
    async with Gateway(load_config(environ, dotenv_path=None)) as gateway:
        settings = {"cors_allow_origins": (), "log_function": lambda handler: None}
        limits = ClientLimits(header_timeout_seconds=5, body_timeout_seconds=5, write_timeout_seconds=5)
        server = FrontDoor(GatewayApplication([route], {"gateway": gateway}, **settings), limits)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await server.accept_on([listener])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        client, body = tornado.httpclient.AsyncHTTPClient(), wire.chat_body("m") if forwarded else None
        answer = await client.fetch(url, method=method, body=body, allow_nonstandard_methods=True, raise_error=False)
        server.stop()
        await server.close_all_connections()
        listener.close()
        assert not gateway.proxy.under_way
    pairs = [(name, value) for name, value in answer.headers.get_all()]
    message = assert_error(Response(answer.code, answer.reason, pairs, answer.body), "internal_error")
    assert "planted" not in message
    assert forwarded or answer.headers["X-Request-ID"] in message, "what to tell the admin"
    record = next(record for record in caplog.records if record.levelname == "ERROR")
    assert record.exc_info is not None
    assert "planted-detail" in str(record.exc_info[1]), "who finds it in the log"
    assert record.__dict__["fields"]["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("fails", ["limit", "row", "story"])
async def test_a_fault_at_the_end_of_a_request_leaks_nothing(
    fails: str, tmp_path: Path, peer: ScriptedPeer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_arguments: object) -> None:
        raise RuntimeError("planted-detail")

    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    async with Gateway(load_config(environ, dotenv_path=None)) as gateway:
        server = make_server(gateway)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await server.accept_on([listener])
        address, client = f"http://127.0.0.1:{listener.getsockname()[1]}", tornado.httpclient.AsyncHTTPClient()
        body = json.dumps({"model_name": "m", "endpoint_url": peer.url})
        headers = {"X-API-Key": ADMIN_KEY, "Content-Type": "application/json"}
        await client.fetch(f"{address}/admin/register", method="POST", headers=headers, body=body)
        (registered,) = gateway.registry.servers
        with monkeypatch.context() as broken:
            place = {"limit": gateway.allowances, "row": gateway.store, "story": gateway.proxy}[fails]
            broken.setattr(place, {"limit": "spend", "row": "queue_usage", "story": "on_end"}[fails], fault)
            url = f"{address}/v1/chat/completions"
            answer = await client.fetch(
                url, method="POST", headers=headers, body=wire.chat_body("m"), raise_error=False
            )
        assert (answer.code, registered.in_flight, gateway.proxy.under_way) == (500, 0, set())
        assert gateway.usage.in_flight == 0
        server.stop()
        await server.close_all_connections()
        listener.close()
    assert "planted-detail" in caplog.text


@pytest.mark.expected_in_log("Traceback (most recent call last)")
def test_a_fault_of_ours_tells_no_details(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300)
    registration_id = gateway.register(peer, model)
    calls = [("DELETE", f"/admin/register/{registration_id}", None), ("PUT", f"/admin/register/{registration_id}", {})]
    calls += [("POST", "/admin/register", {"model_name": f"{model}-2", "endpoint_url": peer.url})]
    calls += [("POST", f"/admin/servers/{registration_id}/drain", None)]
    path = gateway.directory / "gateway.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("ALTER TABLE servers RENAME TO gone")
        for method, route, value in calls:
            message = assert_error(gateway.admin(method, route, value), "internal_error")
            assert "servers" not in message, "no details"
        assert gateway.chat(model).status == 200, "nothing was changed: it is still there"
        assert gateway.admin("GET", "/admin/servers").json()["total"] == 1
        database.execute("ALTER TABLE gone RENAME TO servers")
    eventually(lambda: "no such table" in gateway.output, "the admin finds them in the log")
