"""Chaos by seed: servers that come and go, registrations that change, clients that leave or stop reading.

What a seed decides does not depend on time: faults go by order of arrival, plans by their number. `run()` brings back
the history; the faults stand in fault_menu.py, the judge in history.py.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.checker import read_rows, store_usage_now
from tests.clients import RawClient
from tests.fault_menu import MAX_EVENT_SIZE, MAX_RESPONSE_BODY_SIZE, draw
from tests.history import Asked, History
from tests.operations import Script
from tests.peers import PeerConnection, PeerLoop, ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually_equal
from tests.wire import chat_body

REQUESTS = 300
CLIENTS_AT_ONCE = 20
PEERS = 6
PAUSE_SECONDS = 0.8
COUNTED = ("total", "ok", "failed", "client_closed", "in_flight")
SETTINGS = {
    "HEALTH_CHECK_INTERVAL_SECONDS": 0.4,
    "REQUEST_TIMEOUT_SECONDS": 1.5,
    "STREAM_IDLE_TIMEOUT_SECONDS": 1,
    "STREAM_KEEPALIVE_SECONDS": 0.15,
    "CLIENT_WRITE_TIMEOUT_SECONDS": 0.5,
    "EJECT_SECONDS": 0.2,
    "EJECT_MAX_SECONDS": 0.5,
    "MAX_EVENT_SIZE": MAX_EVENT_SIZE,
    "MAX_RESPONSE_BODY_SIZE": MAX_RESPONSE_BODY_SIZE,
}


# -- servers that come and go


class RudeConnection(PeerConnection):
    """Is reset as soon as it is accepted, while its peer is rude."""

    def connection_made(self, transport: Any) -> None:
        if isinstance(self.peer, RudePeer) and self.peer.rude:
            no_linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            transport.abort()
        else:
            super().connection_made(transport)


class RudePeer(ScriptedPeer):
    """A peer that can also accept connections only to reset them; knows when it broke those it had."""

    rude = False

    def __init__(self, peer_loop: PeerLoop, name: str, inference: Script) -> None:
        self.away: list[tuple[float, float]] = []
        self.registrations = 1
        super().__init__(peer_loop, name, inference)

    @contextlib.contextmanager
    def breaking_connections(self) -> Iterator[None]:
        """What is under way here meanwhile may break, and it is nobody else's fault."""
        self.away.append((time.monotonic(), float("inf")))
        yield
        self.away[-1] = (self.away[-1][0], time.monotonic())

    def refuse(self) -> None:
        with self.breaking_connections():
            super().refuse()

    def close_idle_connections(self) -> None:
        with self.breaking_connections():
            super().close_idle_connections()

    async def _listen(self) -> None:
        loop = self._peer_loop._loop
        self._server = await loop.create_server(lambda: RudeConnection(self), "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]


@dataclass
class Member:
    """A peer and its registration."""

    peer: RudePeer
    registration_id: str


class Disturber:
    """Keeps one member of its own out of order, or its registration changing, until it is told to stop."""

    def __init__(self, gateway: GatewayProcess, model: str, members: list[Member], seed: int) -> None:
        self._gateway = gateway
        self._model = model
        self._members = members
        self._choose = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Disturber:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        actions = (self._refuse, self._be_rude, self._close_idle, self._drain, self._reregister, self._limit)
        while not self._stop.wait(self._choose.uniform(0.02, 0.15)):
            action, member = self._choose.choice(actions), self._choose.choice(self._members)
            with action(member):
                self._stop.wait(self._choose.uniform(0.02, 0.3))

    @contextlib.contextmanager
    def _refuse(self, member: Member) -> Iterator[None]:
        member.peer.refuse()
        yield
        member.peer.listen()

    @contextlib.contextmanager
    def _be_rude(self, member: Member) -> Iterator[None]:
        member.peer.rude = True
        member.peer.close_idle_connections()
        yield
        member.peer.rude = False

    @contextlib.contextmanager
    def _close_idle(self, member: Member) -> Iterator[None]:
        member.peer.close_idle_connections()
        yield

    @contextlib.contextmanager
    def _drain(self, member: Member) -> Iterator[None]:
        self._admin("POST", f"/admin/servers/{member.registration_id}/drain")
        yield
        self._admin("POST", f"/admin/servers/{member.registration_id}/resume")

    @contextlib.contextmanager
    def _reregister(self, member: Member) -> Iterator[None]:
        self._admin("DELETE", f"/admin/register/{member.registration_id}")
        member.peer.registrations += 1
        yield
        member.registration_id = self._gateway.register(member.peer, self._model)

    @contextlib.contextmanager
    def _limit(self, member: Member) -> Iterator[None]:
        path = f"/admin/register/{member.registration_id}"
        self._admin("PUT", path, {"max_concurrency": self._choose.randint(1, 2), "tags": ["slow"]})
        yield
        self._admin("PUT", path, {"max_concurrency": None, "tags": []})

    def _admin(self, method: str, path: str, value: dict[str, Any] | None = None) -> None:
        response = self._gateway.admin(method, path, value)
        assert response.status == 200, f"{method} {path}: {response.status} {response.body!r}"


# -- clients with manners of their own


@dataclass(frozen=True)
class Plan:
    """What one client does; `patience_seconds`, `pieces` and `resets` are for those who leave."""

    nonce: str
    body: bytes
    stream: bool
    manner: str
    patience_seconds: float
    pieces: int
    resets: bool


def draw_plans(seed: int, model: str) -> list[Plan]:
    """What all clients do."""
    choose = random.Random(seed)
    manners = choose.choices(["stays", "leaves", "leaves early", "pauses"], [75, 18, 3, 4], k=REQUESTS)
    return [draw_plan(choose, f"n{seed}x{number}y", manner, model) for number, manner in enumerate(manners)]


def draw_plan(choose: random.Random, nonce: str, manner: str, model: str) -> Plan:
    stream = choose.random() < 0.6
    # Asking for it spares the request from being changed on its way, so that bodies can be compared.
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return Plan(
        nonce=nonce,
        body=chat_body(model, stream, nonce=nonce, **options),
        stream=stream,
        manner=manner,
        patience_seconds=choose.choice([0.001, 0.02, 0.1, 0.3, 1.0]),
        pieces=choose.choice([1, 2, 3, 5, 1000]),
        resets=choose.random() < 0.5,
    )


class Client:
    """Follows one plan after the other, those that stay on one connection as long as it lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: RawClient | None = None

    def follow(self, plans: list[Plan]) -> list[Asked]:
        """What came of them."""
        manners = {"stays": self._stay, "leaves": self._leave, "leaves early": self._leave_early, "pauses": self._pause}
        history = []
        for plan in plans:
            asked = Asked(plan.nonce, plan.body, plan.stream, "stayed")
            try:
                manners[plan.manner](plan, asked)
            except (OSError, EOFError) as error:
                asked.trouble = repr(error)
            history.append(asked)
        self._drop()
        return history

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _stay(self, plan: Plan, asked: Asked) -> None:
        client = self._kept = self._kept or RawClient(self._port)
        ask(client, plan)
        asked.response = client.read_head()
        for _piece in client.pieces(asked.response):
            pass
        if asked.response.ended != "orderly" or asked.response.header("Connection") == "close":
            self._drop()

    def _leave(self, plan: Plan, asked: Asked) -> None:
        with RawClient(self._port, plan.patience_seconds) as client:
            with contextlib.suppress(TimeoutError):
                ask(client, plan)
                asked.response = client.read_head()
                for _piece in itertools.islice(client.pieces(asked.response), plan.pieces):
                    pass
            if plan.resets:
                client.abort()
        if asked.response is None or asked.response.ended != "orderly":
            asked.manner = "left"

    def _leave_early(self, plan: Plan, asked: Asked) -> None:
        asked.manner = "left"
        with RawClient(self._port) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: {len(plan.body)}\r\n\r\n"
            client.send(head.encode() + plan.body[: len(plan.body) // 2])

    def _pause(self, plan: Plan, asked: Asked) -> None:
        asked.manner = "paused"
        with RawClient(self._port, receive_buffer_bytes=4096) as client:
            ask(client, plan)
            asked.response = client.read_head()
            time.sleep(PAUSE_SECONDS)
            for _piece in client.pieces(asked.response):
                pass


def ask(client: RawClient, plan: Plan) -> None:
    client.request("POST", "/v1/chat/completions", plan.body, [("X-Request-ID", plan.nonce)])


# -- all of it


def run(gateway: GatewayProcess, peer_loop: PeerLoop, peers: list[ScriptedPeer], model: str, seed: int) -> History:
    """Chaos, until every client is through with its plans."""
    attempts = draw(random.Random(seed), 4 * REQUESTS)
    script = Script()
    for attempt in attempts:
        script.queue(attempt)
    members = []
    for number in range(PEERS):
        peer = RudePeer(peer_loop, f"peer-{number}", script)
        peers.append(peer)
        members.append(Member(peer, gateway.register(peer, model)))
    counted_before = gateway.stats()["requests"]
    all_plans = draw_plans(seed, model)
    with (
        Disturber(gateway, model, members[::2], seed),
        Disturber(gateway, model, members[1::2], -seed),
        ThreadPoolExecutor(CLIENTS_AT_ONCE) as clients,
    ):
        shares = [all_plans[first::CLIENTS_AT_ONCE] for first in range(CLIENTS_AT_ONCE)]
        asked = [
            asked for share in clients.map(lambda plans: Client(gateway.port).follow(plans), shares) for asked in share
        ]
    eventually_equal(gateway.in_flight, {}, "every in-flight gauge is back to 0")
    store_usage_now(gateway)
    counted = gateway.stats()["requests"]
    return History(
        asked=asked,
        attempts=attempts[: len(script.arrivals)],
        rows=read_rows(gateway, "SELECT * FROM usage WHERE request_id LIKE ?", f"n{seed}x%"),
        away={member.peer.name: member.peer.away for member in members},
        counted={name: counted[name] - counted_before[name] for name in COUNTED},
    )
