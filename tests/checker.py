"""What must hold of a gateway after every black-box test: the invariants of docs/reliability.md, each with its message.

`before()` notes how things stand when a test begins, `assert_quiet()` judges when it has ended. Whatever can settle is
waited for; nothing is forgiven. Usage is read from the database file itself, as an admin's own tools would.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, DEBUG_LOOP, GatewayProcess, log_faults
from tests.waiting import eventually_equal
from tests.wire import PLANTED, PLANTED_CLIENT_KEY, PLANTED_COMPLETION, PLANTED_PROMPT

QUIET_WITHIN_SECONDS = 2.0
# Rows go to disk in batches, once a second.
STORED_WITHIN_SECONDS = 4.0
TERMINAL_OUTCOMES = frozenset({"ok", "failed", "client_closed", "rejected"})
MEMORY_GROWTH_BYTES = 30 * 1024 * 1024
LAG_MAX_MS = 150.0
SLOW_CALLBACK = "seconds of its own"  # tests/plain_loop/sitecustomize.py
PAGES = ("/health", "/v1/models", "/admin/stats", "/admin/servers")
# What says the same after every test, or only ever more, is read once.
LAST_PAGES = ("/", "/docs", "/openapi.json", "/metrics")


@dataclass(frozen=True)
class Before:
    """How a gateway stood when a test began."""

    process_id: int
    printed: int
    memory_bytes: int
    admitted: int
    last_usage_id: int
    own_lag_ms: float


def before(gateway: GatewayProcess) -> Before:
    """To be called when a test begins, or right after its gateway has started."""
    stats = gateway.stats()
    return Before(
        process_id=gateway.process_id,
        printed=len(gateway.output),
        memory_bytes=gateway.resident_bytes,
        admitted=stats["requests"]["total"],
        last_usage_id=_last_usage_id(gateway),
        own_lag_ms=stats["event_loop"]["own_lag_ms_max"],
    )


def assert_quiet(
    gateway: GatewayProcess, peers: list[ScriptedPeer], at_first: Before, expected: tuple[str, ...]
) -> None:
    """Nothing is left of the requests of a test but their usage rows. `expected`: texts that the log may hold."""
    assert_nothing_under_way(gateway, peers)
    assert_usage_is_complete(gateway, at_first)
    gateway.deregister_all()
    assert_pages_hold_no_secret(gateway)
    assert_database_holds_no_secret(gateway, at_first.last_usage_id)
    faults = log_faults(gateway.output[at_first.printed :], expected)
    assert not faults, "the log is clean and holds no secret:\n" + "\n".join(faults)
    if gateway.process_id == at_first.process_id:
        assert_loop_was_free(gateway, at_first)
        growth_bytes = gateway.resident_bytes - at_first.memory_bytes
        assert growth_bytes < MEMORY_GROWTH_BYTES, f"memory grew by {growth_bytes / 1e6:.0f} MB"


def assert_nothing_under_way(gateway: GatewayProcess, peers: list[ScriptedPeer]) -> None:
    """Gauges at 0, nobody in a queue, no connection open but idle ones."""
    eventually_equal(gateway.in_flight, {}, "every in-flight gauge is back to 0", QUIET_WITHIN_SECONDS)
    eventually_equal(lambda: gateway.stats()["requests"]["queued"], 0, "nobody waits in a queue", QUIET_WITHIN_SECONDS)
    busy = "no open connection to a server beyond idle keep-alive ones"
    eventually_equal(lambda: [line for peer in peers for line in peer.busy_connections()], [], busy)
    eventually_equal(lambda: busy_connections(gateway), 0, f"{busy}, by the gateway's own count", QUIET_WITHIN_SECONDS)


def busy_connections(gateway: GatewayProcess) -> int:
    """Connections to servers that are neither idle nor probing, by `/admin/stats`."""
    connections = gateway.stats()["connections"]
    return int(connections["open"] - connections["idle"])


def assert_loop_was_free(gateway: GatewayProcess, at_first: Before) -> None:
    """Nothing blocked the event loop for long; time in which the machine gave it no CPU does not count."""
    lag_ms = gateway.stats()["event_loop"]["own_lag_ms_max"]
    # In debug mode everything takes several times as long, so that a hundred clients at once are a lag by themselves.
    blocked = lag_ms > max(LAG_MAX_MS, at_first.own_lag_ms) and DEBUG_LOOP not in os.environ
    assert not blocked, f"the event loop never lags more than {LAG_MAX_MS:g} ms, not {lag_ms} ms"
    slow = [line for line in gateway.output[at_first.printed :].splitlines() if SLOW_CALLBACK in line]
    assert not slow, "no callback takes over 100 ms:\n" + "\n".join(slow)


# -- usage


def assert_usage_is_complete(gateway: GatewayProcess, at_first: Before) -> None:
    """One row per admitted request since `at_first`, each with a terminal outcome."""
    if "DATABASE_URL" in gateway.settings:
        return
    store_usage_now(gateway)
    restarted = gateway.process_id != at_first.process_id
    if not restarted:
        admitted = gateway.stats()["requests"]["total"] - at_first.admitted
        rows = "one usage row per admitted request"
        eventually_equal(
            lambda: usage_outcomes(gateway, at_first.last_usage_id).total(), admitted, rows, STORED_WITHIN_SECONDS
        )
    outcomes = usage_outcomes(gateway, at_first.last_usage_id)
    assert set(outcomes) <= TERMINAL_OUTCOMES, f"each usage row has a terminal outcome: {dict(outcomes)}"


def store_usage_now(gateway: GatewayProcess) -> None:
    """Have what is queued written: reading a server's probes does that. Without a server it takes its second."""
    for server in gateway.admin("GET", "/admin/servers?limit=1").json()["servers"]:
        gateway.server(server["registration_id"])


def usage_outcomes(gateway: GatewayProcess, after_id: int = 0) -> Counter[str]:
    """How requests ended, by the usage rows behind `after_id`."""
    rows = read_rows(gateway, "SELECT outcome, COUNT(*) AS number FROM usage WHERE id > ? GROUP BY outcome", after_id)
    return Counter({row["outcome"]: row["number"] for row in rows})


def read_rows(gateway: GatewayProcess, sql: str, *values: Any) -> list[dict[str, Any]]:
    """What another process reads in the gateway's database, running or not."""
    with _opened(gateway) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(sql, values)]


def _last_usage_id(gateway: GatewayProcess) -> int:
    if "DATABASE_URL" in gateway.settings:
        return 0
    return int(read_rows(gateway, "SELECT COALESCE(MAX(id), 0) AS last FROM usage")[0]["last"])


# -- secrets


def assert_pages_hold_no_secret(gateway: GatewayProcess, paths: tuple[str, ...] = PAGES) -> None:
    """No page shows what a test has planted, neither to anyone nor to the admin."""
    for path in paths:
        for headers in ([], [("Accept", "text/html"), ("X-API-Key", ADMIN_KEY)]):
            body = gateway.call("GET", path, None, headers).body
            assert PLANTED.encode() not in body, f"{path} shows a secret"


def assert_database_holds_no_secret(gateway: GatewayProcess, after_usage_id: int = 0) -> None:
    """Nothing planted stands in the database, but for each server's key in its own column."""
    if "DATABASE_URL" in gateway.settings:
        return
    with _opened(gateway) as database:
        for table, condition in (("servers", ""), ("health_checks", ""), ("usage", f"WHERE id > {after_usage_id}")):
            columns = [column for _place, column, *_rest in database.execute(f"PRAGMA table_info({table})")]
            searched = [column for column in columns if (table, column) != ("servers", "api_key")]
            places = ", ".join(f"max(instr(CAST({column} AS TEXT), :secret))" for column in searched)
            found = database.execute(f"SELECT {places} FROM {table} {condition}", {"secret": PLANTED}).fetchone()
            where = [f"{table}.{column}" for column, place in zip(searched, found, strict=True) if place]
            assert not where, f"a secret stands in the database, in {where}"


def _opened(gateway: GatewayProcess) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"file:{gateway.directory / 'gateway.db'}?mode=ro", uri=True))


def assert_good_end(gateway: GatewayProcess, expected: tuple[str, ...] = ()) -> None:
    """SIGTERM ends it with 0 and a clean log, no usage is lost; what nobody may read later is not in its files."""
    if not gateway.alive:
        gateway.wait(1.0)
        return
    printed = len(gateway.output)
    admitted = gateway.stats()["requests"]["total"]
    assert_pages_hold_no_secret(gateway, LAST_PAGES)
    code = gateway.stop()
    assert code == 0, f"SIGTERM ends the gateway with exit code 0, not {code}:\n{gateway.output[-3000:]}"
    faults = log_faults(gateway.output[printed:], expected)
    assert not faults, "the log is clean to the end:\n" + "\n".join(faults)
    if gateway.starts == 1 and "DATABASE_URL" not in gateway.settings:
        outcomes = usage_outcomes(gateway)
        assert outcomes.total() == admitted, f"one usage row per admitted request, kept through SIGTERM: {outcomes}"
        assert set(outcomes) <= TERMINAL_OUTCOMES, "each with a terminal outcome"
    assert_database_holds_no_secret(gateway)
    assert_files_hold_no_secret(gateway)


def assert_files_hold_no_secret(gateway: GatewayProcess) -> None:
    """Neither logs nor database hold, in any byte, a key of a client or the admin, a prompt or a completion."""
    for path in sorted(path for path in gateway.directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for secret in (ADMIN_KEY, PLANTED_CLIENT_KEY, PLANTED_PROMPT, PLANTED_COMPLETION):
            assert secret.encode() not in content, f"{secret} stands in {path.name}"
