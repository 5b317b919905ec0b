"""A story in words and numbers: what happened, in order, where the time went. Made when somebody asks, not before.

Reasons are for admins, for they may describe a server; clients are told what the error's code means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from multiverse.people.keys import ANONYMOUS
from multiverse.people.usage import UsageRecord
from multiverse.proxy.stories import Step, Story

FAILURES: Mapping[str, str] = MappingProxyType(
    {
        "invalid_request": "it refused the request as wrong",
        "loop_detected": "it led back to this gateway",
        "model_loading": "it was still loading the model",
        "model_not_found": "it did not know the model",
        "not_found": "it did not know this route",
        "overloaded": "it was busy",
        "server_disconnected": "it broke off in the middle of its answer",
        "server_timeout": "it took too long",
        "stream_truncated": "its answer ended before it was whole",
    }
)
OTHER_FAILURE = "it could not be reached, or its answer was no good"
# Where the time of a request can go, in the order in which it passes.
PHASES: Mapping[str, str] = MappingProxyType(
    {
        "gateway_ms": "the gateway itself",
        "queue_ms": "waiting for a free slot",
        "failed_ms": "servers that failed",
        "server_ms": "waiting for the server to begin its answer",
        "answer_ms": "the answer itself",
    }
)


def story_facts(story: Story, record: UsageRecord) -> dict[str, Any]:
    """What is known of an ended request, without its events; times in milliseconds."""
    return {
        "request_id": record.request_id,
        "started_at": record.started_at,
        "key_name": record.key_name,
        "route": record.route,
        "model": record.model_name,
        "stream": record.stream,
        "outcome": record.outcome,
        "status": record.status,
        "code": story.told_code,
        "attempts": record.attempts,
        "queue_ms": round(record.queue_ms, 1),
        "first_token_ms": record.first_token_ms,
        "total_ms": record.total_ms,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "tokens_estimated": record.tokens_estimated,
        "trace_id": None if story.trace is None else story.trace.trace_id,
        "overhead_ms": None if story.overhead_ms is None else round(story.overhead_ms, 1),
        "time": time_spent(story, record),
        "summary": summary(story, record),
    }


def story_document(story: Story, record: UsageRecord, *, for_admin: bool) -> dict[str, Any]:
    """The whole story as it goes out; `at_ms` counts from the admission of the request."""
    events = sorted(_events(story, record, for_admin=for_admin), key=lambda event: float(event["at_ms"]))
    return {**story_facts(story, record), "events": [*events, _end(story, record)]}


# -- where the time went


def time_spent(story: Story, record: UsageRecord) -> dict[str, float]:
    """The milliseconds of each phase; together they are the total."""
    total_ms = record.total_ms or 0.0
    began_ms = [story.milliseconds_at(step.began_seconds) for step in story.steps]
    ended_ms = [total_ms if step.failed_seconds is None else _failed_ms(story, step) for step in story.steps]
    spent = dict.fromkeys(PHASES, 0.0)
    spent["queue_ms"] = record.queue_ms
    committed_ms = record.first_token_ms
    for number, step in enumerate(story.steps):
        is_last = number + 1 == len(story.steps)
        if is_last and committed_ms is not None:
            spent["server_ms"] += committed_ms - began_ms[number]
            spent["answer_ms"] = total_ms - committed_ms
        elif step.failed_seconds is not None:
            spent["failed_ms"] += ended_ms[number] - began_ms[number]
        else:
            spent["server_ms"] += ended_ms[number] - began_ms[number]
    spent["gateway_ms"] = total_ms - sum(spent.values())
    # Moments are rounded one by one: what comes out below nothing is nothing.
    return {name: round(max(value, 0.0), 1) for name, value in spent.items()}


def _failed_ms(story: Story, step: Step) -> float:
    return story.milliseconds_at(step.failed_seconds or step.began_seconds)


def summary(story: Story, record: UsageRecord) -> str:
    """The story in two sentences: how it ended, and what took longest."""
    total_ms = record.total_ms or 0.0
    spent = time_spent(story, record)
    name = max(spent, key=lambda phase: spent[phase])
    if total_ms < 1 or spent[name] <= 0:
        return _ending(story, record)
    share = "Most of it" if spent[name] * 2 > total_ms else "The largest part"
    return f"{_ending(story, record)} {share}, {duration(spent[name])}, went to {_phase(name, record)}."


def _phase(name: str, record: UsageRecord) -> str:
    tokens, total_ms, first_ms = record.completion_tokens, record.total_ms, record.first_token_ms
    if name == "answer_ms" and tokens and total_ms is not None and first_ms is not None and total_ms > first_ms:
        return f"{PHASES[name]}: {tokens} tokens, {tokens * 1000 / (total_ms - first_ms):.1f} a second"
    if name == "server_ms" and not record.stream:
        return "waiting for the server's whole answer"
    if name == "queue_ms":
        return f"{PHASES[name]}, since every server of the model was busy"
    return PHASES[name]


def _ending(story: Story, record: UsageRecord) -> str:
    after = duration(record.total_ms or 0.0)
    told = f"{record.status}" if story.told_code is None else f"{record.status} {story.told_code}"
    match record.outcome:
        case "ok":
            return f"Answered in {after}."
        case "client_closed":
            return f"The client left after {after}, before it had its whole answer."
        case "rejected":
            return f"Refused after {after} with {told}."
    if record.first_token_ms is not None:
        return f"Broke off after {after}, in the middle of the answer."
    return f"Failed after {after} with {told}."


# -- what happened


def _events(story: Story, record: UsageRecord, *, for_admin: bool) -> Iterator[dict[str, Any]]:
    who = "Somebody without a key" if record.key_id == ANONYMOUS else record.key_name
    asked = f"{who} asked for {record.model_name}, {'as a stream' if record.stream else 'in one piece'}."
    yield {"event": "admitted", "at_ms": 0.0, "text": asked}
    if record.queue_ms:
        waited_ms = round(record.queue_ms, 1)
        text = f"Every server of the model was busy: it waited {duration(waited_ms)} for a free slot."
        yield {"event": "queued", "at_ms": 0.0, "waited_ms": waited_ms, "text": text}
    for number, step in enumerate(story.steps, 1):
        began_ms = story.milliseconds_at(step.began_seconds)
        text = "It was sent to a server." if number == 1 else f"It was sent to another server, the {_ordinal(number)}."
        yield {"event": "tried", "at_ms": began_ms, "server": step.registration_id, "text": text}
        if step.failed_seconds is not None:
            yield _failed(story, step, for_admin=for_admin)
    if record.first_token_ms is not None and story.steps:
        waited = duration(record.first_token_ms - story.milliseconds_at(story.steps[-1].began_seconds))
        what = "The first piece of the answer" if record.stream else "The whole answer"
        text = f"{what} came, {waited} after this server was asked."
        yield {"event": "first_token", "at_ms": record.first_token_ms, "text": text}


def _failed(story: Story, step: Step, *, for_admin: bool) -> dict[str, Any]:
    words = (step.reason if for_admin else None) or FAILURES.get(step.code or "", OTHER_FAILURE)
    event = {"event": "failed", "at_ms": _failed_ms(story, step), "server": step.registration_id, "code": step.code}
    shown = {"reason": step.reason} if for_admin else {}
    return {**event, **shown, "text": f"That server failed after {_since(step)}: {words.rstrip('.')}."}


def _since(step: Step) -> str:
    return duration(((step.failed_seconds or step.began_seconds) - step.began_seconds) * 1000)


def _end(story: Story, record: UsageRecord) -> dict[str, Any]:
    tokens = record.completion_tokens
    about = "about " if record.tokens_estimated else ""
    suffix = f" The answer had {about}{tokens} {'token' if tokens == 1 else 'tokens'}." if tokens else ""
    event = {"event": "ended", "at_ms": record.total_ms, "outcome": record.outcome, "status": record.status}
    return {**event, "text": f"{_ending(story, record)}{suffix}"}


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def duration(milliseconds: float) -> str:
    """As people say it: `12 ms`, `3.4 s`, `2 min 5 s`."""
    if milliseconds < 1:
        return "less than 1 ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"
