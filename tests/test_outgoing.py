"""The headers of a request to a server: whatever a registration or a request holds, they are those we mean, or none.

What reaches a real server, and what a client's own headers are worth, is in test_security.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as some

from multiverse.clock import Clock
from multiverse.people.keys import NOBODY
from multiverse.proxy.asking import FORMS_REMEMBERED, LONGEST_REMEMBERED, ForwardSettings, server_request
from multiverse.proxy.call import Call
from multiverse.proxy.relay import Relay
from multiverse.proxy.stories import Story
from multiverse.servers.outgoing import USER_AGENT, request_headers
from multiverse.servers.server import Server
from multiverse.transport.messages import RequestForm, ServerRequest
from multiverse.web.handlers.staged import REQUEST_ID
from multiverse.web.schemas import RegisterSchema, load
from tests.bench import MODEL, UNHURRIED, build_registration, build_server

ALLOWED = {
    *("Host", "Content-Length", "User-Agent", "Accept", "Accept-Encoding", "Via", "ngrok-skip-browser-warning"),
    *("Content-Type", "X-Request-ID", "Authorization"),
}
VIA = "1.1 multiverse-0123456789abcdef"
# Everything that could begin a line of its own, and what latin-1 cannot say.
HOSTILE = some.text(some.sampled_from("a\r\n\0\t :;\x7f\x85\u2028é漢\ud800") | some.characters(), max_size=40)


def head_of(api_key: str | None, request_id: str | None, via: str = VIA, body: bytes | None = b"{}") -> bytes | None:
    """What goes out for a request; None when it is refused before it is dialled."""
    registration = build_registration(api_key=api_key)
    items = request_headers(registration, via=via, content_type="application/json")
    own = [] if request_id is None else [("X-Request-ID", request_id)]
    target = "/v1/chat/completions"
    try:
        form = RequestForm(registration.endpoint, target, method="POST", header_items=items)
        return ServerRequest(form, own_items=own, body=body).head()
    except ValueError:
        return None


def lines_of(head: bytes) -> dict[str, str]:
    """A head as the strictest reader takes it; every name is there once."""
    assert head.endswith(b"\r\n\r\n")
    request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    assert request_line == "POST /v1/chat/completions HTTP/1.1"
    pairs = [line.split(": ", 1) for line in lines]
    names = [name for name, _value in pairs]
    assert len(set(names)) == len(names)
    return dict(pairs)  # type: ignore[arg-type]


@UNHURRIED
@given(api_key=some.none() | HOSTILE, request_id=some.none() | HOSTILE, via=HOSTILE, body=some.none() | some.binary())
@example(api_key="x\r\nCookie: a", request_id=None, via=VIA, body=b"{}")
@example(api_key="x", request_id="1\nHost: elsewhere", via=VIA, body=b"{}")
def test_nothing_becomes_a_header_of_its_own(
    api_key: str | None, request_id: str | None, via: str, body: bytes | None
) -> None:
    head = head_of(api_key, request_id, via, body)
    if head is None:
        return
    sent = lines_of(head)
    assert set(sent) <= ALLOWED
    assert sent.get("Authorization") == (None if api_key is None else f"Bearer {api_key}"), "the server's own key"
    assert sent.get("X-Request-ID") == request_id
    assert (sent["Via"], sent["User-Agent"]) == (via, USER_AGENT)
    assert (sent["Accept-Encoding"], sent["Content-Length"]) == ("identity", str(len(body or b"")))


@UNHURRIED
@given(api_key=some.text(some.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=500))
def test_every_key_that_can_be_registered_can_be_sent(api_key: str) -> None:
    fields = {"model_name": MODEL, "endpoint_url": "http://a.example", "api_key": api_key}
    taken = load(RegisterSchema(), fields)["api_key"]
    head = head_of(taken, None)
    assert head is not None
    assert lines_of(head)["Authorization"] == f"Bearer {api_key}"


@UNHURRIED
@given(request_id=some.from_regex(REQUEST_ID, fullmatch=True))
def test_every_request_id_that_is_kept_can_be_sent(request_id: str) -> None:
    head = head_of(None, request_id)
    assert head is not None
    assert lines_of(head)["X-Request-ID"] == request_id


# -- what is remembered of requests that look alike

RELAY = cast(Relay, SimpleNamespace(on_head=id, on_data=id))
SETTINGS = ForwardSettings(
    max_attempts=1,
    connect_timeout_seconds=1.0,
    request_timeout_seconds=2.0,
    stream_idle_timeout_seconds=3.0,
    stream_max_seconds=4.0,
    plain_max_seconds=None,
    stream_keepalive_seconds=5.0,
    max_response_body_size=6,
    max_event_size=7,
    show_server_id=True,
)


def sent_to(
    server: Server, route: str, request_id: str = "id", *, stream: bool = False, via: str = VIA
) -> dict[str, str]:
    """The head of a forwarded request."""
    call = Call(
        request_id=request_id,
        route=route,
        body=b"{}",
        model_name=MODEL,
        models=(MODEL,),
        stream=stream,
        caller=NOBODY,
        asker="",
        allowance=None,
        client_address="",
        via=via,
        started_seconds=0.0,
        story=Story(0.0),
    )
    head = server_request(call, server, RELAY, call.body, SETTINGS).head()
    return lines_of(head.replace(route.encode(), b"/v1/chat/completions", 1))


def test_what_requests_have_in_common_is_forgotten_with_the_registration() -> None:
    server = build_server(Clock(), api_key="old")
    route = "/v1/chat/completions"
    assert [sent_to(server, route, name)["X-Request-ID"] for name in ("one", "two")] == ["one", "two"]
    assert sent_to(server, route)["Accept"] == "application/json"
    assert sent_to(server, route, stream=True)["Accept"] == "text/event-stream"
    assert sent_to(server, "/v1/audio/speech")["Accept"] == "*/*"
    assert sent_to(server, route, via=f"1.1 before, {VIA}")["Via"] == f"1.1 before, {VIA}"
    server.change(build_registration(api_key="new", endpoint_url="http://elsewhere.example:81"))
    sent = sent_to(server, route)
    assert (sent["Authorization"], sent["Host"]) == ("Bearer new", "elsewhere.example:81")


def test_what_clients_make_up_does_not_fill_the_memory() -> None:
    server = build_server(Clock())
    for number in range(3 * FORMS_REMEMBERED):
        sent_to(server, f"/v1/route{number}")
    assert 0 < len(server.forms) <= FORMS_REMEMBERED
    server.forms.clear()
    sent_to(server, "/v1/" + "x" * LONGEST_REMEMBERED)
    assert not server.forms
