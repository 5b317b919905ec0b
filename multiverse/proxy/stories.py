"""What happened to each request, in order: the latest ones, and those that failed for a day.

A request costs a few short tuples here and nothing per event of its stream. No prompt, answer, key or address of
a server is kept. Reasons are for admins; clients are told the error's code.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from multiverse.clock import Clock
from multiverse.people.usage import UsageRecord

LATEST = 2_000
FAILED = 5_000
FAILED_KEPT_SECONDS = 86_400.0


@dataclass(slots=True)
class Step:
    """One attempt: when it began (monotonic seconds), on which server, and how it failed, if it did."""

    began_seconds: float
    registration_id: str
    failed_seconds: float | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class Story:
    """One request: its attempts while it is under way, its whole record from its end on."""

    started_seconds: float
    steps: list[Step] = field(default_factory=list)
    record: UsageRecord | None = None
    ended_seconds: float | None = None

    def tried(self, now_seconds: float, registration_id: str) -> None:
        """The request goes to this server."""
        self.steps.append(Step(now_seconds, registration_id))

    def failed(self, now_seconds: float, code: str, reason: str) -> None:
        """The server that was tried last did not answer well."""
        step = self.steps[-1]
        step.failed_seconds, step.code, step.reason = now_seconds, code, reason

    @property
    def overhead_ms(self) -> float | None:
        """From the request's admission to its first attempt, without waiting for a slot; None if it was never sent."""
        if not self.steps or self.record is None:
            return None
        return max((self.steps[0].began_seconds - self.started_seconds) * 1000 - self.record.queue_ms, 0.0)

    def document(self, *, for_admin: bool) -> dict[str, Any]:
        """The story as it goes out; times in milliseconds since the request was admitted."""
        record = self.record
        assert record is not None, "only ended stories are told"
        events: list[dict[str, Any]] = [{"event": "admitted", "at_ms": 0.0}]
        if record.queue_ms:
            events.append({"event": "queued", "at_ms": 0.0, "waited_ms": round(record.queue_ms, 1)})
        for step in self.steps:
            events.append({"event": "tried", "at_ms": self._at(step.began_seconds), "server": step.registration_id})
            if step.failed_seconds is not None:
                failed = {"event": "failed", "at_ms": self._at(step.failed_seconds), "server": step.registration_id}
                events.append({**failed, "code": step.code, **({"reason": step.reason} if for_admin else {})})
        if record.first_token_ms is not None:
            events.append({"event": "first_token", "at_ms": record.first_token_ms})
        events.sort(key=lambda event: float(event["at_ms"]))  # stable: what came first stays first
        end = {"event": "ended", "at_ms": record.total_ms, "outcome": record.outcome, "status": record.status}
        return {**_facts(record), "overhead_ms": _rounded(self.overhead_ms), "events": [*events, end]}

    def _at(self, moment_seconds: float) -> float:
        return round((moment_seconds - self.started_seconds) * 1000, 1)


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _facts(record: UsageRecord) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "started_at": record.started_at,
        "key_name": record.key_name,
        "route": record.route,
        "model": record.model_name,
        "stream": record.stream,
        "outcome": record.outcome,
        "status": record.status,
        "attempts": record.attempts,
        "queue_ms": round(record.queue_ms, 1),
        "first_token_ms": record.first_token_ms,
        "total_ms": record.total_ms,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "tokens_estimated": record.tokens_estimated,
    }


class Stories:
    """Stories by request id. Of two requests with one id, which only a client can choose, the later one is kept."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[str, Story] = {}
        self._latest: OrderedDict[str, Story] = OrderedDict()
        self._failed: OrderedDict[str, Story] = OrderedDict()

    @property
    def under_way(self) -> int:
        """How many stories have begun and not ended."""
        return len(self._under_way)

    def begin(self, request_id: str) -> Story:
        """The story of a request that begins; `end` must follow."""
        story = self._under_way[request_id] = Story(self._clock.monotonic())
        return story

    def end(self, record: UsageRecord) -> Story | None:
        """The request of `record` is over; its story, unless another one with its id has taken it along."""
        story = self._under_way.pop(record.request_id, None)
        if story is None:
            return None
        story.record, story.ended_seconds = record, self._clock.monotonic()
        shelf, size = (self._latest, LATEST) if record.outcome == "ok" else (self._failed, FAILED)
        shelf.pop(record.request_id, None)
        shelf[record.request_id] = story
        if len(shelf) > size:
            shelf.popitem(last=False)
        self._forget_old_failures()
        return story

    def find(self, request_id: str) -> Story | None:
        """The story of a request that has ended."""
        self._forget_old_failures()
        found = [shelf[request_id] for shelf in (self._latest, self._failed) if request_id in shelf]
        return max(found, key=lambda story: story.ended_seconds or 0.0, default=None)

    def _forget_old_failures(self) -> None:
        horizon = self._clock.monotonic() - FAILED_KEPT_SECONDS
        while self._failed:
            oldest = next(iter(self._failed))
            if (self._failed[oldest].ended_seconds or 0.0) > horizon:
                return
            del self._failed[oldest]
