"""Rounds: every contestant in turn, started afresh each time, through every workload; A B C, A B C, …

What the machine does meanwhile thus meets all of them. Only one contestant runs at a time. Tables are not made here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contestants import ROOT, Contestant, Running, running
from benchmarks.installs import NotAvailable
from benchmarks.noise import Noise, wait_for_quiet
from benchmarks.processes import ProcessFailed, ProcessTree
from benchmarks.workloads import Measured, Size, Workload

SERVER_START_SECONDS = 20.0


@dataclass(frozen=True)
class Cores:
    """Where things run; None where nothing is pinned. `quiet_seconds` is how long one waits for others to be quiet."""

    contestant: int | None
    load: int | None
    quiet_seconds: float = 0.0


@dataclass
class Results:
    """Everything that was measured: `figures[workload][contestant]` has one entry for each round that worked."""

    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, workload: str, contestant: str, measured: Measured) -> None:
        """One workload of one contestant in one round."""
        if measured.figures:
            self.figures.setdefault(workload, {}).setdefault(contestant, []).append(measured.figures)
        self.requests[contestant] = self.requests.get(contestant, 0) + measured.requests
        self.broken[contestant] = self.broken.get(contestant, 0) + measured.broken
        self.faults.setdefault(contestant, []).extend(f"{workload}: {fault}" for fault in measured.faults)


def prepare(
    contestants: Sequence[Contestant], results: Results, *, allowed: bool, say: Callable[[str], None]
) -> list[Contestant]:
    """Those that can run here; the reasons of the others go into `skipped`."""
    able = []
    for contestant in contestants:
        try:
            results.versions[contestant.name] = contestant.prepare(allowed=allowed, say=say)
            able.append(contestant)
        except NotAvailable as error:
            results.skipped[contestant.name] = str(error)
            say(f"skipping {contestant.name}: {error}")
    return able


def run_rounds(
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    size: Size,
    cores: Cores,
    results: Results,
    say: Callable[[str], None],
) -> None:
    """Fill `results`. A contestant that cannot be started is left out from then on."""
    able = list(contestants)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name, scripted_server(Path(name), cores.load) as server:
        for number in range(1, rounds + 1):
            for contestant in list(able):
                site = Path(name) / f"{number}-{len(list(Path(name).iterdir()))}"
                site.mkdir()
                try:
                    with running(contestant, directory=site, server_ports=server.ports, core=cores.contestant) as live:
                        for workload in workloads:
                            run_workload(workload, live, size, cores, results, say, number)
                except ProcessFailed as error:
                    say(f"skipping {contestant.name}: {error}")
                    results.skipped[contestant.name] = " … ".join(dict.fromkeys(error.summary()))
                    able.remove(contestant)


def run_workload(
    workload: Workload,
    live: Running,
    size: Size,
    cores: Cores,
    results: Results,
    say: Callable[[str], None],
    round_number: int,
) -> None:
    """One workload; what breaks it off counts as broken."""
    name = live.contestant.name
    wait_for_quiet({core for core in (cores.contestant, cores.load) if core is not None}, cores.quiet_seconds)
    noise = Noise(live.tree, cores.contestant)
    try:
        measured = workload.run(live, size)
    except (OSError, TimeoutError) as error:  # nobody listens any more, or answers
        measured = Measured({}, broken=1, faults=(f"broken off: {error or type(error).__name__}",))
    if measured.figures:
        measured.figures["round"] = float(round_number)
        if (percent := noise.percent()) is not None:
            measured.figures["others_percent"] = percent
    results.add(workload.name, name, measured)
    shown = [
        f"{figure.heading} {measured.figures[figure.key]:,.{figure.digits}f}"
        for figure in workload.figures
        if figure.key in measured.figures
    ]
    trouble = [f"{measured.broken} BROKEN: {'; '.join(measured.faults)}"] if measured.broken else []
    say(f"round {round_number}  {name:<14} {workload.name:<10} " + " · ".join([*shown, *trouble]))


class ScriptedServer(ProcessTree):
    """The process of server.py; `ports` are where it listens."""

    def __init__(self, directory: Path, core: int | None) -> None:
        command = [sys.executable, "-m", "benchmarks.server"]
        super().__init__("server", command, directory=directory, core=core, environ={"PYTHONPATH": str(ROOT)})
        try:
            urls = self.wait_for_line("listening on ", SERVER_START_SECONDS).split()
        except BaseException:
            self.stop()
            raise
        self.ports = tuple(int(url.rpartition(":")[2]) for url in urls)

    def __enter__(self) -> ScriptedServer:
        return self


def scripted_server(directory: Path, core: int | None) -> ScriptedServer:
    """Start the server; a context manager that ends it. Raises ProcessFailed."""
    return ScriptedServer(directory, core)
