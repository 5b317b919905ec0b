"""Stories as OpenTelemetry spans, one for a request and one for each attempt: the only module that knows the SDK.

Imported only when spans are wanted. A story is turned into spans after its answer, and the SDK's own thread sends them.
Names are those of the GenAI semantic conventions (v1.37); no prompt, key, person or address is in them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from multiverse import __version__
from multiverse.clock import unix_from_iso
from multiverse.people.usage import UsageRecord
from multiverse.proxy.stories import Step, Story
from multiverse.proxy.traces import SAMPLED, Trace, begin_trace, continue_trace

OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/responses": "chat",
        "/v1/completions": "text_completion",
        "/v1/embeddings": "embeddings",
    }
)
OTHER_OPERATION, OTHER_ROUTE = "other", "/v1/{route}"
CLOSING_SECONDS, CLOSING_LOOKS_SECONDS = 1.5, 0.02
Attributes = dict[str, str | bool | int | float]


class SpanExport:
    """Sends spans to an OTLP collector at `endpoint` (its base address). What else is set in `OTEL_…` the SDK reads."""

    def __init__(self, *, endpoint: str, headers: Mapping[str, str], service_name: str) -> None:
        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        # Only for what it reads out of the environment; spans do not go through it.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._resource, self._sampler = provider.resource, provider.sampler
        self._scope = InstrumentationScope("multiverse", __version__)
        url = f"{endpoint.rstrip('/')}/v1/traces"
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url, headers=dict(headers) or None))

    def begin(self, traceparent: str | None) -> Trace:
        """The trace of a request that begins, and whether it is to be recorded."""
        trace = continue_trace(traceparent) or begin_trace(sampled=False)
        parent = None
        if trace.parent_id is not None:
            parent = set_span_in_context(NonRecordingSpan(_context(trace, trace.parent_id, is_remote=True)))
        decision = self._sampler.should_sample(parent, int(trace.trace_id, 16), "request", SpanKind.SERVER)
        wanted = decision.decision is Decision.RECORD_AND_SAMPLE
        flags = trace.flags | SAMPLED if wanted else trace.flags & ~SAMPLED
        return Trace(trace.trace_id, trace.span_id, trace.parent_id, flags)

    def export_soon(self, story: Story, record: UsageRecord) -> None:
        """Send the spans of a request, but first let its answer go out."""
        if story.trace is not None and story.trace.sampled:
            asyncio.get_running_loop().call_soon(self._export, story, record, story.trace)

    def _export(self, story: Story, record: UsageRecord, trace: Trace) -> None:
        for span in self._spans(story, record, trace):
            self._processor.on_end(span)

    async def close(self) -> None:
        """Send what waits; a collector that does not answer is given up on after a while."""
        closing = threading.Thread(target=self._processor.shutdown, name="spans-closing", daemon=True)
        closing.start()
        give_up_at = asyncio.get_running_loop().time() + CLOSING_SECONDS
        while closing.is_alive() and asyncio.get_running_loop().time() < give_up_at:
            await asyncio.sleep(CLOSING_LOOKS_SECONDS)

    # -- what is in a span

    def _spans(self, story: Story, record: UsageRecord, trace: Trace) -> Iterator[ReadableSpan]:
        started_ns = round(unix_from_iso(record.started_at) * 1e9)
        ended_ns = started_ns + round((record.total_ms or 0.0) * 1e6)
        for number, step in enumerate(story.steps, 1):
            began_ns = started_ns + _nanoseconds(step.began_seconds - story.started_seconds)
            failed = step.failed_seconds
            until_ns = ended_ns if failed is None else started_ns + _nanoseconds(failed - story.started_seconds)
            yield ReadableSpan(
                f"{_operation(record)} {record.model_name}",
                context=_context(trace, step.span_id),
                parent=_context(trace, trace.span_id),
                kind=SpanKind.CLIENT,
                attributes=_attempt_attributes(record, step, number),
                status=_status(step.code),
                start_time=began_ns,
                end_time=max(until_ns, began_ns),
                resource=self._resource,
                instrumentation_scope=self._scope,
            )
        yield ReadableSpan(
            f"POST {_route(record)}",
            context=_context(trace, trace.span_id),
            parent=None if trace.parent_id is None else _context(trace, trace.parent_id, is_remote=True),
            kind=SpanKind.SERVER,
            attributes=_request_attributes(story, record),
            events=_events(record, started_ns),
            # HTTP's conventions leave a client's own mistakes out of a server's errors.
            status=_status(story.told_code or "server_error" if record.outcome == "failed" else None),
            start_time=started_ns,
            end_time=ended_ns,
            resource=self._resource,
            instrumentation_scope=self._scope,
        )


def _context(trace: Trace, span_id: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(trace.flags))


def _nanoseconds(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1e9)


def _operation(record: UsageRecord) -> str:
    return OPERATIONS.get(record.route, OTHER_OPERATION)


def _route(record: UsageRecord) -> str:
    return record.route if record.route in OPERATIONS else OTHER_ROUTE


def _status(code: str | None) -> Status:
    return Status(StatusCode.UNSET) if code is None else Status(StatusCode.ERROR, code)


def _common(record: UsageRecord) -> Attributes:
    return {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": "multiverse",
        "gen_ai.request.model": record.model_name,
    }


def _attempt_attributes(record: UsageRecord, step: Step, number: int) -> Attributes:
    failed: Attributes = {} if step.code is None else {"error.type": step.code}
    about: Attributes = {"multiverse.registration_id": step.registration_id, "multiverse.attempt": number}
    return {**_common(record), **about, **failed}


def _request_attributes(story: Story, record: UsageRecord) -> Attributes:
    attributes: Attributes = {
        **_common(record),
        "http.request.method": "POST",
        "http.route": _route(record),
        "http.response.status_code": record.status,
        "multiverse.request_id": record.request_id,
        "multiverse.outcome": record.outcome,
        "multiverse.stream": record.stream,
        "multiverse.attempts": record.attempts,
        "multiverse.queue_seconds": record.queue_ms / 1000,
    }
    known = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "error.type": story.told_code,
    }
    return {**attributes, **{name: value for name, value in known.items() if value is not None}}


def _events(record: UsageRecord, started_ns: int) -> list[Event]:
    if record.first_token_ms is None:
        return []
    return [Event("first_token", timestamp=started_ns + round(record.first_token_ms * 1e6))]
