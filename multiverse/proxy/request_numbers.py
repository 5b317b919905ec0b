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


class ModelNumbers:
    """Counts of one model; its requests by route and outcome."""

    __slots__ = ("attempts", "duration", "first_token", "input_tokens", "output_tokens", "requests")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.attempts = self.input_tokens = self.output_tokens = 0
        self.first_token = Histogram(REQUEST_BOUNDS)
        self.duration = Histogram(REQUEST_BOUNDS)


class RequestNumbers:
    """What `/metrics` tells of requests. `is_registered` says whether a model's name is one of ours."""

    def __init__(self, *, is_registered: Callable[[str], bool]) -> None:
        self._is_registered = is_registered
        self._models: dict[str, ModelNumbers] = {}
        self._folded: dict[str, ModelNumbers] = {}
        self.failed_attempts: Counter[str] = Counter()
        self.failovers: Counter[str] = Counter()
        self.queue = Histogram(REQUEST_BOUNDS)
        self.overhead = Histogram(OWN_BOUNDS)

    def note(self, story: Story, record: UsageRecord) -> None:
        """Count one request that has ended."""
        numbers = self._models.get(record.model_name) or self._new(record.model_name)
        numbers.requests[record.route if record.route in ROUTES else OTHER, record.outcome] += 1
        numbers.attempts += record.attempts
        numbers.input_tokens += record.prompt_tokens or 0
        numbers.output_tokens += record.completion_tokens or 0
        self.queue.note(record.queue_ms / 1000)
        if record.total_ms is not None:
            numbers.duration.note(record.total_ms / 1000)
        if record.first_token_ms is not None:
            numbers.first_token.note(record.first_token_ms / 1000)
        self._note_attempts(story)

    def _note_attempts(self, story: Story) -> None:
        overhead_ms = story.overhead_ms
        if overhead_ms is not None:
            self.overhead.note(overhead_ms / 1000)
        for step in story.steps:
            if step.code is not None:
                self.failed_attempts[step.code] += 1
                if step is not story.steps[-1]:
                    self.failovers[step.code] += 1

    def _new(self, model_name: str) -> ModelNumbers:
        is_registered = self._is_registered(model_name)
        if is_registered and len(self._models) < MOST_MODELS:
            return self._models.setdefault(model_name, ModelNumbers())
        label = OTHER if is_registered else UNKNOWN_MODEL
        if label not in self._folded:
            self._folded[label] = ModelNumbers()
        return self._folded[label]

    # -- what `/metrics` reads -----------------------------------------------------------------------------------------

    @property
    def by_model(self) -> dict[str, ModelNumbers]:
        """Of all models that were asked for; what is no model's name stands for several."""
        return {**self._models, **self._folded}

    @property
    def requests(self) -> dict[tuple[str, str, str], int]:
        """Requests that ended, by model, route and outcome."""
        return {
            (model, *labels): count
            for model, numbers in self.by_model.items()
            for labels, count in numbers.requests.items()
        }

    @property
    def attempts(self) -> dict[str, int]:
        """Tries on servers, by model."""
        return {model: numbers.attempts for model, numbers in self.by_model.items()}

    @property
    def tokens(self) -> dict[tuple[str, str], int]:
        """Tokens, by model and `input` or `output`."""
        counts: dict[tuple[str, str], int] = {}
        for model, numbers in self.by_model.items():
            counts[model, "input"], counts[model, "output"] = numbers.input_tokens, numbers.output_tokens
        return counts

    @property
    def first_token(self) -> dict[str, Histogram]:
        """Seconds to the first event, of each model that has sent one."""
        return {
            model: numbers.first_token for model, numbers in self.by_model.items() if any(numbers.first_token.counts)
        }

    @property
    def duration(self) -> dict[str, Histogram]:
        """Seconds to the end, by model."""
        return {model: numbers.duration for model, numbers in self.by_model.items() if any(numbers.duration.counts)}
