"""What a pretend server can be made to do, and how that looks. Words and numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

PRETEND_MODEL = "pretend/parrot"
PUPILS = ("Ada", "Ben", "Cem", "Dina", "Emil", "Fatma", "Gus", "Hana", "Ivo", "Jana", "Kofi", "Lin")


class Mood(StrEnum):
    """How a pretend server behaves."""

    WELL = "well"
    SLOW = "slow"
    BUSY = "busy"
    BROKEN = "broken"
    LYING = "lying"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long until the first word of an answer, and from each to the next."""

    first_word_seconds: float
    word_seconds: float


MEANINGS = MappingProxyType(
    {
        Mood.WELL: "It answers, a word every 30 ms.",
        Mood.SLOW: "It thinks for 4 s, and then says two words a second: nothing fails, everybody waits.",
        Mood.BUSY: "It says 429 and when to come back: others are asked, and it is not blamed.",
        Mood.BROKEN: "It breaks every connection, probes included, in the middle of a word if need be.",
        Mood.LYING: "Its probes look well, and every answer is a web page: only requests find out.",
    }
)
USUAL_PACE, SLOW_PACE = Pace(0.15, 0.03), Pace(4.0, 0.5)


def pace_of(mood: Mood) -> Pace:
    """How fast a server of this mood answers."""
    return SLOW_PACE if mood is Mood.SLOW else USUAL_PACE


def speech(name: str, prompt_words: int) -> list[str]:
    """An answer of `name`, word by word, with the spaces; it says first that it is made up."""
    text = (
        f"(pretend) I am {name}, a pretend server of this classroom, and no model has thought about this. You sent "
        f"{prompt_words} words. Make me slow, busy, broken or lying on the dashboard, and ask again."
    )
    return [f"{word} " for word in text.split()]
