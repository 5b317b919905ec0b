"""Notices as e-mail, by the standard library's SMTP client in a thread of its own: the loop never waits for it.

The thread is a daemon: a mail server that hangs does not keep the gateway from ending. Where TLS is asked for, nothing
is sent without; certificates are verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from multiverse.notices.delivery import SendingFailed
from multiverse.notices.wording import Notice

STEP_SECONDS = 10.0
MOST_AT_ONCE = 4
NO_TEXTS_OF_THEIRS = "the mail server refuses"


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail goes out. `security` is `starttls`, `tls` (from the first byte) or `none`."""

    host: str
    port: int
    security: str
    sender: str
    user_name: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice to one person, written at `written_unix` seconds."""

    notice: Notice
    recipient: str
    written_unix: float


class Mail:
    """Sends letters."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def send(self, letter: Letter) -> None:
        """Hand it to the mail server. Raises SendingFailed, whose reason repeats none of the server's texts."""
        message = message_of(letter, self._settings.sender)
        try:
            async with self._places:
                await _in_a_thread(lambda: self._send(message, letter.recipient))
        except smtplib.SMTPResponseException as error:
            raise SendingFailed(f"{NO_TEXTS_OF_THEIRS} ({error.smtp_code})") from error
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _text in error.recipients.values()})
            # RFC 5321 §4.2.1: 5yz will be the same next time.
            reason = f"{NO_TEXTS_OF_THEIRS} the recipient ({', '.join(map(str, codes))})"
            raise SendingFailed(reason, for_good=codes[0] >= 500) from error
        except smtplib.SMTPNotSupportedError as error:
            raise SendingFailed("the mail server does not offer what SMTP_SECURITY or the password needs") from error
        except ssl.SSLError as error:
            raise SendingFailed("TLS with the mail server failed; is SMTP_SECURITY right?") from error
        except (smtplib.SMTPException, OSError) as error:
            raise SendingFailed(f"the mail server cannot be reached ({type(error).__name__})") from error

    def _send(self, message: EmailMessage, recipient: str) -> None:
        settings = self._settings
        with self._connected() as client:
            if settings.security == "starttls":
                client.starttls(context=ssl.create_default_context())
            if settings.user_name is not None:
                client.login(settings.user_name, settings.password or "")
            client.send_message(message, settings.sender, [recipient])

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        if settings.security == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(settings.host, settings.port, timeout=STEP_SECONDS, context=context)
        return smtplib.SMTP(settings.host, settings.port, timeout=STEP_SECONDS)


def message_of(letter: Letter, sender: str) -> EmailMessage:
    """The e-mail, marked as sent by a machine so that nobody's vacation notice answers it (RFC 3834 §5)."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = letter.recipient
    message["Subject"] = f"[multiverse] {letter.notice.subject}"
    message["Date"] = formatdate(letter.written_unix)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or "localhost")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.notice.text + "\n")
    return message


async def _in_a_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that nobody waits for at the end; its exception is raised here."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop was closed meanwhile.
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="mail", daemon=True).start()
    await ended
