"""One request's place on a server: counted in when it is made, and out exactly once, whatever comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from multiverse.servers.breaker import Blame

if TYPE_CHECKING:
    from multiverse.servers.server import Server


class Attempt:
    """See the module; `Server.attempt` makes it. `on_end` is called once it has been counted out. `while_ejected` says
    that it began on a server out of rotation: as its trial, or as the last resort.
    """

    __slots__ = ("_began", "_by_owner", "_on_end", "ended", "server", "while_ejected")

    def __init__(
        self, server: Server, began: int, on_end: Callable[[Server], None], by_owner: bool, *, while_ejected: bool
    ) -> None:
        self.server = server
        self.while_ejected = while_ejected
        self._by_owner = by_owner
        self.ended = False
        self._began = began
        self._on_end = on_end

    def content_came(self) -> bool:
        """Its answer has begun; True when the server is back in rotation for it. Of interest if `while_ejected`."""
        return not self.ended and self.server.note_content(self._began)

    def end(self, blame: Blame, reason: str = "") -> bool:
        """Count out, with what the attempt says about the server; True when this ejects the server."""
        if self.ended:
            return False
        self.ended = True
        server = self.server
        server.owners_in_flight -= self._by_owner
        ejected = server.note_end(self._began, blame, reason)
        self._on_end(server)
        return ejected
