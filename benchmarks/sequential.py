"""The sequential workload's load: one client that asks a contestant and the server itself, turn by turn.

Taking turns cancels what the machine does meanwhile. Means are what may be subtracted; percentiles may not.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.answers import RequestShape
from benchmarks.load import Checker, LoadConnection, Tally


class Turns:
    """`pairs` plain requests to each of two ports of 127.0.0.1, ended when `limit_seconds` are over."""

    def __init__(self, *, pairs: int, direct_port: int, port: int, limit_seconds: float = 60.0) -> None:
        self._pairs = pairs
        self._ports = (direct_port, port)
        self._limit_seconds = limit_seconds
        self._shape = RequestShape()
        self._checker = Checker(self._shape)
        self._asked = 0
        self.tally = Tally()

    async def run(self) -> tuple[float, float]:
        """The mean time of a direct request and of one through the contestant, in seconds.

        Raises OSError when nobody listens, TimeoutError when the limit is reached.
        """
        self._loop = asyncio.get_running_loop()
        totals = [0.0, 0.0]
        connections = [await self._connect(port) for port in self._ports]
        try:
            async with asyncio.timeout(self._limit_seconds):
                for _ in range(self._pairs):
                    for place, port in enumerate(self._ports):
                        if connections[place].closed:
                            connections[place] = await self._connect(port)
                        totals[place] += await self._ask(connections[place])
        finally:
            for connection in connections:
                connection.transport.abort()
        return totals[0] / self._pairs, totals[1] / self._pairs

    async def _connect(self, port: int) -> LoadConnection:
        _, connection = await self._loop.create_connection(lambda: LoadConnection(self._ended), "127.0.0.1", port)
        return connection

    async def _ask(self, connection: LoadConnection) -> float:
        self._answered: asyncio.Future[float] = self._loop.create_future()
        self._asked += 1
        connection.ask(self._asked, self._shape.request(self._asked))
        return await self._answered

    def _ended(self, connection: LoadConnection, fault: str | None) -> None:
        took_seconds = time.perf_counter() - connection.started_seconds
        self.tally.count(connection, fault or self._checker.fault(connection))
        if not self._answered.done():
            self._answered.set_result(took_seconds)
