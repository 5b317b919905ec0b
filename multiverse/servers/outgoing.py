"""The headers of every request to a server, built from nothing: an allow-list, never a copy of the client's.

What a client sent (its key, cookies, origin) has no business on a student's laptop, and a server's own key goes to that
server only. Contract §3, "Headers to a server".
"""

from __future__ import annotations

from multiverse import __version__
from multiverse.servers.server import Registration

USER_AGENT = f"multiverse/{__version__}"


def request_headers(
    registration: Registration,
    *,
    via: str,
    request_id: str | None = None,
    accept: str = "application/json",
    content_type: str | None = None,
) -> list[tuple[str, str]]:
    """Headers for one request to the server of `registration`; `Host` and `Content-Length` come from the transport."""
    headers = [
        ("User-Agent", USER_AGENT),
        ("Accept", accept),
        ("Accept-Encoding", "identity"),
        ("Via", via),
        ("ngrok-skip-browser-warning", "1"),
    ]
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    if request_id is not None:
        headers.append(("X-Request-ID", request_id))
    if registration.api_key is not None:
        headers.append(("Authorization", f"Bearer {registration.api_key}"))
    return headers
