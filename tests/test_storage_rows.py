"""What a row of the store may hold: wrong keys are refused at once, hostile values never hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.people.usage import UsageRecord
from multiverse.storage.rows import USAGE_COLUMNS, storable_row
from multiverse.storage.store import Store
from tests.stores import FULL_ROW, opened, registration, usage_rows

pytestmark = pytest.mark.usefixtures("io_loop")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be; its directory does not exist yet."""
    return tmp_path / "data" / "gateway.db"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("queue_usage", ({"request_id": "r", "prompt": "secret"},)),
        ("queue_usage", ({"id": 1},)),
        ("queue_usage", ({"status": {"not": "a value"}},)),
        ("queue_probe", ({"registration_id": "reg-1", "tags": "x"},)),
        ("queue_probe", ({"ok": True},)),
        ("queue_probe", ({"registration_id": b"reg-1"},)),
        ("queue_server_state", ("reg-1", {"endpoint_url": "http://elsewhere"})),
        ("queue_server_state", ("reg-1", {"draining": False})),  # A drain that was answered must not be undone.
        ("queue_server_state", ("reg-1", {"updated_at": "2026-01-31T12:00:00.000Z"})),
        ("queue_server_state", ("", {"reason": "x"})),
    ],
)
async def test_wrong_row_is_refused_where_it_is_queued(path: Path, method: str, arguments: tuple[Any, ...]) -> None:
    store = Store(str(path))
    with pytest.raises(ValueError):
        getattr(store, method)(*arguments)
    assert store.queued == 0


@pytest.mark.parametrize(
    "row",
    [
        {**FULL_ROW, "colour": "red"},
        {**FULL_ROW, "tags": "gpu,fast"},
        {**FULL_ROW, "tags": [1]},
        {**FULL_ROW, "description": ["a", "list"]},
        {"model_name": "m", "endpoint_url": "http://h"},
    ],
)
async def test_wrong_registration_is_refused(path: Path, row: dict[str, Any]) -> None:
    async with opened(path) as store:
        with pytest.raises(ValueError):
            await store.save_registration(row)
        assert await store.load_registrations() == []


HOSTILE_TEXTS = {
    "nul": ("before\0after", "before\0after"),
    "emoji": ("👩‍👩‍👧‍👦 北京 é", "👩‍👩‍👧‍👦 北京 é"),
    "sql": ("'); DROP TABLE usage; --", "'); DROP TABLE usage; --"),
    "quotes": ("\"'`[]?:@$%_\\", "\"'`[]?:@$%_\\"),
    "control": ("\x1b[31m\r\n\x7f", "\x1b[31m\r\n\x7f"),
    "byte_order_mark": ("\ufefftext", "\ufefftext"),
    "lone_surrogate": ("half \ud83d of a pair", "half � of a pair"),
    "split_pair": ("\ud83c\udf0d", "🌍"),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("value", "expected"), HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS.keys())
async def test_hostile_text_is_kept(path: Path, value: str, expected: str) -> None:
    async with opened(path) as store:
        await store.save_registration(registration("reg-1", description=value, tags=[value]))
        store.queue_usage({"request_id": "r", "model_name": value})
        store.queue_probe({"registration_id": "reg-1", "reason": value})
        store.queue_server_state("reg-1", {"reason": value})
        await store.flush()
        (server,) = await store.load_registrations()
        (usage,) = await usage_rows(store)
        (probe,) = await store.recent_probes("reg-1")
    assert (server["description"], server["tags"], server["reason"]) == (expected, [expected], expected)
    assert usage["model_name"] == probe["reason"] == expected


@given(text=st.text(alphabet=st.characters(codec=None)))
def test_any_text_becomes_storable_and_clean_text_stays(text: str) -> None:
    stored = storable_row({"reason": text}, ("reason",))["reason"]
    stored.encode("utf-8")
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert stored == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(10**30, 2**63 - 1), (-(10**30), -(2**63)), (2**63 - 1, 2**63 - 1), (True, 1), (None, None)],
)
async def test_numbers_beyond_64_bits_are_clamped(path: Path, value: int | None, expected: int | None) -> None:
    async with opened(path) as store:
        store.queue_usage({"prompt_tokens": value})
        assert [row["prompt_tokens"] for row in await usage_rows(store)] == [expected]


async def test_long_text_is_kept_in_registrations_and_cut_in_rows_that_wait(path: Path) -> None:
    long_text = "x" * 1_000_000
    async with opened(path) as store:
        await store.save_registration(registration("reg-1", description=long_text))
        store.queue_usage({"model_name": long_text})
        assert [row["description"] for row in await store.load_registrations()] == [long_text]
        (usage,) = await usage_rows(store)
    assert usage["model_name"] == "x" * 4095 + "…"


async def test_a_queued_row_is_a_copy(path: Path) -> None:
    async with opened(path) as store:
        row = {"request_id": "r", "status": 200}
        store.queue_usage(row)
        row["status"] = 500
        assert [usage["status"] for usage in await usage_rows(store)] == [200]


RECORD = UsageRecord("req-1", "2026", "key", "anonymous", "127.0.0.1", "/v1/x", "m", outcome="ok")
WHOLE_ROW = dict(zip(USAGE_COLUMNS, RECORD.row(), strict=True))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("route", "half \ud83d of a pair", "half \N{REPLACEMENT CHARACTER} of a pair"),
        ("model_name", "é" * 5000, "é" * 4095 + "…"),
        ("client_address", "1" * 5000, "1" * 4095 + "…"),
        ("prompt_tokens", 10**30, 2**63 - 1),
        ("owner_name", None, None),
        ("registration_id", "\ud83d", "\N{REPLACEMENT CHARACTER}"),
        ("owner_key_id", 7, "7"),
        ("total_ms", 1.5, 1.5),
        ("total_ms", 10**30, float(2**63)),
        ("first_token_ms", 10**30, float(2**63)),
        ("queue_ms", None, None),
        ("status", 2**63, 2**63 - 1),
        ("attempts", 2.5, 2.5),
        ("stream", -(10**30), -(2**63)),
        ("tokens_estimated", True, 1),
    ],
)
async def test_a_whole_row_of_usage_is_judged_as_a_part_is(path: Path, column: str, value: Any, expected: Any) -> None:
    async with opened(path) as store:
        for as_queued in (dict, lambda row: tuple(row.values())):
            store.queue_usage(as_queued(WHOLE_ROW))
            store.queue_usage(as_queued({**WHOLE_ROW, column: value}))
            for wrong in ({}, b"bytes", [1]):
                with pytest.raises(ValueError, match=column):
                    store.queue_usage(as_queued({**WHOLE_ROW, column: wrong}))
        odd, plain, *by_names = await usage_rows(store)
    assert odd == {**plain, "id": odd["id"], column: expected}
    assert {name: plain[name] for name in WHOLE_ROW} == WHOLE_ROW
    assert [{**row, "id": 0} for row in by_names] == [{**row, "id": 0} for row in (odd, plain)]


@pytest.mark.parametrize("values", [RECORD.row()[:-1], (*RECORD.row(), None), ()])
async def test_a_row_by_place_has_a_value_for_each_column(path: Path, values: tuple[Any, ...]) -> None:
    store = Store(str(path))
    with pytest.raises(ValueError):
        store.queue_usage(values)
    assert store.queued == 0
