"""How the transport's tests ask: requests to a peer, and what came of them.

Answers are written with tests/wire.py and played by tests/peers.py; every request here is a POST, so that it meets the
peer's inference script.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, cast

from multiverse.transport.addresses import parse_endpoint
from multiverse.transport.http import Exchange, StreamingHTTPClient
from multiverse.transport.messages import RequestForm, ServerRequest, ServerResponse
from tests.peers import ScriptedPeer

OF_ONE_REQUEST = ("own_items", "body", "response_callback", "streaming_callback")


def request_to(peer: ScriptedPeer | str, target: str = "/v1/x", **settings: Any) -> ServerRequest:
    """A request to a peer or URL; a POST with a small body unless `settings` say otherwise."""
    url = peer if isinstance(peer, str) else peer.url
    settings.setdefault("method", "POST")
    if settings["method"] == "POST":
        settings.setdefault("body", b"{}")
    own = {name: settings.pop(name) for name in OF_ONE_REQUEST if name in settings}
    return ServerRequest(RequestForm(parse_endpoint(url), target, **settings), **own)


def begin(client: StreamingHTTPClient, peer: ScriptedPeer | str, **settings: Any) -> Exchange:
    """Send a request; the exchange is under way."""
    return cast(Exchange, client.fetch(request_to(peer, **settings)))


async def ask(client: StreamingHTTPClient, peer: ScriptedPeer | str, **settings: Any) -> ServerResponse:
    """Send a request and wait for its whole answer."""
    return cast(ServerResponse, await begin(client, peer, **settings))


def open_sockets() -> int:
    """How many sockets this process has open, the peers' included."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    return count
