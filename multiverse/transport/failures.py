"""What can go wrong between the gateway and a server, as exceptions of ours.

Sockets, TLS, DNS and the HTTP parser each have errors of their own; whoever calls them makes these of theirs, so that
none of them leaves the room.
`reason` is a sentence for the server's owner: it says what was seen, and never carries an address or a key.
"""

from __future__ import annotations

from typing import ClassVar


class TransportError(Exception):
    """One exchange with a server failed; `reason` says why, in words for the server's owner."""

    default_reason: ClassVar[str] = "the connection to the server failed"

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason or self.default_reason
        super().__init__(self.reason)


class ConnectFailed(TransportError):
    """No connection: refused, unreachable, or reset while it was being opened. Nothing was sent."""

    default_reason = "the server refused the connection; is it running?"


class NoRoom(TransportError):
    """The gateway's own machine lacks what a connection takes (open_files.py): no server's fault. Nothing was sent."""

    default_reason = "the gateway's machine has no room for another connection; its log says what it lacks"


class AddressRefused(ConnectFailed):
    """The name resolves to addresses which the policy forbids; nothing was dialled."""

    default_reason = "the server's address is not permitted"


class NameNotResolved(ConnectFailed):
    """DNS does not know the server's name (or did not answer)."""

    default_reason = "the server's host name does not resolve"


class TLSFailed(ConnectFailed):
    """The handshake failed, or the certificate did not verify."""

    default_reason = "the TLS handshake with the server failed"


class ConnectTimeout(ConnectFailed):
    """No connection within `connect_timeout` seconds."""

    default_reason = "the server did not accept the connection in time; is the machine awake?"


class Disconnected(TransportError):
    """The server closed or reset the connection before the answer was whole."""

    default_reason = "the server closed the connection before its answer was complete"


class MachineGone(Disconnected):
    """The server's machine has acknowledged nothing for too long, or the way to it is gone (see absence.py)."""

    default_reason = "the server's machine does not answer any more; is it asleep, or out of the network?"


class BadAnswer(TransportError):
    """What came is not HTTP, or HTTP with forbidden framing (RFC 9112 §6.3)."""

    default_reason = "the server's answer is not valid HTTP"


class AnswerTooLarge(TransportError):
    """The body, decoded, is longer than `max_body_size` bytes."""

    default_reason = "the server's answer is larger than the gateway accepts"


class AnswerTimeout(TransportError):
    """Base of the timers that run once the request is under way."""

    default_reason = "the server did not answer in time"


class FirstByteTimeout(AnswerTimeout):
    """No response head within `first_byte_timeout` seconds of sending the request."""


class IdleTimeout(AnswerTimeout):
    """Not a byte for `idle_timeout` seconds in the middle of the body."""

    default_reason = "the server fell silent in the middle of its answer"


class TotalTimeout(AnswerTimeout):
    """The whole exchange took longer than `request_timeout` seconds."""

    default_reason = "the server took too long to finish its answer"


class Abandoned(TransportError):
    """We ended the exchange ourselves: the client left, or the gateway stops."""

    default_reason = "the request was abandoned"
