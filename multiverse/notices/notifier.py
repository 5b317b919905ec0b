"""Owners hear of it: looks at all servers again and again, and posts what there is to tell to everybody it concerns.

The webhook is told everything; by e-mail the admin everything, an owner what is about their own servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from multiverse.clock import Clock
from multiverse.notices.delivery import Delivery
from multiverse.notices.mail import Letter, Mail
from multiverse.notices.news import News, NewsDesk
from multiverse.notices.webhook import Webhook
from multiverse.notices.wording import Notice, notice_of
from multiverse.servers.identity import Registration
from multiverse.servers.server import Server
from multiverse.ticking import SteadyCallback

LOG = logging.getLogger(__name__)


class Notifier:
    """Tells people. `servers` gives all servers; `email_of` the e-mail of a key's holder, by the key's id."""

    def __init__(
        self,
        *,
        servers: Callable[[], Collection[Server]],
        email_of: Callable[[str], str | None],
        desk: NewsDesk,
        clock: Clock,
        look_seconds: float,
        webhook: Webhook | None = None,
        mail: Mail | None = None,
        admin_emails: Sequence[str] = (),
    ) -> None:
        self._servers = servers
        self._email_of = email_of
        self._desk = desk
        self._clock = clock
        self._admin_emails = tuple(admin_emails)
        self._posts: Delivery[Notice] | None = Delivery("webhook", webhook.send, clock=clock) if webhook else None
        self._mail = mail
        # One for each recipient: an address that takes nothing must not hold up the others.
        self._letters: dict[str, Delivery[Letter]] = {}
        self._ticker = SteadyCallback(self.look, look_seconds * 1000)

    def start(self) -> None:
        """To be called before the first probe; does nothing when there is no way to anybody."""
        if self._posts is not None or self._mail is not None:
            self._desk.recall(self._servers())
            self._ticker.start()

    async def stop(self) -> None:
        """What has not gone out yet is forgotten."""
        self._ticker.stop()
        for delivery in self._letters.values():
            await delivery.stop()
        if self._posts is not None:
            await self._posts.stop()

    def look(self) -> None:
        """Post what is new; returns at once."""
        for news in self._desk.look(self._servers()):
            self._tell(news)

    def _tell(self, news: News) -> None:
        registration = news.server.registration
        notice = notice_of(news, self._clock.utc_iso())
        if self._posts is not None:
            self._posts.post(notice)
        recipients = self._recipients(registration) if self._mail is not None else []
        for recipient in recipients:
            self._write(Letter(notice, recipient, self._clock.unix_seconds()))
        fields = {"server": registration.registration_id, "down": news.down, "letters": len(recipients)}
        LOG.info("people are told", extra={"fields": fields})

    def _write(self, letter: Letter) -> None:
        if self._mail is None:
            return
        self._letters = {address: delivery for address, delivery in self._letters.items() if not delivery.idle}
        if letter.recipient not in self._letters:
            self._letters[letter.recipient] = Delivery("e-mail", self._mail.send, clock=self._clock)
        self._letters[letter.recipient].post(letter)

    def _recipients(self, registration: Registration) -> list[str]:
        """The admin, and the owner: by the e-mail on their key, else by the one given with the server."""
        of_key = self._email_of(registration.owner_key_id) if registration.owner_key_id else None
        owner = of_key or registration.owner_email
        return list(dict.fromkeys([*self._admin_emails, *([owner] if owner else [])]))
