"""How the terms of one server stand now: who may use it, and why others may not. Its owner always may.

Judged when terms change, each minute, and when tokens are counted (terms_watch.py); a request looks at what was judged.
Decides in sync code only, without I/O. What the words of the terms mean is terms.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from multiverse.clock import Clock
from multiverse.servers.identity import CLASS, FRIENDS, ME, Registration
from multiverse.servers.terms import MINUTES_OF_A_DAY, QuietHours, as_time, day_began_at, local_time, zone_or_utc

PAUSED, QUIET, CAPPED, NOT_OFFERED, RESERVED = "paused", "quiet", "capped", "not_offered", "reserved"


class Asker(NamedTuple):
    """Whose request it is: a key's id, or an address for those without one; how much it counts in a queue, and which
    models the key may ask, None for all.
    """

    name: str = ""
    weight: int = 1
    is_admin: bool = False
    models: frozenset[str] | None = None

    def may_ask(self, name: str, model_name: str) -> bool:
        """Whether the key may ask for this model by `name`, which stands for it or is its own."""
        return self.models is None or not self.models.isdisjoint((name, model_name))


ANYBODY = Asker()


@dataclass(frozen=True, slots=True)
class Withheld:
    """Why a server takes no request of somebody: a word for programs, a sentence for people. `for_now`: it may later,
    perhaps in `seconds`.
    """

    word: str
    reason: str
    for_now: bool = True
    seconds: float | None = None


FOR_ITS_OWNER = Withheld(NOT_OFFERED, "its owner offers it to nobody else", for_now=False)
FOR_FRIENDS = Withheld(NOT_OFFERED, "its owner offers it to friends only", for_now=False)
ONLY_SLOT_RESERVED = Withheld(RESERVED, "its only slot is reserved for its owner", for_now=False)
PAUSED_BY_OWNER = Withheld(PAUSED, "its owner has paused it")


class Lending:
    """The terms of one registration, judged. While `restricted` is false, anybody may use every slot."""

    __slots__ = (
        "_clock",
        "_counts",
        "_friends",
        "_offered_to",
        "_owner_key_id",
        "_quiet_hours",
        "_registration",
        "_zone",
        "closed",
        "day_began_at",
        "reserves",
        "restricted",
        "tokens_today",
        "uncounted",
    )

    def __init__(self, registration: Registration, clock: Clock) -> None:
        self._clock = clock
        self.tokens_today = 0
        self.day_began_at = ""
        self._counts = 0
        self.restricted = False
        self.closed: Withheld | None = None
        self.change(registration)

    def change(self, registration: Registration) -> None:
        """The terms are these now."""
        self._registration = registration
        self._owner_key_id = registration.owner_key_id
        self._offered_to = registration.offered_to
        self._friends = frozenset(registration.friends) if registration.offered_to == FRIENDS else frozenset()
        self._zone = zone_or_utc(registration.time_zone)
        try:
            self._quiet_hours = QuietHours.parse(registration.quiet_hours) if registration.quiet_hours else QuietHours()
        except ValueError:  # Only a row that was changed by hand can be so.
            self._quiet_hours = QuietHours()
        self.reserves = registration.reserve_slot
        self.judge()

    # -- what a request asks -------------------------------------------------------------------------------------------

    def is_owner(self, asker: Asker) -> bool:
        """Whether the server is the asker's own; what an admin has registered is every admin's."""
        owner_key_id = self._owner_key_id
        return asker.is_admin if owner_key_id is None else asker.name == owner_key_id

    def withheld_from(self, asker: Asker, slots: int | None) -> Withheld | None:
        """Why a server of so many slots is closed to the asker, whichever are free; None when it is not."""
        if not self.restricted or self.is_owner(asker):
            return None
        if self._offered_to != CLASS and asker.name not in self._friends:
            return FOR_ITS_OWNER if self._offered_to == ME else FOR_FRIENDS
        return ONLY_SLOT_RESERVED if self.reserves and slots == 1 else self.closed

    # -- judging -------------------------------------------------------------------------------------------------------

    def judge(self) -> bool:
        """Look at the clock and the count; True when the server has opened or closed by that."""
        was_closed, now = self.closed, self._clock.unix_seconds()
        self._turn_day(now)
        self.closed = self._closed(now)
        self.restricted = self.closed is not None or self._offered_to != CLASS or self.reserves
        return (was_closed is None) != (self.closed is None)

    def _closed(self, now: float) -> Withheld | None:
        registration = self._registration
        if registration.paused:
            return PAUSED_BY_OWNER
        moment = local_time(now, self._zone)
        minute = moment.hour * 60 + moment.minute
        end = self._quiet_hours.end_of_quiet(minute)
        if end is not None:
            text = f"it is in its quiet hours until {as_time(end)} ({registration.time_zone})"
            return Withheld(QUIET, text, seconds=((end - minute) % MINUTES_OF_A_DAY) * 60.0 - moment.second)
        cap = registration.daily_token_cap
        if cap is not None and self.tokens_today >= cap:
            zone = registration.time_zone or "UTC"
            text = f"its {cap} tokens of today are used up until midnight ({zone})"
            return Withheld(CAPPED, text, seconds=(MINUTES_OF_A_DAY - minute) * 60.0 - moment.second)
        return None

    # -- tokens of the day ---------------------------------------------------------------------------------------------

    def _turn_day(self, now: float) -> None:
        began_at = day_began_at(now, self._zone)
        if began_at != self.day_began_at:
            self.day_began_at = began_at
            self.tokens_today = 0
            self.uncounted = True  # After a start, in another zone, or when the machine's clock was set.

    def begin_count(self) -> int:
        """Today's tokens are being counted in the store; those of requests that end meanwhile are added to them."""
        self.tokens_today = 0
        self.uncounted = False
        self._counts += 1
        return self._counts

    def add_counted(self, count: int, tokens: int) -> None:
        """The count that has this number found `tokens`; of no use if another was begun, or has to be."""
        if count == self._counts and not self.uncounted:
            self.tokens_today += tokens

    def spend(self, started_at: str, tokens: int) -> None:
        """A request that began at `started_at` (UTC, ISO 8601) has cost `tokens`; they count on the day it began."""
        if started_at >= self.day_began_at:
            self.tokens_today += tokens
            cap = self._registration.daily_token_cap
            if cap is not None and self.tokens_today >= cap:
                self.judge()
