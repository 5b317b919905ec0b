"""What passes by, read without slowing it: the end of a stream, its usage, its errors.

Looks at blocks of complete events with byte searches; JSON is parsed only where a search has found something worth it.
A quoted key cannot occur inside a JSON string (its quotes would be escaped), so the searches do not err on content.
"""

from __future__ import annotations

import contextlib
import re
from enum import Enum
from typing import Any

import msgspec

from multiverse.proxy.sse import event_data, split_events

DONE_MARK = re.compile(rb"(?:^|[\r\n])data:[ ]?\[DONE\][ ]*(?=[\r\n]|$)")
BEGINNING_OF_DONE = b"\ndata: "
FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
RESPONSE_END = re.compile(
    rb"(?:^|[\r\n])event:[ ]?response\.(?:completed|failed|incomplete)[ ]*[\r\n]"
    rb'|"type"\s*:\s*"response\.(?:completed|failed|incomplete)"'
)
USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
NULLS = (b":null", b": null")
NOT_FINITE = re.compile(rb"([:\[,]\s*)-?(?:NaN|Infinity)(?=\s*[,\]}])")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LARGEST_LOOSE_BYTES = 1024 * 1024
MOST_TOKENS = 10_000_000  # In one request; a server that claims more is wrong, and must not spoil every sum.
# Of a request in JSON; of plain English they are about as many.
BYTES_PER_TOKEN = 4
# An image in a request is a million bytes, of which a model makes some thousand tokens.
MOST_ESTIMATED_TOKENS = 8192


class WholeWhen(Enum):
    """What makes a stream of this route whole (docs/api.md, "Whole")."""

    DONE_OR_FINISH_REASON = "chat"
    RESPONSE_EVENT = "responses"
    ORDERLY_END = "other"


def whole_when(route: str) -> WholeWhen:
    """The rule for `route`, as the client called it."""
    if route in ("/v1/chat/completions", "/v1/completions"):
        return WholeWhen.DONE_OR_FINISH_REASON
    return WholeWhen.RESPONSE_EVENT if route == "/v1/responses" else WholeWhen.ORDERLY_END


class TokenCounts(msgspec.Struct):
    """OpenAI's `usage`, under the names of chat and completions or of `/v1/responses`."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class WithUsage(msgspec.Struct):
    """An answer or event that may carry `usage`, itself or in its `response` or `message`."""

    usage: TokenCounts | None = None
    response: WithInnerUsage | None = None
    message: msgspec.Raw = msgspec.Raw()  # In most documents that have one, it is a text.


class WithInnerUsage(msgspec.Struct):
    """The `response` of a `/v1/responses` event, or the `message` that begins a stream of `/v1/messages`."""

    usage: TokenCounts | None = None


WITH_INNER_USAGE = msgspec.json.Decoder(WithInnerUsage)
WITH_USAGE = msgspec.json.Decoder(WithUsage)


class WithError(msgspec.Struct):
    """An event that may be an error: `{"error": …}`, or on `/v1/responses` one of the type `error`."""

    error: Any = None
    type: Any = None


class Meter:
    """Tokens of one request, from what its server reports; `estimated` when it leaves something out."""

    __slots__ = ("completion_tokens", "data_events", "estimated", "prompt_tokens")

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.estimated = False
        self.data_events = 0

    def read_usage(self, document: bytes) -> bool:
        """Take over the `usage` of a JSON document. False when it is neither a JSON object nor an array."""
        try:
            found = WITH_USAGE.decode(document)
        except msgspec.ValidationError:
            return is_json_container(document)  # Its usage is not OpenAI's; perhaps the rest is not JSON either.
        except (msgspec.DecodeError, RecursionError, ValueError):
            strict = as_strict_json(document)
            return strict is not None and self.read_usage(strict)
        usage = found.usage or (found.response.usage if found.response else None)
        if usage is None and found.message:
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                begun = WITH_INNER_USAGE.decode(found.message).usage
                # The completion has only begun there, and may never come to its last report.
                usage = begun and TokenCounts(prompt_tokens=begun.prompt_tokens, input_tokens=begun.input_tokens)
        if usage is not None:
            self._take_over(usage)
        return True

    def _take_over(self, usage: TokenCounts) -> None:
        # Some servers report with every event, and the last report may be an empty one.
        prompt_tokens = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        if prompt_tokens is not None and prompt_tokens >= 0:
            self.prompt_tokens = min(prompt_tokens, MOST_TOKENS)
        completion_tokens = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
        if completion_tokens is not None and completion_tokens >= 0:
            self.completion_tokens = min(completion_tokens, MOST_TOKENS)

    def estimate(self, request_bytes: int, context_length: int | None = None) -> None:
        """Fill in what the server has not reported of a request whose answer has begun.

        The prompt: a token for every four of `request_bytes`, at least 1, at most 8192 and what the server's
        `context_length` can hold. The completion of a stream: a token for each event but two, at least 1; the last ones
        carry none. That of a plain answer stays unknown.
        """
        if self.prompt_tokens is None:
            most = min(context_length or MOST_ESTIMATED_TOKENS, MOST_ESTIMATED_TOKENS)
            self.prompt_tokens, self.estimated = min(max(request_bytes // BYTES_PER_TOKEN, 1), most), True
        if self.completion_tokens is None and self.data_events:
            self.completion_tokens, self.estimated = max(self.data_events - 2, 1), True


def as_strict_json(document: bytes) -> bytes | None:
    """JSON as Python writes it and most libraries read it, without what RFC 8259 forbids: NaN, Infinity, a byte order
    mark. None where there is nothing of that, and for documents so large that looking for it would hold up others.
    """
    if len(document) > LARGEST_LOOSE_BYTES:
        return None
    strict = NOT_FINITE.sub(rb"\1null", document.removeprefix(BYTE_ORDER_MARK))
    return None if strict == document else strict


def is_json_container(document: bytes) -> bool:
    """Whether `document` is one JSON object or array, whatever it holds."""
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return False
    return document.lstrip()[:1] in (b"{", b"[")


def has_value(block: bytes, key: bytes) -> bool:
    """Whether `key` (with its quotes) stands in `block` before anything but null: most servers send nulls for ever."""
    found = block.find(key)
    while found >= 0:
        found += len(key)
        if not block.startswith(NULLS, found):
            return True
        found = block.find(key, found)
    return False


class StreamWatch:
    """Follows the events of one stream: has it been whole, has it reported an error, what does it count."""

    __slots__ = ("_drops_usage", "_of_responses", "_whole_when", "done", "finished", "meter", "server_error")

    def __init__(self, rule: WholeWhen, meter: Meter, *, drops_usage: bool = False) -> None:
        self._drops_usage = drops_usage
        self._whole_when = rule
        self._of_responses = rule is WholeWhen.RESPONSE_EVENT
        self.meter = meter
        self.done = False
        self.finished = False
        self.server_error: Any = None

    def observe(self, block: bytes) -> bytes:
        """Read a block of complete events; returns what of it belongs to the answer.

        Everything after `[DONE]` is cut off, and so is everything after an error event. The event that holds usage only
        is taken out if the client has not asked for it; nothing may be left of the block then.
        """
        # `find` is the fastest search that bytes have; this runs for every event of every stream.
        self.meter.data_events += block.count(b"\ndata:") + block.startswith(b"data:")
        if block[-1:] == b"\r":
            self.meter.data_events += block.count(b"\rdata:")
        done = block.find(b"[DONE]")
        if done >= 0:
            block = self._up_to_done(block, done)
        if block.find(b'"error"') >= 0 and has_value(block, b'"error"'):
            block = self._up_to_error(block)
        if block.find(b'"usage"') >= 0 and has_value(block, b'"usage"'):
            block = self._read_usage(block)
        if not self.finished:
            if not self._of_responses:
                self.finished = FINISH_REASON.search(block) is not None
            elif block.find(b"complete") >= 0 or block.find(b"failed") >= 0:
                self.finished = RESPONSE_END.search(block) is not None
        return block

    @property
    def whole(self) -> bool:
        """Whether an orderly end now would be the end of a whole answer."""
        return self.done or self.finished or self._whole_when is WholeWhen.ORDERLY_END

    @property
    def lacks_done(self) -> bool:
        """Whether the gateway has to add `[DONE]` at an orderly end."""
        return self._whole_when is WholeWhen.DONE_OR_FINISH_REASON and self.finished and not self.done

    def _up_to_done(self, block: bytes, done: int) -> bytes:
        """`done` is where it may stand for the first time."""
        mark = DONE_MARK.search(block, max(done - len(BEGINNING_OF_DONE), 0))
        if mark is None:
            return block
        self.done = True
        kept = 0
        for event in split_events(block):
            kept += len(event)
            if kept >= mark.end():
                break
        return block[:kept] if kept >= mark.end() else block

    def _up_to_error(self, block: bytes) -> bytes:
        kept = 0
        for event in split_events(block):
            kept += len(event)
            if b'"error"' not in event:
                continue
            error = reported_error(event_data(event))
            if error:
                self.server_error = error
                self.done = False  # It came before `[DONE]`.
                return block[:kept]
        return block

    def _read_usage(self, block: bytes) -> bytes:
        kept = []
        for event in split_events(block):
            if USAGE_OBJECT.search(event) is not None:
                self.meter.read_usage(event_data(event))
                if self._drops_usage and has_no_choices(event):
                    continue
            kept.append(event)
        return b"".join(kept) if self._drops_usage else block


def has_no_choices(event: bytes) -> bool:
    """Whether an event with usage is the one that `stream_options.include_usage` adds (OpenAI API, "Streaming").

    A key in quotes cannot stand inside a string, so where there is one `choices` it is the event's own.
    """
    return NO_CHOICES.search(event) is not None and event.count(b'"choices"') == 1


def reported_error(document: bytes) -> Any:
    """What an event's data says of an error; None (or something empty) when it says nothing."""
    try:
        found = msgspec.json.decode(document, type=WithError)
        return msgspec.json.decode(document) if found.type == "error" and not found.error else found.error
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
