"""`/admin/classroom`: the pretend servers, and what they shall do for some minutes."""

from __future__ import annotations

from typing import Any

from multiverse.classroom.classroom import Pupil
from multiverse.classroom.moods import MEANINGS, Mood
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.people_schemas import MoodSchema
from multiverse.web.schemas import load

MOOD_SCHEMA = MoodSchema()


def pupil_record(pupil: Pupil) -> dict[str, Any]:
    """A pretend server as it is shown."""
    return {
        "registration_id": pupil.registration_id,
        "name": pupil.server.name,
        "mood": pupil.server.mood.value,
        "seconds_left": round(pupil.server.seconds_left),
    }


class ClassroomHandler(GatewayHandler):
    """`GET /admin/classroom`."""

    def get(self) -> None:
        """All pretend servers (none, unless there is a classroom), and the moods there are."""
        servers = [pupil_record(pupil) for pupil in self.gateway.classroom.pupils]
        moods = {mood.value: meaning for mood, meaning in MEANINGS.items()}
        self.reply_json({"servers": servers, "moods": moods})


class MoodHandler(GatewayHandler):
    """`PUT /admin/classroom/{registration_id}`."""

    def put(self, registration_id: str) -> None:
        """Change the mood of one of them."""
        fields = load(MOOD_SCHEMA, self.read_json())
        seconds = fields["minutes"] * 60.0
        self.reply_json(pupil_record(self.gateway.classroom.set_mood(registration_id, Mood(fields["mood"]), seconds)))
