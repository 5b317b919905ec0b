"""Counts and histograms of requests, updated once when a request ends; nothing is computed per token.

Names of models and routes come from clients: those that are not registered, or too many, fold into one. Buckets
are fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from multiverse.histogram import Histogram
from multiverse.people.usage import UsageRecord
from multiverse.proxy.stories import Story

UNKNOWN_MODEL = "(unknown)"
OTHER = "(other)"
MOST_MODELS = 200
ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"})
# Of OpenTelemetry's GenAI conventions, for durations of requests, in seconds; and finer ones for what is ours.
REQUEST_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
OWN_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class RequestNumbers:
    """What `/metrics` tells of requests. `is_registered` says whether a model's name is one of ours."""

    def __init__(self, *, is_registered: Callable[[str], bool]) -> None:
        self._is_registered = is_registered
        self._models: set[str] = set()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.attempts: Counter[str] = Counter()
        self.failed_attempts: Counter[str] = Counter()
        self.failovers: Counter[str] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.first_token: dict[str, Histogram] = {}
        self.duration: dict[str, Histogram] = {}
        self.queue = Histogram(REQUEST_BOUNDS)
        self.overhead = Histogram(OWN_BOUNDS)

    def note(self, record: UsageRecord, story: Story | None) -> None:
        """Count one request that has ended."""
        model = self._model_label(record.model_name)
        route = record.route if record.route in ROUTES else OTHER
        self.requests[model, route, record.outcome] += 1
        self.attempts[model] += record.attempts
        self.tokens[model, "input"] += record.prompt_tokens or 0
        self.tokens[model, "output"] += record.completion_tokens or 0
        self.queue.note(record.queue_ms / 1000)
        if record.total_ms is not None:
            _histogram_of(model, self.duration).note(record.total_ms / 1000)
        if record.first_token_ms is not None:
            _histogram_of(model, self.first_token).note(record.first_token_ms / 1000)
        if story is not None:
            self._note_story(story)

    def _note_story(self, story: Story) -> None:
        overhead_ms = story.overhead_ms
        if overhead_ms is not None:
            self.overhead.note(overhead_ms / 1000)
        for number, step in enumerate(story.steps, 1):
            if step.code is not None:
                self.failed_attempts[step.code] += 1
                if number < len(story.steps):
                    self.failovers[step.code] += 1

    def _model_label(self, model_name: str) -> str:
        if model_name in self._models:
            return model_name
        if not self._is_registered(model_name):
            return UNKNOWN_MODEL
        if len(self._models) >= MOST_MODELS:
            return OTHER
        self._models.add(model_name)
        return model_name


def _histogram_of(model: str, histograms: dict[str, Histogram]) -> Histogram:
    histogram = histograms.get(model)
    if histogram is None:
        histogram = histograms[model] = Histogram(REQUEST_BOUNDS)
    return histogram
