"""`/metrics` for Prometheus, and `/v1/requests/{id}`: what happened to a request."""

from __future__ import annotations

import hmac

from multiverse.errors import InvalidAPIKey, NotFound
from multiverse.people.keys import NOBODY
from multiverse.people.usage import UsageRecord
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.metrics import metrics_text

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
            raise InvalidAPIKey()

    async def get(self) -> None:
        """The numbers as they are now."""
        self.set_header("Content-Type", TEXT_FORMAT)
        self.set_header("Cache-Control", "no-store")
        self.finish(await metrics_text(self.gateway))

    async def head(self) -> None:
        """As GET, without the body."""
        await self.get()


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
        self.reply_json(story.document(for_admin=self.caller.is_admin))

    def _may_read(self, record: UsageRecord) -> bool:
        if self.caller.is_admin:
            return True
        if record.key_name != self.caller.name:
            return False
        # Those without a key are told apart by their address.
        return record.key_name != NOBODY.name or record.client_address == self.client_address

    def head(self, request_id: str) -> None:
        """As GET, without the body."""
        self.get(request_id)
