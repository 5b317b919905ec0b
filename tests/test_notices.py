"""Owners hear of it: what is told and when, in which words, by webhook and e-mail; nothing of it holds anybody up."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from multiverse.notices.delivery import Delivery, SendingFailed
from multiverse.notices.mail import Letter, Mail, MailSettings
from multiverse.notices.news import News, NewsDesk
from multiverse.notices.notifier import Notifier
from multiverse.notices.webhook import Webhook
from multiverse.notices.wording import Notice, notice_of
from multiverse.servers.record import restore, state_row
from multiverse.servers.server import Server
from tests.bench import BREAKER, HandClock, build_server, open_transport
from tests.conftest import StartGateway, StartPeer
from tests.mail_server import MailServer
from tests.operations import Hold, Reset
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually, eventually_equal, soon
from tests.wire import PLANTED_SERVER_KEY, answer, chat_body

NOTICE = Notice("llama does not answer", "llama <b>has</b> been unhealthy.")
AFTER_SECONDS, GAP_SECONDS = 300.0, 600.0


def desk_of(clock: HandClock) -> NewsDesk:
    return NewsDesk(clock=clock, after_seconds=AFTER_SECONDS, gap_seconds=GAP_SECONDS)


def told(desk: NewsDesk, *servers: Server) -> list[bool]:
    """For each message: whether it tells that the server is down."""
    return [news.down for news in desk.look(servers)]


def fall(server: Server) -> None:
    for _probe in range(BREAKER.max_failures):
        server.note_failed_probe("the server refused the connection; is it running?")


# -- when


def test_one_message_per_change_that_lasts() -> None:
    clock = HandClock()
    server, desk = build_server(clock), desk_of(clock)
    assert told(desk, server) == [], "it is well"
    fall(server)
    clock.pass_time(AFTER_SECONDS - 1)
    assert told(desk, server) == [], "it may come back"
    clock.pass_time(1)
    assert told(desk, server) == [True]
    clock.pass_time(10_000)
    assert told(desk, server) == [], "that is known"
    server.note_good_probe()
    (news,) = desk.look([server])
    assert (news.down, news.seconds) == (False, AFTER_SECONDS + 10_000)
    assert told(desk, server) == []


def test_never_two_messages_within_ten_minutes() -> None:
    clock = HandClock()
    server, desk = build_server(clock), desk_of(clock)
    fall(server)
    clock.pass_time(AFTER_SECONDS)
    assert told(desk, server) == [True]
    server.note_good_probe()
    clock.pass_time(GAP_SECONDS - 1)
    assert told(desk, server) == [], "too soon"
    fall(server)
    clock.pass_time(GAP_SECONDS)
    assert told(desk, server) == [], "what changed back was never told"
    server.note_good_probe()
    assert told(desk, server) == [False]
    fall(server)
    clock.pass_time(AFTER_SECONDS)
    assert told(desk, server) == [], "five minutes after the last message"
    clock.pass_time(AFTER_SECONDS)
    assert told(desk, server) == [True]


def test_what_is_nobodys_trouble_is_not_told() -> None:
    clock = HandClock()
    drained, loading, lacking = (build_server(clock, name) for name in ("a", "b", "c"))
    new = build_server(clock, "new", healthy=False)
    paused = build_server(clock, "paused", paused=True)
    desk = desk_of(clock)
    for server in (drained, loading, paused):
        fall(server)
    drained.draining = True
    loading.note_loading()
    lacking.note_model_missing()
    assert told(desk, drained, loading, paused, new, lacking) == []
    clock.pass_time(AFTER_SECONDS)
    assert [news.server for news in desk.look([drained, loading, paused, new, lacking])] == [lacking], (
        "its model is gone"
    )
    drained.draining = False
    assert told(desk, drained) == [True], "it was to come back, and does not"


@pytest.mark.parametrize("way", ["paused", "drained"])
def test_an_outage_that_ended_while_a_server_was_taken_out_is_over(way: str) -> None:
    clock = HandClock()
    server, desk = build_server(clock), desk_of(clock)

    def take_out(out: bool) -> None:
        if way == "paused":
            server.change(replace(server.registration, paused=out))
        server.draining = out and way == "drained"

    fall(server)
    assert told(desk, server) == []
    take_out(True)
    server.note_good_probe()
    assert told(desk, server) == []
    clock.pass_time(9 * 3600)
    fall(server)
    take_out(False)
    assert told(desk, server) == [], "it has failed just now"
    clock.pass_time(AFTER_SECONDS)
    (news,) = desk.look([server])
    assert (news.down, news.seconds) == (True, AFTER_SECONDS)


@pytest.mark.parametrize(("seen_for_seconds", "expected"), [(AFTER_SECONDS, []), (AFTER_SECONDS - 60, [True])])
def test_a_restart_repeats_nothing(seen_for_seconds: float, expected: list[bool]) -> None:
    clock = HandClock()
    before = build_server(clock)
    fall(before)
    clock.pass_time(seen_for_seconds)
    row = {**state_row(before), "last_checked_at": clock.utc_iso()}
    clock.pass_time(3600)
    server, desk = build_server(clock, healthy=False), desk_of(clock)
    restore(server, row)
    desk.recall([server])
    fall(server)
    assert told(desk, server) == expected
    clock.pass_time(GAP_SECONDS)
    server.note_good_probe()
    (news,) = desk.look([server])
    assert (news.down, news.seconds) == (False, seen_for_seconds + (3600 if expected else 0) + GAP_SECONDS)


# -- in which words


NEVER_TOLD = ("box.example", "192.0.2", "db8", "fe80", ":8080", "sk-1234", PLANTED_SERVER_KEY, "\n", "\r", "\u202e")


@pytest.mark.parametrize(
    "written",
    [
        "http://box.example:8080/v1 is mine",
        "ask box.example",
        "192.0.2.17:8080 and 192.0.2.17",
        "[2001:db8::17]:8080 or 2001:db8::17 or fe80::1%eth0",
        "box:8080",
        "my key is sk-1234567890abcdef",
        f"Bearer {PLANTED_SERVER_KEY}",
        f"key {PLANTED_SERVER_KEY}",
        "two\nlines\r\nSubject: free money \u202e",
    ],
)
@pytest.mark.parametrize("place", ["model_name", "owner_name", "reason"])
def test_neither_addresses_nor_keys_nor_line_ends_get_out(place: str, written: str) -> None:
    clock = HandClock()
    server = build_server(clock, endpoint_url="http://box.example:8080", api_key=PLANTED_SERVER_KEY)
    server.note_failed_probe(written if place == "reason" else "it is gone")
    if place != "reason":
        server.registration = replace(server.registration, **{place: written})
    for down in (True, False):
        notice = notice_of(News(server, down=down, seconds=600), clock.utc_iso())
        whole = notice.subject + notice.text
        assert not [text for text in NEVER_TOLD if text in whole], whole


def test_names_that_are_no_addresses_stay_whole() -> None:
    clock = HandClock()
    server = build_server(clock, model_name="org/qwen2.5:7b-v1.5", owner_name="Ada", endpoint_url="http://qwen2:8080")
    fall(server)
    notice = notice_of(News(server, down=True, seconds=7200 + 59), clock.utc_iso())
    assert notice.subject == "org/qwen2.5:7b-v1.5 does not answer"
    assert "(Ada's server) has been unhealthy for 2 hours: the server refused the connection; is it" in notice.text


# -- how


async def test_a_closed_way_is_tried_again_and_logged_once(
    peer: ScriptedPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    peer.script(answer("no", 500))
    peer.script(Reset())
    peer.always(answer("", 204))
    async with open_transport() as transport:
        webhook = Webhook(f"{peer.url}/api/webhooks/1/planted-token?wait=true", transport=transport)
        delivery = Delivery("webhook", webhook.send, clock=HandClock(), first_pause_seconds=0.01)
        delivery.post(NOTICE)
        delivery.post(replace(NOTICE, text="back"))
        assert not peer.connections, "nobody waits"
        await soon(lambda: len(peer.requests) == 4, "it is tried until it is taken, and then the next one")
        await delivery.stop()
    bodies = [request.json() for request in peer.requests]
    assert [body["content"] for body in bodies] == [NOTICE.text] * 3 + ["back"]
    assert bodies[0]["text"] == "llama &lt;b&gt;has&lt;/b&gt; been unhealthy.", "as Slack wants it"
    assert bodies[0]["allowed_mentions"] == {"parse": []}
    assert peer.requests[0].path == "/api/webhooks/1/planted-token?wait=true"
    assert [record.message for record in caplog.records if record.name.startswith("multiverse.notices")] == [
        "messages do not go out; they are tried again",
        "messages go out again",
    ]
    assert "planted" not in caplog.text


async def test_what_never_goes_out_is_given_up_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    tried: list[str] = []

    async def send(message: str) -> None:
        tried.append(message)
        clock.pass_time(4 * 3600)
        raise SendingFailed("closed")

    delivery = Delivery("webhook", send, clock=clock, first_pause_seconds=0.001)
    for number in range(500):
        delivery.post(str(number))
    await soon(lambda: len(tried) >= 4, "the next has its turn")
    await delivery.stop()
    assert tried[:2] == ["300", "300"], "the oldest are forgotten; each is tried for some hours"
    assert "given up" in caplog.text


@pytest.mark.parametrize(
    ("security", "user_name", "refused", "reason"),
    [
        ("starttls", None, "", "does not offer"),
        ("none", None, "ada@class.example", "refuses the recipient (550)"),
    ],
)
async def test_mail_that_cannot_go_out(security: str, user_name: str | None, refused: str, reason: str) -> None:
    with MailServer(refused=refused) as server:
        settings = MailSettings("127.0.0.1", server.port, security, "gateway@class.example", user_name)
        with pytest.raises(SendingFailed) as caught:
            await Mail(settings).send(Letter(NOTICE, "ada@class.example", 1_800_000_000.0))
    assert reason in str(caught.value)
    assert "ada" not in str(caught.value)
    assert not server.letters


async def test_an_address_that_takes_nothing_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    server = build_server(clock, owner_email="gone@class.example")
    with MailServer(refused="gone@class.example") as post_office:
        settings = MailSettings("127.0.0.1", post_office.port, "none", "gateway@class.example")
        notifier = Notifier(
            servers=lambda: [server],
            email_of=lambda _key_id: None,
            desk=desk_of(clock),
            clock=clock,
            look_seconds=60,
            mail=Mail(settings),
            admin_emails=("gone@class.example", "teacher@class.example"),
        )
        for _change in range(2):
            fall(server)
            clock.pass_time(GAP_SECONDS)
            notifier.look()
            server.note_good_probe()
            clock.pass_time(GAP_SECONDS)
            notifier.look()
        await soon(lambda: len(post_office.letters) == 4, "the other one gets every letter")
        await soon(lambda: caplog.text.count("given up") == 4, "what is refused for good is not tried again")
        await notifier.stop()
    assert {letter.recipients for letter in post_office.letters} == {("teacher@class.example",)}
    assert caplog.text.count("tried again") == 1, "it is logged once"


# -- the whole


FAST = {
    "HEALTH_CHECK_INTERVAL_SECONDS": 0.15,
    "MAX_CONSECUTIVE_FAILURES": 1,
    "NOTIFY_AFTER_SECONDS": 0.2,
    "NOTIFY_GAP_SECONDS": 0.3,
}


def key_of(gateway: GatewayProcess, **fields: str) -> str:
    made = gateway.admin("POST", "/admin/keys", fields)
    assert made.status == 201, made.body
    return str(made.json()["key"])


def register_as(gateway: GatewayProcess, key: str, peer: ScriptedPeer, model: str) -> None:
    peer.model_names.append(model)
    value = {"model_name": model, "endpoint_url": peer.url, "api_key": PLANTED_SERVER_KEY}
    body = json.dumps(value).encode()
    answered = gateway.call("POST", "/admin/register", body, [("Authorization", f"Bearer {key}")])
    assert answered.status == 201, answered.body


def test_owner_and_admin_are_told_that_a_server_is_gone_and_back(
    start_gateway: StartGateway, start_peer: StartPeer, model: str
) -> None:
    peer, channel = start_peer(), start_peer()
    channel.always(answer("ok"))
    with MailServer() as post_office:
        gateway = start_gateway(
            **FAST,
            NOTIFY_WEBHOOK_URL=f"{channel.url}/hooks/planted-secret",
            NOTIFY_EMAIL="teacher@class.example",
            SMTP_HOST="127.0.0.1",
            SMTP_PORT=post_office.port,
            SMTP_SECURITY="none",
            SMTP_USERNAME="gateway",
            SMTP_PASSWORD="planted-mail-password",
            SMTP_FROM="gateway@class.example",
        )
        register_as(gateway, key_of(gateway, name="Ada", email="ada@class.example"), peer, model)
        gateway.register(peer, f"{model}-2", owner_email="bob@class.example")
        peer.refuse()
        eventually(lambda: len(post_office.letters) == 4, "the admin and each owner get a letter", 5)
        peer.listen()
        eventually(lambda: len(post_office.letters) == 8, "and another when it is back", 5)
        eventually(lambda: len(channel.requests) == 4, "the channel is told as well")
        settings: Any = gateway.admin("GET", "/admin/settings").json()["settings"]
    shown = {row["variable"]: row["value"] for row in settings}
    assert (shown["NOTIFY_WEBHOOK_URL"], shown["SMTP_PASSWORD"]) == ("set", "set")
    assert all(letter.signed_in and letter.sender == "gateway@class.example" for letter in post_office.letters)
    subjects = sorted(
        (letter.recipients[0], letter.message["Subject"].replace("\n", "")) for letter in post_office.letters
    )
    names = (("ada", f"{model}"), ("bob", f"{model}-2"), ("teacher", f"{model}"), ("teacher", f"{model}-2"))
    ends = ("does not answer", "is back")
    assert subjects == sorted(
        (f"{who}@class.example", f"[multiverse] {name} {end}") for who, name in names for end in ends
    )
    texts = [letter.message.get_content() for letter in post_office.letters]
    texts += [request.json()["content"] for request in channel.requests]
    assert all(model in text for text in texts)
    for text in texts:
        assert str(peer.port) not in text
        assert "127.0.0.1" not in text
        assert "planted" not in text


def test_ways_that_are_closed_hold_up_nobody(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    lost, peer, channel = start_peer(), start_peer(), start_peer()
    channel.always(Hold())
    with MailServer(silent=True) as post_office:
        gateway = start_gateway(
            **FAST,
            NOTIFY_WEBHOOK_URL=channel.url,
            NOTIFY_EMAIL="teacher@class.example",
            SMTP_HOST="127.0.0.1",
            SMTP_PORT=post_office.port,
            SMTP_SECURITY="tls",
            SMTP_FROM="gateway@class.example",
        )
        gateway.register(peer, model)
        gateway.register(lost, f"{model}-lost")
        lost.refuse()
        eventually(lambda: channel.requests and post_office.connections, "both ways are tried", 5)
        assert gateway.call("POST", "/v1/chat/completions", chat_body(model)).status == 200
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 3, "it does not wait for the mail server"
    eventually_equal(lambda: channel.busy_connections(), [], "the webhook is let go")


def test_an_address_that_cannot_be_dialled_stops_the_start(start_gateway: StartGateway) -> None:
    with pytest.raises(AssertionError, match="NOTIFY_WEBHOOK_URL must be"):
        start_gateway(NOTIFY_WEBHOOK_URL="http://box:99999/hook")
