"""make_app(gateway), and run(config): the life of the process from its settings to its exit code.

Start: store, registry, port, then the first sweep. End: refuse, drain, close in the mirror of it.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import Any

import tornado.autoreload
import tornado.netutil
import tornado.web

from multiverse import __version__
from multiverse.config import Config, ConfigError, idle_settings
from multiverse.errors import StoreFailed
from multiverse.gateway import Gateway
from multiverse.logs import Logs, open_logs
from multiverse.open_files import LackLog, is_own_lack, raise_limit
from multiverse.people.keys import ADMIN, Caller
from multiverse.transport.absence import notice_absence
from multiverse.web.assets import Assets
from multiverse.web.dispatch import GatewayApplication
from multiverse.web.feed import Feed
from multiverse.web.front.door import ClientLimits, FrontDoor
from multiverse.web.front.heads import MAX_HEAD_BYTES
from multiverse.web.handlers.admin import counts_document, server_document
from multiverse.web.handlers.api_docs import ApiDocs
from multiverse.web.handlers.base import NotFoundHandler
from multiverse.web.http_server import GatewayHTTPServer
from multiverse.web.openapi import document_bytes
from multiverse.web.route import Route
from multiverse.web.routes import ROUTES
from multiverse.web.seeding import Registered, read_servers_file, seed
from multiverse.web.service_manager import ServiceManager

LOG = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_BAD_SETTINGS = 0, 1, 2
LAST_ANSWERS_SECONDS = 1.0
NO_LIMIT = 2**62  # Bodies are counted by the handlers, which can answer 413 in the right shape; Tornado's limit cannot.

# Whoever listens to the feed is one.
SOME_ADMIN = Caller(ADMIN, ADMIN, key_id=ADMIN)
NO_ROUTE = Route(shown="", pattern="", handler=NotFoundHandler, access="anyone", methods={})


def make_app(gateway: Gateway) -> tornado.web.Application:
    """The Tornado application of `gateway`, from ROUTES."""
    return GatewayApplication(
        ROUTES,
        {"gateway": gateway},
        default_handler_class=NotFoundHandler,
        default_handler_args={"gateway": gateway, "route": NO_ROUTE},
        log_function=lambda handler: None,  # Tornado's own line shows the query; ours is written in people/usage.py.
        api_docs=ApiDocs(lambda: document_bytes(ROUTES)),
        cors_allow_origins=gateway.config.cors_allow_origins,
        cross_origin_protection=True,
        assets=Assets(),
        feed=Feed(
            registry=gateway.registry,
            document=lambda server: server_document(server, SOME_ADMIN, gateway.keys),
            counts=lambda: counts_document(gateway),
            last_log_id=lambda: gateway.log_memory.last_id,
        ),
    )


def make_server(gateway: Gateway) -> FrontDoor | GatewayHTTPServer:
    """The HTTP server of `gateway` that `HTTP_SERVER` names, not listening yet. To be called in the loop."""
    config, app = gateway.config, make_app(gateway)
    if config.http_server == "tornado":
        return GatewayHTTPServer(
            app,
            idle_connection_timeout=config.header_timeout_seconds,
            body_timeout=config.body_timeout_seconds,
            max_header_size=MAX_HEAD_BYTES,
            max_body_size=NO_LIMIT,
        )
    limits = ClientLimits(
        header_timeout_seconds=config.header_timeout_seconds,
        body_timeout_seconds=config.body_timeout_seconds,
        write_timeout_seconds=config.client_write_timeout_seconds,
    )
    return FrontDoor(app, limits)


def run(config: Config, notify_socket: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. systemd hears of it at `notify_socket`."""
    try:
        logs = open_logs(config)
    except ConfigError as error:
        sys.stderr.write(f"multiverse: {error}\n")
        return EXIT_BAD_SETTINGS
    raise_limit()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config, logs, ServiceManager(notify_socket)))
    except ConfigError as error:
        sys.stderr.write(f"multiverse: {error}\n")
        return EXIT_BAD_SETTINGS
    except (StoreFailed, _CannotListen) as error:
        sys.stderr.write(f"multiverse: {error}\n")
        return EXIT_FAILED
    finally:
        logs.close()


class _CannotListen(Exception):
    """The port cannot be had; the text says what to do."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a third less CPU."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def bind(config: Config) -> list[socket.socket]:
    """Sockets that listen where `HOST` and `PORT` say. Raises ConfigError for a host that is not of this machine."""
    # "::" is every address, of IPv4 as well, as programs elsewhere take it; Tornado's sockets keep the two apart.
    address = None if config.host in ("", "::") else config.host
    try:
        return tornado.netutil.bind_sockets(config.port, address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _CannotListen(
                f"port {config.port} is in use already; set PORT to another one, or stop what uses it "
                f"(find it with: lsof -ti:{config.port})"
            ) from error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"HOST must be an address of this machine, 0.0.0.0 for all; got {config.host!r}"
            ) from error
        raise _CannotListen(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error


def _clients_absence_seconds(config: Config) -> float:
    """Longer than a client may stop reading, which the kernel cannot tell from being gone."""
    seconds = config.tcp_user_timeout_seconds
    return max(seconds, config.client_write_timeout_seconds + 1) if seconds else 0


def _on_signal(number: signal.Signals, action: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def react(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(action)

    try:
        loop.add_signal_handler(number, action)
    except NotImplementedError:  # Windows
        signal.signal(number, react)


def _tell_lack_once(lack_log: LackLog) -> None:
    """Have the loop tell of clients that it could not accept in one line, not with a traceback for each."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "accept" in context["message"] and is_own_lack(error):
            lack_log.note(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


async def _fill(gateway: Gateway, entries: list[Registered]) -> None:
    """What is registered by itself, behind the open port. What fails is told, and the gateway serves without it."""
    steps: dict[str, Callable[[], Awaitable[None]]] = {
        "SERVERS_FILE": partial(seed, gateway, entries),
        "CLASSROOM_SERVERS": gateway.classroom.open,
    }
    for variable, step in steps.items():
        try:
            await step()
        except Exception:
            LOG.exception(
                "not all of %s could be registered; mend what stands below and start the gateway again, or register "
                "what is missing",
                variable,
            )


async def _serve(config: Config, logs: Logs, service_manager: ServiceManager) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signal(signal.SIGTERM, stop.set)  # A PaaS may send it more than once, and still means "take your time".
    _on_signal(signal.SIGINT, lambda: hurry.set() if stop.is_set() else stop.set())
    entries = read_servers_file(config.servers_file) if config.servers_file else []
    sockets = bind(config)
    for listener in sockets:
        notice_absence(listener, _clients_absence_seconds(config))
    try:
        async with Gateway(config, on_secret=logs.redact, log_memory=logs.memory) as gateway:
            _tell_lack_once(gateway.lack_log)
            server = make_server(gateway)
            await server.accept_on(sockets)
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            LOG.info("multiverse %s listening on http://%s:%d", __version__, shown, port)
            for told in idle_settings(config):
                LOG.warning("settings: %s", told)
            service_manager.tell_ready()
            gateway.watch_servers()
            gc.freeze()  # What is there by now stays: no collection has to look through it again.
            filling = asyncio.create_task(_fill(gateway, entries))
            if config.reload:
                tornado.autoreload.start()
            await stop.wait()
            service_manager.tell_stopping()
            filling.cancel()
            await asyncio.wait((filling,))
            await gateway.drain(hurry)
            server.stop()
            await server.wait_until_idle(LAST_ANSWERS_SECONDS)
            await server.close_all_connections()
    finally:
        for listener in sockets:
            listener.close()
    LOG.info("stopped")
    return EXIT_OK
