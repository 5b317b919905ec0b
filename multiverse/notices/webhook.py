"""Notices as JSON to a webhook of Discord, Slack, or what understands either: `content` for one, `text` for the other.

Sent with the gateway's own HTTP client. The address is the admin's setting, and a secret: whoever has it can post.
"""

from __future__ import annotations

import json

from multiverse.notices.delivery import SendingFailed
from multiverse.notices.wording import Notice
from multiverse.servers.outgoing import USER_AGENT
from multiverse.transport.failures import TransportError
from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import RequestForm, ServerRequest
from multiverse.transport.plain import endpoint_and_target

CONNECT_SECONDS, WHOLE_SECONDS = 5.0, 15.0
MAX_ANSWER_BYTES = 64 * 1024


class Webhook:
    """Posts to `address`. Raises ValueError for what is no http or https address."""

    def __init__(self, address: str, *, transport: StreamingHTTPClient) -> None:
        self._form = RequestForm(
            *endpoint_and_target(address),
            method="POST",
            header_items=[
                ("User-Agent", USER_AGENT),
                ("Accept", "*/*"),
                ("Accept-Encoding", "identity"),
                ("Content-Type", "application/json"),
            ],
            connect_timeout=CONNECT_SECONDS,
            request_timeout=WHOLE_SECONDS,
            max_body_size=MAX_ANSWER_BYTES,
        )
        self._transport = transport

    async def send(self, notice: Notice) -> None:
        """Post it; any 2xx is well. Raises SendingFailed."""
        request = ServerRequest(self._form, body=body_of(notice))
        try:
            response = await self._transport.fetch(request)
        except TransportError as error:
            raise SendingFailed(error.reason) from error
        if not 200 <= response.code < 300:
            raise SendingFailed(f"the webhook answers with status {response.code}")


def body_of(notice: Notice) -> bytes:
    """The JSON of a notice. Names of models and owners must not be able to call everybody in the channel."""
    for_slack = notice.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    fields = {"content": notice.text, "text": for_slack, "allowed_mentions": {"parse": []}}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8")
