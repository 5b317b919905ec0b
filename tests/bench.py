"""The parts of a gateway on the bench: servers and registries without a process, and a clock that only tests move."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import settings

from multiverse.clock import Clock
from multiverse.people.usage import UsageRecord
from multiverse.servers.registry import Registry
from multiverse.servers.server import HEALTHY, Attempt, Blame, BreakerSettings, Registration, Server
from multiverse.transport.addresses import AddressPolicy, parse_endpoint
from multiverse.transport.dialling import Dialler
from multiverse.transport.http import StreamingHTTPClient
from tests.waiting import soon

# On a busy machine an example may take its time.
UNHURRIED = settings(deadline=None)

MODEL = "org/model:7b"
CREATED_AT = "2026-01-31T12:00:00.000Z"
BREAKER = BreakerSettings(max_failures=3, successes_to_recover=1, eject_seconds=10.0, eject_max_seconds=35.0)
BOOM = "it answered with status 500"


class HandClock(Clock):
    """Stands still until somebody moves it; the two clocks can be moved apart."""

    def __init__(self, monotonic_seconds: float = 5000.0, unix_seconds: float = 1_800_000_000.0) -> None:
        self.monotonic_now = monotonic_seconds
        self.unix_now = unix_seconds

    def monotonic(self) -> float:
        return self.monotonic_now

    def unix_seconds(self) -> float:
        return self.unix_now

    def pass_time(self, seconds: float) -> None:
        """Time goes by, on both clocks."""
        self.monotonic_now += seconds
        self.unix_now += seconds

    def set_machine_clock(self, seconds: float) -> None:
        """Somebody sets the machine's clock forward (or back): no time goes by."""
        self.unix_now += seconds


def build_registration(name: str = "a", model_name: str = MODEL, **fields: Any) -> Registration:
    """A registration whose id is `name`."""
    endpoint = parse_endpoint(fields.pop("endpoint_url", f"http://{name}.example:8080"))
    return Registration(
        registration_id=name,
        model_name=model_name,
        endpoint=endpoint,
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
        **fields,
    )


def build_server(
    clock: Clock, name: str = "a", *, healthy: bool = True, breaker: BreakerSettings = BREAKER, **fields: Any
) -> Server:
    """A server whose registration id is `name`; healthy by one good probe."""
    server = Server(build_registration(name, **fields), breaker, clock)
    if healthy:
        server.note_good_probe()
        assert server.health_status == HEALTHY
    return server


def build_registry(*servers: Server, **options: Any) -> Registry:
    """A registry of these servers, in their order."""
    registry = Registry(chooser=random.Random(7), **options)
    for number, server in enumerate(servers):
        registry.add(server, 1_700_000_000.0 + number)
    return registry


def begin(server: Server) -> Attempt:
    """A request begins on `server`."""
    return server.attempt(lambda _server: None)


def succeed(server: Server, times: int = 1) -> None:
    """Requests that are answered well, one after the other."""
    for _number in range(times):
        begin(server).end(Blame.SUCCESS)


def fail(server: Server, times: int = 1) -> list[bool]:
    """Requests that fail one after the other; which of them ejected the server."""
    return [begin(server).end(Blame.FAILURE, BOOM) for _number in range(times)]


@asynccontextmanager
async def open_transport(*, allow_private: bool = True) -> AsyncIterator[StreamingHTTPClient]:
    """The client that probes and requests go through; closed at the end, with every connection."""
    dialler = Dialler(AddressPolicy(allow_private=allow_private))
    transport = StreamingHTTPClient(force_instance=True, dialler=dialler)
    try:
        yield transport
    finally:
        transport.close()
        await soon(lambda: not transport.connections, "every connection is closed")
        await asyncio.sleep(0)


def build_record(**fields: object) -> UsageRecord:
    """What is known of a request that was a stream, `fields` besides."""
    known: dict[str, object] = {
        "request_id": "req-1",
        "started_at": CREATED_AT,
        "key_id": "client-1",
        "key_name": "client-1",
        "client_address": "192.0.2.7",
        "route": "/v1/chat/completions",
        "model_name": "org/model",
        "stream": True,
    }
    return UsageRecord(**{**known, **fields})  # type: ignore[arg-type]
