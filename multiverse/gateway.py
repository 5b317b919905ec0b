"""The composition root: builds every service, starts them in order, drains and closes them in the mirror of it.

Services get only what they use; none of them sees the `Gateway`. Only the web handlers do.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

from multiverse.classroom.classroom import Classroom
from multiverse.clock import Clock, iso_from_unix
from multiverse.config import Config, ConfigError
from multiverse.errors import ShuttingDown, StoreFailed
from multiverse.log_memory import LogMemory
from multiverse.loop_watch import LoopWatch
from multiverse.notices.mail import Mail, MailSettings
from multiverse.notices.news import NewsDesk
from multiverse.notices.notifier import Notifier
from multiverse.notices.webhook import Webhook
from multiverse.open_files import LackLog
from multiverse.people.allowances import Allowances, Limit
from multiverse.people.keyring import KeyRing
from multiverse.people.keys import ANONYMOUS, READER, STUDENT, Keys
from multiverse.people.limits import RateLimit
from multiverse.people.sessions import Sessions
from multiverse.people.thanks import ThanksBoard
from multiverse.people.usage import Usage, UsageRecord
from multiverse.proxy.asking import ForwardSettings
from multiverse.proxy.forward import Proxy
from multiverse.proxy.queue import Queue
from multiverse.proxy.request_numbers import RequestNumbers
from multiverse.proxy.stories import Stories, Story
from multiverse.proxy.traces import continue_trace
from multiverse.proxy.tracing import open_spans
from multiverse.servers.aliases import Aliases
from multiverse.servers.discovery import Discovery
from multiverse.servers.health import HealthChecker
from multiverse.servers.probe import Prober
from multiverse.servers.record import state_row
from multiverse.servers.registration import RegistrationService
from multiverse.servers.registry import Registry
from multiverse.servers.server import BreakerSettings
from multiverse.servers.terms_watch import TermsWatch
from multiverse.storage.alias_table import AliasTable
from multiverse.storage.key_table import KeyTable
from multiverse.storage.store import Store
from multiverse.storage.usage_table import UsageTable
from multiverse.ticking import SteadyCallback
from multiverse.transport.addresses import AddressPolicy
from multiverse.transport.dialling import Dialler
from multiverse.transport.http import StreamingHTTPClient

LOG = logging.getLogger(__name__)

WRONG_KEYS_PER_MINUTE = 50
SECONDS_OF_A_DAY = 86400.0
WRONG_SIGN_INS_PER_MINUTE = 10
OWNERS_PROBES_PER_MINUTE = 30
SESSION_IDLE_SECONDS = 12 * 3600.0
AUTO_DEREGISTER_LOOKS_SECONDS = 60.0
RETENTION_LOOKS_SECONDS = 3600.0
DRAIN_LOOKS_SECONDS = 0.05
LAST_WORDS_SECONDS = 1.0
NOTIFY_LOOKS_SECONDS = 5.0


class Gateway:
    """Everything that runs, for as long as the context lasts.

    `on_secret` is told every key that logs must not show; `log_memory` has the latest log records.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_secret: Callable[[str], None] | None = None,
        log_memory: LogMemory | None = None,
    ) -> None:
        self.config = config
        self.clock = Clock()
        self.gateway_id = secrets.token_hex(8)
        self.draining = False
        self.started_seconds = self.clock.monotonic()
        self.keys = Keys(admin_key=config.admin_api_key, client_keys=config.client_api_keys, clock=self.clock)
        self.allowances = Allowances(by_role=_limits_by_role(config), clock=self.clock)
        self.wrong_key_limit = RateLimit(limit=WRONG_KEYS_PER_MINUTE, period_seconds=60.0, clock=self.clock)
        self.sign_in_limit = RateLimit(limit=WRONG_SIGN_INS_PER_MINUTE, period_seconds=60.0, clock=self.clock)
        self.owners_probe_limit = RateLimit(limit=OWNERS_PROBES_PER_MINUTE, period_seconds=60.0, clock=self.clock)
        self.sessions = Sessions(keys=self.keys, clock=self.clock, idle_seconds=SESSION_IDLE_SECONDS)
        self.store = Store(config.database_path)
        self.keyring = KeyRing(keys=self.keys, table=KeyTable(self.store), clock=self.clock)
        self.aliases = Aliases(table=AliasTable(self.store), clock=self.clock)
        self.registry = Registry(least_busy=config.load_balancing == "least_busy", aliases=self.aliases)
        self.spans = open_spans(config)
        begin_trace = continue_trace if self.spans is None else self.spans.begin
        self.stories = Stories(clock=self.clock, begin_trace=begin_trace, traces_all=self.spans is not None)
        self.numbers = RequestNumbers(is_registered=self.registry.knows)
        self.usage = Usage(store=self.store)
        self.usage_table = UsageTable(self.store)
        self.thanks = ThanksBoard(table=self.usage_table, keyring=self.keyring)
        self.terms_watch = TermsWatch(registry=self.registry, usage_table=self.usage_table, clock=self.clock)
        self.loop_watch = LoopWatch(clock=self.clock)
        self.lack_log = LackLog(self.clock)
        self.log_memory = log_memory or LogMemory(lambda record: {})
        self._on_secret = on_secret or (lambda secret: None)

    def _on_request_end(self, story: Story, record: UsageRecord) -> None:
        self.stories.end(story, record)
        self.numbers.note(story, record)
        if self.spans is not None:
            self.spans.export_soon(story, record)

    @property
    def via(self) -> str:
        """This gateway in a `Via` header (RFC 9110 §7.6.3); unique, so that it recognises its own requests."""
        return f"1.1 multiverse-{self.gateway_id}"

    # -- start ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Gateway:
        """Open the store and load the registry; probing starts with `watch_servers()`, once the port is open.

        Raises StoreFailed, and ConfigError for an address that settings alone cannot judge.
        """
        config = self.config
        await self.store.open()
        try:
            dialler = Dialler(
                AddressPolicy(allow_private=config.allow_private_addresses),
                absence_seconds=config.tcp_user_timeout_seconds,
                lack_log=self.lack_log,
            )
            self.transport = StreamingHTTPClient(force_instance=True, dialler=dialler)
            self._build_servers(dialler)
            self._build_notifier()
            self.queue = Queue(
                registry=self.registry,
                size=config.queue_size,
                timeout_seconds=config.queue_timeout_seconds,
                clock=self.clock,
            )
            self.registry.watch(self.queue.serve)
            self.proxy = Proxy(
                queue=self.queue,
                transport=self.transport,
                usage=self.usage,
                allowances=self.allowances,
                clock=self.clock,
                settings=_forward_settings(config),
                on_end=self._on_request_end,
            )
            await self.keyring.load()
            self.allowances.restore(await self.usage_table.tokens_on(self.clock.utc_iso()[:10]))
            await self.aliases.load()
            await self.registrations.load()
            await self.terms_watch.count()
            if config.usage_retention_days > 0:
                await self._forget_old_usage()
        except BaseException:
            await self.store.close()
            raise
        self.loop_watch.start()
        return self

    def _build_servers(self, dialler: Dialler) -> None:
        config = self.config
        prober = Prober(
            transport=self.transport,
            clock=self.clock,
            timeout_seconds=config.health_check_timeout_seconds,
            connect_timeout_seconds=config.connect_timeout_seconds,
            via=self.via,
        )
        self.health = HealthChecker(
            registry=self.registry,
            prober=prober,
            store=self.store,
            clock=self.clock,
            interval_seconds=config.health_check_interval_seconds,
            concurrency=config.health_check_concurrency,
        )
        self.registrations = RegistrationService(
            registry=self.registry,
            store=self.store,
            prober=prober,
            health=self.health,
            dialler=dialler,
            clock=self.clock,
            breaker=_breaker_settings(config),
            default_slots=config.default_max_concurrency or None,
            resolve_timeout_seconds=config.connect_timeout_seconds,
            on_secret=self._on_secret,
        )
        self.discovery = Discovery(self.registrations)
        self.classroom = Classroom(
            count=config.classroom_servers,
            registrations=self.registrations,
            registry=self.registry,
            clock=self.clock,
        )
        # Hours may be given as fractions of a second: looks come often enough for them.
        looks_seconds = max(min(AUTO_DEREGISTER_LOOKS_SECONDS, config.auto_deregister_after_hours * 3600 / 4), 0.02)
        self._lost_servers = SteadyCallback(self._deregister_lost, looks_seconds * 1000)
        self._old_usage = SteadyCallback(self._forget_old_usage, RETENTION_LOOKS_SECONDS * 1000)

    def _build_notifier(self) -> None:
        config = self.config
        # The webhook's address is the admin's word: the policy for servers does not concern it.
        self._outward = StreamingHTTPClient(force_instance=True, dialler=Dialler(AddressPolicy(allow_private=True)))
        self._notifier = Notifier(
            servers=lambda: self.registry.servers,
            email_of=self.keyring.email_of,
            desk=NewsDesk(
                clock=self.clock, after_seconds=config.notify_after_seconds, gap_seconds=config.notify_gap_seconds
            ),
            clock=self.clock,
            look_seconds=min(NOTIFY_LOOKS_SECONDS, config.notify_after_seconds / 4),
            webhook=self._webhook(),
            mail=_mail(config),
            admin_emails=config.notify_email,
        )

    def _webhook(self) -> Webhook | None:
        address = self.config.notify_webhook_url
        try:
            return Webhook(address, transport=self._outward) if address else None
        except ValueError:
            raise ConfigError("NOTIFY_WEBHOOK_URL must be an address that can be dialled") from None

    def watch_servers(self) -> None:
        """Probe all servers now, and go on until the end."""
        self._notifier.start()
        self.health.start()
        self.terms_watch.start()
        if self.config.auto_deregister_after_hours > 0:
            self._lost_servers.start()
        if self.config.usage_retention_days > 0:
            self._old_usage.start()

    async def _deregister_lost(self) -> None:
        await self.registrations.deregister_lost(self.config.auto_deregister_after_hours)

    async def _forget_old_usage(self) -> None:
        """Single requests go, their sums stay; what cannot be deleted now is deleted in an hour."""
        before = self.clock.unix_seconds() - self.config.usage_retention_days * SECONDS_OF_A_DAY
        try:
            forgotten = await self.usage_table.forget_before(iso_from_unix(before))
        except StoreFailed as error:
            LOG.warning("old usage not deleted", extra={"fields": {"reason": error.message}})
            return
        if forgotten:
            LOG.info("old usage deleted", extra={"fields": {"rows": forgotten}})

    # -- end -----------------------------------------------------------------------------------------------------------

    async def drain(self, hurry: asyncio.Event) -> None:
        """Refuse new requests; let those under way finish, for `DRAIN_SECONDS` or until `hurry`, then end the rest."""
        self.draining = True
        deadline = self.clock.monotonic() + self.config.drain_seconds
        LOG.info("draining", extra={"fields": {"requests": len(self.proxy.under_way)}})
        while self.proxy.under_way and self.clock.monotonic() < deadline and not hurry.is_set():
            await asyncio.sleep(DRAIN_LOOKS_SECONDS)
        self.proxy.end_all(ShuttingDown)
        give_up_at = self.clock.monotonic() + LAST_WORDS_SECONDS
        while self.proxy.under_way and self.clock.monotonic() < give_up_at:
            await asyncio.sleep(DRAIN_LOOKS_SECONDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop probing, close every connection, write what is queued; what fails keeps nothing else from its end."""
        self._lost_servers.stop()
        self._old_usage.stop()
        self.loop_watch.stop()
        self.terms_watch.stop()
        async with AsyncExitStack() as ends:  # From the last to the first.
            if self.spans is not None:
                ends.push_async_callback(self.spans.close)
            ends.push_async_callback(self.store.close)
            ends.callback(self._queue_server_states)
            ends.callback(self.transport.close)
            ends.push_async_callback(self.health.stop)
            ends.callback(self._outward.close)
            ends.push_async_callback(self._notifier.stop)
            ends.push_async_callback(self.classroom.close)

    def _queue_server_states(self) -> None:
        for server in self.registry.servers:
            self.store.queue_server_state(server.registration_id, state_row(server))


def _limits_by_role(config: Config) -> dict[str, Limit]:
    """The limits of those whose key has none of its own; an admin has none unless told otherwise."""
    if not config.rate_limit_enabled:
        return {}
    usual = (
        config.rate_limit_requests_per_minute,
        config.rate_limit_tokens_per_day,
        config.rate_limit_requests_at_once,
    )
    figures = {**dict.fromkeys((STUDENT, READER, ANONYMOUS), usual), **dict(config.rate_limits_by_role)}
    return {role: Limit(*(figure or None for figure in given)) for role, given in figures.items()}


def _mail(config: Config) -> Mail | None:
    """None without a mail server; config.py sees to it that one has a sender."""
    if config.smtp_host is None or config.smtp_from is None:
        return None
    return Mail(
        MailSettings(
            host=config.smtp_host,
            port=config.smtp_port,
            security=config.smtp_security,
            sender=config.smtp_from,
            user_name=config.smtp_username,
            password=config.smtp_password,
        )
    )


def _breaker_settings(config: Config) -> BreakerSettings:
    return BreakerSettings(
        max_failures=config.max_consecutive_failures,
        successes_to_recover=config.successes_to_recover,
        eject_seconds=config.eject_seconds,
        eject_max_seconds=config.eject_max_seconds,
    )


def _forward_settings(config: Config) -> ForwardSettings:
    return ForwardSettings(
        max_attempts=1 + config.max_retry_attempts,
        connect_timeout_seconds=config.connect_timeout_seconds,
        request_timeout_seconds=config.request_timeout_seconds,
        stream_idle_timeout_seconds=config.stream_idle_timeout_seconds,
        stream_max_seconds=config.stream_max_seconds,
        plain_max_seconds=config.plain_max_seconds or None,
        stream_keepalive_seconds=config.stream_keepalive_seconds,
        max_response_body_size=config.max_response_body_size,
        max_event_size=config.max_event_size,
        show_server_id=config.include_gateway_server_id_header,
    )
