"""What `/metrics` says, read off the services when it is asked for: the only module that knows prometheus-client.

Names follow Prometheus' practices; what OpenTelemetry's GenAI conventions (v1.37) name has its name there, with
underscores: `gen_ai.server.request.duration`, `.time_to_first_token`, `gen_ai.request.model`, `gen_ai.token.type`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from multiverse import __version__
from multiverse.histogram import Histogram

if TYPE_CHECKING:
    from multiverse.gateway import Gateway

MODEL = "gen_ai_request_model"
SERVER_LABELS = ("registration_id", MODEL)


class GatewayCollector(Collector):
    """Everything that `/metrics` shows, of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now. To be called in the event loop, which owns the numbers."""
        yield from self._about_requests()
        yield from self._about_servers()
        yield from self._about_the_gateway()

    def _about_requests(self) -> Iterator[Metric]:
        numbers, usage = self._gateway.numbers, self._gateway.usage
        requests = CounterMetricFamily(
            "multiverse_requests", "Requests that ended.", labels=(MODEL, "route", "outcome")
        )
        for labels, count in numbers.requests.items():
            requests.add_metric(labels, count)
        yield requests
        attempts = CounterMetricFamily("multiverse_attempts", "Tries of requests on servers.", labels=(MODEL,))
        for model, count in numbers.attempts.items():
            attempts.add_metric((model,), count)
        yield attempts
        tokens = CounterMetricFamily("multiverse_tokens", "Tokens of models.", labels=(MODEL, "gen_ai_token_type"))
        for token_labels, count in numbers.tokens.items():
            tokens.add_metric(token_labels, count)
        yield tokens
        for name, text, counts in (
            ("multiverse_attempt_failures", "Attempts that failed, by error code.", numbers.failed_attempts),
            ("multiverse_failovers", "Attempts that followed a failed one, by its error code.", numbers.failovers),
        ):
            family = CounterMetricFamily(name, text, labels=("reason",))
            for reason, count in counts.items():
                family.add_metric((reason,), count)
            yield family
        yield GaugeMetricFamily("multiverse_requests_in_flight", "Requests under way.", usage.in_flight)
        yield GaugeMetricFamily("multiverse_requests_queued", "Requests that wait.", self._gateway.queue.length)
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        numbers = self._gateway.numbers
        for name, text, by_model in (
            ("gen_ai_server_time_to_first_token_seconds", "From a request to its first event.", numbers.first_token),
            ("gen_ai_server_request_duration_seconds", "From a request to its end.", numbers.duration),
        ):
            family = HistogramMetricFamily(name, text, labels=(MODEL,))
            for model, histogram in by_model.items():
                family.add_metric((model,), histogram.cumulative(), histogram.total)
            yield family
        yield _plain_histogram("multiverse_queue_seconds", "Time requests waited for a slot.", numbers.queue)
        yield _plain_histogram(
            "multiverse_overhead_seconds", "What the gateway took before the first attempt.", numbers.overhead
        )

    def _about_servers(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily("multiverse_server_in_flight", "Requests on a server.", labels=SERVER_LABELS)
        slots = GaugeMetricFamily("multiverse_server_slots", "Requests it takes at a time.", labels=SERVER_LABELS)
        healthy = GaugeMetricFamily("multiverse_server_healthy", "1 = probes are good.", labels=SERVER_LABELS)
        available = GaugeMetricFamily("multiverse_server_available", "1 = it may be asked now.", labels=SERVER_LABELS)
        for server in self._gateway.registry.servers:
            labels = (server.registration_id, server.registration.model_name)
            in_flight.add_metric(labels, server.in_flight)
            if server.slots is not None:
                slots.add_metric(labels, server.slots)
            healthy.add_metric(labels, server.health_status == "healthy")
            available.add_metric(labels, server.available)
        yield from (in_flight, slots, healthy, available)
        yield from self._about_probes()

    def _about_probes(self) -> Iterator[Metric]:
        health = self._gateway.health
        changes = CounterMetricFamily(
            "multiverse_server_verdict_changes", "Changes to each verdict.", labels=(*SERVER_LABELS, "verdict")
        )
        for server in self._gateway.registry.servers:
            labels = (server.registration_id, server.registration.model_name)
            for verdict, count in health.changes_of(server).items():
                changes.add_metric((*labels, verdict), count)
        yield changes
        yield CounterMetricFamily("multiverse_probes", "Probes of servers.", health.probes_total)
        yield CounterMetricFamily("multiverse_probe_failures", "Probes that failed.", health.probes_failed)
        yield CounterMetricFamily("multiverse_verdict_changes", "Changes of verdicts.", health.verdict_changes)

    def _about_the_gateway(self) -> Iterator[Metric]:
        gateway = self._gateway
        build = GaugeMetricFamily("multiverse_build_info", "Which gateway this is.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        uptime_seconds = gateway.clock.monotonic() - gateway.started_seconds
        yield GaugeMetricFamily("multiverse_uptime_seconds", "Since the gateway started.", uptime_seconds)
        lag = gateway.loop_watch.numbers()
        yield GaugeMetricFamily("multiverse_event_loop_lag_seconds", "How late it runs.", lag["lag_ms_now"] / 1000)
        yield GaugeMetricFamily("multiverse_event_loop_lag_max_seconds", "At worst.", lag["lag_ms_max"] / 1000)
        yield _plain_histogram("multiverse_event_loop_tick_lag_seconds", "How late ticks ran.", gateway.loop_watch.lags)
        yield _plain_histogram("multiverse_store_batch_seconds", "Writing a batch.", gateway.store.batch_seconds)
        yield GaugeMetricFamily("multiverse_store_queued_rows", "Rows not on disk yet.", gateway.store.queued)
        yield CounterMetricFamily("multiverse_store_dropped_rows", "Rows lost.", gateway.store.dropped)
        connections = len(gateway.transport.connections)
        yield GaugeMetricFamily("multiverse_server_connections", "Open connections to servers.", connections)


def _plain_histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.total)


class Snapshot(Collector):
    """Metrics as they were when the event loop read them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families


async def metrics_text(gateway: Gateway) -> bytes:
    """The exposition in Prometheus' text format 0.0.4; written by a thread, since many models make it long."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot(GatewayCollector(gateway).collect()))
    return await asyncio.to_thread(generate_latest, registry)
