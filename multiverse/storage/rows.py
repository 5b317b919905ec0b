"""What a row may hold: its columns, and the values that SQLite can keep.

A wrong key or type is a programming error and raises `ValueError` where the row is handed over, not later in a batch.
Values that a hostile server or client can influence (text, counts) never raise: they are made storable.
"""

from __future__ import annotations

import json
import logging
import struct
import sys
from collections.abc import Collection, Mapping
from typing import Any, Final

LOG = logging.getLogger(__name__)

INTEGER_MAX: Final = 2**63 - 1
INTEGER_MIN: Final = -(2**63)
OBSERVED_TEXT_MAX: Final = 4096

# What the health checker and the proxy observe, as opposed to what people decide: only this may be written late.
STATE_COLUMNS: Final = (
    "health_status",
    "reason",
    "consecutive_failures",
    "response_time_ms",
    "last_checked_at",
    "last_successful_request_at",
    "unhealthy_since",
)
SERVER_COLUMNS: Final = (
    "registration_id",
    "model_name",
    "served_model_name",
    "endpoint_url",
    "api_key",
    "owner_name",
    "owner_email",
    "description",
    "tags",
    "context_length",
    "max_concurrency",
    "owner_key_id",
    "offered_to",
    "friends",
    "reserve_slot",
    "paused",
    "quiet_hours",
    "time_zone",
    "daily_token_cap",
    "draining",
    "created_at",
    "updated_at",
    *STATE_COLUMNS,
)
LIST_COLUMNS: Final = ("tags", "friends")
KEY_COLUMNS: Final = (
    "key_id",
    "digest",
    "hint",
    "name",
    "email",
    "role",
    "models",
    "weight",
    "requests_per_minute",
    "tokens_per_day",
    "requests_at_once",
    "on_thanks_board",
    "code_id",
    "expires_at",
    "created_at",
    "revoked_at",
)
CODE_COLUMNS: Final = (
    "code_id",
    "digest",
    "role",
    "models",
    "uses",
    "used",
    "expires_at",
    "key_expires_at",
    "created_at",
)
PROBE_COLUMNS: Final = ("registration_id", "checked_at", "ok", "health_status", "reason", "response_time_ms")
USAGE_COLUMNS: Final = (
    "request_id",
    "started_at",
    "key_id",
    "key_name",
    "client_address",
    "route",
    "model_name",
    "outcome",
    "registration_id",
    "owner_key_id",
    "owner_name",
    "status",
    "attempts",
    "queue_ms",
    "first_token_ms",
    "total_ms",
    "prompt_tokens",
    "completion_tokens",
    "stream",
    "tokens_estimated",
)


# Takes whole numbers of 64 bits, and raises struct.error for whatever else.
COUNTS: Final = struct.Struct("6q")


def usage_row(row: Mapping[str, Any] | tuple[Any, ...]) -> tuple[Any, ...]:
    """`observed_row` for the table `usage`, as values in the order of its columns; what is not given is None.

    There is one for every request, as such a tuple already, and nearly all are judged as a whole.
    """
    if isinstance(row, tuple):
        if len(row) == len(USAGE_COLUMNS) and _is_plain_usage(row):
            return row
        row = dict(zip(USAGE_COLUMNS, row, strict=True))
    judged = observed_row(row, USAGE_COLUMNS)
    return tuple([judged.get(column) for column in USAGE_COLUMNS])


def _is_plain_usage(values: tuple[Any, ...]) -> bool:
    """Whether all are of their columns' kind, short, ASCII and of 64 bits; what is odd is judged one by one.

    Twice as fast as a look at each: what joins texts and what packs numbers refuses everything else.
    """
    *texts, server, owner_id, owner, status, attempts, queued, first, whole, prompt, answer, stream, guessed = values
    texts += "" if server is None else server, "" if owner_id is None else owner_id, "" if owner is None else owner
    try:
        text = "".join(texts)
        COUNTS.pack(status, attempts, 0 if prompt is None else prompt, 0 if answer is None else answer, stream, guessed)
    except (TypeError, struct.error):
        return False
    times_fit = type(queued) is float and (first is None or type(first) is float)
    times_fit = times_fit and (whole is None or type(whole) is float)
    return times_fit and text.isascii() and len(text) <= OBSERVED_TEXT_MAX


def observed_row(row: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """`storable_row` for a row that waits in memory: its text is cut, since others chose it and many rows may wait."""
    return storable_row(row, columns, text_max=OBSERVED_TEXT_MAX)


def storable_row(row: Mapping[str, Any], columns: Collection[str], text_max: int = sys.maxsize) -> dict[str, Any]:
    """A copy of `row` that SQLite will take, with text of at most `text_max` characters.

    Raises `ValueError` when a key is not one of `columns` or a value is neither text, number, boolean nor None.
    """
    storable = dict(row)
    # What needs no change, nearly everything, costs no call.
    if tuple(row) != columns and (unknown := row.keys() - columns):
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}; there are: {', '.join(columns)}")
    for column, value in row.items():
        kind = type(value)
        if kind is str:
            if value.isascii() and len(value) <= text_max:
                continue
        elif value is None or kind is float or kind is bool or (kind is int and INTEGER_MIN <= value <= INTEGER_MAX):
            continue
        storable[column] = _made_storable(column, value, text_max)
    return storable


def storable_server(row: Mapping[str, Any]) -> dict[str, Any]:
    """`storable_row` for the table `servers`, where lists of text (`LIST_COLUMNS`) are kept as JSON."""
    storable = dict(row)
    for column in LIST_COLUMNS:
        words = row.get(column)
        if words is None:
            continue
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{column!r} must be a list of strings")
        storable[column] = json.dumps(list(words), ensure_ascii=False)
    return storable_row(storable, SERVER_COLUMNS)


def server_from_disk(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `servers` as it was handed in: lists are lists again, and never missing."""
    return {**row, **{column: _list_from_disk(row, column) for column in LIST_COLUMNS}}


def _list_from_disk(row: dict[str, Any], column: str) -> list[str]:
    """A cell that somebody edited by hand must not keep the gateway from starting."""
    try:
        words = json.loads(row[column] or "[]")
    except ValueError:
        words = None
    if isinstance(words, list):
        return [str(word) for word in words]
    fields = {"registration_id": row["registration_id"], "column": column}
    LOG.warning("a list in a registration cannot be read and is ignored", extra={"fields": fields})
    return []


def _made_storable(column: str, value: object, text_max: int) -> str | int | float:
    if isinstance(value, str):
        text = _without_lone_surrogates(value)
        return text if len(text) <= text_max else text[: text_max - 1] + "…"
    if isinstance(value, int):
        # SQLite keeps 64 bits, and a server may claim any number of tokens.
        return min(max(int(value), INTEGER_MIN), INTEGER_MAX)
    if isinstance(value, float):
        return value
    raise ValueError(f"{column!r} cannot hold a {type(value).__name__}")


def _without_lone_surrogates(text: str) -> str:
    """JSON may carry half of a surrogate pair (RFC 8259 §8.2), which UTF-8 cannot hold; it becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
