"""What happened in a chaos test, from three sides: clients, servers, usage rows; and the judge of it.

`judge()` is pure: it takes a History and returns what is wrong with it, in sentences. It never asks why a request
failed, only whether everybody was told the same truth. How chaos is made stands in fault_menu.py and test_chaos.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.clients import Response
from tests.fault_menu import Attempt, Ending
from tests.wire import DONE

KEEP_ALIVE = b": keep-alive\n"
KEPT_ALIVE = re.compile(rb": keep-alive\n(?:: queued [^\n]*\n)?")  # beside it, the place of one that waits
MARK = re.compile(rb"<(n\d+x\d+y)\|(\d+)\|")
MOST_ATTEMPTS = 3  # 1 + MAX_RETRY_ATTEMPTS
# A reset takes with it what a server has written and nobody has read.
STILL_ON_THE_WAY_SECONDS = 0.5
ERROR_FIELDS = {"message", "type", "param", "code"}
BEFORE_COMMIT_CODES = {
    "server_error",
    "overloaded",
    "model_loading",
    "no_server_available",
    "model_not_found",
    "not_found",
    "server_timeout",
}
AFTER_COMMIT_CODES = {"server_disconnected", "server_timeout", "stream_truncated", "server_error"}


@dataclass
class Asked:
    """One request as its client saw it. `manner`: stayed, left (on its own) or paused (stopped reading for a while)."""

    nonce: str
    body: bytes
    stream: bool
    manner: str
    response: Response | None = None
    trouble: str = ""

    @property
    def seen(self) -> bytes:
        """The body that arrived, without keep-alives."""
        return KEPT_ALIVE.sub(b"", self.response.body) if self.response else b""

    @property
    def kept_alive(self) -> bool:
        """Whether keep-alives have arrived."""
        return self.response is not None and KEEP_ALIVE in self.response.body


@dataclass
class Case:
    """One request from all sides: what its client saw, the attempts in the order of their arrival, its usage rows."""

    asked: Asked
    attempts: list[Attempt] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class History:
    """All of a run. `away`: per name of a peer, when (monotonic, from and to) it broke connections by itself;
    `counted`: what `/admin/stats` counted during the run.
    """

    asked: list[Asked]
    attempts: list[Attempt]
    rows: list[dict[str, Any]]
    away: dict[str, list[tuple[float, float]]]
    counted: dict[str, int]

    def cases(self) -> dict[str, Case]:
        """By nonce."""
        cases = {asked.nonce: Case(asked) for asked in self.asked}
        for attempt in self.attempts:
            if attempt.request is not None:
                cases[attempt.request.json()["nonce"]].attempts.append(attempt)
        for row in self.rows:
            cases[row["request_id"]].rows.append(row)
        return cases

    def disturbed(self, attempt: Attempt) -> bool:
        """Whether the server broke its connections while the attempt went on."""
        assert attempt.request is not None
        arrived_at, windows = attempt.request.arrived_at, self.away.get(attempt.request.peer.name, [])
        ended_at = attempt.ended_at + STILL_ON_THE_WAY_SECONDS
        return any(start <= ended_at and arrived_at <= end for start, end in windows)


def judge(history: History) -> list[str]:
    """Everything that is wrong, each with the nonce of its request; an empty list is the promise kept."""
    wrong = [f"{nonce}: {fault}" for nonce, case in history.cases().items() for fault in _faults(history, case)]
    return wrong + list(_counting_faults(history))


def _faults(history: History, case: Case) -> Iterator[str]:
    yield from _attempt_faults(history, case)
    yield from _mark_faults(case)
    yield from _answer_faults(history, case)
    yield from _row_faults(case)


# -- between gateway and servers


def _attempt_faults(history: History, case: Case) -> Iterator[str]:
    requests = [attempt.request for attempt in case.attempts if attempt.request is not None]
    names = [attempt.server for attempt in case.attempts]
    if len(names) > MOST_ATTEMPTS:
        yield f"asked {len(names)} servers: {names}"
    if len(set(names)) < len(names):
        yield f"asked a server twice: {names}"
    if any(request.body != case.asked.body for request in requests):
        yield "a server got another body than the client sent"
    for attempt in case.attempts[:-1]:
        if not _may_move_on(case, attempt) and not history.disturbed(attempt):
            yield f"another server was asked after '{attempt.name}': {attempt.plot.ending.value}"


def _may_move_on(case: Case, attempt: Attempt) -> bool:
    """What of a stream breaks in one go with its end may be lost together with it: then nothing has been committed."""
    ending = attempt.plot.ending
    return ending in (Ending.MOVES_ON, Ending.BREAKS) or (ending is Ending.JSON and case.asked.kept_alive)


def _mark_faults(case: Case) -> Iterator[str]:
    marks = {(nonce.decode(), int(number)) for nonce, number in MARK.findall(case.asked.seen)}
    for nonce, number in marks:
        if nonce != case.asked.nonce:
            yield f"reads the answer of {nonce}"
        elif number != case.attempts[-1].number:
            yield "content of an attempt has gone out, and yet another server was asked"


# -- between gateway and client


def _answer_faults(history: History, case: Case) -> Iterator[str]:
    asked, response = case.asked, case.asked.response
    if asked.manner == "left":
        return
    if asked.trouble or response is None:
        yield f"the client got no answer: {asked.trouble}"
        return
    if asked.manner == "paused" and response.ended == "cut":
        return  # Visibly broken, and it has itself to blame.
    if response.ended != "orderly":
        yield f"the answer was cut off: {response.status} {response.body[-200:]!r}"
    elif response.status != 200:
        yield from _refusal_faults(case, response)
    elif (response.header("Content-Type") or "").startswith("text/event-stream"):
        yield from _stream_faults(case)
    elif not case.attempts or asked.seen != case.attempts[-1].plot.content:
        yield "a plain answer is not what the server said"
    if case.attempts and not history.disturbed(case.attempts[-1]):
        yield from _ending_faults(case, case.attempts[-1], response)


def _stream_faults(case: Case) -> Iterator[str]:
    """Either exactly what the server sent, ended by a mark, or whole events of it and one error event."""
    seen = case.asked.seen
    content = case.attempts[-1].plot.content if case.attempts else b""
    if seen == content and (seen.endswith(DONE) or _error_of(_last_event(seen)) is not None):
        return
    last = _last_event(seen)
    error = _error_of(last)
    begun = seen[: len(seen) - len(last)]
    if error is None:
        yield f"a stream ends neither whole nor with an error event: {seen[-200:]!r}"
    elif not content.startswith(begun) or not (not begun or begun.endswith(b"\n\n")):
        yield f"before its error event a stream is not what the server sent: {seen[-300:]!r}"
    elif DONE in seen:
        yield "a broken stream holds [DONE]"
    elif set(error) != ERROR_FIELDS:
        yield f"the error event is not in OpenAI's shape: {error}"
    elif begun and error["code"] not in AFTER_COMMIT_CODES:
        yield f"after content, the code {error['code']}"


def _refusal_faults(case: Case, response: Response) -> Iterator[str]:
    error = response.error
    if set(error) != ERROR_FIELDS or not error["message"]:
        yield f"the error is not in OpenAI's shape: {response.body!r}"
    if response.status in (401, 403, 429):
        yield f"a server's {response.status} reached the client"
    passed_on = case.attempts and case.attempts[-1].plot.ending is Ending.REFUSES
    if not passed_on and error["code"] not in BEFORE_COMMIT_CODES:
        yield f"an unexpected error: {response.status} {error}"
    if MARK.search(response.body) and not passed_on:
        yield "an error carries content"


def _ending_faults(case: Case, attempt: Attempt, response: Response) -> Iterator[str]:
    """What the last attempt was is what the client got."""
    seen, plot = case.asked.seen, attempt.plot
    exactly = response.status == 200 and seen == plot.content
    error = _error_of(_last_event(seen)) if response.status == 200 else response.error
    code = error["code"] if error else None
    if plot.ending in (Ending.WHOLE, Ending.ERROR_EVENT) and not exactly:
        yield f"'{attempt.name}' was not passed on as it was: {response.status} {seen[-200:]!r}"
    elif plot.ending is Ending.JSON and not exactly and not case.asked.kept_alive:
        yield "plain JSON for a stream was not passed on"
    elif plot.ending in (Ending.BREAKS, Ending.MOVES_ON) and code is None:
        yield f"'{attempt.name}' came out as an answer: {seen[-200:]!r}"
    elif plot.ending is Ending.GIVES_UP and code not in ("server_timeout", "server_error"):
        yield f"'{attempt.name}' came out as {code}"
    elif plot.ending is Ending.REFUSES:
        yield from _passed_refusal_faults(case, attempt, response, error)


def _passed_refusal_faults(
    case: Case, attempt: Attempt, response: Response, error: dict[str, Any] | None
) -> Iterator[str]:
    if response.status == 200 and case.asked.kept_alive:
        if error != json.loads(attempt.plot.content)["error"]:
            yield f"a server's 4xx behind keep-alives came out as {error}"
    elif (response.status, response.body) != (attempt.plot.status, attempt.plot.content):
        yield f"a server's {attempt.plot.status} came out as {response.status} {response.body!r}"


def _last_event(seen: bytes) -> bytes:
    return seen[seen.rfind(b"\n\n", 0, -2) + 2 if seen.count(b"\n\n") > 1 else 0 :]


def _error_of(event: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else None


# -- what is kept


def _row_faults(case: Case) -> Iterator[str]:
    asked, rows = case.asked, case.rows
    if len(rows) > 1 or (not rows and (asked.manner != "left" or case.attempts)):
        yield f"{len(rows)} usage rows"
    for row in rows:
        if not len(case.attempts) <= row["attempts"] <= MOST_ATTEMPTS:
            yield f"{len(case.attempts)} servers were reached, the usage row tells {row['attempts']} attempts"
        if row["stream"] != int(asked.stream):
            yield "the usage row is wrong about streaming"
        if asked.manner == "stayed" and asked.response is not None and row["outcome"] not in _outcomes(asked):
            yield f"the outcome '{row['outcome']}' for {asked.response.status} {asked.seen[-200:]!r}"
        if (
            asked.manner == "stayed"
            and asked.response is not None
            and asked.response.status not in (200, row["status"])
        ):
            yield f"the usage row tells status {row['status']}, the client got {asked.response.status}"


def _outcomes(asked: Asked) -> set[str]:
    """What the usage row of an answer may say."""
    assert asked.response is not None
    if asked.response.status == 200 and _error_of(_last_event(asked.seen)) is None:
        return {"ok"}
    return {"failed", "rejected"}


def _counting_faults(history: History) -> Iterator[str]:
    outcomes = Counter(row["outcome"] for row in history.rows)
    by_rows = {
        "total": len(history.rows),
        "ok": outcomes["ok"],
        "failed": outcomes["failed"] + outcomes["rejected"],
        "client_closed": outcomes["client_closed"],
        "in_flight": 0,
    }
    counted = {name: history.counted[name] for name in by_rows}
    if counted != by_rows:
        yield f"/admin/stats counts {counted}, the usage rows {by_rows}"
