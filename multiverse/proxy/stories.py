"""What happened to each request, in order: the latest ones, and those that failed for a day.

A request costs a few short records here and nothing per event of its stream; words are made of it when somebody reads
(telling.py). No prompt, answer, key or address of a server is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from multiverse.clock import Clock
from multiverse.people.usage import UsageRecord
from multiverse.proxy.traces import Trace, continue_trace, new_span_id

LATEST = 2_000
FAILED = 5_000
FAILED_KEPT_SECONDS = 86_400.0


class Step(msgspec.Struct):
    """One attempt: when it began (monotonic seconds), on which server, and how it failed, if it did."""

    began_seconds: float
    registration_id: str
    failed_seconds: float | None = None
    code: str | None = None
    reason: str | None = None
    span_id: str = ""


class Story(msgspec.Struct):
    """One request: its attempts while it is under way, its whole record from its end on."""

    started_seconds: float
    steps: list[Step] = []
    record: UsageRecord | None = None
    ended_seconds: float | None = None
    told_code: str | None = None  # the error that its client was told
    trace: Trace | None = None

    def tried(self, now_seconds: float, registration_id: str) -> None:
        """The request goes to this server."""
        self.steps.append(Step(now_seconds, registration_id, span_id="" if self.trace is None else new_span_id()))

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

    def milliseconds_at(self, moment_seconds: float) -> float:
        """When that was, since the request was admitted."""
        return round((moment_seconds - self.started_seconds) * 1000, 1)


OnEnd = Callable[[Story, UsageRecord], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryQuery:
    """Which stories are wanted; None is any. Times are UTC in ISO 8601, `since` included and `until` not."""

    key_id: str | None = None
    key_name: str | None = None
    model: str | None = None
    outcome: str | None = None
    since: str | None = None
    until: str | None = None

    def wants(self, record: UsageRecord) -> bool:
        """Whether this is one of them; ISO times of one form compare as texts."""
        return (
            (self.key_id is None or record.key_id == self.key_id)
            and (self.key_name is None or record.key_name == self.key_name)
            and (self.model is None or record.model_name == self.model)
            and (self.outcome is None or record.outcome == self.outcome)
            and (self.since is None or record.started_at >= self.since)
            and (self.until is None or record.started_at < self.until)
        )


class Stories:
    """Stories of ended requests by their id; `under_way` counts the others. Of two requests with one id, which only a
    client can choose, the one that ended last is kept.

    `begin_trace` says which trace a `traceparent` stands for; with `traces_all` it is asked for every request.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        begin_trace: Callable[[str | None], Trace | None] = continue_trace,
        traces_all: bool = False,
    ) -> None:
        self._clock = clock
        self._begin_trace = begin_trace
        self._traces_all = traces_all
        self.under_way = 0
        self._latest: OrderedDict[str, Story] = OrderedDict()
        self._failed: OrderedDict[str, Story] = OrderedDict()

    def begin(self, traceparent: str | None = None) -> Story:
        """The story of a request that begins; `end` must follow. `traceparent` is what its client sent."""
        self.under_way += 1
        story = Story(self._clock.monotonic())
        if self._traces_all or traceparent is not None:
            story.trace = self._begin_trace(traceparent)
        return story

    def end(self, story: Story, record: UsageRecord) -> None:
        """The request of `story` is over, and `record` is what it has cost."""
        self.under_way -= 1
        story.record, story.ended_seconds = record, self._clock.monotonic()
        shelf, size = (self._latest, LATEST) if record.outcome == "ok" else (self._failed, FAILED)
        shelf[record.request_id] = story
        shelf.move_to_end(record.request_id)
        if len(shelf) > size:
            shelf.popitem(last=False)
        if shelf is self._failed:
            self._forget_old_failures()  # Whoever reads does so too: nobody sees one that is older.

    def find(self, request_id: str) -> Story | None:
        """The story of a request that has ended."""
        self._forget_old_failures()
        found = [shelf[request_id] for shelf in (self._latest, self._failed) if request_id in shelf]
        return max(found, key=lambda story: story.ended_seconds or 0.0, default=None)

    def search(self, query: StoryQuery) -> list[tuple[Story, UsageRecord]]:
        """The stories that are wanted, each with its record; those that went well come first, then the others."""
        self._forget_old_failures()
        ended = (story for shelf in (self._latest, self._failed) for story in shelf.values())
        return [(story, story.record) for story in ended if story.record is not None and query.wants(story.record)]

    def _forget_old_failures(self) -> None:
        horizon = self._clock.monotonic() - FAILED_KEPT_SECONDS
        while self._failed:
            oldest = next(iter(self._failed))
            if (self._failed[oldest].ended_seconds or 0.0) > horizon:
                return
            del self._failed[oldest]
