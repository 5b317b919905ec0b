"""`/admin/mirror`: shows what of a request arrives here, and sends a stream by the clock; for `multiverse doctor`.

Values of headers stay here, but for those that say who asks from where: a key must not come back in an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError

from multiverse.web.handlers.base import GatewayHandler

EVENTS = 4
PAUSE_SECONDS = 0.25
SHOWN_LENGTH = 200


class MirrorHandler(GatewayHandler):
    """`GET /admin/mirror` and `POST /admin/mirror`."""

    async def get(self) -> None:
        """What arrived, and then events that are nothing but a moment apart."""
        self._set_stream_headers()
        with contextlib.suppress(StreamClosedError):
            await self._say({**self._arrived(), "events": EVENTS, "pause_seconds": PAUSE_SECONDS})
            for number in range(2, EVENTS + 1):
                await asyncio.sleep(PAUSE_SECONDS)
                await self._say({"event": number})
            self.finish()

    def head(self) -> None:
        """As GET, without a stream."""
        self._set_stream_headers()

    def post(self) -> None:
        """How many bytes of the body arrived."""
        self.reply_json({"bytes": len(self.body())})

    def _set_stream_headers(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")

    async def _say(self, document: dict[str, Any]) -> None:
        self.write(b"data: " + msgspec.json.encode(document) + b"\n\n")
        await self.flush()

    def _arrived(self) -> dict[str, Any]:
        headers = self.request.headers
        forwarded = [part for part in headers.get("X-Forwarded-For", "").split(",") if part.strip()]
        return {
            "headers": sorted({name.lower() for name, _value in headers.get_all()})[:SHOWN_LENGTH],
            "host": headers.get("Host", "")[:SHOWN_LENGTH],
            "x_request_id": self.request_id,
            "forwarded_for": len(forwarded),
            "forwarded_proto": headers.get("X-Forwarded-Proto", "")[:SHOWN_LENGTH],
            "client_address": self.client_address,
            "trusts_proxy": self.gateway.config.trust_proxy_headers,
        }
