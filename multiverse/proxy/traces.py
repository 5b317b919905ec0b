"""Which trace a request belongs to: W3C Trace Context, read strictly and written anew.

Source: W3C Recommendation "Trace Context" (level 2). Only `traceparent` is passed on: `tracestate` may hold what its
sender's vendors think of it, which is no business of a student's laptop, and may be left out (§3.3).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

# Of a version we do not know, what follows its fields is ignored (§4.1); version ff is forbidden.
TRACEPARENT = re.compile(
    r"(?!ff)(?:00-(?=.{52}\Z)|(?!00)[0-9a-f]{2}-)([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16
SAMPLED, RANDOM = 0x01, 0x02


@dataclass(frozen=True, slots=True)
class Trace:
    """Ids in lower-case hexadecimal. `parent_id` is the caller's span, None when the trace begins here."""

    trace_id: str
    span_id: str
    parent_id: str | None
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether somebody records it."""
        return bool(self.flags & SAMPLED)

    def header(self, span_id: str) -> str:
        """`traceparent` for whoever is asked on behalf of `span_id`."""
        return f"00-{self.trace_id}-{span_id}-{self.flags:02x}"


def continue_trace(traceparent: str | None) -> Trace | None:
    """The caller's trace with a span of ours in it; None when there is none, or it is not one."""
    found = TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if found is None or found[1] == NO_TRACE or found[2] == NO_SPAN:
        return None
    return Trace(found[1], new_span_id(), found[2], int(found[3], 16) & (SAMPLED | RANDOM))


def begin_trace(*, sampled: bool) -> Trace:
    """A trace that begins here."""
    return Trace(secrets.token_hex(16), new_span_id(), None, RANDOM | (SAMPLED if sampled else 0))


def new_span_id() -> str:
    """At random; that it is the one that means none is as likely as guessing a key of 64 bits."""
    return secrets.token_hex(8)
