"""What a caller may use: requests a minute, tokens a day, requests at once; a key's own limits, else those of its role.

Decided in memory, in one turn of the loop each: exact however many ask at once. A request's tokens are known when it
ends, so the one that crosses the day's limit is still answered. Who is limited under which name, web/ says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from multiverse.clock import Clock
from multiverse.errors import RateLimitExceeded
from multiverse.people.keys import Caller
from multiverse.people.limits import FORGET_ABOVE, RateLimit

SECONDS_OF_A_DAY = 86400
SECONDS_OF_A_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Limit:
    """What somebody may use; None = as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    requests_at_once: int | None = None


NO_LIMIT = Limit()


class Allowances:
    """Everybody's use of what is limited. Counts of the day begin anew at midnight UTC."""

    def __init__(self, *, by_role: Mapping[str, Limit], clock: Clock) -> None:
        self._by_role = dict(by_role)
        self._clock = clock
        self._rates: dict[int, RateLimit] = {}
        self._at_once: dict[str, int] = {}
        self._day = 0
        self._tokens: dict[str, int] = {}

    def of(self, caller: Caller, name: str) -> Allowance | None:
        """The allowance of `caller`, counted under `name`; None when nothing limits it."""
        limit = self.limit_of(caller)
        return None if limit is NO_LIMIT else Allowance(self, limit, name)

    def limit_of(self, caller: Caller) -> Limit:
        """What `caller` may use: the key's own limits, where it has none those of its role."""
        limit = self._by_role.get(caller.role, NO_LIMIT)
        if caller.has_own_limits:
            limit = Limit(
                caller.requests_per_minute or limit.requests_per_minute,
                caller.tokens_per_day or limit.tokens_per_day,
                caller.requests_at_once or limit.requests_at_once,
            )
        return limit

    def restore(self, tokens_of_today: Mapping[str, int]) -> None:
        """After a start: what was used today before it, by name."""
        self._turn_day()
        self._tokens.update(tokens_of_today)

    def spend(self, name: str, tokens: int) -> None:
        """Tokens were used under `name`, whether they are limited now or not: they may be later today."""
        if not tokens:
            return
        self._turn_day()
        self._tokens[name] = self._tokens.get(name, 0) + tokens
        if len(self._tokens) > FORGET_ABOVE:
            del self._tokens[next(iter(self._tokens))]

    def tokens_used(self, name: str) -> int:
        """Today's tokens of `name`."""
        self._turn_day()
        return self._tokens.get(name, 0)

    @property
    def seconds_to_midnight(self) -> float:
        """When the counts of the day begin anew."""
        return SECONDS_OF_A_DAY - self._clock.unix_seconds() % SECONDS_OF_A_DAY

    def _turn_day(self) -> None:
        day = int(self._clock.unix_seconds() // SECONDS_OF_A_DAY)
        if day != self._day:
            self._day = day
            self._tokens.clear()

    def rate(self, requests_per_minute: int) -> RateLimit:
        """The counter of all who may make so many requests a minute."""
        rate = self._rates.get(requests_per_minute)
        if rate is None:
            rate = RateLimit(limit=requests_per_minute, period_seconds=SECONDS_OF_A_MINUTE, clock=self._clock)
            self._rates[requests_per_minute] = rate
        return rate

    def enter(self, name: str, limit: int | None) -> bool:
        """One more request of `name` is under way, unless there are `limit` already; `leave` must follow."""
        if limit is not None and self.is_full(name, limit):
            return False
        self._at_once[name] = self._at_once.get(name, 0) + 1
        return True

    def is_full(self, name: str, limit: int) -> bool:
        """Whether `name` has `limit` requests under way."""
        return self._at_once.get(name, 0) >= limit

    def leave(self, name: str) -> None:
        """A request of `name` has ended."""
        under_way = self._at_once[name] - 1
        if under_way:
            self._at_once[name] = under_way
        else:
            del self._at_once[name]


class Allowance:
    """The allowance of one request's caller."""

    __slots__ = ("_all", "_inside", "_limit", "_name")

    def __init__(self, allowances: Allowances, limit: Limit, name: str) -> None:
        self._all = allowances
        self._limit = limit
        self._name = name
        self._inside = False

    def count(self) -> None:
        """Count one request. Raises RateLimitExceeded, and then it was not counted."""
        limit = self._limit
        if limit.tokens_per_day is not None and self._all.tokens_used(self._name) >= limit.tokens_per_day:
            seconds = self._all.seconds_to_midnight
            raise RateLimitExceeded(
                f"Your limit of {limit.tokens_per_day} tokens a day is used up. It begins anew at midnight UTC, in "
                f"{as_duration(seconds)}.",
                retry_after_seconds=seconds,
            )
        if limit.requests_at_once is not None and self._all.is_full(self._name, limit.requests_at_once):
            raise self._too_many()  # Now, so that it does not cost one of the minute's requests as well.
        if limit.requests_per_minute is None:
            return
        wait_seconds = self._all.rate(limit.requests_per_minute).allow(self._name)
        if wait_seconds is not None:
            raise RateLimitExceeded(
                "Your limit of requests per minute is reached. Wait as long as `Retry-After` says.",
                retry_after_seconds=wait_seconds,
            )

    def enter(self) -> None:
        """The request begins. Raises RateLimitExceeded when too many of the caller's are under way."""
        if not self._all.enter(self._name, self._limit.requests_at_once):
            raise self._too_many()
        self._inside = True

    def _too_many(self) -> RateLimitExceeded:
        return RateLimitExceeded(
            f"You have {self._limit.requests_at_once} requests under way, and may not have more at once. Wait for "
            "one to end.",
            retry_after_seconds=1,
        )

    def leave(self) -> None:
        """The request has ended, if it began."""
        if self._inside:
            self._inside = False
            self._all.leave(self._name)

    def headers(self) -> dict[str, str]:
        """OpenAI's headers (API reference, "Rate limits"): what is left, and when all of it will be there again."""
        headers: dict[str, str] = {}
        per_minute, per_day = self._limit.requests_per_minute, self._limit.tokens_per_day
        if per_minute is not None:
            remaining, seconds = self._all.rate(per_minute).state(self._name)
            headers["x-ratelimit-limit-requests"] = str(per_minute)
            headers["x-ratelimit-remaining-requests"] = str(remaining)
            headers["x-ratelimit-reset-requests"] = as_duration(seconds)
        if per_day is not None:
            headers["x-ratelimit-limit-tokens"] = str(per_day)
            headers["x-ratelimit-remaining-tokens"] = str(max(per_day - self._all.tokens_used(self._name), 0))
            headers["x-ratelimit-reset-tokens"] = as_duration(self._all.seconds_to_midnight)
        return headers


def as_duration(seconds: float) -> str:
    """A time as OpenAI writes it: `120ms`, `7s`, `1m30s`, `5h0m12s`; never shorter than it is."""
    milliseconds = math.ceil(seconds * 1000 - 0.0005)  # What is half a microsecond too long comes from the arithmetic.
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + f"{rest}s"
