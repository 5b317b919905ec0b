"""Keys, claims, accounts, usage and thanks, as a class and its teacher meet them in the browser."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser import DESKTOP, PHONE, Visitor
from tests.conftest import StartPeer, Visit
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import bearer, make_key


def claim_code(gateway: GatewayProcess, **fields: Any) -> str:
    return str(gateway.admin("POST", "/admin/claim-codes", fields).json()["code"])


def works(gateway: GatewayProcess, key: str) -> bool:
    return gateway.call("GET", "/v1/account", None, bearer(key)).status == 200


# -- a student


def test_from_the_blackboard_to_thanks(
    gateway: GatewayProcess, visit: Visit, start_peer: StartPeer, model: str
) -> None:
    """With nothing but the code: a key, a session, an own server, an answer, its usage, and thanks."""
    lab, laptop = start_peer(), start_peer()
    lab_id = gateway.register(lab, f"{model}-lab", owner_name="the lab")
    other = make_key(gateway, "Somebody Else")[1]
    visitor = visit(gateway)
    visitor.expect("status of 404")
    key = claim(visitor, claim_code(gateway, uses=1), "Ada Lovelace")
    page = visitor.page
    page.get_by_role("button", name="Sign in with it").click()
    page.wait_for_url("**/account")
    expect(page.locator("#facts")).to_contain_text("Ada Lovelace")
    expect(page.get_by_text("You lend no server yet")).to_be_visible()
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert key not in stored + str(visitor.context.cookies()) + page.content()
    own_id = register_own_server(page, gateway, laptop, model)
    ask_and_count(page, gateway, key, model)
    be_thanked(page, gateway, model, other)
    see_it_die(page, gateway, laptop, own_id)
    visitor.open(f"/servers/{lab_id}")
    expect(page.locator("#missing")).to_contain_text("no such server")
    gateway.admin("DELETE", f"/admin/register/{own_id}")
    gateway.admin("DELETE", f"/admin/keys/{key_id_of(gateway, key)}")
    assert "/sign-in" in visitor.open("/account").url, "a session is worth what its key is worth"


def claim(visitor: Visitor, code: str, name: str) -> str:
    """By keyboard: mistakes beside their fields, then the key."""
    page = visitor.open("/claim")
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.type("k7qm3")
    page.keyboard.press("Enter")
    expect(page.locator("#code-error")).to_contain_text("10 letters")
    expect(page.locator("#name-error")).to_have_text("This is needed.")
    page.keyboard.type("xwpa9")
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#code-error")).to_contain_text("wrong, has expired or is used up")
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(page.locator("#code-error")).to_be_visible()
    visitor.page.goto("about:blank")
    page = visitor.open(f"/claim#{code}")
    expect(page.get_by_label("Code")).to_have_value(code)
    expect(page).to_have_url(f"{visitor.gateway.url}/claim")  # the code does not stay in the history either
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Here is your key, {name}")).to_be_visible()
    page.set_viewport_size(PHONE)
    place, button = (page.locator(f"#claimed-key {name}").bounding_box() for name in ("code", "button"))
    assert place is not None
    assert button is not None
    assert place["y"] + place["height"] <= button["y"], "the button covers nothing of the key"
    page.set_viewport_size(DESKTOP)
    key = page.locator("#claimed-key code").inner_text()
    snippet = page.locator("#claimed-snippet code")
    expect(snippet).to_contain_text(f'base_url="{visitor.gateway.url}/v1", api_key="{key}"')
    compile(snippet.inner_text(), "claimed", "exec")
    line = f'curl -X POST {visitor.gateway.url}/admin/lend -H "Authorization: Bearer {key}"'
    expect(page.locator("#claimed-lend-line code")).to_have_text(line)
    return key


def key_id_of(gateway: GatewayProcess, key: str) -> str:
    return str(gateway.call("GET", "/v1/account", None, bearer(key)).json()["key_id"])


def register_own_server(page: Page, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> str:
    """Tested, registered, seen on the account's page, drained and resumed on its own."""
    peer.model_names.append(model)
    page.locator("#main").get_by_role("link", name="Register a server").click()
    page.get_by_label("Endpoint URL").fill(peer.url)
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_label("Model name")).to_have_value(model)
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.get_by_role("heading", name="Registered", exact=True)).to_be_visible()
    registration_id = page.locator("#registration-id code").inner_text()
    assert gateway.server(registration_id)["owner_name"] == "Ada Lovelace"
    page.goto(f"{gateway.url}/account")
    expect(page.locator("#servers li")).to_have_count(1)
    page.locator("#servers").get_by_role("link", name=model).click()
    page.get_by_role("button", name="Drain").click()
    expect(page.locator("#availability")).to_have_text("draining")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#availability")).to_have_text("")
    return registration_id


def ask_and_count(page: Page, gateway: GatewayProcess, key: str, model: str) -> None:
    """An answer in the playground, and what it was in the usage."""
    page.goto(f"{gateway.url}/playground?model={model}")
    expect(page.get_by_label("Model", exact=True)).to_have_value(model)
    page.get_by_label("Show tokens as they come").uncheck()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#numbers dd[data-name=State]")).to_have_text("complete")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="My usage")).to_be_visible()
    expect(page.locator("#requests")).to_have_text("1")
    line = page.locator("#model-rows tr", has_text=model)
    expect(line.locator("td").nth(5)).to_have_text("5")
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", "By day: 3 tokens in prompts, 2 in answers, 1 request"
    )
    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Download as CSV").click()
    (row,) = csv.DictReader(io.StringIO(Path(downloaded.value.path()).read_text(encoding="utf-8")))
    assert (row["model_name"], row["requests"], row["completion_tokens"]) == (model, "1", "2")
    assert key not in str(row)


def be_thanked(page: Page, gateway: GatewayProcess, model: str, other: str) -> None:
    """On the board once somebody else has used the server, and once one wants to."""
    gateway.chat(model, headers=bearer(other))
    page.goto(f"{gateway.url}/account")
    switch = page.get_by_role("switch", name="Thank me by name")
    expect(switch).not_to_be_checked()
    switch.check()
    expect(page.locator("#toasts")).to_contain_text("shows your name")
    expect(page.locator("#tokens-given")).to_have_text("10")
    page.goto(f"{gateway.url}/thanks")
    expect(page.locator("#people li[data-you=true]")).to_contain_text("Ada Lovelace (you)")
    expect(page.locator("#people li[data-you=true] .given")).to_have_text("5 tokens")


def see_it_die(page: Page, gateway: GatewayProcess, laptop: ScriptedPeer, own_id: str) -> None:
    """Students' pages ask every few seconds; the browser's clock is moved for that."""
    page.clock.install()
    page.goto(f"{gateway.url}/account")
    expect(page.locator("#servers .verdict")).to_have_text("healthy")
    laptop.refuse()
    for _probe in range(3):
        gateway.admin("POST", f"/admin/servers/{own_id}/probe")
    page.clock.fast_forward(6000)
    expect(page.locator("#servers .verdict")).to_have_text("unhealthy")
    expect(page.locator("#servers")).to_contain_text("refused the connection")


# -- the teacher


def test_a_key_is_made_changed_and_revoked(gateway: GatewayProcess, visit: Visit, model: str) -> None:
    name = f"Grace of {model}"
    page = visit(gateway, signed_in=True).open("/keys")
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Name")).to_be_focused()
    dialog.get_by_label("Weight").fill("101")
    dialog.get_by_label("E-mail").fill("grace@")
    dialog.get_by_label("Models").fill("no spaces please")
    dialog.get_by_role("button", name="Make the key").click()
    for field, said in (("name", "needed"), ("weight", "At most 100"), ("email", "e-mail"), ("models", "commas")):
        expect(page.locator(f"#{field}-error")).to_contain_text(said)
    for label, text in (("Name", name), ("Weight", "2"), ("E-mail", ""), ("Models", f"{model}, {model}-b")):
        dialog.get_by_label(label).fill(text)
    dialog.get_by_label("Requests a minute").fill("30")
    dialog.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("heading", name=f"The key of {name}")).to_be_visible()
    key = page.locator("#made-secret code").inner_text()
    own = gateway.call("GET", "/v1/account", None, bearer(key)).json()
    assert (own["name"], own["weight"], own["requests_per_minute"]) == (name, 2, 30)
    assert own["models"] == [model, f"{model}-b"]
    page.get_by_role("button", name="Done").click()
    assert key not in page.content()
    page.get_by_label("Name or e-mail").fill(name)
    expect(page.locator("#keys tr:visible")).to_have_count(1)
    change_and_revoke(page, gateway, key, name)


def change_and_revoke(page: Page, gateway: GatewayProcess, key: str, name: str) -> None:
    dialog = page.locator("#key-dialog")
    page.get_by_role("button", name=f"Change the key of {name}").click()
    expect(dialog.get_by_label("Requests a minute")).to_have_value("30")
    dialog.get_by_label("Role").select_option("reader")
    dialog.get_by_label("Requests a minute").fill("")
    dialog.get_by_label("Valid until").fill("2099-06-30")
    gateway.admin("PATCH", f"/admin/keys/{key_id_of(gateway, key)}", {"weight": 3})
    dialog.get_by_role("button", name="Save changes").click()
    row = page.locator("#keys tr:visible")
    expect(row).to_contain_text("30 Jun 2099")
    own = gateway.call("GET", "/v1/account", None, bearer(key)).json()
    assert (own["role"], own["requests_per_minute"], own["weight"]) == ("reader", None, 3), "others' changes stay"
    assert own["expires_at"] == "2099-06-30T23:59:59.999Z"
    page.get_by_role("button", name=f"Change the key of {name}").click()
    dialog.get_by_role("button", name="Revoke").click()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm-revoke")).to_be_hidden()
    assert works(gateway, key)
    dialog.get_by_role("button", name="Revoke").click()
    page.locator("#confirm-revocation").click()
    expect(row).to_contain_text("revoked")
    expect(row.get_by_role("button")).to_have_count(0)
    assert not works(gateway, key)


def test_a_class_gets_its_keys(gateway: GatewayProcess, visit: Visit, model: str) -> None:
    """A roster with a mistake, and without; a code on the board, claimed and withdrawn."""
    visitor = visit(gateway, signed_in=True)
    visitor.expect("status of 400")
    visitor.page.clock.install()
    page = visitor.open("/keys")
    page.get_by_role("button", name="Import a roster").click()
    page.get_by_label("Roster", exact=True).fill(f"name,email\nAda of {model},ada@x.org\nBen,not an address")
    page.get_by_role("button", name="Make the keys").click()
    expect(page.locator("#csv-error")).to_contain_text("Line 3")
    roster = f'\ufeffname,email\r\n"Lovelace, Ada of {model}",ada@x.org\r\n=Ben of {model},\r\n'
    page.locator("#roster-file").set_input_files(
        {"name": "class.csv", "mimeType": "text/csv", "buffer": roster.encode()}
    )
    expect(page.locator("#csv-error")).to_be_hidden()
    page.get_by_role("button", name="Make the keys").click()
    expect(page.get_by_role("heading", name="2 keys made")).to_be_visible()
    expect(page.locator("#made-card")).to_contain_text("Copy them now")
    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Save as CSV").click()
    made = list(csv.DictReader(io.StringIO(Path(downloaded.value.path()).read_text(encoding="utf-8"))))
    assert [row["name"] for row in made] == [f"Lovelace, Ada of {model}", f"'=Ben of {model}"]
    assert all(works(gateway, row["key"]) for row in made)
    page.get_by_label("Name or e-mail").fill(f"of {model}")
    expect(page.locator("#keys tr:visible")).to_have_count(2)
    claim_from_the_board(page, gateway, model)


def claim_from_the_board(page: Page, gateway: GatewayProcess, model: str) -> None:
    page.get_by_label("People").fill("0")
    page.get_by_role("button", name="Make a code").click()
    expect(page.locator("#uses-error")).to_have_text("A whole number of at least 1.")
    page.get_by_label("People").fill("3")
    page.get_by_role("button", name="Make a code").click()
    code = page.locator("#board .code").inner_text()
    newest = page.locator("#codes li").first
    expect(newest).to_contain_text("0 of 3 keys claimed")
    body = json.dumps({"code": code, "name": f"Eve of {model}"}).encode()
    assert gateway.call("POST", "/claim", body).status == 201
    page.clock.fast_forward(4000)
    expect(newest).to_contain_text("1 of 3 keys claimed")
    expect(page.locator("#keys tr:visible")).to_have_count(3)
    newest.get_by_role("button", name="Withdraw").click()
    expect(page.locator("#board")).to_be_hidden()
    assert gateway.call("POST", "/claim", body).status == 404


def test_usage_is_narrowed_down(gateway: GatewayProcess, visit: Visit, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model, owner_name="the lab")
    name = f"Ada of {model}"
    key_id, key = make_key(gateway, name)
    for _request in range(2):
        gateway.chat(model, headers=bearer(key))
    gateway.admin("POST", f"/admin/servers/{registration_id}/drain")
    gateway.chat(model)
    page = visit(gateway, signed_in=True).open("/usage")
    page.locator("#filters").get_by_label("Model").select_option(model)
    expect(page.locator("#requests")).to_have_text("3")
    expect(page.locator("#key-count")).to_have_text("2 people")
    expect(page.locator("#server-rows tr")).to_have_text(
        [re.compile(f"the lab: {re.escape(model)}"), re.compile("refused before one was asked")]
    )
    expect(page.locator("#server-count")).to_have_text("1 server")
    page.locator("#key-rows").get_by_role("button", name=name).click()
    expect(page.locator("#requests")).to_have_text("2")
    expect(page).to_have_url(f"{gateway.url}/usage?model={model.replace('/', '%2F')}&key={key_id}")
    page.reload()
    expect(page.locator("#requests")).to_have_text("2")
    expect(page.get_by_label("Person").locator("option:checked")).to_have_text(name)
    page.get_by_label("Time").select_option("")
    expect(page.locator("#tokens")).to_have_text("10")
    assert f"key_id={key_id}" in str(page.get_by_role("link", name="Download").get_attribute("href"))
