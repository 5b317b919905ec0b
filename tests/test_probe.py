"""What a probe makes of whatever a server answers, and what it sends. Every answer comes from a real peer."""

from __future__ import annotations

from typing import Any

import pytest

from multiverse import __version__
from multiverse.clock import Clock
from multiverse.servers.identity import Registration
from multiverse.servers.probe import Finding, Prober, ProbeResult, is_loopback
from tests import wire
from tests.bench import build_registration, open_transport
from tests.conftest import StartPeer
from tests.operations import Fin, Hold, Operation, Reset, Sleep, Step
from tests.peers import PeerConnection, RecordedRequest, ScriptedPeer
from tests.test_client_leaves import unanswering_port
from tests.waiting import Stopwatch

GOOD, LOADING, BUSY, FAILED = Finding.GOOD, Finding.LOADING, Finding.BUSY, Finding.FAILED
MODELS = wire.json_answer(wire.model_list("any"))
NOT_FOUND = wire.json_answer({"detail": "Not Found"}, 404)
OK_HEALTH = wire.json_answer({"status": "ok"})
LOADING_ANSWER = wire.error_answer(503, "Loading model", code=503, type="unavailable_error")
VIA = "1.1 multiverse-0123456789abcdef"


async def probe(
    registration: Registration, timeout_seconds: float = 2.0, connect_timeout_seconds: float = 5.0, **options: Any
) -> ProbeResult:
    """Probe once, as the gateway does."""
    async with open_transport(**options) as transport:
        prober = Prober(
            transport=transport,
            clock=Clock(),
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            via=VIA,
        )
        return await prober.probe(registration)


async def found(peer: ScriptedPeer, *answers: bytes | Step, timeout_seconds: float = 2.0) -> tuple[Finding, str]:
    """What a probe finds at a peer that gives these answers, one to a request."""
    for answer in answers:
        peer.health.queue(answer)
    result = await probe(build_registration(endpoint_url=peer.url), timeout_seconds)
    assert result.ok is (result.finding is GOOD)
    assert result.response_time_ms >= 0
    if result.finding is not GOOD:
        assert result.reason, "the owner is told why"
        assert "127.0.0.1" not in result.reason
        assert str(peer.port) not in result.reason
    return result.finding, result.reason or ""


# -- the answer to GET /v1/models

TABLE = {
    "a model list": (MODELS, GOOD, ""),
    "an empty list": (wire.json_answer({"data": []}), GOOD, ""),
    "an odd list": (wire.json_answer({"data": [1, None, {"id": 7}], "more": "x"}), GOOD, ""),
    "a list under another type": (wire.answer('{"data": []}', content_type="text/plain"), GOOD, ""),
    "HTML": (wire.html_answer(), FAILED, "web page"),
    "HTML under another type": (wire.answer("\n <!DOCTYPE html><p>hi", content_type="text/plain"), FAILED, "web page"),
    "HTML behind a byte order mark": (
        wire.answer("\ufeff<html>hi</html>", content_type="text/plain"),
        FAILED,
        "web page",
    ),
    "no data": (wire.json_answer({"object": "list"}), FAILED, "`data` list"),
    "data that is no list": (wire.json_answer({"data": {"id": "x"}}), FAILED, "`data` list"),
    "data that is null": (wire.json_answer({"data": None}), FAILED, "`data` list"),
    "a bare list": (wire.json_answer(["x"]), FAILED, "`data` list"),
    "no JSON": (wire.answer("hello"), FAILED, "`data` list"),
    "nothing": (wire.answer(""), FAILED, "`data` list"),
    "half of a list": (wire.answer('{"data": ['), FAILED, "`data` list"),
    "a list nested too deeply": (wire.answer('{"data": ' + "[" * 100_000), FAILED, "`data` list"),
    "401": (wire.error_answer(401, "no"), FAILED, "api_key"),
    "403": (wire.error_answer(403, "no"), FAILED, "api_key"),
    "403 of Ollama behind a tunnel": (wire.answer("", 403), FAILED, "set the `Host` header"),
    "302": (wire.answer("", 302, headers=[("Location", "/login")]), FAILED, "redirects"),
    "301 with HTML": (wire.html_answer(301, "Moved"), FAILED, "redirects"),
    "400": (wire.error_answer(400, "no"), FAILED, "400"),
    "429": (wire.error_answer(429, "slow down"), BUSY, "busy"),
    "502": (wire.error_answer(502, "bad"), FAILED, "502"),
    "503 loading": (LOADING_ANSWER, LOADING, "loading"),
    "503 other": (wire.error_answer(503, "no"), FAILED, "503"),
    "503 with a page that says Loading": (wire.html_answer(503, "Loading ..."), FAILED, "web page"),
    "500 with HTML": (wire.html_answer(500, "oops"), FAILED, "web page"),
    "404 with HTML": (wire.html_answer(404, "no"), FAILED, "web page"),
    "ngrok, offline": (
        wire.html_answer(404, "ERR_NGROK_3200", [("ngrok-error-code", "ERR_NGROK_3200")]),
        FAILED,
        "ERR_NGROK_3200 (the tunnel is offline",
    ),
    "ngrok, nothing behind it": (
        wire.answer("", 502, headers=[("Ngrok-Error-Code", "ERR_NGROK_8012")]),
        FAILED,
        "ERR_NGROK_8012 (the tunnel is up",
    ),
    "ngrok, over its limit": (
        wire.answer("", 429, headers=[("ngrok-error-code", "ERR_NGROK_734")]),
        FAILED,
        "ERR_NGROK_734",
    ),
    "ngrok, an odd code": (wire.json_answer({}, 404, [("ngrok-error-code", "<b>")]), FAILED, "an ngrok error"),
    "ngrok's page for browsers": (wire.html_answer(200, "You are about to visit ... ERR_NGROK_6024"), FAILED, "6024"),
    "ngrok's code in a model list": (wire.json_answer({"data": [{"id": "ERR_NGROK_3200"}]}), GOOD, ""),
    "Cloudflare, offline": (wire.html_answer(530, "error 1033"), FAILED, "error 530 (the tunnel is offline"),
    "Cloudflare, down": (wire.html_answer(521, "down"), FAILED, "error 521"),
    "Cloudflare, an odd one": (wire.answer("", 529), FAILED, "error 529"),
}


@pytest.mark.parametrize("answer", TABLE)
async def test_what_an_answer_means(peer: ScriptedPeer, answer: str) -> None:
    sent, finding, words = TABLE[answer]
    got, reason = await found(peer, sent)
    assert (got, words in reason) == (finding, True), reason
    assert [probe.path for probe in peer.probes] == ["/v1/models"], "one request, and never a completion"


LISTS: dict[str, tuple[bytes, frozenset[str] | None]] = {
    "two models": (wire.json_answer(wire.model_list("a", "org/b")), frozenset({"a", "org/b"})),
    "none": (wire.json_answer({"data": []}), frozenset()),
    "an entry without an id": (wire.json_answer({"data": [{"id": "a"}, {"name": "b"}]}), None),
    "an id that is a number": (wire.json_answer({"data": [{"id": 5}]}), None),
    "names alone": (wire.json_answer({"data": ["a"]}), None),
    "no list": (wire.json_answer({"models": []}), None),
    "an error": (wire.error_answer(503, "busy"), None),
}


@pytest.mark.parametrize("name", LISTS)
async def test_which_models_are_listed(peer: ScriptedPeer, name: str) -> None:
    answer, expected = LISTS[name]
    peer.health.queue(answer)
    assert (await probe(build_registration(endpoint_url=peer.url), 2.0)).model_names == expected


# -- servers that do not offer the route


@pytest.mark.parametrize("status", [404, 405, 500, 501])
async def test_health_counts_where_there_is_no_model_list(peer: ScriptedPeer, status: int) -> None:
    assert await found(peer, wire.error_answer(status, "no such route"), OK_HEALTH) == (GOOD, "")
    assert [probe.path for probe in peer.probes] == ["/v1/models", "/health"]
    assert {probe.method for probe in peer.probes} == {"GET"}


@pytest.mark.parametrize(
    ("health", "finding", "words"),
    [
        (wire.answer("ok", content_type="text/plain"), GOOD, ""),
        (NOT_FOUND, FAILED, "404"),
        (wire.error_answer(500, "no"), FAILED, "404"),
        (wire.html_answer(200), FAILED, "404"),
        (wire.answer("", 302, headers=[("Location", "/")]), FAILED, "404"),
        (LOADING_ANSWER, LOADING, "loading"),
        (wire.answer("", 200, headers=[("ngrok-error-code", "ERR_NGROK_3200")]), FAILED, "404"),
        (wire.head(200), GOOD, ""),
    ],
)
async def test_what_health_answers(peer: ScriptedPeer, health: bytes, finding: Finding, words: str) -> None:
    peer.health.queue(NOT_FOUND)
    peer.health.queue(health, Fin())
    got, reason = await found(peer)
    assert (got, words in reason) == (finding, True), reason


@pytest.mark.parametrize("status", [401, 403, 429, 502, 503])
async def test_health_counts_for_nothing_else(peer: ScriptedPeer, status: int) -> None:
    finding, _reason = await found(peer, wire.error_answer(status, "no"), OK_HEALTH)
    assert finding is not GOOD
    assert len(peer.probes) == 1


# -- no answer


@pytest.mark.parametrize(
    "play",
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n",),
        (b"\x16\x03\x01\x02\x00",),
        (Reset(),),
        (Fin(),),
        (wire.head(200, [("Content-Length", "100")]) + b"{", Fin()),
        (wire.head(200, [("Content-Length", "2"), ("Transfer-Encoding", "chunked")]) + b"{}",),
        (wire.head(200, [("Transfer-Encoding", "chunked")]) + b"ZZ\r\n",),
        (wire.head(200, [("Content-Encoding", "gzip"), ("Content-Length", "4")]) + b"abcd",),
        (wire.head(200, [("X", "x" * 100_000)]),),
        (wire.head(200, [("Content-Length", str(5_000_000))]) + b" " * 5_000_000,),
    ],
    ids=range(10),
)
async def test_garbage(peer: ScriptedPeer, play: tuple[Step, ...]) -> None:
    peer.health.always(*play)
    watch = Stopwatch()
    finding, _reason = await found(peer)
    assert finding is FAILED
    assert watch.own_seconds < 1.5, "long before the timeout"


async def test_a_closed_port(peer: ScriptedPeer) -> None:
    peer.refuse()
    refused = "the server refused the connection; is it running?"
    assert await found(peer) == (FAILED, f"{refused} Its address means the gateway's own machine.")


@pytest.mark.parametrize("host", ["127.8.9.10", "localhost", "gpu.localhost", "::1"])
def test_an_address_that_means_the_gateways_own_machine(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example")


async def test_an_address_with_a_wrong_path(peer: ScriptedPeer) -> None:
    for answer in (NOT_FOUND, wire.json_answer({"error": "Unexpected endpoint or method. (GET /api/v1/models)"})):
        peer.health.always(answer)
        for path, told in (("/api", True), ("", False)):
            result = await probe(build_registration(endpoint_url=peer.url + path))
            assert (result.finding, "is the path in its address right?" in (result.reason or "")) == (FAILED, told)


async def test_a_name_that_does_not_resolve() -> None:
    result = await probe(build_registration(endpoint_url="http://no-such-host.invalid"))
    assert (result.finding, result.reason) == (FAILED, "the server's host name does not resolve")


async def test_an_address_that_is_not_permitted(peer: ScriptedPeer) -> None:
    result = await probe(build_registration(endpoint_url=peer.url), allow_private=False)
    assert (result.finding, result.reason) == (FAILED, "the server's address is not permitted")
    assert not peer.connections, "asked at every dial, not only when it was registered"


class HoldModels:
    """404 for the model list at once, nothing for anything else."""

    async def play(self, connection: PeerConnection, request: RecordedRequest) -> None:
        await connection.send(NOT_FOUND) if request.path == "/v1/models" else await Hold().play(connection, request)


@pytest.mark.parametrize("operation", [Hold(), HoldModels()])
async def test_the_timeout_bounds_the_whole_probe(peer: ScriptedPeer, operation: Operation) -> None:
    peer.health.always(operation)
    watch = Stopwatch()
    finding, reason = await found(peer, timeout_seconds=0.3)
    assert (finding, "within 0.3 s" in reason) == (FAILED, True)
    assert 0.25 < watch.seconds < 2.0


@pytest.mark.parametrize(("timeout_seconds", "connect_timeout_seconds"), [(2.0, 0.2), (0.2, 2.0)])
async def test_a_machine_that_does_not_answer_is_dialled_no_longer_than_for_a_request(
    io_loop: object, timeout_seconds: float, connect_timeout_seconds: float
) -> None:
    with unanswering_port() as port:
        watch = Stopwatch()
        registration = build_registration(endpoint_url=f"http://127.0.0.1:{port}")
        result = await probe(registration, timeout_seconds, connect_timeout_seconds)
        assert watch.own_seconds < 1.0
    assert result.finding is FAILED
    assert result.reason == "the server did not accept the connection in time; is the machine awake?"


async def test_a_second_request_has_only_what_the_first_left(peer: ScriptedPeer) -> None:
    peer.health.queue(Sleep(0.6), NOT_FOUND)
    peer.health.queue(Hold())
    watch = Stopwatch()
    assert (await found(peer, timeout_seconds=0.7))[0] is FAILED
    assert watch.own_seconds < 1.2, "0.7 s in all, not 0.7 s each"


async def test_a_body_that_drips_for_ever(peer: ScriptedPeer) -> None:
    peer.health.always(wire.STREAM_HEAD, *[step for _number in range(50) for step in (wire.chunk(b" "), Sleep(0.05))])
    watch = Stopwatch()
    assert (await found(peer, timeout_seconds=0.3))[0] is FAILED
    assert watch.own_seconds < 2.0


# -- what is sent


async def test_what_a_server_gets_to_see(start_peer: StartPeer) -> None:
    peer = start_peer()
    peer.health.queue(NOT_FOUND)
    peer.health.queue(OK_HEALTH)
    result = await probe(build_registration(endpoint_url=f"{peer.url}/prefix", api_key="sk-its-own"))
    assert result.ok
    assert [probe.path for probe in peer.probes] == ["/prefix/v1/models", "/prefix/health"]
    for request in peer.probes:
        assert dict(request.headers) == {
            "Host": f"127.0.0.1:{peer.port}",
            "User-Agent": f"multiverse/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Via": VIA,
            "ngrok-skip-browser-warning": "1",
            "Authorization": "Bearer sk-its-own",
        }
        assert request.body == b""


async def test_no_key_no_authorization(peer: ScriptedPeer) -> None:
    await found(peer, MODELS)
    assert peer.probes[0].header("Authorization") is None


async def test_redirects_are_not_followed(start_peer: StartPeer) -> None:
    peer, elsewhere = start_peer(), start_peer()
    finding, _reason = await found(peer, wire.answer("", 307, headers=[("Location", f"{elsewhere.url}/v1/models")]))
    assert finding is FAILED
    assert not elsewhere.connections


async def test_the_time_it_took(peer: ScriptedPeer) -> None:
    peer.health.always(Sleep(0.1), MODELS)
    result = await probe(build_registration(endpoint_url=peer.url))
    assert 100 <= result.response_time_ms < 1000
