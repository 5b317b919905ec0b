"""`/metrics` for Prometheus, and `/v1/requests`: what happened to requests, to each caller its own.

The stories are in memory (proxy/stories.py); words are made of them by proxy/telling.py.
"""

from __future__ import annotations

import hmac

from multiverse.errors import NotFound
from multiverse.people.keys import NOBODY
from multiverse.people.usage import UsageRecord
from multiverse.proxy.stories import StoryQuery
from multiverse.proxy.telling import story_document, story_facts
from multiverse.web.handlers.base import GatewayHandler, first_values
from multiverse.web.metrics import metrics_text
from multiverse.web.people_schemas import StoriesQuerySchema
from multiverse.web.schemas import load

STORIES_QUERY_SCHEMA = StoriesQuerySchema()
DEFAULT_STORIES, DEFAULT_ORDER = 100, "-started_at"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class MetricsHandler(GatewayHandler):
    """`GET /metrics`; open to all unless `METRICS_TOKEN` is set."""

    def admit(self) -> None:
        """Ask for the token."""
        token = self.gateway.config.metrics_token
        if token is None:
            return
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise self.wrong_key()

    async def get(self) -> None:
        """The numbers as they are now."""
        self.set_header("Content-Type", TEXT_FORMAT)
        self.set_header("Cache-Control", "no-store")
        self.finish(await metrics_text(self.gateway))


class StoriesHandler(GatewayHandler):
    """`GET /v1/requests`."""

    def get(self) -> None:
        """One's own requests, the admin's to read in all; only for who shows a key: an address may be many people's."""
        if self.caller is NOBODY:
            raise self.wrong_key()
        query = load(STORIES_QUERY_SCHEMA, first_values(self.request))
        order, limit = query.pop("sort", DEFAULT_ORDER), query.pop("limit", DEFAULT_STORIES)
        own = None if self.caller.is_admin else self.caller.key_id
        found = self.gateway.stories.search(StoryQuery(key_id=own, **query))
        field = order.removeprefix("-")
        # What has no such number comes last, whichever way round.
        known = [pair for pair in found if getattr(pair[1], field) is not None]
        known.sort(key=lambda pair: str(pair[1].started_at), reverse=True)
        known.sort(key=lambda pair: getattr(pair[1], field), reverse=order.startswith("-"))
        missing = [pair for pair in found if getattr(pair[1], field) is None]
        shown = [story_facts(*pair) for pair in (known + missing)[:limit]]
        self.reply_json({"requests": shown, "total": len(found)})


class StoryHandler(GatewayHandler):
    """`GET /v1/requests/{id}`."""

    def get(self, request_id: str) -> None:
        """What happened, in order; to whoever sent the request, and to the admin."""
        story = self.gateway.stories.find(request_id)
        if story is None or story.record is None or not self._may_read(story.record):
            raise NotFound(
                "No request of yours has this id, or it is not over, or it is too long ago. The id is the answer's "
                "X-Request-ID."
            )
        self.reply_json(story_document(story, story.record, for_admin=self.caller.is_admin))

    def _may_read(self, record: UsageRecord) -> bool:
        if self.caller.is_admin:
            return True
        # By id: a name is whatever somebody called themselves when they claimed a key.
        if record.key_id != self.caller.key_id:
            return False
        # Those without a key are told apart by their address.
        return record.key_id != NOBODY.key_id or record.client_address == self.client_address
