"""One attempt's answer on its way from a server to the client: recognise it, commit, relay, know whether it was whole.

Called by the transport as bytes arrive. Per event there is framing and a write: no JSON, no log, no await. Which server
is asked, and what follows from a failure, is decided in forwarding.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from multiverse.errors import StreamTruncated
from multiverse.proxy.answer import Answer
from multiverse.proxy.call import Call
from multiverse.proxy.meter import DONE_MARK, Meter, StreamWatch, whole_when
from multiverse.proxy.sse import DONE_EVENT, EventReader, EventTooLarge, has_data
from multiverse.proxy.verdicts import (
    BROKE_OFF,
    Verdict,
    answer_verdict,
    bad_answer_verdict,
    hidden_error_verdict,
    reported_error_blame,
    without_key,
)
from multiverse.servers.server import Blame, Server
from multiverse.servers.tunnels import is_html, tunnel_reason
from multiverse.transport.failures import AnswerTooLarge
from multiverse.transport.messages import ResponseHead

if TYPE_CHECKING:
    from multiverse.proxy.asking import ForwardSettings
    from multiverse.transport.http import Exchange

JSON_HEADERS = {"Content-Type": "application/json"}
MAX_ERROR_BODY_BYTES = 1024 * 1024
BEGINNINGS_OF_EVENTS = b"deir:"  # data, event, id, retry, or a comment


class Refused(Exception):
    """Raised inside the transport's callbacks to end an exchange whose answer is of no use; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Relay:
    """The answer of one server to one attempt.

    `on_commit(is_content)` is called before the first event goes out, which may be an error; `on_whole(blame, reason)`
    before the last byte does: the attempt must be counted out by then, so that a client's next request finds the slot
    free.
    """

    # There once the answer is known to be one of events; most plain answers never need them.
    _reader: EventReader
    _watch: StreamWatch

    def __init__(
        self,
        *,
        call: Call,
        server: Server,
        answer: Answer,
        meter: Meter,
        settings: ForwardSettings,
        client_headers: dict[str, str],
        drops_usage: bool,
        on_commit: Callable[[bool], None],
        on_whole: Callable[[Blame, str], None],
    ) -> None:
        self._call = call
        self._server = server
        self._answer = answer
        self._settings = settings
        self._client_headers = client_headers
        self._drops_usage = drops_usage
        self._meter = meter
        self._on_commit = on_commit
        self._on_whole = on_whole
        self._head: ResponseHead | None = None
        self._content_type = ""
        self._is_good = False  # A document that is worth reading.
        self._is_events = self._may_be_events = False
        self._is_audio = False
        self._collected: list[bytes] = []
        self._collected_size = 0
        self.exchange: Exchange | None = None
        self.committed = False

    # -- as it comes ---------------------------------------------------------------------------------------------------

    def on_head(self, head: ResponseHead) -> None:
        """Status and headers have come. Raises Refused for what can be refused without its body."""
        self._head = head
        if not 200 <= head.status < 300 or tunnel_reason(head.status, head.headers) is not None:
            return
        content_type = head.headers.get("content-type", "")
        if content_type != "application/json":
            content_type = content_type.partition(";")[0].strip().lower()
        self._content_type = content_type
        if content_type == "text/event-stream":
            self._expect_events()
        elif content_type == "application/json" or not is_html(head.headers):
            self._is_good = True
            if self._call.stream and content_type in ("application/json", ""):
                self._may_be_events = True
                self._answer.held_for_json = not self._answer.started
            else:
                self._expect_document(content_type)

    def _expect_events(self) -> None:
        if not self._call.stream:
            raise _not_as_asked("the server answers a plain request with a stream of events")
        self._is_events = True
        self._reader = EventReader(self._settings.max_event_size)
        self._watch = StreamWatch(whole_when(self._call.route), self._meter, drops_usage=self._drops_usage)

    def _expect_document(self, content_type: str) -> None:
        if content_type not in ("application/json", ""):
            self._is_audio = self._call.route.startswith("/v1/audio/") and (
                content_type.startswith("audio/") or content_type == "application/octet-stream"
            )
            if not self._is_audio:
                reason = f"the server answers with the type '{content_type[:100]}' instead of JSON"
                raise Refused(bad_answer_verdict(reason))
        if self._call.stream and self._answer.started:
            raise _not_as_asked("the server does not stream: it answers a streamed request with plain JSON")
        self._answer.held_for_json = True

    def _decide(self, data: bytes) -> None:
        """Some servers send events as `application/json`: what comes first tells, for no JSON begins like a field."""
        beginning = data.lstrip()[:1]
        if not beginning:
            return
        self._may_be_events = False
        if beginning in BEGINNINGS_OF_EVENTS:
            self._answer.held_for_json = False
            self._expect_events()
        else:
            self._expect_document(self._content_type)

    def on_data(self, data: bytes) -> Awaitable[None] | None:
        """Bytes of the body have come; an awaitable holds the server back while the client does not keep up."""
        exchange = self.exchange
        if exchange is not None:
            self._server.last_byte_seconds = exchange.last_activity
        if self._may_be_events:
            self._decide(data)
        if not self._is_events:
            self._collect(data)
            return None
        try:
            block = self._reader.feed(data)
        except EventTooLarge as error:
            if error.complete:
                self._pass_on(error.complete)  # Whole events that came before it belong to the client.
            raise AnswerTooLarge("one event of the server's stream is larger than the gateway accepts") from error
        return self._pass_on(block) if block else None

    def _collect(self, data: bytes) -> None:
        self._collected.append(data)
        self._collected_size += len(data)
        if self._collected_size > self._settings.max_response_body_size:
            raise AnswerTooLarge()
        if self._collected_size > MAX_ERROR_BODY_BYTES and not (self._head and 200 <= self._head.status < 300):
            raise AnswerTooLarge()

    def _pass_on(self, block: bytes) -> Awaitable[None] | None:
        watch = self._watch
        if not self.committed:
            self._collect(block)
            if not has_data(block):
                return None  # Comments and ids commit nothing; they wait for the first data.
            block = b"".join(self._collected)
            self._collected = []
            self.committed = True
            block = watch.observe(block)
            self._on_commit(watch.server_error is None)
            self._answer.start_stream(self._client_headers)
        else:
            block = watch.observe(block)
        if watch.server_error is not None:
            self._end_after_server_error(block)
            return None
        if watch.done:
            self._on_whole(Blame.SUCCESS, "")
            self._answer.finish_stream(block)
            return None
        return self._answer.write(block) if block else None

    def _end_after_server_error(self, block: bytes) -> None:
        blame = reported_error_blame(self._watch.server_error)
        self._on_whole(blame, "the server reported an error in its stream")
        self._answer.finish_stream(without_key(block, self._server.registration.api_key))

    # -- at its end ----------------------------------------------------------------------------------------------------

    def finish(self) -> Verdict | None:
        """The server's answer has come to an orderly end; None when the client has its whole answer now."""
        if self._answer.finished:
            return None
        return self._finish_events() if self._is_events else self._finish_document()

    def _finish_events(self) -> Verdict | None:
        leftover = self._reader.leftover.rstrip(b"\r\n")
        if DONE_MARK.fullmatch(leftover):  # All that it lacks is its blank line.
            self._pass_on(leftover + b"\n\n")
            if self._answer.finished:
                return None
        if not self.committed:
            return bad_answer_verdict("the server's stream ended before its first event")
        if not self._watch.whole:
            reason = "the server ended its stream before the answer was complete"
            return Verdict(StreamTruncated(BROKE_OFF), reason, try_next=False)
        self._on_whole(Blame.SUCCESS, "")
        self._answer.finish_stream(DONE_EVENT if self._watch.lacks_done else b"")
        return None

    def _finish_document(self) -> Verdict | None:
        head = self._head
        assert head is not None
        body = b"".join(self._collected)
        registration = self._server.registration
        asked_for = registration.served_model_name or registration.model_name
        if self._is_good and not self._is_audio and self._meter.read_usage(body):
            hidden = hidden_error_verdict(body, asked_for, registration.api_key) if b'"error"' in body else None
            if hidden is not None:
                return hidden
            headers = JSON_HEADERS
        elif not self._is_good or is_html(head.headers, body):
            return answer_verdict(head.status, head.headers, without_key(body, registration.api_key), asked_for)
        elif self._is_audio:
            headers = {"Content-Type": self._content_type, "Content-Disposition": "attachment"}
        else:
            return bad_answer_verdict("the server's answer is not valid JSON")
        self.committed = True
        self._on_commit(True)
        self._on_whole(Blame.SUCCESS, "")
        self._answer.send_whole(head.status, {**headers, **self._client_headers}, body)
        return None


def _not_as_asked(reason: str) -> Refused:
    """For an answer that is whole but of the other kind: such a server serves whoever asks for that kind well."""
    return Refused(replace(bad_answer_verdict(reason), blame=Blame.NONE))
