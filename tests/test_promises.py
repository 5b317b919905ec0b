"""docs/reliability.md is held to the truth: the tests it names exist, its timers and limits are those of the code.

Whether a promise is kept is for those tests to show; here is only that none of them is a word on paper.
"""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from multiverse.settings import SETTINGS
from tests import checker
from tests.test_docs import code_in, rows_of, section_of

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "reliability.md"
TEST_NAME = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
PROMISES = 12
# A number that is neither a time nor a limit.
NO_TIMER_OR_LIMIT = {"PORT", "SMTP_PORT", "CLASSROOM_SERVERS"}
LIMIT_NAME = re.compile(r"_SECONDS$|_BYTES$|_LENGTH$|_LINES$|^MAX_|_MAX$|_MAX_|^MOST_|^LONGEST_|_LIMIT$|_PER_MINUTE$")
# How often something looks, how it is cut, what a setting or a field may hold (docs/api.md has those).
NOT_FOR_THE_TABLE = {
    "gateway": {
        "AUTO_DEREGISTER_LOOKS_SECONDS",
        "RETENTION_LOOKS_SECONDS",
        "DRAIN_LOOKS_SECONDS",
        "NOTIFY_LOOKS_SECONDS",
    },
    "loop_watch": {"TICK_SECONDS"},
    "people.allowances": {"NO_LIMIT"},
    "people.keyring": {"CODE_LENGTH"},
    "web.people_schemas": {
        "MOST_USES",
        "MOST_ROSTER_ROWS",
        "LONGEST_ROSTER",
        "LONGEST_LIFETIME_MINUTES",
        "LONGEST_MOOD_MINUTES",
    },
    "classroom.pretend": {"BUSY_RETRY_AFTER_SECONDS"},
    "logs": {"BATCH_SECONDS", "BLOCK_BYTES"},
    "proxy.sse": {"LONGEST_BOUNDARY"},
    "proxy.spans": {"CLOSING_LOOKS_SECONDS"},
    "redaction": {"SCANNED_MAX_LENGTH", "CUT_EDGE_LENGTH", "ANYWHERE_MIN_LENGTH", "SECRET_MIN_LENGTH"},
    "transport.absence": {"LONGEST_INTERVAL_SECONDS", "MOST_LOOKS", "LONGEST_TIMEOUT_MS"},
    "servers.health": {"SHORTEST_TICK_SECONDS", "LONGEST_TICK_SECONDS"},
    "servers.registry": {"MAX_NAMES_TO_COMPARE"},
    "settings": {
        "ADMIN_API_KEY_MIN_LENGTH",
        "GUESSABLE_LENGTH",
        "COUNT_MAX",
        "TOKENS_MAX",
        "SIZE_MAX_BYTES",
        "DURATION_MAX",
    },
    "storage.database": {"OPEN_TRY_SECONDS", "OPEN_RETRY_SECONDS"},
    "storage.rows": {"INTEGER_MAX"},
    "storage.writer": {"DROPPED_LOG_INTERVAL_SECONDS"},
    "transport.addresses": {"_MAX_HOST_LENGTH"},
    "transport.decoding": {"STEP_BYTES"},
    "transport.answers": {"MAX_REASON_LENGTH"},
    "transport.connection": {"SMALL_BODY_BYTES"},
    "transport.exchange": {"SECOND_LOOK_SECONDS"},
    "web.front.connection": {"SECOND_LOOK_SECONDS"},
    "proxy.asking": {"LONGEST_REMEMBERED"},
    "transport.plain": {"MAX_BODY_BYTES"},
    "transport.pool": {"REAP_SECONDS"},
    "web.app": {"NO_LIMIT"},
    "web.front.bodies": {"MOST_CHUNK_BYTES"},
    "web.front.door": {"LOOKS_SECONDS"},
    "web.front.reading": {"LOOKS_SECONDS"},
    "web.front.heads": {"MOST_LENGTH_DIGITS"},
    "web.handlers.admin": {"MOST_PROBES"},
    "web.handlers.staged": {"ID_BYTES"},
    "servers.refusals": {"LONG_SECONDS"},
    "servers.terms": {"MOST_SPANS", "LONGEST_ZONE"},
    "doctor_outside": {"LARGE_BODY_BYTES"},
    "web.handlers.mirror": {"PAUSE_SECONDS", "SHOWN_LENGTH"},
    "doctor": {"DISK_LOW_BYTES", "DISK_FULL_BYTES"},
    "web.feed": {"LOOK_SECONDS"},
    "web.handlers.api_docs": {"KEPT_SECONDS"},
    "web.headers": {"LONGEST_REMEMBERED"},
    "web.handlers.events": {"LOOK_SECONDS"},
    "web.handlers.insight": {"DAY_SECONDS"},
    "web.handlers.pages": {"ONE_YEAR_SECONDS"},
    "web.assets": {"VERSION_LENGTH"},
    "web.http_server": {"IDLE_LOOKS_SECONDS", "DISCARD_BYTES"},
    "web.schemas": {"MAX_MODEL_NAMES"},
    "web.text_fields": {"MAX_TAGS", "MAX_TAG_LENGTH"},
    "web.strict_fields": {"MAX_NUMBER"},
    "web.terms_schema": {"MOST_FRIENDS", "LONGEST_NAME", "LONGEST_HOURS"},
}


def sections() -> dict[str, str]:
    """The text under each promise's heading."""
    parts = re.split(r"^### (\d+\. .+)$", section_of(DOCUMENT, "## Promises"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def functions_of(name: str) -> frozenset[str]:
    """The functions that a file of the suite defines, tests among them."""
    path = ROOT / "tests" / name
    if not path.exists():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def number_in(text: str) -> float | None:
    """`text` as a number, else None."""
    try:
        return float(text)
    except ValueError:
        return None


# -- promises


def test_there_are_twelve_promises() -> None:
    assert [int(title.split(".")[0]) for title in sections()] == list(range(1, PROMISES + 1))


@pytest.mark.parametrize("title", sections())
def test_a_promise_is_explained_and_proven(title: str) -> None:
    text = sections()[title]
    assert re.search(r"^\*[^*]+\.\*$", text, re.MULTILINE), "a sentence for a teacher, in italics"
    assert TEST_NAME.search(text), "and a test"


def test_every_test_it_names_exists() -> None:
    named = TEST_NAME.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 50
    assert [f"{file}::{test}" for file, test in named if test not in functions_of(file)] == []


def test_nothing_that_looks_like_a_test_is_spelled_otherwise() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    names = [span for span in code_in(text) if "::" in span]
    assert [span for span in names if not TEST_NAME.fullmatch(f"`{span}`")] == []


def test_what_is_checked_after_every_test_has_the_checkers_limits() -> None:
    text = section_of(DOCUMENT, "## Checked after every test")
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) == 7
    assert f"more than {checker.LAG_MAX_MS:g} ms late" in text
    assert f"within {checker.QUIET_WITHIN_SECONDS:g} s" in text
    assert f"grown by {checker.MEMORY_GROWTH_BYTES // 2**20} MB" in text


# -- timers and limits


def test_every_timer_and_limit_among_the_settings_is_in_the_table() -> None:
    written = {code_in(row[0])[0]: row[1] for row in rows_of(section_of(DOCUMENT, "### Settings"))}
    expected = {
        setting.variable: setting.default
        for setting in SETTINGS
        if number_in(setting.default or "") is not None and setting.variable not in NO_TIMER_OR_LIMIT
    }
    assert written == expected, "with its default"


def test_every_setting_in_the_table_is_proven() -> None:
    unproven = [row[0] for row in rows_of(section_of(DOCUMENT, "### Settings")) if not TEST_NAME.fullmatch(row[3])]
    assert unproven == []


def fixed_limits() -> dict[tuple[str, str], str]:
    """What the table says: (module, name) → value."""
    rows = rows_of(section_of(DOCUMENT, "### Fixed"))
    return {(code_in(row[0])[0].removesuffix(".py").replace("/", "."), row[1]): row[2] for row in rows}


@pytest.mark.parametrize(("module", "name"), fixed_limits())
def test_a_fixed_limit_has_its_value(module: str, name: str) -> None:
    value = getattr(importlib.import_module(f"multiverse.{module}"), name)
    assert float(fixed_limits()[module, name]) == value


def test_no_limit_of_the_code_is_missing() -> None:
    missing = []
    for path in sorted((ROOT / "multiverse").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "multiverse").with_suffix("").parts)
        if module.startswith("cli"):
            continue  # a client's patience is its own
        known = {name for where, name in fixed_limits() if where == module} | NOT_FOR_THE_TABLE.get(module, set())
        missing += [f"{module}: {name}" for name in limits_in(path) if name not in known]
    assert missing == []


def limits_in(path: Path) -> list[str]:
    """Constants of a module whose name says that they are a time or a limit."""
    found: list[str] = []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        found += [name for name in names if name.isupper() and LIMIT_NAME.search(name)]
    return found


def test_no_exception_from_the_table_is_out_of_date() -> None:
    for module, names in NOT_FOR_THE_TABLE.items():
        path = ROOT / "multiverse" / Path(*module.split("."))
        assert names <= set(limits_in(path.with_suffix(".py"))), module
