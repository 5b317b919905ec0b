"""What one request has cost: its usage row, filled while it goes its way, and handed over at its end.

Everything here is in memory and in this turn of the loop. Where rows go is people/usage.py's business; how tokens are
read out of answers, meter.py's.
"""

from __future__ import annotations

from multiverse.clock import Clock
from multiverse.people.allowances import Allowances
from multiverse.people.usage import Usage, UsageRecord
from multiverse.proxy.call import Call
from multiverse.proxy.fairness import USUAL_TOKENS
from multiverse.proxy.meter import Meter
from multiverse.proxy.shares import Shares
from multiverse.servers.server import Server


class Account:
    """The row of one request; `meter` reads its tokens. `settle()` is called once, at its end."""

    __slots__ = ("_allowances", "_call", "_clock", "_has_content", "_server", "_shares", "_usage", "meter", "record")

    def __init__(self, call: Call, *, usage: Usage, allowances: Allowances, shares: Shares, clock: Clock) -> None:
        self._call = call
        self._usage = usage
        self._allowances = allowances
        self._shares = shares
        self._clock = clock
        self._server: Server | None = None
        self._has_content = False
        self.meter = Meter()
        self.record = UsageRecord(
            request_id=call.request_id,
            started_at=clock.utc_iso(),
            key_id=call.caller.key_id,
            key_name=call.caller.name,
            client_address=call.client_address,
            route=call.route,
            model_name=call.model_name,
            stream=call.stream,
        )

    def asked(self, server: Server) -> None:
        """`server` is asked next; whoever answers in the end is the one who gave."""
        self._server = server
        registration, record = server.registration, self.record
        record.registration_id, record.model_name = registration.registration_id, registration.model_name
        record.owner_key_id, record.owner_name = registration.owner_key_id, registration.owner_name

    def waited(self, entered_seconds: float) -> None:
        """The request was in the queue since `entered_seconds` (monotonic)."""
        self.record.queue_ms += self._milliseconds_since(entered_seconds)

    def committed(self, *, is_content: bool) -> None:
        """The first event goes out; when it is an error, nobody has worked."""
        self._has_content = is_content
        self.record.first_token_ms = self._milliseconds_since(self._call.started_seconds)

    def settle(self, attempts: int) -> None:
        """The request is over: hand its row over, and give up its place among its key's, whatever fails."""
        record, meter = self.record, self.meter
        try:
            if self._server is not None and self._has_content:
                meter.estimate(len(self._call.body), self._server.registration.context_length)
            record.attempts = attempts
            record.total_ms = self._milliseconds_since(self._call.started_seconds)
            record.prompt_tokens = meter.prompt_tokens
            record.completion_tokens = meter.completion_tokens
            record.tokens_estimated = meter.estimated
            tokens = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
            self._allowances.spend(self._call.asker, tokens)
            if self._server is not None and tokens:
                self._server.lending.spend(record.started_at, tokens)
            if attempts:
                # A server that reports nothing has worked all the same.
                self._shares.spend(self._call.asker, tokens or round(USUAL_TOKENS))
        finally:
            if self._call.allowance is not None:
                self._call.allowance.leave()
            self._usage.ended(record)

    def _milliseconds_since(self, moment: float) -> float:
        return round((self._clock.monotonic() - moment) * 10_000) / 10
