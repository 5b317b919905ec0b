"""`Classroom`: starts pretend servers, registers them as anybody's, and takes them out again at the end.

They are marked by their model's name and a tag (`Registration.pretend`). What a killed gateway has left is taken out at
the next start: their ports are nobody's then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from multiverse.classroom.moods import PRETEND_MODEL, PUPILS, Mood
from multiverse.classroom.pretend import PretendServer
from multiverse.clock import Clock
from multiverse.errors import GatewayError, ServerNotFound
from multiverse.servers.identity import PRETEND
from multiverse.servers.registration import RegistrationService
from multiverse.servers.registry import Registry

LOG = logging.getLogger(__name__)

DESCRIPTION = "A pretend server of the classroom: what it says is made up."


@dataclass(frozen=True, slots=True)
class Pupil:
    """A pretend server and the id of its registration."""

    registration_id: str
    server: PretendServer


class Classroom:
    """`count` pretend servers that offer one model; none for 0."""

    def __init__(self, *, count: int, registrations: RegistrationService, registry: Registry, clock: Clock) -> None:
        self._count = count
        self._registrations = registrations
        self._registry = registry
        self._clock = clock
        self.pupils: list[Pupil] = []

    async def open(self) -> None:
        """Let them begin; what cannot be registered is logged."""
        await self._take_out_leftovers()
        for number in range(self._count):
            round_number, place = divmod(number, len(PUPILS))
            name = f"Pretend {PUPILS[place]}" + (f" {round_number + 1}" if round_number else "")
            try:
                await self._admit(name)
            except (GatewayError, OSError) as error:
                text = "no more pretend servers: one could not be registered; start the gateway again for the others"
                LOG.error(text, extra={"fields": {"reason": str(error), "there_are": len(self.pupils)}})
                return

    async def _admit(self, name: str) -> None:
        server = PretendServer(name, self._clock)
        try:
            fields = {
                "model_name": PRETEND_MODEL,
                "endpoint_url": await server.start(),
                "owner_name": name,
                "description": DESCRIPTION,
                "tags": (PRETEND,),
            }
            registered, _created = await self._registrations.register(fields)
        except BaseException:
            await server.stop()
            raise
        self.pupils.append(Pupil(registered.registration_id, server))

    async def _take_out_leftovers(self) -> None:
        left = [server for server in self._registry.servers if server.registration.pretend]
        for server in left:
            try:
                await self._registrations.deregister(server.registration_id)
            except GatewayError as error:
                fields = {"server": server.registration_id, "reason": error.message}
                LOG.warning("pretend server not deregistered", extra={"fields": fields})

    async def close(self) -> None:
        """Let them end, and forget them."""
        if self.pupils:
            await self._take_out_leftovers()
        for pupil in self.pupils:
            await pupil.server.stop()
        self.pupils.clear()

    def set_mood(self, registration_id: str, mood: Mood, seconds: float) -> Pupil:
        """Make one of them behave like that for so long. Raises ServerNotFound."""
        for pupil in self.pupils:
            if pupil.registration_id == registration_id:
                pupil.server.set_mood(mood, seconds)
                self._look_soon(registration_id)
                LOG.info("pretend server's mood", extra={"fields": {"server": registration_id, "mood": mood.value}})
                return pupil
        raise ServerNotFound("No pretend server has this registration id. GET /admin/classroom lists them.")

    def _look_soon(self, registration_id: str) -> None:
        """Probe it in a moment, however long it is until its next probe."""
        server = self._registry.get(registration_id)
        if server is not None:
            server.next_probe_seconds = self._clock.monotonic()
