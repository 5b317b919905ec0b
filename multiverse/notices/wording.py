"""News in words for people. Neither an address nor a key leaves the gateway in them, whatever owners wrote into names.

In doubt more is taken out, never less.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from multiverse.notices.news import News
from multiverse.redaction import Redactor, escape_controls
from multiverse.servers.identity import Registration

TEXT_MAX_LENGTH = 1500  # Discord takes 2 000 characters.
NAME_MAX_LENGTH = 120
REMOVED = "[removed]"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\d)")
_IPV6 = re.compile(r"\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?\]?(?::\d+)?")
# Tags of models (`qwen2.5:7b`) are no ports; other names than the server's own cannot be told from file names.
_HOST_AND_PORT = re.compile(r"(?<![\w.-])(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+:\d{2,5}(?!\w)")


@dataclass(frozen=True, slots=True)
class Notice:
    """One message: a subject of one line, and a text of one paragraph."""

    subject: str
    text: str


def notice_of(news: News, utc_iso: str) -> Notice:
    """What is told, at the moment `utc_iso`."""
    registration = news.server.registration
    model = _clean(registration.model_name, registration)[:NAME_MAX_LENGTH]
    owner = _clean(registration.owner_name or "", registration)[:NAME_MAX_LENGTH]
    server = f"{model} ({owner}'s server)" if owner else model
    moment = f"{utc_iso[:10]} {utc_iso[11:16]} UTC"
    if not news.down:
        text = f"{server} answers again, after {spoken(news.seconds)}. ({moment})"
        return Notice(f"{model} is back", text)
    reason = _clean(news.server.reason or "it does not answer", registration)
    reason += "" if reason.endswith((".", "?", "!")) else "."
    text = (
        f"{server} has been unhealthy for {spoken(news.seconds)}: {reason} No request goes there until it answers its "
        f"probes again; it stays registered, so that there is nothing to do here once it runs. ({moment})"
    )
    return Notice(f"{model} does not answer", text[:TEXT_MAX_LENGTH])


def spoken(seconds: float) -> str:
    """A duration as people say it, rounded down."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}" + ("s" if count != 1 else "")
    return "less than a minute"


def _clean(text: str, registration: Registration) -> str:
    """`text` in one line, without addresses (this server's or any other) and keys (likewise)."""
    endpoint = registration.endpoint
    for own in (endpoint.url, endpoint.authority, endpoint.host):
        # A host called `qwen2` does not make a secret of the model `qwen2.5:7b`.
        bare = re.escape(own) if "." in own or ":" in own else rf"(?<![\w.-]){re.escape(own)}(?![.-]?\w)"
        text = re.sub(bare, REMOVED, text, flags=re.IGNORECASE)
    for pattern in (_URL, _IPV4, _HOST_AND_PORT):
        text = pattern.sub(REMOVED, text)
    text = _IPV6.sub(_without_ipv6, text)
    text = Redactor([registration.api_key or ""]).redact(text)
    return escape_controls(text).strip()


def _without_ipv6(found: re.Match[str]) -> str:
    """Two colons do not make an address: times of day have them too."""
    try:
        ipaddress.IPv6Address(found[0].rpartition("]")[0].strip("[").partition("%")[0] or found[0].partition("%")[0])
    except ValueError:
        return found[0]
    return REMOVED
