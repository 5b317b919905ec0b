"""Paths that clients make of a wrong base URL, and the route that they most likely meant.

`/v1` left out, written twice or with slashes too many, a whole route in the place of the base URL, the paths of Ollama
and Azure: nothing of that is served, but the 404 says what to change.
"""

from __future__ import annotations

import re

from multiverse.errors import NotFound

KNOWN_ENDS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/models")
OLLAMA = {
    "/api/chat": "/v1/chat/completions",
    "/api/generate": "/v1/completions",
    "/api/embed": "/v1/embeddings",
    "/api/embeddings": "/v1/embeddings",
    **dict.fromkeys(("/api/tags", "/api/ps", "/api/show", "/api/version"), "/v1/models"),
}
SLASHES = re.compile(r"/{2,}")
# No server has such a route, and one of them (LM Studio) answers it with 200 all the same.
DOUBLED = re.compile(r"/v1/v1/.*|.*(/chat/completions|/completions|/embeddings|/responses|/messages)\1")


def is_doubled(path: str) -> bool:
    """Whether a path below `/v1` is what a base URL makes that ends in a whole route, or a client that adds `/v1`."""
    return DOUBLED.fullmatch(path) is not None


def meant_route(path: str) -> str | None:
    """The route that `path` was probably meant for; None where nobody can tell, or where it is that route."""
    plain = SLASHES.sub("/", path).rstrip("/").lower()
    if plain == "/v1":
        return "/v1/models"
    ending = next((ending for ending in KNOWN_ENDS if plain.endswith(ending)), None)
    meant = OLLAMA.get(plain) or (f"/v1{ending}" if ending else None)
    return None if meant == path else meant


def no_such_route(path: str) -> NotFound:
    """The error for a path that leads nowhere."""
    meant = meant_route(path)
    if meant is None:
        return NotFound("There is no such route. GET / tells where the API is; GET /docs describes it.")
    return NotFound(
        f"There is no such route. Did you mean {meant}? The base URL of a client is this gateway's address with /v1 "
        "behind it, once and with nothing after it."
    )
