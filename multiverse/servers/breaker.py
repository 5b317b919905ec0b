"""When failed requests take a server out of rotation, for how long, and how it comes back: one trial's first content.

Knows only requests; probes and the verdict live in server.py. Attempts are ordered by `moment`, a number that grows
with everything that happens to a server: clocks are too coarse to tell what had begun before an ejection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from multiverse.clock import Clock

DOUBLINGS = 30


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


class Breaker:
    """The requests of one server: how many failed in a row, and what followed from that."""

    __slots__ = ("_clock", "_ejected_moment", "_ejections", "_settings", "_trial_moment", "_until", "failures")

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.failures = 0
        self._ejections = 0  # Since the last success.
        self._ejected_moment = 0
        self._until: float | None = None
        self._trial_moment: int | None = None

    @property
    def closed(self) -> bool:
        """No ejection in force."""
        return self._until is None

    @property
    def trial_due(self) -> bool:
        """The ejection's time is over: exactly one request may find out whether the server works again."""
        until = self._until
        return until is not None and self._trial_moment is None and self._clock.monotonic() >= until

    @property
    def seconds_to_trial(self) -> float | None:
        """How long until a trial is due; None when no ejection is in force, or its trial is under way."""
        if self._until is None or self._trial_moment is not None:
            return None
        return max(self._until - self._clock.monotonic(), 0.0)

    def begin(self, moment: int) -> bool:
        """An attempt begins, and is the trial if one is due; True when the server is ejected: it may find out more."""
        if self._until is None:
            return False
        if self.trial_due:
            self._trial_moment = moment
        return True

    def end(self, began: int) -> None:
        """The attempt that began at `began` is over, whatever it found."""
        if self._trial_moment == began:
            self._trial_moment = None

    def content_came(self, began: int) -> bool:
        """The attempt that began at `began` gets its answer; True when that ends an ejection.

        As a good probe, it ends the wait and not the count: should the answer break off, the server is out for longer.
        """
        if self._until is None or self._is_old(began):
            return False
        self._until = self._trial_moment = None
        return True

    def succeeded(self, began: int) -> bool:
        """A request was answered well; False when it says nothing, since it was under way before the ejection."""
        if self._is_old(began):
            return False
        self.failures = self._ejections = 0
        self._until = self._trial_moment = None
        return True

    def failed(self, began: int, moment: int) -> bool:
        """A request failed; True when this ejects the server."""
        self.failures += 1
        if self.failures < self._settings.max_failures:
            return False
        now = self._clock.monotonic()
        if self._is_old(began) or (self._until is not None and now < self._until):
            return False  # Failures that were under way when it was ejected must not double the wait.
        seconds = self._settings.eject_seconds * 2.0 ** min(self._ejections, DOUBLINGS)
        self._until = now + min(seconds, self._settings.eject_max_seconds)
        self._ejections += 1
        self._ejected_moment = moment
        self._trial_moment = None
        return True

    def good_probe(self) -> None:
        """A good probe ends the wait, not the count: one more failure ejects again, and for longer."""
        if self._trial_moment is None:
            self._until = None

    def _is_old(self, began: int) -> bool:
        return self._ejections > 0 and began < self._ejected_moment
