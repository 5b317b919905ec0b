"""`python -m benchmarks.soak`: ten minutes of chaos against a real gateway, and whether anything grows meanwhile.

Round after round of the chaos test (tests/chaos.py), each with a seed of its own and judged by its history. After each
round, when nothing is under way, the process is measured. Exit codes: 0 flat and nothing wrong, 1 not, 2 wrong usage.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks.png import Panel, write_chart
from tests import chaos
from tests.checker import assert_nothing_under_way, log_faults
from tests.history import judge
from tests.peers import PeerLoop, ScriptedPeer
from tests.processes import GatewayProcess

MEGABYTE = 1024 * 1024
ROWS_SHOWN = 20


@dataclass(frozen=True)
class Sample:
    """What the process held `minute` minutes after the start, with `requests` behind it."""

    minute: float
    requests: int
    memory_megabytes: float
    descriptors: int
    threads: int
    tasks: int
    connections: int
    queued_rows: int
    own_lag_ms_max: float


@dataclass(frozen=True)
class Gauge:
    """A column of the table; `allowed` is by how much the end may lie above the middle and still be flat."""

    name: str
    of: Callable[[Sample], float]
    allowed: float | None = None


GAUGES = (
    Gauge("requests", lambda sample: sample.requests),
    Gauge("memory, MB", lambda sample: sample.memory_megabytes, allowed=2.0),
    Gauge("descriptors", lambda sample: sample.descriptors, allowed=3),
    Gauge("threads", lambda sample: sample.threads, allowed=0),
    Gauge("tasks", lambda sample: sample.tasks, allowed=3),
    Gauge("connections", lambda sample: sample.connections, allowed=3),
    Gauge("usage rows waiting", lambda sample: sample.queued_rows, allowed=100),
    Gauge("longest lag, ms", lambda sample: sample.own_lag_ms_max),
)


def measure(gateway: GatewayProcess, began_at: float) -> Sample:
    """Ask `/admin/stats`, and `/proc` for what only the system knows."""
    process, stats = Path(f"/proc/{gateway.process_id}"), gateway.stats()
    idle = stats["connections"]["idle"]
    return Sample(
        minute=(time.monotonic() - began_at) / 60,
        requests=stats["requests"]["total"],
        memory_megabytes=gateway.resident_bytes / MEGABYTE,
        descriptors=len(list((process / "fd").iterdir())) - idle,
        threads=len(list((process / "task").iterdir())),
        tasks=stats["event_loop"]["tasks"],
        connections=stats["connections"]["open"] - idle,
        queued_rows=stats["store"]["queued"],
        own_lag_ms_max=stats["event_loop"]["own_lag_ms_max"],
    )


def soak(gateway: GatewayProcess, minutes: float, first_seed: int) -> tuple[list[Sample], list[str]]:
    """Rounds until the time is over; the samples, and what was wrong."""
    began_at = time.monotonic()
    samples, wrong = [measure(gateway, began_at)], []
    seed = first_seed
    while samples[-1].minute < minutes:
        wrong += [f"seed {seed}, {fault}" for fault in one_round(gateway, seed)]
        samples.append(measure(gateway, began_at))
        say(f"{samples[-1].minute:5.1f} min, {samples[-1].requests} requests, {len(wrong)} faults")
        seed += 1
    return samples, wrong


def one_round(gateway: GatewayProcess, seed: int) -> list[str]:
    """300 requests, judged; afterwards nothing is under way."""
    peers: list[ScriptedPeer] = []
    with PeerLoop() as peer_loop:
        try:
            wrong = judge(chaos.run(gateway, peer_loop, peers, f"soak/{seed}", seed))
            assert_nothing_under_way(gateway, peers)
        except AssertionError as error:
            wrong = [str(error)]
        finally:
            gateway.deregister_all()
            for peer in peers:
                peer.stop()
    return wrong


def drifts(samples: Sequence[Sample]) -> list[str]:
    """Gauges whose last quarter lies above the quarter before it by more than is allowed: growth in the last half."""
    quarter = max(len(samples) // 4, 1)
    before, after = samples[-2 * quarter : -quarter], samples[-quarter:]
    found = []
    for gauge in GAUGES:
        if gauge.allowed is None or not before:
            continue
        drift = median(map(gauge.of, after)) - median(map(gauge.of, before))
        if drift > gauge.allowed:
            found.append(f"{gauge.name} grew by {drift:g} in the last half (allowed: {gauge.allowed:g})")
    return found


def as_markdown(samples: Sequence[Sample]) -> str:
    """At most ROWS_SHOWN of the samples, evenly spread, first and last included."""
    count = min(len(samples), ROWS_SHOWN)
    shown = [samples[round(place * (len(samples) - 1) / max(count - 1, 1))] for place in range(count)]
    lines = [f"| minutes | {' | '.join(gauge.name for gauge in GAUGES)} |", "|---:" * (len(GAUGES) + 1) + "|"]
    for sample in shown:
        cells = (f"{gauge.of(sample):,.1f}".removesuffix(".0") for gauge in GAUGES)
        lines.append(f"| {sample.minute:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, which is no result."""
    click.echo(text, err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0.05, max=24 * 60))
@click.option("--seed", default=1000, show_default=True, help="Of the first round; each round has its own.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), default="soak.png", show_default=True)
def main(minutes: float, seed: int, plot: Path) -> None:
    """Keep a gateway busy with everything that can go wrong, and say whether it holds more and more meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        gateway = GatewayProcess(Path(directory), **chaos.SETTINGS).start()
        try:
            samples, wrong = soak(gateway, minutes, seed)
            wrong += log_faults(gateway.output)
        finally:
            exit_code = gateway.stop()
    if exit_code != 0:
        wrong.append(f"the gateway ended with exit code {exit_code}")
    panels = [Panel(gauge.name, [(sample.minute, gauge.of(sample)) for sample in samples]) for gauge in GAUGES]
    write_chart(plot, [panel for panel in panels if panel.name != "requests"], "minutes", samples[-1].minute / 2)
    found = drifts(samples)
    click.echo(as_markdown(samples))
    click.echo(f"\nPlot: {plot}. The last half is {'flat.' if not found else 'not flat:'}")
    for line in [*found, *wrong[:50]]:
        click.echo(f"- {line}")
    click.echo(f"{samples[-1].requests} requests, {len(wrong)} faults.")
    sys.exit(1 if found or wrong else 0)


if __name__ == "__main__":
    main()
