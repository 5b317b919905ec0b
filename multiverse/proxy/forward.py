"""The way of one request: pick → attempt → open → commit → relay → account; before the commit, on to the next server.

Everything a failure means is in verdicts.py, everything about bytes in relay.py; here is only the order of things.
A `Forwarding` can be ended from outside at any moment: the client leaves, or the gateway stops.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import cast

from multiverse.clock import Clock
from multiverse.errors import GatewayError, InternalError, NotFound, ShuttingDown
from multiverse.people.usage import Usage, UsageRecord
from multiverse.proxy.answer import Answer
from multiverse.proxy.call import Call, Reply
from multiverse.proxy.meter import Meter
from multiverse.proxy.queue import Queue
from multiverse.proxy.relay import Refused, Relay
from multiverse.proxy.rewrite import replace_model
from multiverse.proxy.verdicts import Verdict, broken_stream_verdict, failure_verdict
from multiverse.servers.outgoing import request_headers
from multiverse.servers.server import Attempt, Blame, Server
from multiverse.transport.failures import Abandoned, FirstByteTimeout, TransportError
from multiverse.transport.http import Exchange, StreamingHTTPClient
from multiverse.transport.messages import ServerRequest

LOG = logging.getLogger(__name__)

LEFTOVER_SECONDS = 0.5
CLIENT_CLOSED_STATUS = 499  # nginx's word for it; never sent, only counted


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Limits of one request, in seconds and bytes; see contract §5."""

    max_attempts: int
    connect_timeout_seconds: float
    request_timeout_seconds: float
    stream_idle_timeout_seconds: float
    stream_max_seconds: float
    stream_keepalive_seconds: float
    max_response_body_size: int
    max_event_size: int
    show_server_id: bool


class Proxy:
    """Forwards requests to servers. `under_way` are those that have not ended."""

    def __init__(
        self, *, queue: Queue, transport: StreamingHTTPClient, usage: Usage, clock: Clock, settings: ForwardSettings
    ) -> None:
        self.queue = queue
        self.transport = transport
        self.usage = usage
        self.clock = clock
        self.settings = settings
        self.under_way: set[Forwarding] = set()

    def begin(self, call: Call, reply: Reply) -> Forwarding:
        """Admit `call`; `Forwarding.run()` does the work."""
        return Forwarding(self, call, reply)

    def shut_down(self) -> None:
        """End what is still under way: streams with an event, the others with 503."""
        for forwarding in list(self.under_way):
            forwarding.end_early(ShuttingDown())


class Forwarding:
    """One admitted request, from its admission to its usage row."""

    def __init__(self, proxy: Proxy, call: Call, reply: Reply) -> None:
        self._proxy = proxy
        self._call = call
        self._answer = Answer(reply, keepalive_seconds=proxy.settings.stream_keepalive_seconds if call.stream else 0)
        self._meter = Meter()
        self._tried: list[Server] = []
        self._attempt: Attempt | None = None
        self._exchange: Exchange | None = None
        self._place: asyncio.Future[Attempt] | None = None
        self._ended_by: GatewayError | None = None
        self._client_left = False
        self._record = UsageRecord(
            request_id=call.request_id,
            started_at=proxy.clock.utc_iso(),
            key_name=call.key_name,
            client_address=call.client_address,
            route=call.route,
            model_name=call.model_name,
            stream=call.stream,
        )

    @property
    def attempts(self) -> int:
        """How many servers have been asked so far."""
        return len(self._tried)

    # -- from outside --------------------------------------------------------------------------------------------------

    def client_left(self) -> None:
        """The client closed its connection: so do we towards the server, at once."""
        self._client_left = True
        self._abandon()

    def end_early(self, error: GatewayError) -> None:
        """End with `error`, as an event where a stream has begun."""
        self._ended_by = error
        self._abandon()

    def _abandon(self) -> None:
        if self._place is not None:
            self._place.cancel()
        if self._exchange is not None:
            self._exchange.abort(Abandoned())

    @property
    def _over(self) -> bool:
        return self._client_left or self._ended_by is not None

    async def run(self) -> None:
        """Forward until the client has an answer.

        Raises the GatewayError to answer with, if nothing has been sent; afterwards it is sent as an event instead.
        """
        proxy = self._proxy
        proxy.under_way.add(self)
        proxy.usage.admitted(self._call.key_name)
        if self._call.stream:
            self._answer.keep_alive()
        try:
            failure = await self._failure()
            if failure is not None:
                self._end_with(*failure)
        finally:
            self._answer.stop()
            self._settle(Blame.NONE, "")
            proxy.under_way.discard(self)

    async def _failure(self) -> tuple[GatewayError, bytes | None] | None:
        """Do the work; None when the client has its answer, else the error for it and a server's own body."""
        try:
            verdict = await self._ask_one_after_the_other()
        except GatewayError as error:
            return error, None
        except Exception:
            LOG.exception("request failed inside the gateway", extra={"fields": {"request_id": self._call.request_id}})
            return InternalError("The gateway failed while handling this request; its log has the details."), None
        return None if verdict is None else (verdict.error, verdict.body)

    async def _ask_one_after_the_other(self) -> Verdict | None:
        worst: Verdict | None = None
        while len(self._tried) < self._proxy.settings.max_attempts:
            try:
                self._attempt = await self._next_place()
            except GatewayError:
                if worst is None:
                    raise
                return worst
            verdict = await self._ask(self._attempt)
            if verdict is None or self._over:
                return verdict
            if worst is None or verdict.weight >= worst.weight:
                worst = verdict
            if self._answer.finished or not verdict.try_next:
                return verdict
        return worst

    async def _next_place(self) -> Attempt:
        if self._over:
            raise self._ended_by or InternalError("The client left.")
        queue, model_name = self._proxy.queue, self._call.model_name
        attempt = queue.place(model_name, self._tried)
        if attempt is None:
            entered = self._proxy.clock.monotonic()
            self._place = queue.join(model_name, self._tried)
            try:
                attempt = await self._place
            except asyncio.CancelledError:
                if not self._over:
                    raise
                raise self._ended_by or InternalError("The client left.") from None
            finally:
                self._place = None
                self._record.queue_ms += self._milliseconds_since(entered)
        if self._over:
            attempt.end(Blame.NONE)
            raise self._ended_by or InternalError("The client left.")
        return attempt

    async def _ask(self, attempt: Attempt) -> Verdict | None:
        """One attempt; None when the client has its answer."""
        server = attempt.server
        self._tried.append(server)
        self._call.story.tried(self._proxy.clock.monotonic(), server.registration_id)
        self._answer.held_for_json = False
        self._record.registration_id = server.registration_id
        relay = self._relay(server)
        loop = asyncio.get_running_loop()
        exchange = self._exchange = cast(Exchange, self._proxy.transport.fetch(self._request(server, relay)))
        relay.exchange = exchange
        patience = loop.call_later(self._proxy.settings.request_timeout_seconds, _give_up_waiting, exchange, relay)
        try:
            await exchange
            verdict = relay.finish()
        except Refused as refused:
            verdict = refused.verdict
        except TransportError as failure:
            verdict = broken_stream_verdict(failure) if relay.committed else failure_verdict(failure)
            if self._answer.finished:
                verdict = None  # Broke after the client had its whole answer: nobody's loss.
        finally:
            patience.cancel()
            self._exchange = None
        if verdict is not None:
            if relay.committed:
                verdict = replace(verdict, try_next=False)  # Content has gone out: nothing is ever sent twice.
            self._blame(attempt, verdict)
        return verdict

    def _relay(self, server: Server) -> Relay:
        settings = self._proxy.settings
        headers = {"X-Gateway-Attempts": str(len(self._tried))}
        if settings.show_server_id:
            headers["X-Gateway-Server-ID"] = server.registration_id
        return Relay(
            self._call,
            server,
            self._answer,
            self._meter,
            client_headers=headers,
            max_body_size=settings.max_response_body_size,
            max_event_size=settings.max_event_size,
            on_commit=self._on_commit,
            on_whole=self._on_whole,
        )

    def _request(self, server: Server, relay: Relay) -> ServerRequest:
        call, registration, settings = self._call, server.registration, self._proxy.settings
        body = call.body
        if registration.served_model_name and registration.served_model_name != call.model_name:
            body = replace_model(body, registration.served_model_name)
        accept = "text/event-stream" if call.stream else "application/json"
        return ServerRequest(
            registration.endpoint,
            registration.endpoint.path + call.route,
            method="POST",
            header_items=request_headers(
                registration,
                via=call.via,
                request_id=call.request_id,
                accept="*/*" if call.route.startswith("/v1/audio/") else accept,
                content_type="application/json",
            ),
            body=body,
            response_callback=relay.on_head,
            streaming_callback=relay.on_data,
            connect_timeout=settings.connect_timeout_seconds,
            request_timeout=settings.stream_max_seconds if call.stream else None,
        )

    # -- what follows --------------------------------------------------------------------------------------------------

    def _on_commit(self) -> None:
        self._record.first_token_ms = self._milliseconds_since(self._call.started_seconds)
        if self._exchange is not None:
            self._exchange.set_idle_timeout(self._proxy.settings.stream_idle_timeout_seconds)

    def _on_whole(self, blame: Blame, reason: str) -> None:
        """The client is about to have all that will come: count out before the last byte is visible."""
        self._record.outcome = "failed" if reason else "ok"
        self._record.status = 200
        self._settle(blame, reason)
        if self._exchange is not None:
            self._exchange.discard_rest(LEFTOVER_SECONDS)

    def _blame(self, attempt: Attempt, verdict: Verdict) -> None:
        """Let a failed attempt count as its verdict says."""
        server = attempt.server
        if self._over:
            attempt.end(Blame.NONE)
            return
        if verdict.connect_failed:
            server.note_connect_failure()
        if verdict.busy_seconds is not None:
            server.note_busy(verdict.busy_seconds, verdict.reason)
        if verdict.model_missing:
            server.note_model_missing()
        if verdict.key_refused:
            server.note_reason(verdict.reason)
        self._call.story.failed(self._proxy.clock.monotonic(), verdict.error.code, verdict.reason)
        fields = {"request_id": self._call.request_id, "server": server.registration_id, "reason": verdict.reason}
        LOG.info("attempt failed", extra={"fields": fields})
        if attempt.end(verdict.blame, verdict.reason):
            LOG.warning("server ejected", extra={"fields": fields})

    def _end_with(self, error: GatewayError, body: bytes | None = None) -> None:
        """The last word to the client: an event if a stream has begun, a whole answer, or an exception to render."""
        if self._ended_by is not None and not self._client_left:
            error, body = self._ended_by, None
        self._record.status = error.status
        refused = body is not None or (400 <= error.status < 500 and not isinstance(error, NotFound))
        self._record.outcome = "rejected" if refused or not self._tried else "failed"
        if self._client_left:
            self._record.outcome, self._record.status = "client_closed", CLIENT_CLOSED_STATUS
        answer = self._answer
        started, finished = answer.started, answer.finished
        self._settle(Blame.NONE, "")
        if finished or self._client_left:
            return
        if started:
            answer.finish_with_error(error, body)
        elif body is not None:
            headers = {"Content-Type": "application/json", "X-Gateway-Attempts": str(self.attempts)}
            if self._proxy.settings.show_server_id:
                headers["X-Gateway-Server-ID"] = self._tried[-1].registration_id
            answer.send_whole(error.status, headers, body)
        else:
            raise error

    def _settle(self, blame: Blame, reason: str) -> None:
        """End the attempt and write the usage row, once, whichever way the request ends."""
        if self._attempt is not None and self._attempt.end(blame, reason):
            server_id = self._attempt.server.registration_id
            LOG.warning("server ejected", extra={"fields": {"server": server_id, "reason": reason}})
        if self._record.settled:
            return
        self._record.settled = True
        self._meter.estimate()
        record = self._record
        record.attempts = len(self._tried)
        record.total_ms = self._milliseconds_since(self._call.started_seconds)
        record.prompt_tokens = self._meter.prompt_tokens
        record.completion_tokens = self._meter.completion_tokens
        record.tokens_estimated = not self._meter.reported and record.completion_tokens is not None
        self._proxy.usage.ended(record)

    def _milliseconds_since(self, moment: float) -> float:
        return round((self._proxy.clock.monotonic() - moment) * 1000, 1)


def _give_up_waiting(exchange: Exchange, relay: Relay) -> None:
    """The time to the first event, or to the whole of a plain answer, is over."""
    if not relay.committed:
        exchange.abort(FirstByteTimeout())
