"""The proxy: admits requests to be forwarded, knows which are under way, and can end them.

The way of one of them, and what it is handed on to, is in forwarding.py.
"""

from __future__ import annotations

from multiverse.clock import Clock
from multiverse.errors import InvalidAPIKey, ShuttingDown
from multiverse.people.allowances import Allowances
from multiverse.people.usage import Usage
from multiverse.proxy.asking import ForwardSettings
from multiverse.proxy.call import Call, Reply
from multiverse.proxy.forwarding import Forwarding
from multiverse.proxy.queue import Queue
from multiverse.proxy.stories import OnEnd
from multiverse.transport.http import StreamingHTTPClient


class Proxy:
    """Forwards requests to servers. `under_way` are those that have not ended; `on_end` hears of each that has."""

    def __init__(
        self,
        *,
        queue: Queue,
        transport: StreamingHTTPClient,
        usage: Usage,
        allowances: Allowances,
        clock: Clock,
        settings: ForwardSettings,
        on_end: OnEnd,
    ) -> None:
        self.queue = queue
        self.transport = transport
        self.usage = usage
        self.allowances = allowances
        self.clock = clock
        self.settings = settings
        self.on_end = on_end
        self.under_way: set[Forwarding] = set()

    def begin(self, call: Call, reply: Reply) -> Forwarding:
        """Admit `call`: it is under way from now on, also before its task begins. `Forwarding.run()` must follow."""
        forwarding = Forwarding(self, call, reply)
        self.under_way.add(forwarding)
        return forwarding

    def end_all(self, error: type[ShuttingDown | InvalidAPIKey], *, of_key: str | None = None) -> None:
        """End what is still under way, everybody's or one key's: streams with an event, the others with a status."""
        for forwarding in list(self.under_way):
            if of_key in (None, forwarding.key_id):
                forwarding.end_early(error())
