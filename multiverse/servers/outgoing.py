"""The headers of every request to a server, built from nothing: an allow-list, never a copy of the client's.

What a client sent (its key, cookies, origin) has no business on a student's laptop, and a server's own key goes to that
server only. The list is also in docs/api.md, "Which bytes".
"""

from __future__ import annotations

from functools import lru_cache

from multiverse import __version__
from multiverse.servers.identity import Registration

USER_AGENT = f"multiverse/{__version__}"


def request_headers(
    registration: Registration, *, via: str, accept: str = "application/json", content_type: str | None = None
) -> tuple[tuple[str, str], ...]:
    """The headers that requests to the server of `registration` have in common; the transport adds those about length
    and host, whoever forwards the id of a request.
    """
    return _headers(registration.api_key, via, accept, content_type)


@lru_cache(4096)  # for as many keys of servers
def _headers(api_key: str | None, via: str, accept: str, content_type: str | None) -> tuple[tuple[str, str], ...]:
    headers = [
        ("User-Agent", USER_AGENT),
        ("Accept", accept),
        ("Accept-Encoding", "identity"),
        ("Via", via),
        ("ngrok-skip-browser-warning", "1"),
    ]
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    if api_key is not None:
        headers.append(("Authorization", f"Bearer {api_key}"))
    return tuple(headers)
