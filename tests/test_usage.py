"""What is counted of requests, and what is written: one row and one line each, without a word of what was said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from multiverse.people.usage import OUTCOMES, Usage
from multiverse.storage.rows import USAGE_COLUMNS
from tests.bench import CREATED_AT, build_record
from tests.stores import opened, usage_rows


async def test_counts_and_rows(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        usage = Usage(store=store)
        outcomes = ["ok", "ok", "ok", "failed", "client_closed", "client_closed", "rejected"]
        for _outcome in outcomes:
            usage.admitted("client-1")
        usage.admitted("admin")
        assert usage.in_flight_by_key() == {"client-1": 7, "admin": 1}
        usage.ended(build_record(key_name="admin", outcome="ok"))
        assert usage.in_flight_by_key() == {"client-1": 7}, "who has none under way is not there"
        assert usage.requests() == {"total": 8, "ok": 1, "failed": 0, "client_closed": 0, "in_flight": 7}
        for number, outcome in enumerate(outcomes, 1):
            tokens = {"prompt_tokens": 10, "completion_tokens": number} if outcome == "ok" else {}
            usage.ended(build_record(request_id=f"req-{number}", outcome=outcome, **tokens))
        assert usage.requests() == {"total": 8, "ok": 4, "failed": 2, "client_closed": 2, "in_flight": 0}
        assert usage.tokens() == {"prompt": 30, "completion": 6, "total": 36}
        rows = await usage_rows(store)
        assert [row["outcome"] for row in reversed(rows)] == ["ok", *outcomes]
        today = {"total": 8, "failed": 2, "prompt_tokens": 30, "completion_tokens": 6}
        assert await store.usage_of_day(CREATED_AT[:10]) == today
        assert (await store.usage_of_day("2001-01-01"))["total"] == 0
        assert usage.in_flight_by_key() == {}


async def test_a_row_holds_what_is_known(tmp_path: Path) -> None:
    known = {
        "registration_id": "reg-1",
        "outcome": "ok",
        "status": 200,
        "attempts": 2,
        "queue_ms": 1.5,
        "first_token_ms": 20.5,
        "total_ms": 99.9,
        "prompt_tokens": 7,
        "completion_tokens": 8,
        "tokens_estimated": True,
    }
    record = build_record(**known)
    assert record.__struct_fields__ == USAGE_COLUMNS, "its values are a row as they stand"
    async with opened(tmp_path / "gateway.db") as store:
        usage = Usage(store=store)
        usage.admitted("client-1")
        usage.ended(record)
        (row,) = await usage_rows(store)
    assert {name: row[name] for name in known} == {**known, "tokens_estimated": 1}
    assert (row["request_id"], row["started_at"], row["key_name"], row["stream"]) == (
        "req-1",
        CREATED_AT,
        "client-1",
        1,
    )


async def test_one_line_for_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        usage = Usage(store=store)
        for level, lines in ((logging.INFO, 1), (logging.WARNING, 0)):
            caplog.clear()
            caplog.set_level(level, "multiverse.requests")
            usage.admitted("client-1")
            usage.ended(build_record(outcome="ok", status=200, completion_tokens=4))
            assert len(caplog.records) == lines
            for line in caplog.records:
                fields = line.fields  # type: ignore[attr-defined]
                assert (fields["request_id"], fields["outcome"], fields["completion_tokens"]) == ("req-1", "ok", 4)
                assert "client_address" not in fields, "who asked what from where is for the database"


async def test_only_outcomes_that_exist(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway.db") as store:
        usage = Usage(store=store)
        usage.admitted("client-1")
        with pytest.raises(KeyError):
            usage.ended(build_record(outcome="odd"))
        assert await usage_rows(store) == []
    assert OUTCOMES == ("ok", "failed", "client_closed", "rejected")
