"""A small SMTP server on raw sockets that keeps every letter; what it offers and refuses is said when it is made.

It runs in a thread of its own. Only what a client like smtplib needs is spoken (RFC 5321); no TLS.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import BinaryIO


@dataclass(frozen=True)
class Received:
    """One letter: who signed in to send it, the envelope, and the parsed message."""

    signed_in: bool
    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage


@dataclass
class _Envelope:
    signed_in: bool = False
    sender: str = ""
    recipients: list[str] = field(default_factory=list)


class MailServer:
    """A context manager. `refused` recipients get 550; `silent`, it accepts connections and never says a word."""

    def __init__(self, *, refused: str = "", silent: bool = False) -> None:
        self.letters: list[Received] = []
        self.connections = 0
        self.port = 0
        self._refused = refused
        self._silent = silent
        self._open: list[socket.socket] = []

    def __enter__(self) -> MailServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            if not self._silent:
                with connection, connection.makefile("rwb") as stream:
                    self._talk(stream)

    def _talk(self, stream: BinaryIO) -> None:
        envelope = _Envelope()
        self._say(stream, "220 mail.class.example")
        for line in iter(stream.readline, b""):
            command, _space, rest = line.decode().strip().partition(" ")
            match command.upper():
                case "EHLO":
                    self._say(stream, "250-mail.class.example", "250 AUTH PLAIN")
                case "AUTH":
                    envelope.signed_in = True
                    self._say(stream, "235 welcome")
                case "MAIL":
                    envelope.sender = rest.partition(":")[2].split()[0].strip("<>")
                    self._say(stream, "250 fine")
                case "RCPT":
                    self._recipient(stream, envelope, rest.partition(":")[2].strip("<>"))
                case "DATA":
                    self._say(stream, "354 go on")
                    self._keep(envelope, b"".join(iter(stream.readline, b".\r\n")))
                    self._say(stream, "250 kept")
                case "QUIT":
                    self._say(stream, "221 bye")
                    return
                case _:
                    self._say(stream, "250 fine")

    def _recipient(self, stream: BinaryIO, envelope: _Envelope, address: str) -> None:
        if address == self._refused:
            self._say(stream, f"550 no such person as {address}")
            return
        envelope.recipients.append(address)
        self._say(stream, "250 fine")

    def _keep(self, envelope: _Envelope, content: bytes) -> None:
        message = message_from_bytes(content, _class=EmailMessage, policy=policy.default)
        self.letters.append(Received(envelope.signed_in, envelope.sender, tuple(envelope.recipients), message))

    def _say(self, stream: BinaryIO, *lines: str) -> None:
        stream.write("".join(f"{line}\r\n" for line in lines).encode())
        stream.flush()
