"""Keys for a class: made, changed, revoked, claimed; what each role may do, and whose servers a student sees."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from multiverse.clock import Clock
from multiverse.errors import KeyNotFound, StoreFailed
from multiverse.people.keyring import KeyRing
from multiverse.people.keys import Keys
from multiverse.storage.key_table import KeyTable
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartPeer
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.stores import opened

Headers = list[tuple[str, str]]


def bearer(key: str) -> Headers:
    return [("Authorization", f"Bearer {key}")]


def post(gateway: GatewayProcess, path: str, value: dict[str, Any], headers: Headers) -> Response:
    return gateway.call("POST", path, json.dumps(value).encode(), headers)


def make_key(gateway: GatewayProcess, name: str = "Ada", **fields: Any) -> tuple[str, str]:
    """A new key: its id and its secret."""
    answer = gateway.admin("POST", "/admin/keys", {"name": name, **fields})
    assert answer.status == 201, answer.body
    assert answer.header("Cache-Control") == "no-store"
    return answer.json()["key_id"], answer.json()["key"]


def shown(gateway: GatewayProcess, key_id: str) -> dict[str, Any]:
    return dict(gateway.admin("GET", f"/admin/keys/{key_id}").json())


# -- making, showing, changing, revoking


def test_a_secret_is_shown_once(gateway: GatewayProcess) -> None:
    key_id, secret = make_key(gateway, email="ada@example.org")
    assert secret.startswith("mv-")
    assert len(secret) > 40
    record = shown(gateway, key_id)
    assert (record["name"], record["role"], record["status"], record["hint"]) == (
        "Ada",
        "student",
        "active",
        secret[-4:],
    )
    listed = gateway.admin("GET", "/admin/keys")
    assert record in listed.json()["keys"]
    assert secret.encode() not in listed.body
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        dump = "\n".join(database.iterdump())
    assert secret not in dump, "what is kept is its digest"
    assert secret not in gateway.output


UNSEEN_NAMES = "Ada\u200b Ada\u200d A\u200cda \u3164 \u2800 A\U000e0041da Ada\ufe00 Ada\ufe0f Ada\U000e0100".split(" ")
SEEN_NAMES = (
    "Ada \u2764\ufe0f",
    "\U0001f469\u200d\U0001f4bb",
    "1\ufe0f\u20e3 Ada",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
)


def test_names_are_seen_as_they_are_written(gateway: GatewayProcess) -> None:
    for name in SEEN_NAMES:
        assert gateway.admin("POST", "/admin/keys", {"name": name}).json()["name"] == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        *(({"name": name}, "name") for name in UNSEEN_NAMES),
        ({"name": "Ada", "role": "king"}, "role"),
        ({"name": "Ada", "email": "ada"}, "email"),
        ({"name": "Ada", "expires_at": "soon"}, "expires_at"),
        ({"name": "Ada", "expires_at": "2027-06-30T12:00:00"}, "expires_at"),
        ({"name": "Ada", "expires_at": 7}, "expires_at"),
        ({"name": "Ada", "models": []}, "models"),
        ({"name": "Ada", "models": "llama"}, "models"),
        ({"name": "Ada", "weight": 101}, "weight"),
        ({"name": "Ada", "tokens_per_day": 0}, "tokens_per_day"),
        ({"name": "Ada", "key": "mv-mine"}, "key"),
    ],
)
def test_what_is_no_key(gateway: GatewayProcess, fields: dict[str, Any], param: str) -> None:
    assert_error(gateway.admin("POST", "/admin/keys", fields), "invalid_request", param)


def test_a_change_holds_at_once(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    key_id, secret = make_key(gateway, models=["another"])
    refused = gateway.chat(model, headers=bearer(secret))
    assert_error(refused, "permission_denied", "model")
    changed = gateway.admin("PATCH", f"/admin/keys/{key_id}", {"models": ["another", model], "name": "Ada L."})
    assert (changed.status, changed.json()["name"]) == (200, "Ada L.")
    assert gateway.chat(model, headers=bearer(secret)).status == 200
    offered = gateway.call("GET", "/v1/models", None, bearer(secret)).json()["data"]
    assert [record["id"] for record in offered] == [model], "others are not even listed"
    gateway.admin("PATCH", f"/admin/keys/{key_id}", {"models": None})
    assert shown(gateway, key_id)["models"] is None
    assert_error(gateway.admin("PATCH", "/admin/keys/key-0", {"name": "Nobody"}), "key_not_found")
    assert len(peer.requests) == 1


def test_a_revoked_key_is_dead_at_once_and_for_good(start_gateway: Any, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUIRE_CLIENT_API_KEY="true")
    gateway.register(peer, model)
    key_id, secret = make_key(gateway, role="reader")
    other_id, other = make_key(gateway, "Ben")
    assert gateway.chat(model, headers=bearer(secret)).status == 200
    revoked = gateway.admin("DELETE", f"/admin/keys/{key_id}").json()
    assert (revoked["status"], revoked["message"]) == ("revoked", "Key revoked.")
    assert_error(gateway.chat(model, headers=bearer(secret)), "invalid_api_key")
    assert_error(gateway.admin("PATCH", f"/admin/keys/{key_id}", {"name": "Eve"}), "key_not_found")
    assert gateway.admin("DELETE", f"/admin/keys/{key_id}").json()["revoked_at"] == revoked["revoked_at"]
    gateway.stop()
    gateway.start()
    assert_error(gateway.chat(model, headers=bearer(secret)), "invalid_api_key")
    assert shown(gateway, other_id)["status"] == "active"
    gateway.admin(
        "POST", f"/admin/servers/{gateway.admin('GET', '/admin/servers').json()['servers'][0]['registration_id']}/probe"
    )
    assert gateway.chat(model, headers=bearer(other)).status == 200, "and the others are kept"


async def test_a_change_brings_no_revoked_key_back(tmp_path: Path) -> None:
    """Whoever changes the key while it is revoked: the change is being written when the revocation comes."""
    async with opened(tmp_path / "gateway.db") as store:
        keys = Keys(admin_key="the-admin-s-key-0123")
        ring = KeyRing(keys=keys, table=KeyTable(store), clock=Clock())
        ((record, secret),) = await ring.create([{"name": "Ada"}])
        key_id = record["key_id"]
        changed, revoked = await asyncio.gather(
            ring.change(key_id, {"name": "Eve"}), ring.revoke(key_id), return_exceptions=True
        )
        assert isinstance(changed, KeyNotFound), "the answer says so as well"
        assert isinstance(revoked, dict)
        assert keys.identify(secret) is None
        assert ring.record(key_id)["status"] == revoked["status"] == "revoked"


async def test_a_key_that_cannot_be_revoked_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with opened(path, lock_wait_seconds=0.05) as store:
        keys = Keys(admin_key="the-admin-s-key-0123")
        ring = KeyRing(keys=keys, table=KeyTable(store), clock=Clock())
        ((record, secret),) = await ring.create([{"name": "Ada"}])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFailed):
                await ring.revoke(record["key_id"])
        assert ring.record(record["key_id"])["status"] == "active", "as it would be after a restart"
        assert keys.identify(secret) is not None
        assert (await ring.revoke(record["key_id"]))["status"] == "revoked", "so it can be tried again"
        assert keys.identify(secret) is None


@pytest.mark.parametrize(
    ("day", "status"), [("0001-01-01", "expired"), ("0999-12-31", "expired"), ("9999-12-31", "active")]
)
def test_days_far_away_are_days(gateway: GatewayProcess, day: str, status: str) -> None:
    key_id, secret = make_key(gateway, expires_at=day)
    record = shown(gateway, key_id)
    assert (record["expires_at"], record["status"]) == (f"{day}T23:59:59.999Z", status)
    assert gateway.call("GET", "/v1/account", None, bearer(secret)).status == (200 if status == "active" else 401)


async def test_one_bad_row_keeps_nobody_else_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        ring = KeyRing(keys=Keys(admin_key="the-admin-s-key-0123"), table=KeyTable(store), clock=Clock())
        ((bad, bad_secret), (_good, good_secret)) = await ring.create([{"name": "Ada"}, {"name": "Ben"}])
        await store.write(lambda database: database.execute("UPDATE api_keys SET expires_at = '1-1' WHERE rowid = 1"))
        keys = Keys(admin_key="the-admin-s-key-0123")
        await KeyRing(keys=keys, table=KeyTable(store), clock=Clock()).load()
        assert keys.identify(good_secret) is not None
        assert keys.identify(bad_secret) is None, "how long it is good nobody knows"
        assert [record.fields["key_id"] for record in caplog.records if record.levelname == "ERROR"] == [bad["key_id"]]


def test_an_expired_key_is_none(start_gateway: Any, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUIRE_CLIENT_API_KEY="true")
    gateway.register(peer, model)
    past_id, past = make_key(gateway, expires_at="2020-02-29")
    _future_id, future = make_key(gateway, expires_at="2099-12-31T23:00:00+01:00")
    assert_error(gateway.chat(model, headers=bearer(past)), "invalid_api_key")
    assert gateway.chat(model, headers=bearer(future)).status == 200
    record = shown(gateway, past_id)
    assert (record["status"], record["expires_at"]) == ("expired", "2020-02-29T23:59:59.999Z")


# -- roles


def test_what_each_role_may_do(gateway: GatewayProcess) -> None:
    callers = {role: bearer(make_key(gateway, role, role=role)[1]) for role in ("admin", "student", "reader")}
    allowed = {
        "/admin/servers": {"admin", "student"},
        "/admin/stats": {"admin"},
        "/admin/keys": {"admin"},
        "/admin/claim-codes": {"admin"},
        "/v1/models": {"admin", "student", "reader"},
    }
    for path, roles in allowed.items():
        for role, headers in callers.items():
            answer = gateway.call("GET", path, None, headers)
            assert answer.status == (200 if role in roles else 403), (path, role)
    body = {"model_name": "m", "endpoint_url": "http://127.0.0.1:9"}
    assert_error(post(gateway, "/admin/register", body, callers["reader"]), "permission_denied")


def test_students_see_and_change_their_own_servers_only(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    lab, laptop = start_peer(), start_peer()
    laptop.model_names.append(model)
    lab_id = gateway.register(lab, model)
    ada, ben = (bearer(make_key(gateway, name)[1]) for name in ("Ada", "Ben"))
    registered = post(gateway, "/admin/register", {"model_name": model, "endpoint_url": laptop.url}, ada)
    assert (registered.status, registered.json()["owner_name"]) == (201, "Ada")
    ours = registered.json()["registration_id"]

    def seen_by(headers: Headers) -> list[str]:
        servers = gateway.call("GET", "/admin/servers", None, headers).json()["servers"]
        return [server["registration_id"] for server in servers]

    assert (seen_by(ada), seen_by(ben)) == ([ours], [])
    for headers, target in ((ben, ours), (ada, lab_id)):
        for method, path in (
            ("GET", f"/admin/servers/{target}"),
            ("POST", f"/admin/servers/{target}/probe"),
            ("POST", f"/admin/servers/{target}/drain"),
            ("POST", f"/admin/servers/{target}/resume"),
            ("PUT", f"/admin/register/{target}"),
            ("DELETE", f"/admin/register/{target}"),
        ):
            body = b'{"description": "mine now"}' if method == "PUT" else None
            assert_error(gateway.call(method, path, body, headers), "server_not_found")
    taken = post(gateway, "/admin/register", {"model_name": model, "endpoint_url": lab.url, "tags": "x"}, ada)
    assert_error(taken, "permission_denied")
    assert gateway.server(lab_id)["tags"] == [], "nothing was changed"
    again = post(gateway, "/admin/register", {"model_name": model, "endpoint_url": laptop.url, "tags": "gpu"}, ada)
    assert (again.status, again.json()["tags"]) == (200, ["gpu"])
    assert gateway.call("POST", f"/admin/servers/{ours}/drain", None, ada).json()["availability"] == "draining"
    by_admin = gateway.admin("PUT", f"/admin/register/{ours}", {"description": "seen"})
    assert by_admin.status == 200
    assert seen_by(ada) == [ours], "a change by the admin does not take it away"
    assert gateway.call("DELETE", f"/admin/register/{ours}", None, ada).status == 200


# -- rosters and claim codes


def test_a_roster_is_all_or_nothing(gateway: GatewayProcess) -> None:
    before = gateway.admin("GET", "/admin/keys").json()["total"]
    for wrong, where in (
        ("name,email\nAda,ada@x.org\nBen,not-an-address", "Line 3"),
        ('name,email,note\nAda,ada@x.org,"one\ntwo"\n\nBen,not-an-address,', "Line 5"),
        ("", "1 to"),
        ('"open', "CSV"),
        ("Ada\n" * 2002 + '"open', "1 to 2000"),  # Read no further than it may be long.
        ("Ada\n" * 250_001, "onger than"),
    ):
        refused = gateway.admin("POST", "/admin/keys/import", {"csv": wrong})
        assert where in assert_error(refused, "invalid_request", "csv"), wrong[:50]
    assert gateway.admin("GET", "/admin/keys").json()["total"] == before
    good = "\ufeffemail,name\r\nada@x.org,Ada\r\n\r\n,Ben\r\n"
    answer = gateway.admin("POST", "/admin/keys/import", {"csv": good, "role": "reader", "expires_at": "2099-01-01"})
    made = answer.json()["keys"]
    assert [(key["name"], key["email"], key["role"]) for key in made] == [
        ("Ada", "ada@x.org", "reader"),
        ("Ben", None, "reader"),
    ]
    assert len({key["key"] for key in made}) == 2
    assert gateway.call("GET", "/v1/models", None, bearer(made[1]["key"])).status == 200
    for text in (
        'name;email\n"Hopper, Grace";grace@x.org\n',
        "email\tname\ngrace@x.org\tHopper, Grace\n",
        '\r\n"Hopper, Grace";grace@x.org',
        'Class;Name;E-Mail\r3b;"Hopper, Grace";grace@x.org\r',
    ):
        answer = gateway.admin("POST", "/admin/keys/import", {"csv": text})
        assert [(key["name"], key["email"]) for key in answer.json()["keys"]] == [("Hopper, Grace", "grace@x.org")]


def test_an_export_is_safe_in_a_spreadsheet(gateway: GatewayProcess) -> None:
    key_id, secret = make_key(gateway, "=HYPERLINK(A1)")
    wide_id, _secret = make_key(gateway, "\uff1dHYPERLINK(A1)")
    answer = gateway.admin("GET", "/admin/keys?format=csv")
    assert (answer.header("Content-Type") or "").startswith("text/csv")
    rows = {row["key_id"]: row for row in csv.DictReader(io.StringIO(answer.body.decode()))}
    assert (rows[key_id]["name"], rows[wide_id]["name"]) == ("'=HYPERLINK(A1)", "'\uff1dHYPERLINK(A1)")
    assert secret.encode() not in answer.body
    assert gateway.admin("GET", "/admin/keys?format=xls").status == 400


def test_a_code_is_worth_as_many_keys_as_it_says(gateway: GatewayProcess) -> None:
    code = gateway.admin("POST", "/admin/claim-codes", {"uses": 5, "models": ["llama"]}).json()
    answers: list[Response] = []
    start = threading.Barrier(12)

    def claim(number: int) -> None:
        start.wait()
        written = code["code"].lower().replace("-", " ")
        answers.append(post(gateway, "/claim", {"code": written, "name": f"Student {number}"}, []))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answer.status for answer in answers) == {201: 5, 404: 7}
    made = [answer.json() for answer in answers if answer.status == 201]
    assert {(key["role"], tuple(key["models"])) for key in made} == {("student", ("llama",))}
    assert len({key["key"] for key in made}) == 5
    assert gateway.call("GET", "/admin/servers", None, bearer(made[0]["key"])).status == 200, "it works"
    listed = gateway.admin("GET", "/admin/claim-codes")
    assert code["code"].encode() not in listed.body
    (record,) = [known for known in listed.json()["claim_codes"] if known["code_id"] == code["code_id"]]
    assert record["used"] == 5


def test_codes_end(gateway: GatewayProcess) -> None:
    code = gateway.admin("POST", "/admin/claim-codes", {"uses": 2}).json()
    assert gateway.admin("DELETE", f"/admin/claim-codes/{code['code_id']}").status == 200
    texts = set()
    for spent in (code["code"], "AAAAA-AAAAA", "ñ", "x" * 40):
        refused = post(gateway, "/claim", {"code": spent, "name": "Eve"}, [])
        texts.add(assert_error(refused, "claim_code_not_valid"))
    assert len(texts) == 1, "one text for all reasons"
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        late = gateway.admin("POST", "/admin/claim-codes", {}).json()
        database.execute(
            "UPDATE claim_codes SET expires_at = '2020-01-01T00:00:00.000Z' WHERE code_id = ?", [late["code_id"]]
        )
        database.commit()
    assert_error(post(gateway, "/claim", {"code": late["code"], "name": "Eve"}, []), "claim_code_not_valid")


def test_guessing_codes_is_slow(start_gateway: Any) -> None:
    gateway = start_gateway()
    statuses = [post(gateway, "/claim", {"code": f"guess-{number}", "name": "Eve"}, []).status for number in range(52)]
    assert Counter(statuses) == {404: 50, 429: 2}


# -- the command line


def run(gateway: GatewayProcess, *arguments: str, key: str = ADMIN_KEY, text: str = "") -> tuple[str, str]:
    """Standard output and error of one command, which must succeed."""
    environ = {"MULTIVERSE_URL": gateway.url, "ADMIN_API_KEY": key, "PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "multiverse", *arguments]
    done = subprocess.run(command, env=environ, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_commands(gateway: GatewayProcess) -> None:
    secret, message = run(gateway, "keys", "create", "Grace", "--role", "reader", "--model", "llama")
    assert (secret.count("\n"), secret[:3]) == (1, "mv-"), "alone on its line, for pipes"
    assert "not shown again" in message
    roster, _message = run(gateway, "keys", "import", "-", text="Ada,ada@x.org\n@Ben,\n\uff0bCy,\n")
    rows = list(csv.DictReader(io.StringIO(roster)))
    assert [(row["name"], row["email"]) for row in rows] == [("Ada", "ada@x.org"), ("'@Ben", ""), ("'\uff0bCy", "")]
    listed, _message = run(gateway, "keys", "list")
    assert rows[0]["key_id"] in listed
    assert rows[0]["key"] not in listed
    assert "Key revoked. Ada" in run(gateway, "keys", "revoke", rows[0]["key_id"])[0]
    assert f"{rows[0]['key_id']},Ada,ada@x.org,student,revoked" in run(gateway, "keys", "export")[0]
    code, _message = run(gateway, "keys", "code", "--uses", "1", "--minutes", "5")
    claimed, _message = run(gateway, "claim", code.strip(), "Ada Lovelace")
    assert claimed.startswith("mv-")
    code_id = gateway.admin("GET", "/admin/claim-codes").json()["claim_codes"][-1]["code_id"]
    assert f"{code_id}  1 of 1" in run(gateway, "keys", "codes")[0]
    assert "withdrawn" in run(gateway, "keys", "withdraw", code_id)[0]
    assert run(gateway, "servers", "list", key=claimed.strip())[1].startswith("No server is registered")
