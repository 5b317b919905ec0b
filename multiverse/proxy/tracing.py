"""Spans, where they are wanted and can be had: nothing of OpenTelemetry is imported otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from multiverse.config import Config

if TYPE_CHECKING:
    from multiverse.proxy.spans import SpanExport

LOG = logging.getLogger(__name__)


def open_spans(config: Config) -> SpanExport | None:
    """Where spans go, if they are wanted; without the package that sends them the gateway runs all the same."""
    if config.otel_sdk_disabled or config.otel_exporter_otlp_endpoint is None:
        return None
    try:
        from multiverse.proxy.spans import SpanExport
    except ImportError as error:
        LOG.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no spans are sent: install 'multiverse-gateway[otel]'",
            extra={"fields": {"reason": str(error)}},
        )
        return None
    return SpanExport(
        endpoint=config.otel_exporter_otlp_endpoint,
        headers=dict(config.otel_exporter_otlp_headers),
        service_name=config.otel_service_name,
    )
