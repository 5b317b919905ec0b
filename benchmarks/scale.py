"""`python -m benchmarks.scale`: what a gateway alone does with much of everything; peers have no part in it.

5 000 streams that wait, requests beside 10 000 registrations, a sweep of 1 000 servers. Linux only, like the rest. The
scripted server answers below any path, so that one process is as many servers as are wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks.__main__ import allow_many_descriptors, pinned_cores, say
from benchmarks.answers import MODEL, RequestShape
from benchmarks.contestants import ADMIN_KEY, CALL_TIMEOUT_SECONDS, Gateway, Running, running
from benchmarks.load import Plan
from benchmarks.processes import ProcessTree
from benchmarks.rounds import Cores, scripted_server
from benchmarks.workloads import FULL, KIBI, MEBI, Measured, drive, run_plain
from multiverse.storage.store import Store

LOOK_SECONDS = 0.2
SWEPT_WITHIN_SECONDS = 300.0
EVENTS, MILLISECONDS_BETWEEN = 4, 9_999  # The longest pause that can be ordered.
STREAMS_PER_SECOND = 250
SERVERS_OF_A_MODEL = 100
ASKED_SERVERS = 1_000
PLAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Ground:
    """Where gateways are started: a directory, the ports of the scripted server, the cores."""

    directory: Path
    server_ports: tuple[int, ...]
    cores: Cores

    @contextlib.contextmanager
    def gateway(self, name: str, registrations: int = 0, settings: dict[str, str] | None = None) -> Iterator[Running]:
        """A gateway whose store knows so many registrations at its start; all have been probed once."""
        site = self.directory / name
        site.mkdir()
        if registrations:
            asyncio.run(make_store(site / "gateway.db"))
            write_registrations(site / "gateway.db", registrations, self.server_ports)
        contestant = Gateway(settings)
        with running(contestant, directory=site, server_ports=self.server_ports, core=self.cores.contestant) as live:
            wait_until_swept(live.port)
            yield live


async def make_store(path: Path) -> None:
    """An empty database of this version."""
    store = Store(str(path))
    await store.open()
    await store.close()


def write_registrations(path: Path, count: int, ports: tuple[int, ...]) -> None:
    """The first thousand offer the model that is asked, the others a hundred servers each another one."""
    now = "2026-01-31T12:00:00.000Z"
    rows = []
    for number in range(count):
        asked = number < ASKED_SERVERS
        model_name = MODEL if asked else f"other-{number // SERVERS_OF_A_MODEL}"
        url = f"http://127.0.0.1:{ports[number % len(ports)]}/{number}"
        rows.append((f"registration-{number}", model_name, url, "[]", now, now))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO servers (registration_id, model_name, endpoint_url, tags, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )


def wait_until_swept(port: int) -> None:
    """Returns when no server is unknown any more; raises TimeoutError when that takes too long."""
    deadline = time.monotonic() + SWEPT_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if servers_by_verdict(port)["unknown"] == 0:
            return
        time.sleep(LOOK_SECONDS)
    raise TimeoutError("the first sweep does not end")


def servers_by_verdict(port: int) -> dict[str, int]:
    """How many servers are healthy, unhealthy, unknown."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/admin/stats", headers={"X-API-Key": ADMIN_KEY})
        counts: dict[str, int] = json.loads(connection.getresponse().read())["servers"]
        return counts


def tree_of(live: Running) -> ProcessTree:
    """The gateway's processes."""
    assert live.tree is not None
    return live.tree


def waiting_streams(ground: Ground, streams: int) -> list[str]:
    """Streams that had their first event and wait for the next one: what each of them takes."""
    # All connect first: a gateway drops who then says nothing for long, perhaps as it begins.
    patient = {"HEADER_TIMEOUT_SECONDS": str(round(streams / STREAMS_PER_SECOND) + 60)}
    with ground.gateway("streams", settings=patient) as live:
        before = tree_of(live).memory().pss_bytes
        looks: list[tuple[int, int]] = []

        def look(open_streams: int) -> None:
            looks.append((open_streams, tree_of(live).memory().pss_bytes))

        plan = Plan(
            RequestShape(events=EVENTS, interval_ms=MILLISECONDS_BETWEEN),
            lanes=streams,
            requests_each=1,
            stagger_seconds=1 / STREAMS_PER_SECOND,
            limit_seconds=streams / STREAMS_PER_SECOND + EVENTS * MILLISECONDS_BETWEEN / 1000 + 60.0,
        )
        tally, _cpu_seconds = drive(live, plan, look)
        for fault in tally.faults:
            say(f"broken: {fault}")
    ((open_streams, memory),) = looks[-1:]
    each = (memory - before) / max(open_streams, 1) / KIBI
    return [
        f"{open_streams:,} streams that wait",
        f"{memory / MEBI:.0f} MiB (PSS) in all, {each:.1f} KiB each; {tally.broken} broken",
    ]


def many_registrations(ground: Ground, registrations: int, rounds: int) -> list[str]:
    """What a request costs beside so many registrations, and beside two; in turn, on the same core."""
    size = replace(FULL, plain_seconds=PLAIN_SECONDS)
    hours = {"HEALTH_CHECK_INTERVAL_SECONDS": "36000"}
    costs: dict[str, list[float]] = {"few": [], "many": []}
    broken = 0
    with ground.gateway("few", 0, hours) as few, ground.gateway("many", registrations, hours) as many:
        for _round in range(rounds):
            for name, live in (("few", few), ("many", many)):
                found: Measured = run_plain(live, size)
                costs[name].append(found.figures["cpu_us"])
                broken += found.broken
    ratio = median(much / little for much, little in zip(costs["many"], costs["few"], strict=True))
    return [
        f"a request beside {registrations:,} registrations, {ASKED_SERVERS:,} of them for its model",
        f"{median(costs['many']):.0f} µs of CPU, beside two {median(costs['few']):.0f} µs: median ratio {ratio:.2f}; "
        f"{broken} broken",
    ]


def sweep(ground: Ground, servers: int, seconds: float) -> list[str]:
    """The share of a core that probing so many servers takes at the usual interval, beside a gateway with two."""
    with ground.gateway("sweep", servers) as many, ground.gateway("quiet") as few:
        before = [tree_of(live).cpu_seconds() for live in (many, few)]
        began_at = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - began_at
        used = [tree_of(live).cpu_seconds() - start for live, start in zip((many, few), before, strict=True)]
        healthy = servers_by_verdict(many.port)["healthy"]
    shares = [100 * part / elapsed for part in used]
    return [
        f"probes of {servers:,} servers, each once a minute",
        f"{shares[0]:.1f} % of a core, with two servers {shares[1]:.1f} %; {healthy:,} healthy at the end",
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--streams", default=5_000, show_default=True, type=click.IntRange(1, 7_000))
@click.option("--registrations", default=10_000, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--servers", default=1_000, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 3600), help="Of watching probes.")
def main(streams: int, registrations: int, servers: int, rounds: int, seconds: float) -> None:
    """Measure what many streams, registrations and servers cost a gateway, and print a table of it."""
    if sys.platform != "linux":
        raise click.ClickException("this reads /proc and pins processes to cores: it runs on Linux only")
    cores = pinned_cores(0.0, 1)
    allow_many_descriptors()
    os.sched_setaffinity(0, {cores.load if cores.load is not None else 0})
    lines = []
    with tempfile.TemporaryDirectory(prefix="scale-") as name, scripted_server(Path(name), cores.load) as server:
        ground = Ground(Path(name), server.ports, cores)
        for measure in (
            partial(waiting_streams, ground, streams),
            partial(many_registrations, ground, registrations, rounds),
            partial(sweep, ground, servers, seconds),
        ):
            lines.append("| " + " | ".join(measure()) + " |")
            say(lines[-1])
    click.echo("\n".join(["| what | takes |", "| --- | --- |", *lines]))


if __name__ == "__main__":
    main()
