"""What stays where it belongs: keys, headers, paths, request ids, logs; who may call from where; loops of gateways."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import GatewayShelf, StartGateway, StartPeer, checked
from tests.operations import AnswerChat, Hold, Sleep
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually

WRONG_KEYS_PER_MINUTE = 50
PAGE = "https://class.example"


@pytest.fixture
def strict_gateway(
    request: pytest.FixtureRequest, shelf: GatewayShelf, peers: list[ScriptedPeer]
) -> Iterator[GatewayProcess]:
    """A shared gateway behind a proxy, for two web pages, with keys."""
    shared = shelf.get(
        "strict",
        HEALTH_CHECK_INTERVAL_SECONDS=300,
        TRUST_PROXY_HEADERS="true",
        CORS_ALLOW_ORIGINS=f"{PAGE}, http://localhost:3000",
        REQUIRE_CLIENT_API_KEY="true",
        CLIENT_API_KEYS=f"{wire.PLANTED_CLIENT_KEY},{wire.PLANTED_CLIENT_KEY}-2",
    )
    with checked(shared, request, peers):
        yield shared


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


def seen_from(address: str) -> tuple[str, str]:
    return ("X-Forwarded-For", address)


# -- wrong keys


@pytest.mark.parametrize("path", ["/admin/stats", "/v1/models"])
def test_guessing_keys_is_limited_for_the_guesser_only(strict_gateway: GatewayProcess, path: str) -> None:
    guesser, other = f"203.0.113.{len(path)}", "203.0.113.250"
    with strict_gateway.client() as client:

        def ask(address: str, *headers: tuple[str, str]) -> Response:
            client.request("GET", path, None, [seen_from(f"198.51.100.1, {address}"), *headers])
            return client.read_response()

        for number in range(WRONG_KEYS_PER_MINUTE):
            assert_error(ask(guesser, bearer(f"guess-{number}")), "invalid_api_key")
            if number % 10 == 0:
                assert_error(ask(guesser), "invalid_api_key")  # no key is no guess
        for header in (bearer("guess"), ("X-API-Key", "guess")):
            assert_error(ask(guesser, header), "rate_limit_exceeded")
        assert ask(guesser, bearer(ADMIN_KEY)).status == 200, "a right key from there still works"
        assert_error(ask(guesser), "invalid_api_key")
        assert_error(ask(other, bearer("guess")), "invalid_api_key")


def test_the_address_is_the_peers_unless_a_proxy_is_trusted(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    with gateway.client() as client:
        for number in range(WRONG_KEYS_PER_MINUTE + 1):
            client.request("GET", "/admin/stats", None, [seen_from(f"203.0.113.{number}"), bearer("guess")])
            response = client.read_response()
    assert_error(response, "rate_limit_exceeded")


@pytest.mark.parametrize("trusted", [True, False])
def test_whose_address_is_kept(start_gateway: StartGateway, peer: ScriptedPeer, model: str, trusted: bool) -> None:
    gateway = start_gateway(TRUST_PROXY_HEADERS=str(trusted).lower())
    gateway.register(peer, model)
    for headers in ([seen_from("192.0.2.1, 198.51.100.7"), ("X-Real-IP", "192.0.2.9")], []):
        gateway.chat(model, headers=headers)
    assert gateway.stop() == 0
    assert usage(gateway, "client_address") == [("198.51.100.7" if trusted else "127.0.0.1",), ("127.0.0.1",)]


def usage(gateway: GatewayProcess, columns: str) -> list[tuple[object, ...]]:
    """These columns of all usage rows of a gateway that has stopped."""
    path = gateway.directory / "gateway.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(f"SELECT {columns} FROM usage ORDER BY started_at, rowid").fetchall()


# -- other sites (CORS)

CORS_PREFIX = "access-control-"


def cors_headers(response: Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers if name.lower().startswith(CORS_PREFIX)}


def preflight(gateway: GatewayProcess, path: str, origin: str, method: str = "POST") -> Response:
    asked = [
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ]
    return gateway.call("OPTIONS", path, None, [("Origin", origin), *asked])


def test_any_page_may_call_v1(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    response = preflight(gateway, "/v1/chat/completions", PAGE)
    assert response.status == 204
    allowed = cors_headers(response)
    assert allowed["access-control-allow-origin"] == "*"
    assert "POST" in allowed["access-control-allow-methods"]
    assert allowed["access-control-allow-headers"] == "authorization,content-type"
    assert "access-control-allow-credentials" not in allowed
    answers = [gateway.chat(model, stream, headers=[("Origin", PAGE)]) for stream in (False, True)]
    answers += [gateway.chat("nobody-has-it", headers=[("Origin", PAGE)])]
    answers += [gateway.call("GET", "/v1/models", None, [("Origin", PAGE)])]
    for answer in answers:
        shown = cors_headers(answer)
        assert shown["access-control-allow-origin"] == "*", "errors included: the page has to read them"
        assert "X-Request-ID" in shown["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in shown


def test_no_page_may_call_the_rest(gateway: GatewayProcess) -> None:
    for path in ("/admin/servers", "/admin/register", "/admin/stats", "/health", "/", "/nope"):
        assert not cors_headers(preflight(gateway, path, PAGE)), path
        response = gateway.call("GET", path, None, [("Origin", PAGE), ("X-API-Key", ADMIN_KEY)])
        assert not cors_headers(response), path


def test_the_pages_can_be_listed(strict_gateway: GatewayProcess) -> None:
    for origin in (PAGE, "http://localhost:3000"):
        response = preflight(strict_gateway, "/v1/models", origin, "GET")
        assert cors_headers(response)["access-control-allow-origin"] == origin
        assert response.header("Vary") == "Origin", "no cache may hand it to another page"
        refused = strict_gateway.call("GET", "/v1/models", None, [("Origin", origin)])
        assert_error(refused, "invalid_api_key")
        assert cors_headers(refused)["access-control-allow-origin"] == origin


LOOK_ALIKES = (
    "https://class.example.evil.test https://evil-class.example http://class.example https://class.example:8443 "
    "https://classXexample https://sub.class.example null https://class.example/ https://CLASS.example. file:// *"
).split()


def test_a_page_that_looks_alike(strict_gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for origin in LOOK_ALIKES:
        with subtests.test(origin=origin):
            for response in (
                preflight(strict_gateway, "/v1/models", origin),
                strict_gateway.call("GET", "/v1/models", None, [("Origin", origin), bearer(ADMIN_KEY)]),
            ):
                assert "access-control-allow-origin" not in cors_headers(response)
                assert response.header("Vary") == "Origin"


def test_no_page_at_all(start_gateway: StartGateway) -> None:
    gateway = start_gateway(CORS_ALLOW_ORIGINS="none")
    assert not cors_headers(preflight(gateway, "/v1/models", PAGE))
    assert not cors_headers(gateway.call("GET", "/v1/models", None, [("Origin", PAGE)]))


# -- headers

TO_SERVERS = {
    "host", "content-length", "content-type", "accept", "user-agent", "accept-encoding", "authorization",
    "x-request-id", "via", "ngrok-skip-browser-warning",
}  # fmt: skip
FROM_CLIENTS = [
    bearer(wire.PLANTED_CLIENT_KEY),
    ("X-API-Key", wire.PLANTED_CLIENT_KEY),
    ("Cookie", "session=planted-cookie"),
    ("Origin", "https://planted-origin.example"),
    ("Referer", "https://planted-referer.example"),
    ("X-Forwarded-For", "192.0.2.77"),
    ("X-Forwarded-Host", "planted-host"),
    ("X-Real-IP", "192.0.2.77"),
    ("Forwarded", "for=192.0.2.77"),
    ("User-Agent", "planted-agent"),
    ("Accept-Language", "planted-language"),
    ("OpenAI-Organization", "planted-organization"),
    ("X-Stainless-OS", "planted-os"),
    ("Proxy-Authorization", "Basic planted-proxy"),
    ("Accept", "text/planted"),
    ("Via", "1.1 planted-proxy"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_server_gets_to_see(gateway: GatewayProcess, peer: ScriptedPeer, model: str, stream: bool) -> None:
    gateway.register(peer, model)
    assert gateway.chat(model, stream, headers=[*FROM_CLIENTS, ("X-Request-ID", "mine/1")]).status == 200
    (request,) = peer.requests
    assert {name.lower() for name, _value in request.headers} == TO_SERVERS
    shown = str(request.headers).replace(wire.PLANTED_SERVER_KEY, "")
    assert "planted" not in shown, "nothing that the client sent"
    assert "192.0.2.77" not in shown
    assert request.header("Host") == f"127.0.0.1:{peer.port}"
    assert request.header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}"
    assert request.header("Content-Type") == "application/json"
    assert request.header("Accept") == ("text/event-stream" if stream else "application/json")
    assert request.header("Accept-Encoding") == "identity"
    assert (request.header("User-Agent") or "").startswith("multiverse/")
    assert (request.header("Via") or "").startswith("1.1 multiverse-")
    assert request.header("X-Request-ID") == "mine/1"
    probe = peer.probes[0]
    assert {name.lower() for name, _value in probe.headers} == TO_SERVERS - {
        "content-length", "content-type", "x-request-id",
    }  # fmt: skip
    assert probe.header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}"


FROM_SERVERS = [
    ("Set-Cookie", "planted=1"),
    ("Server", "planted-server"),
    ("X-Powered-By", "planted-power"),
    ("Access-Control-Allow-Origin", "https://planted.example"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Location", "https://planted.example"),
    ("Link", "<https://planted.example>; rel=preload"),
    ("X-Request-ID", "planted-id"),
    ("X-Gateway-Server-ID", "planted-gateway"),
    ("Retry-After", "77"),
    ("WWW-Authenticate", "Basic realm=planted"),
    ("Strict-Transport-Security", "max-age=1; planted"),
    ("Content-Security-Policy", "planted"),
    ("openai-processing-ms", "77"),
    ("Content-Disposition", "inline; planted"),
    ("Refresh", "0; planted"),
    ("X-Content-Type-Options", "planted"),
    ("Alt-Svc", 'h3=":443"; planted'),
]
CHUNKED = ("Transfer-Encoding", "chunked")
TO_CLIENTS = {
    "content-type", "date", "x-request-id", "x-content-type-options", "access-control-expose-headers",
    "access-control-allow-origin", "x-gateway-attempts", "x-gateway-server-id",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "stream", "error"])
def test_what_a_client_gets_to_see(gateway: GatewayProcess, peer: ScriptedPeer, model: str, kind: str) -> None:
    registration_id = gateway.register(peer, model)
    extra = {"plain": {"content-length"}, "error": {"content-length"}}
    extra["stream"] = {"transfer-encoding", "cache-control", "x-accel-buffering"}
    answers = {
        "plain": wire.json_answer(wire.chat_completion("hi"), headers=FROM_SERVERS),
        "error": wire.error_answer(400, "no", FROM_SERVERS),
        "stream": wire.head(200, [("Content-Type", "text/event-stream; planted=1"), CHUNKED, *FROM_SERVERS]),
    }
    rest = [wire.chunk(wire.chat_chunk("hi")), Sleep(0.02), wire.chunked(wire.finish_chunk() + wire.DONE)]
    peer.script(answers[kind], *(rest if kind == "stream" else []))
    response = gateway.chat(model, kind == "stream")
    assert {name.lower() for name, _value in response.headers} == TO_CLIENTS | extra[kind]
    assert "planted" not in str(response.headers)
    assert len(response.headers) == len(TO_CLIENTS | extra[kind]), "each once"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert response.header("X-Gateway-Server-ID") == registration_id
    assert response.header("X-Gateway-Attempts") == "1"
    assert response.header("Content-Type") == ("text/event-stream" if kind == "stream" else "application/json")


def test_the_servers_id_can_be_hidden(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(INCLUDE_GATEWAY_SERVER_ID_HEADER="false")
    gateway.register(peer, model)
    peer.script(AnswerChat())
    peer.script(AnswerChat())
    peer.script(wire.error_answer(400, "no"))
    for stream in (False, True, False):
        response = gateway.chat(model, stream)
        assert response.header("X-Gateway-Server-ID") is None
        assert response.header("X-Gateway-Attempts") == "1"


def test_each_server_sees_its_own_key_only(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    keys: dict[ScriptedPeer, str | None] = {}
    for key in ("planted-a-key", "planted-b-key", None):
        peer = start_peer()
        gateway.register(peer, model, api_key=key)
        keys[peer] = key
        peer.script(wire.error_answer(500, "no"))
    assert gateway.chat(model, headers=[bearer(wire.PLANTED_CLIENT_KEY)]).status == 502
    for peer, key in keys.items():
        for request in (*peer.requests, *peer.probes):
            assert request.header("Authorization") == (f"Bearer {key}" if key else None)
        assert len(peer.requests) == 1


def test_redirects_are_not_followed(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    peer, canary = start_peer(), start_peer()
    gateway.register(peer, model)
    for status in (301, 302, 303, 307, 308):
        redirect = wire.answer("", status, headers=[("Location", f"{canary.url}/v1/chat/completions")])
        peer.script(redirect)
        peer.health.queue(redirect)
        assert gateway.chat(model).status == 502
        registration_id = gateway.register(peer, model)
        assert not gateway.server(registration_id)["recent_probes"][0]["ok"], "nor is it a good answer to a probe"
    assert not canary.connections


def test_a_server_that_repeats_its_key_is_not_repeated(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    told = f"no such parameter; you sent Bearer {wire.PLANTED_SERVER_KEY}"
    event = wire.sse(json.dumps({"error": {"message": told, "code": 400}}))
    for answer in (
        wire.error_answer(400, told),
        wire.answer(told, 422, "text/plain"),
        wire.stream_answer(wire.chat_chunk("one") + event),
    ):
        peer.script(answer)
        response = gateway.chat(model, stream=True)
        assert wire.PLANTED_SERVER_KEY.encode() not in response.body
        assert b"you sent Bearer [redacted]" in response.body, "and nothing else of its text is lost"


# -- paths


PATHS = (
    "/v1/../admin/servers /v1/chat/../../admin/register /v1/%2e%2e/admin/stats /v1/..%2fadmin /v1//chat/completions "
    "//v1/chat/completions /v1/chat%2fcompletions /v1/chat/completions/ /v1/./chat/completions /v1/chat/completions/.. "
    "/v1/chat/completions%00 /v1/chat/completions;a=b /v1/chat\\completions /v1/%63hat/completions /v1/.hidden "
    "/V1/chat/completions /v1/@evil.test/x /v1/x:80/y /v1/http://evil.test/ /v1/chat/completions%20HTTP/1.1 /v1/ä"
).split()


def test_a_strange_path_never_reaches_a_server(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, subtests: pytest.Subtests
) -> None:
    gateway.register(peer, model)
    already = len(peer.probes)
    for path, method in itertools.product(PATHS, ("POST", "GET", "DELETE")):
        with subtests.test(path=path, method=method):
            response = gateway.call(method, path, wire.chat_body(model) if method == "POST" else None)
            assert_error(response, "not_found")
    assert not peer.requests
    assert len(peer.probes) == already


def test_a_query_stays_here(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    path = "/v1/chat/completions?api_key=planted-in-the-query&x=/../admin"
    assert gateway.call("POST", path, wire.chat_body(model)).status == 200
    assert peer.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/images/generations", "/v1/a.b_c-d~e/1"])
def test_an_ordinary_path_does(gateway: GatewayProcess, peer: ScriptedPeer, model: str, path: str) -> None:
    gateway.register(peer, model)
    assert gateway.call("POST", path, wire.chat_body(model)).status == 200
    assert peer.requests[0].path == path


# -- request ids


@pytest.mark.parametrize(
    "request_id", ["a", "x" * 200, "req_1.2+3/4=5-6", "0f8fad5b-d9cb-469f-a165-70867728950e", "Root=1-67891233-abcdef"]
)
def test_a_request_id_is_kept(gateway: GatewayProcess, peer: ScriptedPeer, model: str, request_id: str) -> None:
    gateway.register(peer, model)
    header = [("X-Request-ID", request_id)]
    assert gateway.chat(model, headers=header).header("X-Request-ID") == request_id
    assert peer.requests[0].header("X-Request-ID") == request_id
    for method, path in (("GET", "/health"), ("GET", "/nope"), ("PUT", "/health"), ("OPTIONS", "/v1/models")):
        assert gateway.call(method, path, None, header).header("X-Request-ID") == request_id
    eventually(lambda: f"request_id={request_id}" in gateway.output.replace('"', ""), "it can be found in the log")


def test_a_request_id_is_replaced(gateway: GatewayProcess, subtests: pytest.Subtests) -> None:
    for request_id in ("", "x" * 201, "a b", "ä", "a;b", "<script>", "a\tb", '"', "%0d%0a", "{}"):
        with subtests.test(request_id=request_id):
            answers = [gateway.call("GET", "/health", None, [("X-Request-ID", request_id)]) for _number in range(2)]
            shown = {answer.header("X-Request-ID") for answer in answers}
            assert len(shown) == 2, "each its own"
            assert all(value and value.startswith("req-") and len(value) < 40 for value in shown)


def test_two_request_ids_are_none(gateway: GatewayProcess) -> None:
    response = gateway.call("GET", "/health", None, [("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert (response.header("X-Request-ID") or "").startswith("req-")


# -- logs and the database


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_writes_lines_into_the_log(
    start_gateway: StartGateway, peer: ScriptedPeer, model: str, log_format: str
) -> None:
    gateway = start_gateway(LOG_FORMAT=log_format, LOG_LEVEL="DEBUG", TRUST_PROXY_HEADERS="true")
    gateway.register(peer, model)
    evil = "\n2026-01-01T00:00:00.000Z ERROR forged line\r\x1b[31m\u2028\x85 forged"
    for value in (evil, f"{model}{evil}"):
        body = json.dumps({"model": value[:200], "messages": []}).encode()
        assert gateway.call("POST", "/v1/chat/completions", body).status == 404
    forged = [("X-Request-ID", "a\tforged"), seen_from("forged\x85\xa0\t1.2.3.4"), ("User-Agent", "\x85forged")]
    gateway.chat(model, headers=forged)
    gateway.call("GET", "/v1/models/%0a%0dforged%1b%5b31m")
    with gateway.client() as client:
        client.send(b"GET /\x1b[31m\x0bforged HTTP/1.1\r\nHost: \x1bforged\r\n\r\n")
        assert_error(client.read_response(), "invalid_request")
    value = {"model_name": model, "endpoint_url": peer.url, "description": "a\nforged", "owner_name": "x\u2028forged"}
    gateway.admin("POST", "/admin/register", value)
    peer.script(wire.answer("\x1b[31m\nforged", 500, "text/plain\x85forged"))
    gateway.chat(model)
    assert gateway.stop() == 0
    for text in (gateway.output, (gateway.directory / "logs" / "gateway.log").read_text()):
        assert "2026-01-01" not in [line[:10] for line in text.splitlines()]
        assert not any(line.startswith(("forged", "ERROR")) for line in text.splitlines())
        assert "\x1b" not in text
        assert "\u2028" not in text
        assert "\x85" not in text


def test_secrets_stay_out_of_logs_and_database(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    client_key, server_key = wire.PLANTED_CLIENT_KEY, wire.PLANTED_SERVER_KEY
    gateway = start_gateway(LOG_LEVEL="DEBUG", CLIENT_API_KEYS=client_key, METRICS_TOKEN="planted-metrics-token")
    registration_id = gateway.register(peer, model)
    peer.script(wire.error_answer(500, f"{wire.PLANTED_COMPLETION} {server_key}"))
    peer.script(wire.error_answer(400, f"{wire.PLANTED_PROMPT} is too long"))
    for key in (client_key, ADMIN_KEY, "planted-unknown-key"):
        gateway.chat(model, headers=[bearer(key)])
        gateway.call("GET", f"/v1/models?api_key={key}", None, [("X-API-Key", key)])
        gateway.call("GET", "/admin/stats", None, [bearer(key)])
    peer.health.queue(wire.error_answer(500, server_key))
    gateway.admin("POST", f"/admin/servers/{registration_id}/probe")
    with gateway.client() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client_key}\0\r\n\r\n".encode())
        assert client.read_response().status == 400
    assert gateway.stop() == 0
    assert "planted-" not in (gateway.directory / "logs" / "gateway.log").read_text()
    assert "planted-" not in gateway.output
    with contextlib.closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        kept = database.execute("SELECT api_key FROM servers").fetchall()
        database.execute("UPDATE servers SET api_key = NULL")
        dump = "\n".join(database.iterdump())
    assert kept == [(server_key,)], "the one place where a server's key has to be"
    assert "planted-" not in dump
    assert {row[0] for row in usage(gateway, "key_name")} == {"client-1", "admin", "anonymous"}, "names, not keys"


# -- loops


def register_gateway(gateway: GatewayProcess, at: GatewayProcess, model: str) -> None:
    """Register `gateway` as a server of `model` at another gateway, or at itself."""
    value = {"model_name": model, "endpoint_url": gateway.url}
    assert at.admin("POST", "/admin/register", value).status in (200, 201)


def test_a_gateway_registered_at_itself(start_gateway: StartGateway, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300)
    register_gateway(gateway, gateway, model)
    (record,) = gateway.admin("GET", f"/admin/servers?model_name={model}").json()["servers"]
    assert (record["health_status"], "leads back to this gateway" in record["reason"]) == ("unhealthy", True)
    before = gateway.stats()["requests"]["total"]
    for stream in (False, True):
        response = gateway.chat(model, stream)
        assert_error(response, "server_error")
        assert response.header("X-Gateway-Attempts") == "1"
    assert gateway.stats()["requests"]["total"] - before == 2, "the request that came back was not admitted"
    via = gateway.call("POST", "/v1/x", wire.chat_body(model), [("Via", "1.1 multiverse-0123456789abcdef")])
    assert_error(via, "server_error")


def test_two_gateways_registered_at_each_other(start_gateway: StartGateway, model: str) -> None:
    one, two = (start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300) for _number in range(2))
    register_gateway(one, two, model)
    register_gateway(two, one, model)
    response = one.chat(model)
    assert_error(response, "server_error")
    hops = one.stats()["requests"]["total"] + two.stats()["requests"]["total"]
    assert hops == 2, "there and not back again"


def test_a_chain_of_gateways_is_no_loop(start_gateway: StartGateway, peer: ScriptedPeer, model: str) -> None:
    far, near = (start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300) for _number in range(2))
    far.register(peer, model)
    register_gateway(far, near, model)
    assert near.chat(model, headers=[("X-Request-ID", "mine-1")]).text == peer.name
    assert near.chat(model, True).body.endswith(wire.DONE)
    assert (peer.requests[0].header("Via") or "").count("multiverse-") == 2
    assert peer.requests[0].header("X-Request-ID") == "mine-1", "one id for the whole way"


def test_a_proxy_between_two_gateways_hides_neither(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    other = "1.1 multiverse-0123456789abcdef"
    assert gateway.chat(model, headers=[("Via", f"1.0 lab,{other}, 1.1 multiverse-forged, 1.1 google")]).status == 200
    before, _comma, own = (peer.requests[0].header("Via") or "").partition(", ")
    assert before == other, "a loop over both of them is found, and nothing else is passed on"
    assert own.startswith("1.1 multiverse-")
    assert "," not in own


def test_the_request_that_comes_back_is_a_508(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    hold = Hold()
    peer.script(hold, AnswerChat())
    client = gateway.client()
    client.request("POST", "/v1/chat/completions", wire.chat_body(model))
    (request,) = peer.wait_for_requests()
    via = request.header("Via") or ""
    for value in (via, f"1.1 other, {via}", f"{via}, 1.0 fred"):
        assert_error(gateway.chat(model, headers=[("Via", value)]), "loop_detected")
    hold.release()
    assert client.read_response().status == 200
    client.close()
    assert len(peer.requests) == 1
