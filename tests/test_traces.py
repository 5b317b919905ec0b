"""Traces: what clients send of them reaches servers, and what happened reaches a collector as spans."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.proxy.traces import continue_trace
from tests import wire
from tests.conftest import StartGateway, StartPeer
from tests.operations import Reset
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually
from tests.wire import PLANTED

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
PASSED_ON = re.compile(rf"00-{TRACE_ID}-(?!{PARENT_ID})([0-9a-f]{{16}})-01")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (TRACEPARENT, 1),
        (f" {TRACEPARENT} ", 1),
        (f"00-{TRACE_ID}-{PARENT_ID}-00", 0),
        (f"00-{TRACE_ID}-{PARENT_ID}-ff", 3),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01-what-the-future-will-be-like", 1),
        (f"00-{TRACE_ID}-{PARENT_ID}-01-more", None),
        (f"00-{TRACE_ID}-{PARENT_ID}-01-", None),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01.more", None),
        (f"ff-{TRACE_ID}-{PARENT_ID}-01", None),
        (f"00-{TRACE_ID.upper()}-{PARENT_ID}-01", None),
        (f"00-{'0' * 32}-{PARENT_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID[1:]}-{PARENT_ID}-01", None),
        (f"{TRACEPARENT},{TRACEPARENT}", None),
        ("", None),
        (None, None),
    ],
)
def test_what_is_a_traceparent(text: str | None, flags: int | None) -> None:
    trace = continue_trace(text)
    assert (None if trace is None else trace.flags) == flags
    assert trace is None or (trace.trace_id, trace.parent_id) == (TRACE_ID, PARENT_ID)


def test_it_reaches_each_server_with_a_span_of_its_own(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    failing = [start_peer() for _server in range(2)]
    for peer in failing:
        gateway.register(peer, model)
        peer.always(Reset())
    headers = [("traceparent", TRACEPARENT), ("tracestate", f"vendor={PLANTED}state"), ("X-Request-ID", model)]
    assert gateway.chat(model, headers=headers).status == 502
    told = [peer.requests[0].header("traceparent") or "" for peer in failing]
    spans = [found[1] for header in told if (found := PASSED_ON.fullmatch(header))]
    assert len(set(spans)) == 2, told
    assert [peer.requests[0].header("tracestate") for peer in failing] == [None, None]
    assert gateway.call("GET", f"/v1/requests/{model}").json()["trace_id"] == TRACE_ID
    for peer in failing:
        peer.always(wire.json_answer(wire.chat_completion()))
    for malformed in (f"{TRACEPARENT}x", None):
        answer = gateway.chat(model, headers=[("traceparent", malformed)] if malformed else [])
        assert answer.status == 200, "a trace is never worth an error"
    sent_last = [request for peer in failing for request in peer.requests[1:]]
    assert [request.header("traceparent") for request in sent_last] == [None, None]


def spans_of(collector: ScriptedPeer) -> list[Span]:
    """Everything the collector has got so far."""
    sent = [ExportTraceServiceRequest.FromString(request.body) for request in collector.requests]
    scopes = [scope for part in sent for resource in part.resource_spans for scope in resource.scope_spans]
    return [span for scope in scopes for span in scope.spans]


def attributes(span: Span) -> dict[str, Any]:
    """By name, each as its own type."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


def test_spans_reach_a_collector(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    collector, bad, good = start_peer(), start_peer(), start_peer()
    collector.always(wire.answer(b"", headers=[("Content-Type", "application/x-protobuf")]))
    gateway = start_gateway(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/base/",
        OTEL_EXPORTER_OTLP_HEADERS=f"Authorization=Bearer%20{PLANTED}collector",
        OTEL_SERVICE_NAME="the-class",
        OTEL_BSP_SCHEDULE_DELAY=50,
    )
    bad.always(wire.error_answer(500, "no"))
    bad_id, good_id = gateway.register(bad, model), gateway.register(good, model)
    for flags in ("00", "01"):  # Round robin: with two of each, one begins at the bad server.
        for _twice in range(2):
            gateway.chat(model, headers=[("traceparent", TRACEPARENT[:-2] + flags)])
    eventually(lambda: len(spans_of(collector)) >= 5, "two requests and three attempts")
    first = collector.requests[0]
    assert (first.path, first.header("Authorization")) == ("/base/v1/traces", f"Bearer {PLANTED}collector")
    spans = spans_of(collector)
    assert len(spans) == 5, "what its client marked as not sampled is not sent"
    attempts = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    failed = next(span for span in attempts if span.status.code == Status.STATUS_CODE_ERROR)
    request = next(span for span in spans if span.span_id == failed.parent_span_id)
    answered = next(span for span in attempts if span.parent_span_id == request.span_id and span is not failed)
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert (request.name, request.kind, request.parent_span_id.hex()) == (
        "POST /v1/chat/completions",
        Span.SPAN_KIND_SERVER,
        PARENT_ID,
    )
    assert [span.name for span in attempts] == [f"chat {model}"] * 3
    assert request.start_time_unix_nano <= failed.start_time_unix_nano <= failed.end_time_unix_nano
    assert failed.end_time_unix_nano <= answered.start_time_unix_nano <= answered.end_time_unix_nano
    assert [event.name for event in request.events] == ["first_token"]
    told = attributes(request)
    assert told["gen_ai.request.model"] == model
    assert (told["gen_ai.operation.name"], told["multiverse.attempts"], told["multiverse.outcome"]) == ("chat", 2, "ok")
    assert (told["gen_ai.usage.input_tokens"], told["http.response.status_code"]) == (3, 200)
    assert attributes(failed)["error.type"] == "server_error"
    assert attributes(failed)["multiverse.registration_id"] == bad_id
    assert attributes(answered)["multiverse.registration_id"] == good_id
    seen = [str(one.header("traceparent")) for one in good.requests]
    assert f"00-{TRACE_ID}-{answered.span_id.hex()}-01" in seen, "servers can hang their own spans under ours"
    # Without a trace of its client's a request begins one; what waits is sent at the end, also where nobody listens.
    gateway.chat(model)
    eventually(lambda: len({span.trace_id for span in spans_of(collector)}) == 2, "a trace of its own")
    assert b"the-class" in collector.requests[-1].body
    assert PLANTED.encode() not in b"".join(request.body for request in collector.requests)
    collector.refuse()
    gateway.chat(model)


def test_without_the_package_the_gateway_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:4318"
    monkeypatch.setitem(sys.modules, "multiverse.proxy.spans", None)
    with caplog.at_level(logging.WARNING):
        assert Gateway(load_config(environ, dotenv_path=None)).spans is None
    assert "multiverse-gateway[otel]" in caplog.text
    caplog.clear()
    assert Gateway(load_config({**environ, "OTEL_SDK_DISABLED": "true"}, dotenv_path=None)).spans is None
    assert caplog.text == ""
