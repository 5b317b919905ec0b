"""The live table in memory: model → servers. Who can answer now is decided here, without I/O and without await.

A projection of the store: rebuilt from it at any time. `pick()` and `Server.attempt()` are called with no await between
them; that is the lock. Waiting for a free slot lives in proxy/queue.py, probing in health.py.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from multiverse.errors import GatewayError, ModelLoading, ModelNotFound, NoServerAvailable, Overloaded
from multiverse.servers.aliases import Alias
from multiverse.servers.lending import ANYBODY, Asker
from multiverse.servers.refusals import in_words, refusal_of
from multiverse.servers.server import HEALTHY, Server

MAX_NAMES_TO_COMPARE = 200


class Rotation:
    """The servers of one model, in the order of their registration, and where the round robin stands."""

    __slots__ = ("_next_position", "created_unix", "servers")

    def __init__(self, created_unix: float) -> None:
        self.servers: list[Server] = []
        self._next_position = 0
        self.created_unix = created_unix

    def add(self, server: Server) -> None:
        """Append: the places of the others do not move."""
        self.servers.append(server)

    def remove(self, server: Server) -> None:
        """Take out; the turn stays with whoever had it."""
        position = self.servers.index(server)
        del self.servers[position]
        if position < self._next_position:
            self._next_position -= 1

    def pick_in_turn(self, tried: Collection[Server], asker: Asker) -> Server | None:
        """The next that may take the asker's request; for want of others, one that had better be skipped for now."""
        second_choice: tuple[int, Server] | None = None
        servers, turn = self.servers, self._next_position
        for offset in range(len(servers)):
            position = (turn + offset) % len(servers)
            server = servers[position]
            if (server.lending.restricted and not server.admits(asker)) or not server.available or server in tried:
                continue
            if server.preferred:
                self._next_position = position + 1
                return server
            if second_choice is None or server.skipped_until < second_choice[1].skipped_until:
                second_choice = position, server
        if second_choice is None:
            return None
        self._next_position = second_choice[0] + 1
        return second_choice[1]

    def pick_least_busy(self, tried: Collection[Server], asker: Asker, chooser: random.Random) -> Server | None:
        """Any of those that may take the asker's request with the fewest requests for their slots."""
        candidates = [server for server in self.servers if server not in tried]
        candidates = [server for server in candidates if server.available and server.admits(asker)]
        candidates = [server for server in candidates if server.preferred] or candidates
        if not candidates:
            return None
        loads = [server.in_flight / (server.slots or 1) for server in candidates]
        lowest = min(loads)
        return chooser.choice([server for server, load in zip(candidates, loads, strict=True) if load == lowest])


class Registry:
    """All registered servers. `least_busy` picks by in-flight over slots instead of in turn."""

    def __init__(
        self, *, least_busy: bool = False, chooser: random.Random | None = None, aliases: Iterable[Alias] = ()
    ) -> None:
        self._rotations: dict[str, Rotation] = {}
        self._by_id: dict[str, Server] = {}
        self._least_busy = least_busy
        self._chooser = chooser or random.Random()
        self._aliases = aliases
        self._on_change: Callable[[str], None] = lambda model_name: None

    def watch(self, on_change: Callable[[str], None]) -> None:
        """Call `on_change(model_name)` whenever waiting for a server of that model may be over."""
        self._on_change = on_change

    def changed(self, server: Server) -> None:
        """Something about `server` changed: a waiting request may go through, or has nothing left to wait for."""
        self._on_change(server.registration.model_name)

    # -- who is registered ---------------------------------------------------------------------------------------------

    def add(self, server: Server, created_unix: float) -> None:
        """Make `server` known. `created_unix` dates its model, should it be the first to offer it."""
        self._by_id[server.registration_id] = server
        server.registered = True
        self._rotations.setdefault(server.registration.model_name, Rotation(created_unix)).add(server)
        self.changed(server)

    def remove(self, registration_id: str) -> Server | None:
        """No new request goes there from now on; those under way finish. None when the id is unknown."""
        server = self._by_id.pop(registration_id, None)
        if server is not None:
            server.registered = False
            self._leave(server, server.registration.model_name)
            self._on_change(server.registration.model_name)  # Nobody shall wait for a server that is gone.
        return server

    def _leave(self, server: Server, model_name: str) -> None:
        rotation = self._rotations[model_name]
        rotation.remove(server)
        if not rotation.servers:
            del self._rotations[model_name]

    def rename(self, server: Server, old_model_name: str, created_unix: float) -> None:
        """`server` offers another model now: move it to that model's rotation."""
        self._leave(server, old_model_name)
        self._rotations.setdefault(server.registration.model_name, Rotation(created_unix)).add(server)
        self._on_change(old_model_name)
        self.changed(server)

    def get(self, registration_id: str) -> Server | None:
        """The server with this id."""
        return self._by_id.get(registration_id)

    def find(self, model_name: str, endpoint_url: str) -> Server | None:
        """The server registered for this model at this address (normal form)."""
        rotation = self._rotations.get(model_name)
        for server in rotation.servers if rotation else ():
            if server.registration.endpoint.url == endpoint_url:
                return server
        return None

    @property
    def servers(self) -> Collection[Server]:
        """All servers, in the order of their registration."""
        return self._by_id.values()

    def models(self) -> Iterator[tuple[str, float, list[Server]]]:
        """Each model's name, the time it was first registered (Unix seconds) and its servers."""
        for model_name, rotation in self._rotations.items():
            yield model_name, rotation.created_unix, rotation.servers

    def knows(self, model_name: str) -> bool:
        """Whether a server is registered for this model."""
        return model_name in self._rotations

    # -- who can answer ------------------------------------------------------------------------------------------------

    def pick(
        self, model_name: str, tried: Collection[Server] = (), asker: Asker = ANYBODY, last_resort: bool = True
    ) -> Server | None:
        """The server that shall take the asker's next request for `model_name`; None when all that could are full.
        Without `last_resort` none that is down: something else can be done about it.

        Raises ModelNotFound for a model nobody registered; NoServerAvailable, ModelLoading or Overloaded when no server
        can answer; ServersWithheld or ModelNotOffered when it is their owners who keep it from the asker. `tried`
        servers are passed over.
        """
        rotation = self._rotations.get(model_name)
        if rotation is None:
            raise self.unknown_model(model_name, asker)
        if self._least_busy:
            picked = rotation.pick_least_busy(tried, asker, self._chooser)
        else:
            picked = rotation.pick_in_turn(tried, asker)
        if picked is not None:
            return picked
        servers = [server for server in rotation.servers if server.withheld_from(asker) is None]
        candidates = [server for server in servers if server not in tried]
        if any(server.in_rotation and server.full_for(asker) and not server.ejected for server in candidates):
            return None
        if any(server.available for server in servers):
            raise self._nobody(rotation, asker)  # One has been tried for this request, and its answer is the answer.
        candidates = [server for server in candidates if last_resort and server.may_be_last_resort]
        if not candidates:
            raise self._nobody(rotation, asker)
        free = [server for server in candidates if not server.full_for(asker)]
        return min(free, key=lambda server: server.last_failed_seconds, default=None)

    def unknown_model(self, model_name: str, asker: Asker) -> ModelNotFound:
        """What somebody is told who asks for a model that nobody registered, with the close names on offer to them."""
        by_lower = {name.lower(): name for name in islice(self._names_for(asker), MAX_NAMES_TO_COMPARE)}
        near = difflib.get_close_matches(model_name.lower()[:200], list(by_lower), n=3, cutoff=0.5)
        hint = (
            "Did you mean " + " or ".join(f"'{by_lower[name]}'" for name in near) + "?"
            if near
            else "GET /v1/models lists the models on offer."
        )
        return ModelNotFound(f"The model '{model_name[:200]}' is not registered here. {hint}", param="model")

    def _names_for(self, asker: Asker) -> Iterator[str]:
        """What the asker could ask for. What is kept from them, by their key or by its owners, is not named either."""
        stood_for = {alias.name: alias.models for alias in self._aliases}
        for name in dict.fromkeys((*self._rotations, *stood_for)):
            models = stood_for.get(name, (name,))
            if any(asker.may_ask(name, model) and self._is_lent(model, asker) for model in models):
                yield name

    def _is_lent(self, model_name: str, asker: Asker) -> bool:
        rotation = self._rotations.get(model_name)
        return rotation is not None and any(server.withheld_from(asker) is None for server in rotation.servers)

    def has_other(self, model_name: str, tried: Collection[Server], last_resort: bool) -> bool:
        """Whether a server of `model_name` that is none of `tried` could answer if it had a free slot, for `pick`."""
        rotation = self._rotations.get(model_name)
        others = [server for server in rotation.servers if server not in tried] if rotation else []
        if any(server.in_rotation and not server.ejected for server in others):
            return True
        return last_resort and any(server.may_be_last_resort for server in others)

    def is_restricted(self, model_name: str) -> bool:
        """Whether what is free for one asker may not be for another."""
        rotation = self._rotations.get(model_name)
        return rotation is not None and any(server.lending.restricted for server in rotation.servers)

    def owners_of_free(self, model_name: str, askers: Collection[Asker]) -> set[str]:
        """The names of those of `askers` who own a server of `model_name` that could take a request now."""
        rotation = self._rotations.get(model_name)
        free = [server.lending for server in rotation.servers if server.available] if rotation else []
        return {asker.name for asker in askers if any(lending.is_owner(asker) for lending in free)}

    def seconds_to_trial(self, model_name: str) -> float | None:
        """How long until the next ejected server of `model_name` may be tried; None when none waits for its trial."""
        rotation = self._rotations.get(model_name)
        waits = [server.seconds_to_trial for server in rotation.servers if server.in_rotation] if rotation else []
        return min((seconds for seconds in waits if seconds), default=None)

    def _nobody(self, rotation: Rotation, asker: Asker) -> GatewayError:
        servers = [server for server in rotation.servers if server.withheld_from(asker) is None]
        if any(server.loading for server in servers if not server.draining):
            return ModelLoading(
                "The model is being loaded by its server. Send the request again in a few seconds.",
                retry_after_seconds=5,
            )
        if any(server.full_for(asker) for server in servers if server.health_status == HEALTHY and not server.draining):
            return Overloaded(
                "Every server of this model is busy. Send the request again later.", retry_after_seconds=5
            )
        withheld = [server.withheld_from(asker) for server in rotation.servers if server.in_rotation or not servers]
        reasons = [reason for reason in withheld if reason is not None]
        if not servers:
            return refusal_of(reasons)
        hint = f"Others are not lent to you: {in_words(reasons)}." if reasons else "Or ask the server's owner."
        return NoServerAvailable(
            f"The model is registered, but no server can answer now. Send the request again in a moment. {hint}",
            retry_after_seconds=5,
        )
