"""One registered server: its identity, its verdict, and whether it may take a request now.

Decides in sync code only: nothing here does I/O, logs or sleeps. Probes (for the verdict) and requests (for the
ejection) are counted apart. Every question has one predicate, and everybody asks it: `available`, `trial_due`, `full`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from multiverse.clock import Clock
from multiverse.transport.addresses import Endpoint, parse_endpoint

HEALTHY, UNHEALTHY, UNKNOWN = "healthy", "unhealthy", "unknown"

CONNECT_FAILURE_AVOIDED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Registration:
    """What an owner told us about a server; on disk it is the row of the same fields."""

    registration_id: str
    model_name: str
    endpoint: Endpoint
    created_at: str
    updated_at: str
    served_model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    owner_name: str | None = None
    owner_email: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    context_length: int | None = None
    max_concurrency: int | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Registration:
        """The registration in a row of the store's `servers` table."""
        plain = {name: row.get(name) for name in cls.__slots__ if name not in ("endpoint", "tags")}
        return cls(endpoint=parse_endpoint(row["endpoint_url"]), tags=tuple(row.get("tags") or ()), **plain)  # type: ignore[arg-type]

    def to_row(self) -> dict[str, Any]:
        """The row of the store's `servers` table, without the columns that tell the server's state."""
        row = {name: getattr(self, name) for name in self.__slots__ if name not in ("endpoint", "tags")}
        return {**row, "endpoint_url": self.endpoint.url, "tags": list(self.tags)}


class Blame(Enum):
    """What the end of an attempt says about the server."""

    SUCCESS = "success"
    FAILURE = "failure"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When requests eject a server: `max_failures` in a row, for `eject_seconds` doubling to `eject_max_seconds`."""

    max_failures: int
    successes_to_recover: int
    eject_seconds: float
    eject_max_seconds: float


class Server:
    """A registration and what we know of it now. All times are monotonic seconds unless they end in `_at` as text."""

    def __init__(self, registration: Registration, breaker: BreakerSettings, clock: Clock) -> None:
        self.registration = registration
        self._breaker = breaker
        self._clock = clock
        self.draining = False
        self.registered = True
        self.in_flight = 0
        self.last_successful_request_at: str | None = None
        self.last_checked_at: str | None = None
        self.response_time_ms: float | None = None
        self.last_byte_seconds = float("-inf")
        self.last_failed_seconds = float("-inf")
        self.next_probe_seconds = float("-inf")
        self.probing = False
        self.forget_health()

    def forget_health(self) -> None:
        """Start over as `unknown`: just loaded, or pointed at another endpoint."""
        self.health_status = UNKNOWN
        self.reason: str | None = None
        self.loading = False
        self.model_missing = False
        self.probe_failures = 0
        self._probe_successes = 0
        self.request_failures = 0
        self._ejections = 0
        self._ejected_until: float | None = None
        self._trial_under_way = False
        self._busy_until = 0.0
        self._avoided_until = 0.0
        self.unhealthy_since: str | None = None

    # -- questions -----------------------------------------------------------------------------------------------------

    @property
    def registration_id(self) -> str:
        """The id of the registration."""
        return self.registration.registration_id

    @property
    def full(self) -> bool:
        """Every slot the owner declared is taken."""
        limit = self.registration.max_concurrency
        return limit is not None and self.in_flight >= limit

    @property
    def ejected(self) -> bool:
        """Out of rotation after too many failed requests, and no trial is due."""
        return self._ejected_until is not None and not self.trial_due

    @property
    def trial_due(self) -> bool:
        """The ejection's time is over: exactly one request may find out whether the server works again."""
        until = self._ejected_until
        return until is not None and not self._trial_under_way and self._clock.monotonic() >= until

    @property
    def in_rotation(self) -> bool:
        """Healthy and willing; it may still be ejected or full."""
        return self.health_status == HEALTHY and not (self.draining or self.loading or self.model_missing)

    @property
    def available(self) -> bool:
        """May it take a request now."""
        return self.in_rotation and not self.full and (self._ejected_until is None or self.trial_due)

    @property
    def preferred(self) -> bool:
        """Available, and nothing says that another one would be a better choice for the moment."""
        return self.skipped_until <= self._clock.monotonic()

    @property
    def skipped_until(self) -> float:
        """When a busy answer or a refused connection is forgotten; a server that is the only one is not skipped."""
        return max(self._busy_until, self._avoided_until)

    @property
    def may_be_last_resort(self) -> bool:
        """Ejected or unhealthy, but not told to stay out: better to try it than to refuse."""
        if self.draining or self.loading or self.model_missing or self.full:
            return False
        return self.health_status == UNHEALTHY or (self.health_status == HEALTHY and self._ejected_until is not None)

    @property
    def availability(self) -> str:
        """The same in one word, for people."""
        if self.draining:
            return "draining"
        if self.loading:
            return "loading"
        if self.health_status != HEALTHY:
            return self.health_status
        if self.model_missing:
            return "unhealthy"
        if self._ejected_until is not None:
            return "ejected"
        return "busy" if self.full or self._busy_until > self._clock.monotonic() else "available"

    @property
    def consecutive_failures(self) -> int:
        """The larger of the two counts: probes and requests."""
        return max(self.probe_failures, self.request_failures)

    # -- requests ------------------------------------------------------------------------------------------------------

    def attempt(self, on_end: Callable[[Server], None]) -> Attempt:
        """Count one request in, now; `Attempt.end()` counts it out and then calls `on_end`."""
        is_trial = self.trial_due
        if is_trial:
            self._trial_under_way = True
        self.in_flight += 1
        return Attempt(self, is_trial, on_end)

    def note_success(self) -> None:
        """A request was answered well."""
        self.request_failures = 0
        self._ejections = 0
        self._ejected_until = None
        self._avoided_until = self._busy_until = 0.0
        self.last_successful_request_at = self._clock.utc_iso()
        if self.health_status == HEALTHY and not self.probe_failures:
            self.reason = None

    def note_failure(self, reason: str) -> bool:
        """A request failed through the server's fault; True when this ejects it."""
        self.request_failures += 1
        self.reason = reason
        now = self._clock.monotonic()
        self.last_failed_seconds = now
        if self.request_failures < self._breaker.max_failures:
            return False
        if self._ejected_until is not None and now < self._ejected_until:
            return False  # Failures that were under way when it was ejected must not double the wait.
        seconds = min(self._breaker.eject_seconds * 2.0**self._ejections, self._breaker.eject_max_seconds)
        if seconds < self._breaker.eject_max_seconds:
            self._ejections += 1
        self._ejected_until = now + seconds
        return True

    def note_connect_failure(self) -> None:
        """No connection: let the next picks prefer others for a moment."""
        self._avoided_until = self._clock.monotonic() + CONNECT_FAILURE_AVOIDED_SECONDS

    def note_busy(self, seconds: float, reason: str) -> None:
        """It said that it is busy; prefer others for `seconds`."""
        self._busy_until = self._clock.monotonic() + seconds
        self.reason = reason

    def note_reason(self, reason: str) -> None:
        """Tell the owner something that does not count against the server."""
        self.reason = reason

    def note_model_missing(self) -> None:
        """It says that it does not know the model: out of rotation until the next good probe."""
        self.model_missing = True
        self.reason = "the server answers that it does not know this model; is `served_model_name` right?"

    def end_trial(self) -> None:
        """The trial request is over, whatever it found."""
        self._trial_under_way = False

    # -- probes --------------------------------------------------------------------------------------------------------

    def note_good_probe(self) -> bool:
        """The probe was good; True when the verdict changed. Ends an ejection's wait, not its count."""
        was_healthy = self.health_status == HEALTHY
        self.probe_failures = 0
        self._probe_successes += 1
        self.loading = self.model_missing = False
        if not self._trial_under_way:
            self._ejected_until = None
        # Recovering takes `successes_to_recover`; a server that never failed a probe has nothing to recover from.
        if self.health_status == UNHEALTHY and self._probe_successes < self._breaker.successes_to_recover:
            return False
        self.health_status = HEALTHY
        self.unhealthy_since = None
        if self.request_failures == 0 and self.skipped_until <= self._clock.monotonic():
            self.reason = None
        return not was_healthy

    def note_failed_probe(self, reason: str) -> bool:
        """The probe failed; True when the verdict changed. Before the first good probe, one failure is enough."""
        self.probe_failures += 1
        self._probe_successes = 0
        self.loading = False
        self.reason = reason
        self.last_failed_seconds = self._clock.monotonic()
        enough = self.health_status == UNKNOWN or self.probe_failures >= self._breaker.max_failures
        if not enough or self.health_status == UNHEALTHY:
            return False
        self.health_status = UNHEALTHY
        self.unhealthy_since = self.unhealthy_since or self._clock.utc_iso()  # A restart does not make it younger.
        return True

    def note_loading(self) -> bool:
        """It answers that it is still loading its model; True when that is news."""
        was_loading, self.loading = self.loading, True
        self.reason = "the server is loading its model"
        return not was_loading

    # -- what is shown and stored --------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """The record of contract §2; the server's own key never comes out."""
        row = self.registration.to_row()
        api_key = row.pop("api_key")
        return {
            **row,
            "has_api_key": api_key is not None,
            "health_status": self.health_status,
            "availability": self.availability,
            "reason": self.reason,
            "consecutive_failures": self.consecutive_failures,
            "response_time_ms": self.response_time_ms,
            "in_flight": self.in_flight,
            "last_checked_at": self.last_checked_at,
            "last_successful_request_at": self.last_successful_request_at,
        }

    def state_row(self) -> dict[str, Any]:
        """The columns of the store's row that tell the server's state."""
        return {
            "draining": int(self.draining),
            "health_status": self.health_status,
            "reason": self.reason,
            "consecutive_failures": self.consecutive_failures,
            "response_time_ms": self.response_time_ms,
            "last_checked_at": self.last_checked_at,
            "last_successful_request_at": self.last_successful_request_at,
            "unhealthy_since": self.unhealthy_since,
        }

    def restore(self, row: dict[str, Any]) -> None:
        """Take over from the store what outlives a restart; the verdict does not: it starts `unknown`."""
        self.draining = bool(row.get("draining"))
        self.last_successful_request_at = row.get("last_successful_request_at")
        self.last_checked_at = row.get("last_checked_at")
        self.unhealthy_since = row.get("unhealthy_since")

    def change(self, changes: dict[str, Any]) -> None:
        """Replace fields of the registration; attempts under way keep what they began with."""
        self.registration = replace(self.registration, **changes)


class Attempt:
    """One request's place on a server; counts out exactly once."""

    __slots__ = ("_is_trial", "_on_end", "ended", "server")

    def __init__(self, server: Server, is_trial: bool, on_end: Callable[[Server], None]) -> None:
        self.server = server
        self.ended = False
        self._is_trial = is_trial
        self._on_end = on_end

    def end(self, blame: Blame, reason: str = "") -> bool:
        """Count out, with what the attempt says about the server; True when this ejects the server."""
        if self.ended:
            return False
        self.ended = True
        server = self.server
        server.in_flight -= 1
        ejected = False
        if blame is Blame.SUCCESS:
            server.note_success()
        elif blame is Blame.FAILURE:
            ejected = server.note_failure(reason)
        if self._is_trial:
            server.end_trial()
        self._on_end(server)
        return ejected
