"""Makes text fit for a log: secrets taken out, control characters escaped, length bounded. No logging in here.

Known secrets are replaced wherever they stand, in the spellings of URLs and JSON too; what merely looks like a secret
is found by patterns. In doubt more is taken out, never less. Every pattern takes time linear in the text.
Redact first, escape second: escaping could tear a secret apart.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
TEXT_MAX_LENGTH = 16_384
SCANNED_MAX_LENGTH = 4 * TEXT_MAX_LENGTH
CUT_EDGE_LENGTH = 4_096  # longer than any secret: what a cut at SCANNED_MAX_LENGTH may have torn apart
RUNTIME_SECRETS_MAX = 4_096
ANYWHERE_MIN_LENGTH = 8
SECRET_MIN_LENGTH = 4

# `name: value`, `name=value`, `"name": "value"` (quotes possibly escaped), `(b'name', b'value')`
_SEPARATOR = r"(?:(?:\\*[\"'])?[ \t]*[:=]|\\*[\"'][ \t]*,)[ \t]*"
_QUOTED = r"b?(?P<quote>\\*[\"'])(?:(?!(?P=quote))(?:\\.|[^\r\n]))*(?:(?P=quote))?"
_LISTED = r"[\[(][^\])\r\n]*[\])]?"
_PLAIN_WORD = r"(?!(?:true|false|null|none)\b)"  # `has_api_key=true` tells nothing
_NAMES = r"api[-_]?keys?|(?:access|auth|refresh|metrics)[-_]?token|password|passwd|secret|bearer"
_FLAGS = re.IGNORECASE | re.ASCII

# What a text must contain, in lower case, for the pattern to be worth running; the pattern; what takes its place.
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    # Userinfo of a URL, whatever its scheme (RFC 3986 §3.2.1).
    (("@",), re.compile(r"://[^\s/?#]*@"), f"://{REDACTED}@"),
    # A credentials header: its scheme and what follows (RFC 9110 §11.4); a cookie reaches to the end of the line.
    (
        ("authorization",),
        re.compile(rf"(authorization{_SEPARATOR})(?:{_QUOTED}|(?:[a-z][\w-]*[ \t]+)?\S+)", _FLAGS),
        rf"\1{REDACTED}",
    ),
    (("cookie",), re.compile(rf"(cookie{_SEPARATOR})(?:{_QUOTED}|[^\r\n]+)", _FLAGS), rf"\1{REDACTED}"),
    (
        ("api", "token", "passw", "secret", "bearer"),
        re.compile(rf"((?:{_NAMES}){_SEPARATOR}){_PLAIN_WORD}(?:{_QUOTED}|{_LISTED}|[^\s&]+)", _FLAGS),
        rf"\1{REDACTED}",
    ),
    (("bearer",), re.compile(r"(\bbearer(?:[ \t]|%20|\+)+)[^\s\"',;]+", _FLAGS), rf"\1{REDACTED}"),
    # Query parameters with names too common to look for elsewhere.
    (
        ("key=", "token=", "sig=", "signature="),
        re.compile(r"((?<![\w.-])(?:key|token|sig|signature)=)[^\s&\"'#]+", _FLAGS),
        rf"\1{REDACTED}",
    ),
    # Keys by their look: OpenAI's and those modelled on them, our own, Hugging Face's.
    (
        ("sk-", "mv-", "hf_"),
        re.compile(r"(?<![A-Za-z0-9])(?:(?:sk|mv)-[\w-]{6,}|hf_[A-Za-z0-9]{20,})", re.ASCII),
        REDACTED,
    ),
)

# No pattern finds anything in a text in lower case without one of these; most values of fields have none.
_SIGNS = (":", "=", "@", '"', "'", "bearer", "sk-", "mv-", "hf_")

_SECRET_FIELD = re.compile(
    r"api[-_]?keys?$|(?:^|[-_])(?:authorization|cookie|password|passwd|secret|token)$|^key$", _FLAGS
)

# C0, DEL and C1; what else ends a line or turns its direction; lone surrogates, which no encoding can write.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_controls(text: str) -> str:
    """`text` with every character that could end a line or steer a terminal written as `\\n`, `\\x1b`, `\\u2028`."""
    # None of them is printable: nearly every text is done with at one glance.
    return text if text.isprintable() else _CONTROLS.sub(_escaped, text)


def names_secret(name: str) -> bool:
    """Whether the value of a field with this name is a secret, whatever it holds."""
    return _SECRET_FIELD.search(name) is not None


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    number = ord(character)
    return _SHORT_ESCAPES.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


class Redactor:
    """Takes secrets out of text. Safe to use from several threads; the newest 4 096 run-time secrets are remembered."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._added: dict[str, None] = {}
        self._uses: Counter[str] = Counter()  # How many secrets may be spelled so.
        self._longest_first: list[str] = []
        self._patterns: dict[str, re.Pattern[str]] = {}  # Of the short ones.
        # Readers take no lock: they see the old ones or the new ones, each of them whole.
        self._anywhere: tuple[str, ...] = ()
        self._as_words: tuple[tuple[str, re.Pattern[str]], ...] = ()
        self._fixed = frozenset(secret for secret in secrets if secret)
        for secret in self._fixed:
            self._know(secret)

    def add(self, secret: str) -> None:
        """Redacts `secret` from now on.

        Below 8 characters it is found as a whole word only, below 4 not at all: the log would be unreadable. Quick also
        when thousands are known, as it is called on the event loop.
        """
        if not secret or secret in self._fixed:
            return
        with self._lock:
            known = secret in self._added
            self._added.pop(secret, None)
            self._added[secret] = None  # Newest now, if it was known before.
            if not known:
                self._know(secret)
            while len(self._added) > RUNTIME_SECRETS_MAX:
                oldest = next(iter(self._added))
                del self._added[oldest]
                self._forget(oldest)

    def _know(self, secret: str) -> None:
        spellings = _spellings(secret)
        new = [spelling for spelling in spellings if spelling not in self._uses]
        self._uses.update(spellings)
        for spelling in new:
            insort(self._longest_first, spelling, key=_by_length)
            if len(spelling) < ANYWHERE_MIN_LENGTH:
                self._patterns[spelling] = re.compile(rf"(?<![A-Za-z0-9]){re.escape(spelling)}(?![A-Za-z0-9])")
        self._show()

    def _forget(self, secret: str) -> None:
        spellings = _spellings(secret)
        self._uses.subtract(spellings)
        for spelling in spellings:
            if not self._uses[spelling]:
                del self._uses[spelling]
                del self._longest_first[bisect_left(self._longest_first, _by_length(spelling), key=_by_length)]
                self._patterns.pop(spelling, None)
        self._show()

    def _show(self) -> None:
        """Let readers see what has changed."""
        short_from = bisect_left(self._longest_first, (1 - ANYWHERE_MIN_LENGTH, ""), key=_by_length)
        self._anywhere = tuple(self._longest_first[:short_from])
        self._as_words = tuple((word, self._patterns[word]) for word in self._longest_first[short_from:])

    def redact(self, text: str) -> str:
        """`text` without secrets, at most 16 384 characters of it; the rest is named by its length."""
        if len(text) <= TEXT_MAX_LENGTH:
            return self._without_secrets(text)
        clean = self._without_secrets(text[:SCANNED_MAX_LENGTH])
        if len(text) > SCANNED_MAX_LENGTH:
            clean = clean[:-CUT_EDGE_LENGTH]
        return f"{clean[:TEXT_MAX_LENGTH]}… ({len(text)} characters)"

    def finds_nothing_in(self, texts: Sequence[str]) -> bool:
        """Whether `redact` would leave each of `texts` as it is; False in doubt, as when there is much to look at.

        One look tells of all of them, since nothing is looked for beyond the end of a line.
        """
        joined = "\n".join(texts)
        if len(joined) > TEXT_MAX_LENGTH and (
            len(joined) > SCANNED_MAX_LENGTH or max(map(len, texts)) > TEXT_MAX_LENGTH
        ):
            return False
        return self._without_secrets(joined) == joined

    def _without_secrets(self, text: str) -> str:
        for spelling in self._anywhere:
            if spelling in text:
                text = text.replace(spelling, REDACTED)
        for word, pattern in self._as_words:
            if word in text:
                text = pattern.sub(REDACTED, text)
        lowered = text.lower()
        for sign in _SIGNS:
            if sign in lowered:
                return _without_look_alikes(text, lowered)
        return text

    def redact_value(self, name: str, value: Any) -> Any:
        """`value` of the field `name`, cleaned through mappings and lists; whole if its name says that it is secret."""
        if isinstance(value, str | Mapping | list) and value and names_secret(name):
            return REDACTED
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact(key): self.redact_value(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.redact_value(name, inner) for inner in value]
        return value


def _without_look_alikes(text: str, lowered: str) -> str:
    for signs, pattern, replacement in _PATTERNS:
        for sign in signs:
            if sign in lowered:
                text = pattern.sub(replacement, text)
                break
    return text


def _by_length(spelling: str) -> tuple[int, str]:
    return -len(spelling), spelling


def _spellings(secret: str) -> set[str]:
    """How `secret` may stand in a text: as it is, in a URL or a form, in JSON or a repr; what is too short left out."""
    spellings = {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
    }
    return {spelling for spelling in spellings if len(spelling) >= SECRET_MIN_LENGTH}
