"""Models and the names that stand for them, logs and settings in the browser."""

from __future__ import annotations

import re
from datetime import datetime

from playwright.sync_api import Page, Route, expect

from tests.browser import PHONE
from tests.conftest import StartPeer, Visit
from tests.operations import AnswerChat, Reset, Sleep
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.test_keyring import make_key


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


def aliases_of(gateway: GatewayProcess) -> dict[str, list[str]]:
    return {alias["name"]: alias["models"] for alias in gateway.admin("GET", "/admin/aliases").json()["aliases"]}


def test_one_model_then_another(gateway: GatewayProcess, visit: Visit, start_peer: StartPeer, model: str) -> None:
    """By keyboard: "A, then B when no server of A can answer", seen in another tab, turned round, and removed."""
    for alias in aliases_of(gateway):
        gateway.admin("DELETE", f"/admin/aliases/{alias}")
    other = f"{model}-b"
    first = gateway.register(start_peer(), model)
    gateway.register(start_peer(), other)
    visitor = visit(gateway, signed_in=True)
    visitor.page.clock.install()
    elsewhere, page = visitor.new_page(), visitor.open("/models")
    elsewhere.goto(page.url)
    for tab in (elsewhere, page):
        expect(tab.locator("#no-aliases")).to_contain_text("a name that stands for a model")
    page.get_by_role("button", name="New alias").press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type(model)
    page.keyboard.press("Tab")  # A model's name: that model first, and then another.
    expect(page.get_by_label("Model 1", exact=True)).to_have_value(model)
    page.get_by_label("Model 2", exact=True).fill(other)
    meaning = f"Who asks for {model} gets {model}. When none of its servers can answer: {other}."
    expect(page.locator("#alias-meaning")).to_have_text(meaning)
    page.keyboard.press("Enter")
    row = page.locator("#aliases tr")
    expect(row.locator("li")).to_have_text([f"{name} 1 of 1 server healthy" for name in (model, other)])
    expect(page.get_by_role("button", name="New alias")).to_be_focused()
    gateway.admin("POST", f"/admin/servers/{first}/drain")
    assert gateway.chat(model).header("X-Gateway-Model") == other
    page.clock.fast_forward(11_000)
    expect(elsewhere.locator("#aliases li")).to_have_count(2)
    turn_round_and_remove(page, gateway, model, other)
    page.clock.fast_forward(11_000)
    expect(elsewhere.locator("#no-aliases")).to_be_visible()


def turn_round_and_remove(page: Page, gateway: GatewayProcess, model: str, other: str) -> None:
    row, change = page.locator("#aliases tr"), page.get_by_role("button", name=f"Change the alias {model}")
    change.press("Enter")
    page.get_by_role("button", name=f"Move {model} down").press("Enter")
    expect(page.get_by_role("button", name=f"Move {model} up")).to_be_focused()  # It can go no further down.
    page.get_by_role("button", name="Save changes").press("Enter")
    expect(row.locator("li .model-name")).to_have_text([other, model])
    expect(change).to_be_focused()
    assert aliases_of(gateway) == {model: [other, model]}
    page.get_by_role("button", name=f"Remove the alias {model}").press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator("#confirm-remove")).to_be_hidden()
    assert aliases_of(gateway), "nothing is removed unless one says so twice"
    page.get_by_role("button", name=f"Remove the alias {model}").click()
    page.locator("#confirm-removal").click()
    expect(page.locator("#no-aliases")).to_be_visible()
    expect(page.get_by_role("button", name="New alias")).to_be_focused()
    assert aliases_of(gateway) == {}


def test_an_alias_that_leads_nowhere(gateway: GatewayProcess, visit: Visit, model: str) -> None:
    """On a phone, in the dark: each mistake is told where it is, also one that only the gateway knows of."""
    name, changed = f"{model}-default", f"{model}-changed"
    gateway.admin("PUT", f"/admin/aliases/{changed}", {"models": [model]})
    visitor = visit(gateway, signed_in=True, viewport=PHONE, color_scheme="dark")
    visitor.expect("status of 400")
    page = visitor.open("/models")
    expect(page.locator("#aliases")).to_contain_text("nobody offers it")
    page.get_by_role("button", name="New alias").click()
    save, errors = page.get_by_role("button", name="Make the alias"), page.locator("#alias-form .error:visible")
    page.get_by_label("Model 1", exact=True).fill('<img src=x onerror="window.taken = true">')
    save.click()
    expect(errors).to_have_text(["This is needed.", re.compile("letters, digits")])
    assert visitor.serious_findings() == []
    page.get_by_label("Name").fill(changed)
    page.get_by_label("Model 1", exact=True).fill(changed)
    save.click()
    expect(errors).to_have_text([re.compile("already"), re.compile("only for itself")])
    page.get_by_label("Name").fill(name)
    expect(errors).to_have_text(re.compile(f"an alias itself: .*{model}"))
    page.get_by_label("Model 1", exact=True).fill(f"{model}-late")
    page.get_by_role("button", name="Add a model").click()
    page.get_by_label("Model 2", exact=True).fill(f"{model}-late")
    save.click()
    expect(errors).to_have_text("It stands above already.")
    page.get_by_role("button", name="Take").last.click()
    held: list[Route] = []
    page.route("**/admin/aliases/*", lambda route: held.append(route))
    with page.expect_request("**/admin/aliases/*"):
        save.click()
    expect(save).to_have_attribute("aria-busy", "true")
    gateway.admin("PUT", f"/admin/aliases/{model}-late", {"models": [model]})
    held[0].continue_()
    page.unroute("**/admin/aliases/*")
    expect(errors).to_have_text(f"'{model}-late' is an alias itself; name the models that it stands for.")
    expect(page.get_by_label("Model 1", exact=True)).to_be_focused()
    gateway.admin("DELETE", f"/admin/aliases/{model}-late")
    save.click()
    expect(page.locator("#aliases")).to_contain_text(name)
    assert page.evaluate("window.taken") is None
    somebody_else_changes_it(page, gateway, changed)
    for alias in (name, changed):
        gateway.admin("DELETE", f"/admin/aliases/{alias}")


def somebody_else_changes_it(page: Page, gateway: GatewayProcess, name: str) -> None:
    page.get_by_role("button", name=f"Change the alias {name}").click()
    page.get_by_label("Model 1", exact=True).fill("mine")
    gateway.admin("PUT", f"/admin/aliases/{name}", {"models": ["theirs"]})
    save = page.get_by_role("button", name="Save changes")
    save.click()
    expect(page.locator("#alias-form .form-error")).to_contain_text("It stands for theirs now.")
    assert aliases_of(gateway)[name] == ["theirs"]
    save.click()
    expect(page.locator("#aliases")).to_contain_text("mine")
    assert aliases_of(gateway)[name] == ["mine"]


def test_aliases_are_the_admins_to_set(gateway: GatewayProcess, visit: Visit) -> None:
    for role in ("student", "reader"):
        visitor = visit(gateway)
        visitor.sign_in(make_key(gateway, role=role)[1])
        page = visitor.open("/models")
        expect(page.locator("#models-card")).not_to_have_attribute("aria-busy", "true")
        expect(page.locator("dialog, #aliases-card")).to_have_count(0)


def test_log_records_as_they_come(gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    visitor = visit(gateway, signed_in=True)
    visitor.page.clock.install()
    page = visitor.open("/logs")
    expect(page.locator("#liveness")).to_have_text("Live")
    records = page.locator("#records li")
    gateway.chat(model, headers=[("X-Request-ID", "a-request-of-ours")])
    expect(records.first).to_contain_text("request_id=a-request-of-ours")
    filter_while_asking(page, gateway, model)
    page.get_by_role("button", name="Pause").click()
    gateway.chat(model, headers=[("X-Request-ID", "while-paused")])
    page.get_by_label("Request id").fill("a-request-of-ours")
    expect(records).to_have_count(1)
    expect(page).to_have_url(f"{gateway.url}/logs?request_id=a-request-of-ours")
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


def filter_while_asking(page: Page, gateway: GatewayProcess, model: str) -> None:
    """What is typed while newer records are on their way still counts."""
    held: list[Route] = []
    page.route("**/admin/logs?after=*", lambda route: held.append(route))
    with page.expect_request("**/admin/logs?after=*"):
        gateway.chat(model)
    page.get_by_label("Request id").fill("a-request-of-ours")
    page.clock.fast_forward(300)
    held[0].continue_()
    page.unroute("**/admin/logs?after=*")
    expect(page.locator("#records li")).to_have_count(1)
    page.get_by_label("Request id").fill("")
    expect(page.locator("#records li")).not_to_have_count(1)


def test_why_a_request_was_slow(gateway: GatewayProcess, visit: Visit, start_peer: StartPeer, model: str) -> None:
    bad, slow = start_peer(), start_peer()
    bad.always(Reset())
    slow.always(Sleep(0.3), AnswerChat())
    gateway.register(bad, model, owner_name="Ada")
    gateway.register(slow, model, owner_name="Ben")
    answers = [gateway.chat(model) for _number in range(2)]
    visitor = visit(gateway, signed_in=True)
    page = visitor.open(f"/requests?model={model}&sort=-total_ms&around={datetime.now().astimezone():%H:%M}")
    expect(page.locator("#requests tr")).to_have_count(2)
    expect(page.get_by_label("Model")).to_have_value(model)
    page.get_by_label("Outcome").select_option("failed")
    expect(page.locator("#no-requests")).to_be_visible()
    page.get_by_label("Outcome").select_option("")
    tried_twice = next(answer for answer in answers if answer.header("X-Gateway-Attempts") == "2")
    page.get_by_label("Request id").fill("not an id")
    page.get_by_role("button", name="Tell me").click()
    expect(page.get_by_role("alert").filter(has_text="X-Request-ID")).to_be_visible()
    page.get_by_label("Request id").fill(f"… What happened: /requests/{tried_twice.header('X-Request-ID')}")
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("went to waiting for the server's whole answer")
    expect(page.locator("#events li[data-event=tried]")).to_have_text([re.compile("Ada$"), re.compile("Ben$")])
    expect(page.locator("#events li[data-bad=true]")).to_contain_text("closed the connection")
    page.get_by_role("link", name="Its log records").click()
    expect(page.locator("#records li").first).to_contain_text(f"request_id={tried_twice.header('X-Request-ID')}")


def test_settings_without_secrets(gateway: GatewayProcess, visit: Visit) -> None:
    visitor = visit(gateway, signed_in=True)
    held: list[Route] = []
    visitor.page.route("**/admin/settings", lambda route: held.append(route))
    with visitor.page.expect_request("**/admin/settings"):
        page = visitor.open("/settings")
    expect(page.locator(".card[aria-busy=true]")).to_have_count(2)
    held[0].continue_()
    expect(page.locator(".card[aria-busy=true]")).to_have_count(0)
    line = page.locator("#settings tr", has=page.locator("th", has_text="ADMIN_API_KEY"))
    expect(line).to_contain_text("set")
    assert ADMIN_KEY not in page.content()
    expect(page.locator("#state")).to_contain_text("1.0.0")
    expect(page.locator("#settings tr", has_text="HEALTH_CHECK_INTERVAL_SECONDS")).to_contain_text("300")
    unset = page.locator("#settings tr", has=page.locator("th", has_text="SMTP_HOST"))
    expect(unset.locator("td").first).to_have_text("none")
    page.get_by_label("Search").fill("queue")
    expect(page.locator("#settings tr:visible")).to_have_count(2)
