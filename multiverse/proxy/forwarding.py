"""The way of one request: pick → attempt → open → commit → relay → account; before the commit, on to the next server.

Everything a failure means is in verdicts.py, everything about bytes in relay.py; here is only the order of things.
A `Forwarding` can be ended from outside at any moment: the client leaves, or the gateway stops.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from multiverse.cancelling import is_cancelled_itself
from multiverse.errors import (
    GatewayError,
    InternalError,
    ModelLoading,
    ModelNotFound,
    ModelNotOffered,
    NoServerAvailable,
    NotFound,
    Overloaded,
    ServerRefused,
)
from multiverse.proxy.account import Account
from multiverse.proxy.answer import Answer
from multiverse.proxy.asking import body_asking_for_usage, plain_deadline, server_request
from multiverse.proxy.call import Call, Reply, ways_through
from multiverse.proxy.relay import Refused, Relay
from multiverse.proxy.sse import queued_comment
from multiverse.proxy.verdicts import Verdict, broken_stream_verdict, failure_verdict
from multiverse.servers.lending import Asker
from multiverse.servers.server import Attempt, Blame, Server
from multiverse.transport.failures import Abandoned, TransportError
from multiverse.transport.http import Exchange

if TYPE_CHECKING:
    from multiverse.proxy.forward import Proxy

LOG = logging.getLogger(__name__)

LEFTOVER_SECONDS = 0.5
CANNOT_ANSWER = (ModelLoading, ModelNotFound, ModelNotOffered, NoServerAvailable, Overloaded)
CLIENT_CLOSED_STATUS = 499  # nginx's word for it; never sent, only counted

# The states of a request:
#
#     WAITING ───► ASKING ───► COMMITTED ───► SETTLED     WAITING    for a slot: `_place` is its place in the queue
#      │   ▲        │  │            │            ▲        ASKING     `_attempt` has the slot, `_exchange` is under way
#      │   └────────┘  │            │            │        COMMITTED  content is out: no other server is asked any more
#      │   `try_next`  │            │            │        SETTLED    once: row and story are written, the slot is free
#      └───────────────┴────────────┴────────────┘
#                    `_end_with` an error
#
# `client_left` and `end_early` set `_over` in any of them, and what it waits for ends at once. The `Answer` has states
# of its own: `started` also by keep-alives, before the commit; `finished` when the client has all that will come.


class Forwarding:
    """One admitted request, from its admission to its usage row."""

    def __init__(self, proxy: Proxy, call: Call, reply: Reply) -> None:
        self._proxy = proxy
        self._call, self.key_id = call, call.caller.key_id
        keepalive_seconds = proxy.settings.stream_keepalive_seconds if call.stream else 0
        self._answer = Answer(reply, proxy.transport.loop, keepalive_seconds)
        self._asker = Asker(call.asker, call.caller.weight, call.caller.is_admin, call.caller.models)
        self._tried: list[Server] = []
        (self._model_name, self._last_resort), *self._ways = ways_through(call.models)
        self._attempt: Attempt | None = None
        self._exchange: Exchange | None = None
        self._place: asyncio.Future[Attempt] | None = None
        self._ended_by: GatewayError | None = None
        self._client_left = self._over = self._settled = False
        self._account = Account(
            call, usage=proxy.usage, allowances=proxy.allowances, shares=proxy.queue.shares, clock=proxy.clock
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
        self._over = True
        if self._place is not None:
            self._place.cancel()
        if self._exchange is not None:
            self._exchange.abort(Abandoned())

    async def run(self) -> None:
        """Forward until the client has an answer.

        Raises the GatewayError to answer with, if nothing has been sent; afterwards it is sent as an event instead.
        """
        proxy = self._proxy
        proxy.usage.admitted(self._call.caller.name)
        deadline: asyncio.TimerHandle | None = None
        if self._call.stream:
            self._answer.keep_alive()
        elif proxy.settings.plain_max_seconds is not None:
            deadline = plain_deadline(proxy.settings.plain_max_seconds, self.end_early)
        failure: tuple[GatewayError, bytes | None] | None = None
        try:
            try:
                verdict = await self._ask_one_after_the_other()
                if verdict is not None:
                    failure = verdict.error, verdict.body
            except GatewayError as error:
                failure = error, None
            except (Exception, asyncio.CancelledError) as error:
                failure = self._own_mistake(error), None
            if failure is not None:
                self._end_with(*failure)
        finally:
            self._answer.stop()
            if deadline is not None:
                deadline.cancel()
            proxy.under_way.discard(self)
            self._settle(Blame.NONE, "")

    def _own_mistake(self, error: BaseException) -> InternalError:
        """What the client is told of an `error` that nobody expected; not if it is this task that was cancelled."""
        if isinstance(error, asyncio.CancelledError) and is_cancelled_itself():
            raise error
        LOG.exception("request failed inside the gateway", extra={"fields": {"request_id": self._call.request_id}})
        return InternalError("The gateway failed while handling this request; its log has the details.")

    async def _ask_one_after_the_other(self) -> Verdict | None:
        worst: Verdict | None = None
        while len(self._tried) < self._proxy.settings.max_attempts:
            try:
                self._attempt = self._free_place() or await self._place_in_queue()
            except GatewayError as error:
                if self._falls_back(error):
                    continue
                if worst is None:
                    raise
                return worst
            verdict = await self._ask(self._attempt)
            if verdict is None or self._over:
                return verdict
            worst = verdict if worst is None else worst.or_rather(verdict)
            if self._answer.finished or not verdict.try_next:
                return verdict
        return worst

    def _falls_back(self, error: GatewayError) -> bool:
        """Whether another model stands in for the one whose servers cannot answer."""
        if self._over or not self._ways or not isinstance(error, CANNOT_ANSWER):
            return False
        self._model_name, self._last_resort = self._ways.pop(0)
        return True

    def _free_place(self) -> Attempt | None:
        """An attempt on the server whose turn it is; None when all are full."""
        if self._over:
            raise self._end()
        return self._proxy.queue.place(self._model_name, self._tried, self._asker, self._last_resort)

    async def _place_in_queue(self) -> Attempt:
        """The attempt that the queue gives, sooner or later."""
        queue, model_name = self._proxy.queue, self._model_name
        entered = self._proxy.clock.monotonic()
        waited_seconds = self._account.record.queue_ms / 1000  # before, for a server that then failed
        place = self._place = queue.join(model_name, self._tried, self._asker, waited_seconds, self._last_resort)
        self._answer.beside_keep_alive = lambda: queued_comment(queue.standing(model_name, place))
        try:
            attempt = await place
        except asyncio.CancelledError:
            if not self._over:
                raise
            raise self._end() from None
        finally:
            self._place = self._answer.beside_keep_alive = None
            self._account.waited(entered)
        if self._over:
            attempt.end(Blame.NONE)
            raise self._end()
        return attempt

    def _end(self) -> GatewayError:
        return self._ended_by or InternalError("The client left.")

    async def _ask(self, attempt: Attempt) -> Verdict | None:
        """One attempt; None when the client has its answer."""
        server, call = attempt.server, self._call
        self._tried.append(server)
        call.story.tried(self._proxy.clock.monotonic(), server.registration_id)
        self._account.asked(server)
        asking = body_asking_for_usage(call, server) if call.stream else None
        body, client_sees = asking or (call.body, True)
        verdict, committed = await self._exchange_with(server, body, drops_usage=not client_sees)
        if asking is not None and verdict is not None and verdict.usage_refused and not self._over:
            # It may refuse what the client never asked for. That is no attempt: the request itself it has not seen yet.
            verdict, committed = await self._exchange_with(server, call.body, drops_usage=False)
            # Or it has only repeated a body in which something else was wrong, as FastAPI does: then it is so again.
            server.refuses_usage = server.refuses_usage or committed
        if verdict is not None:
            if committed:
                verdict = replace(verdict, try_next=False)  # Content has gone out: nothing is ever sent twice.
            self._blame(attempt, verdict)
        return verdict

    async def _exchange_with(self, server: Server, body: bytes, *, drops_usage: bool) -> tuple[Verdict | None, bool]:
        """One request to `server`; what failed, if anything did, and whether content had gone out by then."""
        settings = self._proxy.settings
        answer, meter, headers = self._answer, self._account.meter, self._headers(server)
        relay = Relay(
            call=self._call,
            server=server,
            answer=answer,
            meter=meter,
            settings=settings,
            client_headers=headers,
            drops_usage=drops_usage,
            on_commit=self._on_commit,
            on_whole=self._on_whole,
        )
        request = server_request(self._call, server, relay, body, settings)
        exchange = self._exchange = self._proxy.transport.begin(request)
        relay.exchange = exchange
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
            self._exchange = None
            relay.exchange = None  # They know each other, and the whole request with them.
            answer.held_for_json = False  # Whatever comes next, a place in a queue perhaps, is waited for alive.
        return verdict, relay.committed

    def _headers(self, server: Server) -> dict[str, str]:
        """What the answer says of where it comes from."""
        headers = {"X-Gateway-Attempts": str(len(self._tried))}
        if self._proxy.settings.show_server_id:
            headers["X-Gateway-Server-ID"] = server.registration_id
        if self._call.models != (self._call.model_name,):
            headers["X-Gateway-Model"] = server.registration.model_name
        return headers

    # -- what follows --------------------------------------------------------------------------------------------------

    def _on_commit(self, is_content: bool) -> None:
        self._account.committed(is_content=is_content)
        attempt = self._attempt
        if is_content and attempt is not None and attempt.while_ejected and attempt.content_came():
            self._proxy.queue.serve(attempt.server.registration.model_name)  # Its other slots are free again.
        if self._exchange is not None and not self._exchange.done():
            self._exchange.content_came(self._proxy.settings.stream_idle_timeout_seconds)

    def _on_whole(self, blame: Blame, reason: str) -> None:
        """The client is about to have all that will come: count out before the last byte is visible."""
        record = self._account.record
        record.outcome, record.status = "failed" if reason else "ok", 200
        if reason:
            self._failed("server_error", reason)
        self._settle(blame, reason)
        if self._exchange is not None and not self._exchange.done():
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
            server.note_busy(verdict.busy_seconds, verdict.reason, loading=isinstance(verdict.error, ModelLoading))
        if verdict.model_missing:
            server.note_model_missing()
        if verdict.key_refused:
            server.note_reason(verdict.reason)
        self._failed(verdict.error.code, verdict.reason)
        LOG.info("attempt failed", extra={"fields": self._fields(server, verdict.reason)})
        self._end_attempt(attempt, verdict.blame, verdict.reason)

    def _failed(self, code: str, reason: str) -> None:
        """The story's word about the attempt: the server did not answer well."""
        self._call.story.failed(self._proxy.clock.monotonic(), code, reason)

    def _end_attempt(self, attempt: Attempt, blame: Blame, reason: str) -> None:
        if attempt.end(blame, reason):
            LOG.warning("server ejected", extra={"fields": self._fields(attempt.server, reason)})

    def _fields(self, server: Server, reason: str) -> dict[str, str]:
        return {"request_id": self._call.request_id, "server": server.registration_id, "reason": reason}

    def _end_with(self, error: GatewayError, body: bytes | None = None) -> None:
        """The last word to the client: an event if a stream has begun, a whole answer, or an exception to render."""
        if self._ended_by is not None and not self._client_left:
            error, body = self._ended_by, None
        record = self._account.record
        record.status = error.status
        refused = body is not None or (400 <= error.status < 500 and not isinstance(error, NotFound))
        record.outcome = "rejected" if refused or not self._tried else "failed"
        if self._client_left:
            record.outcome, record.status = "client_closed", CLIENT_CLOSED_STATUS
        answer = self._answer
        self._call.story.told_code = None if self._client_left else error.code
        self._settle(Blame.NONE, "")
        if answer.finished or self._client_left:
            return
        if not isinstance(error, ServerRefused):  # A server's own words are passed on as they are.
            error.request_id = self._call.request_id
        if answer.started:
            answer.finish_with_error(error, body)
        elif body is not None:
            headers = {"Content-Type": "application/json", **self._headers(self._tried[-1])}
            answer.send_whole(error.status, headers, body)
        else:
            raise error

    def _settle(self, blame: Blame, reason: str) -> None:
        """End the account, the story and the attempt, once, whichever way the request ends."""
        if self._settled:
            return
        self._settled = True
        # First what it has cost, then the slot: whose turn is next depends on it. It is freed whatever fails.
        try:
            self._account.settle(len(self._tried))
        finally:
            try:
                self._proxy.on_end(self._call.story, self._account.record)
            finally:
                if self._attempt is not None:
                    self._end_attempt(self._attempt, blame, reason)
