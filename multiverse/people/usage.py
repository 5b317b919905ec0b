"""Usage: one row per admitted request, one log line, and the running totals.

Rows go to the store's next batch; nothing here waits for the disk. Prompts and answers are never kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from multiverse.log_copies import ReadyRecord
from multiverse.storage.store import Store

LOG = logging.getLogger("multiverse.requests")

BEGINNING = ReadyRecord.beginning(LOG.name, logging.INFO, "request")
OUTCOMES = ("ok", "failed", "client_closed", "rejected")


class UsageRecord(msgspec.Struct, gc=False):
    """What is known of one request: the row of the store's `usage` table. Times in milliseconds since its admission.

    A Struct, because there is one for every request: it is made and taken apart in C. It holds nothing that could hold
    it in turn, so the garbage collector need not look at the thousands that wait or are remembered.
    """

    request_id: str
    started_at: str
    key_id: str
    key_name: str
    client_address: str
    route: str
    model_name: str
    outcome: str = "failed"
    registration_id: str | None = None
    owner_key_id: str | None = None
    owner_name: str | None = None
    status: int = 500
    attempts: int = 0
    queue_ms: float = 0.0
    first_token_ms: float | None = None
    total_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    stream: bool = False
    tokens_estimated: bool = False

    def row(self) -> tuple[Any, ...]:
        """The row's values; the fields stand in the order of the store's `USAGE_COLUMNS`."""
        # SQLite has no booleans: Python's sqlite3 takes as long over one as over ten texts.
        return (*msgspec.structs.astuple(self)[:-2], int(self.stream), int(self.tokens_estimated))


class RequestLine(ReadyRecord):
    """The log line of a request that has ended."""

    told: UsageRecord

    @property
    def fields(self) -> dict[str, Any]:
        """What the line tells."""
        record = self.told
        return {
            "request_id": record.request_id,
            "key_name": record.key_name,
            "route": record.route,
            "model": record.model_name,
            "server": record.registration_id,
            "attempts": record.attempts,
            "status": record.status,
            "outcome": record.outcome,
            "first_token_ms": record.first_token_ms,
            "total_ms": record.total_ms,
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
        }

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of `fields`."""
        record = self.told
        known = (record.request_id, record.key_name, record.route, record.model_name, record.outcome)
        return known if record.registration_id is None else (*known, record.registration_id)

    def pairs(self, shown: Callable[[str], str]) -> str:
        """`fields` in a line of text."""
        record = self.told
        server, tokens_in, tokens_out = record.registration_id, record.prompt_tokens, record.completion_tokens
        return (
            f" request_id={shown(record.request_id)} key_name={shown(record.key_name)} route={shown(record.route)}"
            f" model={shown(record.model_name)} server={'-' if server is None else shown(server)}"
            f" attempts={record.attempts} status={record.status} outcome={record.outcome}"
            f" first_token_ms={'-' if record.first_token_ms is None else record.first_token_ms}"
            f" total_ms={'-' if record.total_ms is None else record.total_ms}"
            f" prompt_tokens={'-' if tokens_in is None else tokens_in}"
            f" completion_tokens={'-' if tokens_out is None else tokens_out}"
        )


class Usage:
    """Counts requests and tokens since the gateway started."""

    def __init__(self, *, store: Store) -> None:
        self._store = store
        self._in_flight: dict[str, int] = {}
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._prompt_tokens = 0
        self._completion_tokens = 0

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return sum(self._in_flight.values())

    def admitted(self, key_name: str) -> None:
        """A request by this key may go on; `ended` must follow."""
        self._in_flight[key_name] = self._in_flight.get(key_name, 0) + 1

    def ended(self, record: UsageRecord) -> None:
        """The request of `record` is over."""
        in_flight = self._in_flight[record.key_name] = self._in_flight[record.key_name] - 1
        if not in_flight:
            del self._in_flight[record.key_name]  # Only who is here now, however many keys have come and gone.
        self._outcomes[record.outcome] += 1
        self._prompt_tokens += record.prompt_tokens or 0
        self._completion_tokens += record.completion_tokens or 0
        self._store.queue_usage(record.row())
        if LOG.isEnabledFor(logging.INFO):
            LOG.handle(RequestLine(BEGINNING, record))

    def requests(self) -> dict[str, int]:
        """Counts for `/admin/stats`; refusals count as failed, as their clients see it."""
        outcomes = self._outcomes
        return {
            "total": sum(outcomes.values()) + self.in_flight,
            "ok": outcomes["ok"],
            "failed": outcomes["failed"] + outcomes["rejected"],
            "client_closed": outcomes["client_closed"],
            "in_flight": self.in_flight,
        }

    def in_flight_by_key(self) -> dict[str, int]:
        """How many requests are under way of each key, by its name; keys without any are left out."""
        return dict(self._in_flight)

    def tokens(self) -> dict[str, int]:
        """Tokens for `/admin/stats`."""
        return {
            "prompt": self._prompt_tokens,
            "completion": self._completion_tokens,
            "total": self._prompt_tokens + self._completion_tokens,
        }
