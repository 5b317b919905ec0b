"""Models, logs and settings in the browser: what there is to look at."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.conftest import StartPeer, Visit
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess


def test_models_and_who_offers_them(gateway: GatewayProcess, visit: Visit, start_peer: StartPeer, model: str) -> None:
    other = f"{model}-other"
    for peer, name, owner in ((start_peer(), model, "Ada"), (start_peer(), model, "Ben"), (start_peer(), other, "Cem")):
        gateway.register(peer, name, owner_name=owner)
    assert gateway.chat(model).status == 200
    page = visit(gateway, signed_in=True).open("/models")
    expect(page.get_by_text("2 of 2 servers healthy")).to_be_visible()
    expect(page.get_by_role("link", name="Ben")).to_be_visible()
    page.get_by_label("Search").fill("other")
    expect(page.locator("#matches")).to_have_text("1 of 2 models")
    expect(page.get_by_text("Ben")).to_be_hidden()
    page.locator("tbody:visible").get_by_role("button", name="Snippet").click()
    expect(page.locator("tr.detail:visible code")).to_contain_text(f'model="{other}"')
    page.locator("tbody:visible").get_by_role("link", name="Try it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(other)


def test_log_records_as_they_come(gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    page = visit(gateway, signed_in=True).open("/logs")
    expect(page.locator("#liveness")).to_have_text("Live")
    records = page.locator("#records li")
    gateway.chat(model, headers=[("X-Request-ID", "a-request-of-ours")])
    expect(records.first).to_contain_text("request_id=a-request-of-ours")
    page.get_by_role("button", name="Pause").click()
    gateway.chat(model, headers=[("X-Request-ID", "while-paused")])
    page.get_by_label("Request id").fill("a-request-of-ours")
    expect(records).to_have_count(1)
    assert page.url.endswith("?request_id=a-request-of-ours")
    page.get_by_label("Request id").fill("")
    page.get_by_role("button", name="Go on").click()
    expect(records.first).to_contain_text("while-paused")
    page.get_by_label("Component").fill("multiverse.servers")
    page.get_by_label("Text").fill(model)
    expect(records.first).to_contain_text("server registered")
    page.get_by_label("Text").fill("nothing has this in it")
    expect(page.locator("#no-records")).to_be_visible()
    page.get_by_label("Text").fill("")
    page.get_by_label("Level").select_option("ERROR")
    expect(records).to_have_count(0)


def test_settings_without_secrets(gateway: GatewayProcess, visit: Visit) -> None:
    page = visit(gateway, signed_in=True).open("/settings")
    line = page.locator("#settings tr", has=page.locator("th", has_text="ADMIN_API_KEY"))
    expect(line).to_contain_text("set")
    assert ADMIN_KEY not in page.content()
    expect(page.locator("#state")).to_contain_text("1.0.0")
    expect(page.locator("#settings tr", has_text="HEALTH_CHECK_INTERVAL_SECONDS")).to_contain_text("300")
    page.get_by_label("Search").fill("queue")
    expect(page.locator("#settings tr:visible")).to_have_count(2)
