"""One registered server: its identity, its verdict, and whether it may take a request now.

Decides in sync code only: nothing here does I/O, logs or sleeps. Probes (for the verdict) and requests (for the
ejection, breaker.py) are counted apart. Every question has one predicate, and everybody asks it: `available`, `full` …
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from multiverse.clock import Clock, iso_from_unix, unix_from_iso
from multiverse.servers.attempt import Attempt
from multiverse.servers.breaker import Blame, Breaker, BreakerSettings
from multiverse.servers.identity import Registration
from multiverse.servers.lending import ANYBODY, Asker, Lending, Withheld

if TYPE_CHECKING:
    from multiverse.transport.messages import RequestForm

__all__ = [
    "HEALTHY",
    "UNHEALTHY",
    "UNKNOWN",
    "Attempt",
    "Blame",
    "BreakerSettings",
    "Registration",
    "Server",
]

HEALTHY, UNHEALTHY, UNKNOWN = "healthy", "unhealthy", "unknown"
CONNECT_FAILURE_AVOIDED_SECONDS = 2.0


class Server:
    """A registration and what we know of it now. All times are monotonic seconds unless they end in `_at` as text."""

    def __init__(
        self, registration: Registration, breaker: BreakerSettings, clock: Clock, *, default_slots: int | None = None
    ) -> None:
        self.registration = registration
        # How requests of one route, streamed or not, with one `Via` look, for whoever sends them.
        self.forms: dict[tuple[str, bool, str], RequestForm] = {}
        self.lending = Lending(registration, clock)
        self._settings = breaker
        self._clock = clock
        self._default_slots = default_slots
        self.draining = False
        self.registered = True
        self.in_flight = 0
        self.owners_in_flight = 0
        self._last_success_at: str | None = None
        self._last_success_unix: float | None = None  # Newer than the text, which is made of it when somebody asks.
        self.last_checked_at: str | None = None
        self.response_time_ms: float | None = None
        self.next_probe_seconds = self.usual_probe_seconds = float("-inf")
        self._moment = 0  # Grows with everything that happens; tells what an attempt had seen when it began.
        self.forget_health()

    def change(self, registration: Registration) -> None:
        """Its owner tells us something else from now on."""
        self.registration = registration
        self.forms.clear()
        self.lending.change(registration)

    def forget_health(self) -> None:
        """Start over as `unknown`: just loaded, or pointed at another endpoint. Attempts under way do not count."""
        self.health_status = UNKNOWN
        self.reason: str | None = None
        self.loading = False
        self.learned_slots: int | None = None
        self.refuses_usage = False  # It answers 4xx when a stream is asked to report its usage.
        self.forget_model()
        self.probe_failures = 0
        self._probe_successes = 0
        self._breaker = Breaker(self._settings, self._clock)
        self.last_byte_seconds = self.last_failed_seconds = float("-inf")
        self._busy_until, self._busy_word = 0.0, "busy"
        self._avoided_until = 0.0
        self._skipped_moment = 0
        self._forgotten_moment = self._next_moment()
        self.unhealthy_since: str | None = None
        self._unhealthy_since_seconds = 0.0

    def forget_model(self) -> None:
        """What was found out about the model is about another name."""
        self.model_missing = False
        self._has_listed_model = False

    def _next_moment(self) -> int:
        self._moment += 1
        return self._moment

    # -- questions -----------------------------------------------------------------------------------------------------

    @property
    def registration_id(self) -> str:
        """The id of the registration."""
        return self.registration.registration_id

    @property
    def last_successful_request_at(self) -> str | None:
        """When a request last ended well here (UTC, ISO 8601); set when the gateway starts, to what was kept."""
        if self._last_success_unix is not None:
            self._last_success_at, self._last_success_unix = iso_from_unix(self._last_success_unix), None
        return self._last_success_at

    @last_successful_request_at.setter
    def last_successful_request_at(self, kept: str | None) -> None:
        self._last_success_at, self._last_success_unix = kept, None

    @property
    def slots(self) -> int | None:
        """Requests that it takes at a time: as its owner declares, as it says itself, as usual; None = any number."""
        return self.registration.max_concurrency or self.learned_slots or self._default_slots

    @property
    def full(self) -> bool:
        """Every slot is taken."""
        limit = self.slots
        return limit is not None and self.in_flight >= limit

    def withheld_from(self, asker: Asker) -> Withheld | None:
        """Why its owner's terms close the server to the asker, whatever slots are free; None when they do not."""
        return self.lending.withheld_from(asker, self.slots) if self.lending.restricted else None

    def full_for(self, asker: Asker) -> bool:
        """Every slot is taken that the asker may take: one that is reserved is the owner's, or free."""
        limit = self.slots
        if limit is None or self.in_flight >= limit:
            return limit is not None
        if not self.lending.reserves or self.lending.is_owner(asker):
            return False
        return self.in_flight - self.owners_in_flight >= limit - 1

    def admits(self, asker: Asker) -> bool:
        """Whether an available server may take this request. Most servers are lent without conditions."""
        return not self.lending.restricted or (self.withheld_from(asker) is None and not self.full_for(asker))

    @property
    def ejected(self) -> bool:
        """Out of rotation after too many failed requests, and no trial is due."""
        return not (self._breaker.closed or self._breaker.trial_due)

    @property
    def seconds_to_trial(self) -> float | None:
        """How long until an ejected server may be tried again; None for any other."""
        return self._breaker.seconds_to_trial

    @property
    def offers_model(self) -> bool:
        """Healthy, and not known to lack the model."""
        return self.health_status == HEALTHY and not self.model_missing

    @property
    def in_rotation(self) -> bool:
        """Healthy and willing; it may still be ejected or full."""
        return self.offers_model and not (self.draining or self.loading)

    @property
    def available(self) -> bool:
        """May it take a request now."""
        return self.in_rotation and not self.full and not self.ejected

    @property
    def preferred(self) -> bool:
        """Whether nothing says that another one would be a better choice for the moment."""
        skipped_until = self.skipped_until
        return not skipped_until or skipped_until <= self._clock.monotonic()

    @property
    def skipped_until(self) -> float:
        """When a busy answer or a refused connection is forgotten; a server that is the only one is not skipped."""
        return max(self._busy_until, self._avoided_until)

    @property
    def may_be_last_resort(self) -> bool:
        """Ejected or unhealthy, but not told to stay out: better to try it than to refuse. It may be full."""
        if self.draining or self.loading or self.model_missing:
            return False
        return self.health_status == UNHEALTHY or (self.health_status == HEALTHY and not self._breaker.closed)

    def closed_for(self, asker: Asker) -> Withheld | None:
        """As `withheld_from`; owners hear as well why nobody else may use it now."""
        return self.withheld_from(asker) or self.lending.closed

    @property
    def availability(self) -> str:
        """As `availability_for` those who are neither owner nor friend."""
        return self.availability_for(ANYBODY)

    def availability_for(self, asker: Asker) -> str:
        """May it take a request of the asker now: one word, for people."""
        if self.draining:
            return "draining"
        if self.loading:
            return "loading"
        if self.health_status != HEALTHY:
            return self.health_status
        if self.model_missing:
            return "unhealthy"
        if not self._breaker.closed:
            return "ejected"
        closed = self.closed_for(asker)
        if closed is not None:
            return closed.word
        says_so = self._busy_until > self._clock.monotonic()
        return self._busy_word if says_so else "busy" if self.full_for(asker) else "available"

    @property
    def consecutive_failures(self) -> int:
        """The larger of the two counts: probes and requests."""
        return max(self.probe_failures, self._breaker.failures)

    @property
    def unhealthy_seconds(self) -> float:
        """How long the verdict has been unhealthy, restarts included; 0 for any other. Clock jumps do not count."""
        return self._clock.monotonic() - self._unhealthy_since_seconds if self.health_status == UNHEALTHY else 0.0

    # -- requests ------------------------------------------------------------------------------------------------------

    def attempt(self, on_end: Callable[[Server], None], asker: Asker = ANYBODY) -> Attempt:
        """Count one request in, now; `Attempt.end()` counts it out and then calls `on_end`."""
        moment = self._next_moment()
        self.in_flight += 1
        by_owner = self.lending.is_owner(asker)
        self.owners_in_flight += by_owner
        return Attempt(self, moment, on_end, by_owner, while_ejected=self._breaker.begin(moment))

    def note_content(self, began: int) -> bool:
        """The answer of the attempt of the moment `began` has begun; True when that ends an ejection."""
        return began >= self._forgotten_moment and self._breaker.content_came(began)

    def note_end(self, began: int, blame: Blame, reason: str) -> bool:
        """The attempt of the moment `began` is over; True when this ejects the server."""
        self.in_flight -= 1
        if began < self._forgotten_moment:
            return False  # It went to another address: what it found says nothing about this one.
        ejected = False
        if blame is Blame.SUCCESS:
            self._note_success(began)
        elif blame is Blame.FAILURE:
            ejected = self._note_failure(began, reason)
        self._breaker.end(began)
        return ejected

    def _note_success(self, began: int) -> None:
        self._last_success_unix = self._clock.unix_seconds()
        if self.health_status == UNHEALTHY:
            # It works although its probes fail: find out soon, however rarely it is probed by now.
            self.next_probe_seconds = min(self.next_probe_seconds, self.usual_probe_seconds)
        if not self._breaker.succeeded(began):
            return
        if began > self._skipped_moment:
            self._avoided_until = self._busy_until = 0.0
        if self.reason is None:
            return
        if self.health_status == HEALTHY and not (self.probe_failures or self.model_missing) and self.preferred:
            self.reason = None

    def _note_failure(self, began: int, reason: str) -> bool:
        self.reason = reason
        self.last_failed_seconds = self._clock.monotonic()
        return self._breaker.failed(began, self._next_moment())

    def note_connect_failure(self) -> None:
        """No connection: let the next picks prefer others for a moment."""
        self._avoided_until = self._clock.monotonic() + CONNECT_FAILURE_AVOIDED_SECONDS
        self._skipped_moment = self._next_moment()

    def note_busy(self, seconds: float, reason: str, *, loading: bool = False) -> None:
        """It said that it is busy, or `loading` its model; prefer others for `seconds`."""
        self._busy_until, self._busy_word = self._clock.monotonic() + seconds, "loading" if loading else "busy"
        self._skipped_moment = self._next_moment()
        self.reason = reason

    def note_reason(self, reason: str) -> None:
        """Tell the owner something that does not count against the server."""
        self.reason = reason

    def note_model_missing(self) -> None:
        """It says that it does not know the model: out of rotation until the next good probe."""
        self.model_missing = True
        self.reason = "the server answers that it does not know this model; is `served_model_name` right?"

    # -- probes --------------------------------------------------------------------------------------------------------

    def note_good_probe(self, model_names: Collection[str] | None = None) -> bool:
        """The probe was good, and showed these models; True when the verdict changed. Ends an ejection's wait only."""
        was_missing = self.model_missing
        was_in_doubt = self.health_status != HEALTHY or self.loading
        self.probe_failures = 0
        self._probe_successes += 1
        self.loading = False
        self.model_missing = self._dropped_model(model_names)
        self._breaker.good_probe()
        # Recovering takes `successes_to_recover`; a server that never failed a probe has nothing to recover from.
        if self.health_status == UNHEALTHY and self._probe_successes < self._settings.successes_to_recover:
            return False
        self.health_status = HEALTHY
        self.unhealthy_since = None
        if self.model_missing:
            self.reason = "the server does not list this model any more; is it still there?"
        elif self._breaker.failures == 0 and self.preferred:
            self.reason = None
        return was_in_doubt or self.model_missing != was_missing

    def _dropped_model(self, model_names: Collection[str] | None) -> bool:
        """Whether the model was in the server's list and is not any more.

        One that was never there says nothing: many servers list file names, and serve whatever they are asked for.
        """
        if model_names is None:
            return False
        listed = (self.registration.served_model_name or self.registration.model_name) in model_names
        self._has_listed_model = self._has_listed_model or listed
        return self._has_listed_model and not listed

    def note_failed_probe(self, reason: str) -> bool:
        """The probe failed; True when the verdict changed. Before the first good probe, one failure is enough."""
        self.probe_failures += 1
        self._probe_successes = 0
        self.loading = False
        self.reason = reason
        self.last_failed_seconds = self._clock.monotonic()
        enough = self.health_status == UNKNOWN or self.probe_failures >= self._settings.max_failures
        if not enough or self.health_status == UNHEALTHY:
            return False
        self.health_status = UNHEALTHY
        self._date_unhealthy()
        return True

    def _date_unhealthy(self) -> None:
        self._unhealthy_since_seconds = self._clock.monotonic()
        if self.unhealthy_since is None:
            self.unhealthy_since = self._clock.utc_iso()
        else:  # A restart does not make it younger.
            self._unhealthy_since_seconds -= max(self._clock.unix_seconds() - unix_from_iso(self.unhealthy_since), 0.0)

    def note_alive(self) -> None:
        """It did not answer the probe, but bytes of a request flowed meanwhile: a healthy server stays healthy."""
        if self.health_status == HEALTHY:
            self.probe_failures = 0

    def note_loading(self) -> bool:
        """It answers that it is still loading its model; True when that is news."""
        was_loading, self.loading = self.loading, True
        self.reason = "the server is loading its model"
        return not was_loading
