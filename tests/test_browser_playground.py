"""The playground on the real route: tokens as they come, a stop that stops, numbers, errors in words, code."""

from __future__ import annotations

import json
import re
import shlex

from playwright.sync_api import Page, expect

from tests import wire
from tests.browser import PHONE
from tests.conftest import Visit
from tests.operations import Hold
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually


def event(text: str) -> bytes:
    """One token as a server streams it."""
    return wire.chunk(wire.sse(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})))


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def number(page: Page, name: str) -> str:
    return page.locator(f"#numbers dd[data-name='{name}']").inner_text()


def test_tokens_come_one_by_one_and_stop_stops(
    gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str
) -> None:
    more = Hold()
    peer.script(wire.STREAM_HEAD, event("Once"), more, event(" upon"), Hold())
    gateway.register(peer, model)
    page = visit(gateway, viewport=PHONE).open(f"/playground?model={model}")
    expect(page.get_by_label("Model", exact=True)).to_have_value(model)
    say(page, "Tell me a story")
    answer = page.locator("#conversation li[data-role=assistant] span")
    expect(answer).to_have_text("Once")
    more.release()
    expect(answer).to_have_text("Once upon")
    (request,) = peer.wait_for_requests()
    page.get_by_role("button", name="Stop").click()
    eventually(lambda: request.connection.closed_at is not None, "the server is told at once", 1.0)
    expect(page.locator("#conversation .remark")).to_contain_text("Stopped")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("stopped")
    begin_anew_meanwhile(page, peer)
    eventually(lambda: not gateway.in_flight(), "nothing is left of it")


def begin_anew_meanwhile(page: Page, peer: ScriptedPeer) -> None:
    """A new conversation in the middle of an answer; before that, its link can be focused while the numbers change."""
    peer.script(wire.STREAM_HEAD, event("Never"), Hold())
    say(page, "Another one")
    expect(page.locator("#conversation li").last).to_have_text("Never")
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("streaming")
    link, time = page.locator("#numbers dd[data-name='Request id'] a"), page.locator("#numbers dd[data-name=Time]")
    link.focus()
    expect(time).not_to_have_text(time.inner_text())
    expect(link).to_be_focused()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    page.reload()
    expect(page.locator("#conversation li")).to_have_text(["Choose a model, and say something."])


def test_what_was_measured_and_a_conversation(
    gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str
) -> None:
    registration_id = gateway.register(peer, model, owner_name="Ada")
    page = visit(gateway, signed_in=True).open(f"/playground?model={model}")
    page.get_by_label("System prompt").fill("You are brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("64")
    say(page, "Hello")
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("complete")
    expect(page.locator("#numbers dd[data-name=Server]")).to_have_text("Ada")
    assert number(page, "Attempts") == "1"
    assert number(page, "First token").endswith("s")
    assert number(page, "Request id").startswith("req-")
    say(page, "And again")
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("complete")
    assert len(peer.requests) == 2
    sent = peer.requests[1].json()
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["temperature"], sent["max_tokens"], sent["stream"]) == (0.5, 64, True)
    expect(page.locator("#conversation li")).to_have_count(4)
    page.get_by_label("Message", exact=True).fill("Half a ques")
    page.reload()
    expect(page.locator("#conversation li")).to_have_count(4)
    for label, kept in (("Temperature", "0.5"), ("Max tokens", "64"), ("Message", "Half a ques")):
        expect(page.get_by_label(label, exact=True)).to_have_value(kept)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#conversation li")).to_have_count(1)
    assert gateway.server(registration_id)["in_flight"] == 0


def test_a_plain_answer_and_a_failure_in_words(
    gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    visitor = visit(gateway)
    visitor.expect("status of 422")
    page = visitor.open(f"/playground?model={model}")
    page.get_by_label("Show tokens as they come").uncheck()
    peer.script(wire.json_answer(wire.chat_completion("all at once <b>not bold</b>")))
    say(page, "Hello")
    expect(page.locator("#conversation li[data-role=assistant]")).to_have_text("all at once <b>not bold</b>")
    peer.script(wire.error_answer(422, "too long <b>not bold</b>"))
    say(page, "Once more")
    failed = page.locator("#conversation li[data-state=failed]")
    expect(failed).to_contain_text(re.compile("too long <b>not bold</b>.*request req-"))
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("failed")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Once more")
    page.get_by_label("Temperature").fill("hot")
    expect(page.locator("#temperature-error")).to_have_text("From 0 to 2.")
    say(page, "Not sent")
    expect(page.get_by_label("Temperature")).to_be_focused()
    assert len(peer.requests) == 2


def test_a_stream_that_breaks_says_so(gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, event("half an ans"), wire.LAST_CHUNK)
    visitor = visit(gateway)
    page = visitor.open(f"/playground?model={model}")
    say(page, "Hello")
    failed = page.locator("#conversation li[data-state=failed]")
    expect(failed).to_contain_text("half an ans")
    expect(failed.locator(".remark")).to_contain_text("What happened: /requests/req-")
    failed.get_by_role("link").click()
    expect(page.locator("#summary")).to_contain_text("in the middle of the answer")
    expect(page.get_by_text("Somebody without a key asked")).to_be_visible()
    expect(page.locator("#events a")).to_have_count(0)
    visitor.expect("status of 404")
    page = visitor.open("/requests/of-somebody-else")
    expect(page.get_by_role("alert").filter(has_text="No request of yours")).to_be_visible()


def test_the_conversation_as_code(gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    page = visit(gateway).open(f"/playground?model={model}")
    expect(page.get_by_label("Model", exact=True)).to_have_value(model)
    hello = 'It\'s "quoted",\nin two lines: $HOME `x` \\'
    page.get_by_label("Message", exact=True).fill(hello)
    page.get_by_role("button", name="Export as code").click()
    code = page.locator("#export-place code")
    for stream in (True, False):
        page.get_by_label("Show tokens as they come").set_checked(stream)
        page.get_by_role("tab", name="Python").click()
        compile(code.inner_text(), "exported", "exec")
        assert ("stream=True" in code.inner_text()) is stream
        page.get_by_role("tab", name="Python").press("ArrowRight")
        expect(code).to_contain_text('import OpenAI from "openai"')
        page.get_by_role("tab", name="Node").press("ArrowRight")
        expect(code).to_contain_text("curl")
        words = shlex.split(code.inner_text())
        body = json.loads(words[words.index("-d") + 1])
        assert (body["model"], body["messages"][-1]["content"]) == (model, hello.strip())
        assert body.get("stream", False) is stream
        answer = gateway.call("POST", "/v1/chat/completions", json.dumps(body).encode())
        assert answer.status == 200
