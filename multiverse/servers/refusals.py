"""What somebody is told from whom owners keep every server that could have answered: which of their terms, how often.

Words only: who is kept out, lending.py says. Owners are not named, nor are their servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multiverse.errors import GatewayError, ModelNotOffered, ServersWithheld
from multiverse.servers.lending import Withheld

LONG_SECONDS = 60.0


def in_words(withheld: Sequence[Withheld]) -> str:
    """The reasons, each once."""
    counts = Counter(reason.reason for reason in withheld)
    return "; ".join(text if count == 1 else f"{text} ({count} servers)" for text, count in counts.items())


def refusal_of(withheld: Sequence[Withheld]) -> GatewayError:
    """The error for these reasons, one of each server; at least one."""
    text = f"No server of this model is lent to you now: {in_words(withheld)}."
    if not any(reason.for_now for reason in withheld):
        return ModelNotOffered(f"{text} GET /v1/models lists the models you may use.", param="model")
    seconds = min(reason.seconds or LONG_SECONDS for reason in withheld if reason.for_now)
    return ServersWithheld(
        f"{text} Use another model meanwhile, or ask the owner.", retry_after_seconds=max(seconds, 1.0)
    )
