"""Usage in sums: by day, model, key and server, to the token; one's own; CSV; the ledger; what is kept how long."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from multiverse.clock import Clock
from multiverse.people.keyring import KeyRing
from multiverse.people.keys import Keys
from multiverse.storage.alias_table import AliasTable
from multiverse.storage.key_table import KeyTable
from multiverse.storage.usage_table import UsageTable
from tests import wire
from tests.answers import assert_error
from tests.conftest import StartGateway, StartPeer
from tests.processes import GatewayProcess
from tests.stores import opened, registration, usage_rows
from tests.test_keyring import bearer, make_key, post, run

Row = Callable[..., dict[str, Any]]


def usage_row(day: str = "2026-01-31", **fields: Any) -> dict[str, Any]:
    row = {
        "request_id": "req-1",
        "started_at": f"{day}T12:00:00.000Z",
        "key_id": "key-a",
        "key_name": "Ada",
        "model_name": "llama",
        "registration_id": "reg-1",
        "owner_key_id": "key-o",
        "owner_name": "Olga",
        "outcome": "ok",
        "status": 200,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "tokens_estimated": 0,
    }
    return {**row, **fields}


async def sums(table: UsageTable, *group_by: str, **bounds: Any) -> list[dict[str, Any]]:
    filters = bounds.pop("filters", {})
    return await table.report(group_by, since=bounds.get("since"), until=bounds.get("until"), filters=filters)


# -- the tables


async def test_sums_grow_with_every_batch(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        table = UsageTable(store)
        for _batch in range(3):
            for _number in range(2):
                store.queue_usage(usage_row())
            store.queue_usage(
                usage_row(day="2026-02-01", model_name="qwen", tokens_estimated=1, outcome="client_closed")
            )
            await store.flush()
        by_day = await sums(table, "day")
        assert [(row["day"], row["requests"], row["completion_tokens"]) for row in by_day] == [
            ("2026-01-31", 6, 30),
            ("2026-02-01", 3, 15),
        ]
        (total,) = await sums(table)
        assert (total["ok"], total["client_closed"], total["prompt_tokens"], total["estimated_tokens"]) == (
            6,
            3,
            90,
            45,
        )
        assert [row["model_name"] for row in await sums(table, "model", "day")] == ["llama", "qwen"]
        assert (await sums(table, since="2026-02-01"))[0]["requests"] == 3
        assert (await sums(table, until="2026-01-31"))[0]["requests"] == 6
        assert (await sums(table, filters={"model_name": "qwen"}))[0]["requests"] == 3


async def test_what_a_client_wrongly_calls_a_model_is_not_kept_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        for number in range(50):
            lost = {"model_name": f"typo-{number}", "registration_id": None, "outcome": "rejected", "status": 404}
            store.queue_usage(usage_row(**lost))
        (row,) = await sums(UsageTable(store), "model")
        assert (row["model_name"], row["rejected"]) == ("", 50)
        await store.save_registration(registration("reg-1", model_name="llama"))
        await AliasTable(store).save("best", ["llama"], "2026-01-31T12:00:00.000Z")
        for name in ("typo-98", "typo-99", "llama", "best"):  # Whose clients left before they were told anything.
            gone = {"registration_id": None, "outcome": "client_closed", "status": 499}
            store.queue_usage(usage_row(model_name=name, **gone))
        names = {row["model_name"]: row["client_closed"] for row in await sums(UsageTable(store), "model")}
        assert names == {"": 2, "llama": 1, "best": 1}


async def test_who_is_renamed_is_shown_by_the_new_name(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        ring = KeyRing(keys=Keys(admin_key="the-admin-s-key-0123"), table=KeyTable(store), clock=Clock())
        ((record, _secret),) = await ring.create([{"name": "Zoe"}])
        key_id, table = record["key_id"], UsageTable(store)
        store.queue_usage(usage_row(key_id=key_id, key_name="Zoe"))
        await ring.change(key_id, {"name": "Ada"})
        store.queue_usage(usage_row("2026-02-01", key_id=key_id, key_name="Ada"))
        store.queue_usage(usage_row(key_id="client-1", key_name="client-1"))
        rows = await sums(table, "key")
        assert {row["key_id"]: (row["key_name"], row["requests"]) for row in rows} == {
            key_id: ("Ada", 2),
            "client-1": ("client-1", 1),
        }
        assert [(row["name"], row["tokens_taken"]) for row in await table.people(key_id)] == [("Ada", 30)]
        assert [row["name"] for row in await table.people("key-o")] == ["Olga"], "of a key that was never made here"


async def test_the_ledger_is_only_added_to(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with opened(path) as store:
        store.queue_usage(usage_row())
        store.queue_usage(usage_row(key_id="key-o", key_name="Olga", owner_key_id=None, owner_name="the lab"))
        store.queue_usage(usage_row(registration_id=None, prompt_tokens=None, completion_tokens=None))
        people = {row["person"]: row for row in await UsageTable(store).people()}
        assert {name: (row["tokens_given"], row["tokens_taken"]) for name, row in people.items()} == {
            "key-o": (15, 15),
            "the lab": (15, 0),
            "key-a": (0, 15),
        }
        assert [row["person"] for row in await UsageTable(store).people("key-a")] == ["key-a"]
    with closing(sqlite3.connect(path)) as connection:
        for change in ("UPDATE token_ledger SET prompt_tokens = 0", "DELETE FROM token_ledger"):
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                connection.execute(change)


async def test_old_rows_go_and_sums_stay(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        table = UsageTable(store)
        for day in ("2025-06-01", "2025-06-02", "2026-01-31"):
            store.queue_usage(usage_row(day))
        before = await sums(table, "day")
        assert await table.forget_before("2025-06-02T00:00:00.000Z") == 1
        assert await table.forget_before("2026-01-01T00:00:00.000Z") == 1
        assert len(await usage_rows(store)) == 1
        assert await sums(table, "day") == before
        store.queue_usage(usage_row())
        assert (await sums(table, filters={"key_id": "key-a"}))[0]["requests"] == 4, "and nothing is counted twice"


def test_a_gateway_forgets_by_itself(start_gateway: StartGateway) -> None:
    gateway = start_gateway(USAGE_RETENTION_DAYS=30)
    gateway.stop()
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        database.execute("INSERT INTO usage (started_at, outcome) VALUES ('2020-01-01T00:00:00.000Z', 'ok')")
        database.commit()
    gateway.start()
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (0,)


# -- reports


def test_figures_are_what_servers_said(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway()
    lab, laptop = start_peer(), start_peer()
    lab_id = gateway.register(lab, model, owner_name="the lab")
    (ada_id, ada), (ben_id, ben) = make_key(gateway, "Ada"), make_key(gateway, "Ben")
    laptop.model_names.append(f"{model}-b")
    served = post(gateway, "/admin/register", {"model_name": f"{model}-b", "endpoint_url": laptop.url}, bearer(ada))
    laptop_id = served.json()["registration_id"]
    for peer in (lab, laptop):
        peer.inference.always(
            wire.stream_answer(wire.chat_chunk("x") + wire.finish_chunk() + wire.usage_chunk(5, 3) + wire.DONE)
        )
    assert [gateway.chat(model, True, bearer(ada)).status for _number in range(3)] == [200] * 3
    assert gateway.chat(f"{model}-b", True, bearer(ben)).status == 200
    assert gateway.chat("nobody-has-this", True, bearer(ben)).status == 404

    report = gateway.admin("GET", "/admin/usage?group_by=key,server").json()
    by_key_and_server = {(row["key_name"], row["registration_id"]): row for row in report["rows"]}
    assert {pair: (row["requests"], row["completion_tokens"]) for pair, row in by_key_and_server.items()} == {
        ("Ada", lab_id): (3, 9),
        ("Ben", laptop_id): (1, 3),
        ("Ben", ""): (1, 0),
    }
    assert {row["key_id"] for row in report["rows"]} == {ada_id, ben_id}
    totals = report["totals"]
    assert (totals["requests"], totals["prompt_tokens"], totals["completion_tokens"], totals["rejected"]) == (
        5,
        20,
        12,
        1,
    )
    own = gateway.call("GET", "/v1/usage?group_by=model", None, bearer(ada)).json()
    assert [(row["model_name"], row["prompt_tokens"]) for row in own["rows"]] == [(model, 15)]
    assert (own["name"], own["role"], own["tokens_taken"], own["tokens_given"]) == ("Ada", "student", 24, 8)
    assert "key_name" not in own["rows"][0]
    ledger = {person["name"]: person for person in gateway.admin("GET", "/admin/ledger").json()["people"]}
    assert (ledger["the lab"]["tokens_given"], ledger["Ben"]["tokens_taken"]) == (24, 8)
    table = gateway.admin("GET", "/admin/usage?group_by=model&format=csv").body.decode()
    assert [row["requests"] for row in csv.DictReader(io.StringIO(table))] == ["1", "3", "1"]
    shown, summary = run(gateway, "usage", "--by", "key")
    assert "Ada" in shown
    assert "5 requests, 20 + 12 tokens" in summary
    assert "Given 8 tokens, taken 24." in run(gateway, "usage", "--mine", key=ada)[1]
    assert run(gateway, "usage", "--by", "model", "--csv")[0].startswith("model_name,requests,ok")


def test_who_may_ask_what(gateway: GatewayProcess) -> None:
    student = bearer(make_key(gateway)[1])
    assert_error(gateway.call("GET", "/v1/usage", None, []), "invalid_api_key")
    assert_error(gateway.call("GET", "/v1/usage", None, bearer("mv-nobody")), "invalid_api_key")
    assert_error(gateway.call("GET", "/admin/usage", None, student), "permission_denied")
    assert_error(gateway.call("GET", "/admin/ledger", None, student), "permission_denied")
    assert_error(gateway.call("GET", "/v1/usage?key_id=key-1", None, student), "invalid_request", "key_id")
    for query, param in (("group_by=colour", "group_by"), ("since=yesterday", "since"), ("format=xls", "format")):
        assert_error(gateway.admin("GET", f"/admin/usage?{query}"), "invalid_request", param)
    empty = gateway.call("GET", "/v1/usage", None, student).json()
    assert (empty["rows"], empty["totals"]["requests"], empty["tokens_given"]) == ([], 0, 0)
