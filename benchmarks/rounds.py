"""Rounds: every contestant in turn, started afresh each time, through every workload; A B C, A B C, …

What the machine does meanwhile thus meets all of them. Only one contestant runs at a time. Tables are not made here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.contestants import ROOT, Contestant, Running, running
from benchmarks.installs import NotAvailable
from benchmarks.noise import Noise, wait_for_quiet
from benchmarks.processes import ProcessFailed, ProcessTree
from benchmarks.workloads import Measured, Size, Workload

SERVER_START_SECONDS = 20.0
DISTURBED_PERCENT = 10.0
OF_FIRST_TRY = ("memory_kib", "open_streams")  # a second one uses again the memory of the first, whoever disturbs


@dataclass(frozen=True)
class Cores:
    """Where things run; None where nothing is pinned.

    Before each workload one waits `quiet_seconds` at most for others to be quiet. One that they disturb all the same is
    tried again, `tries` times in all, and the least disturbed try counts.
    """

    contestant: int | None
    load: int | None
    quiet_seconds: float = 0.0
    tries: int = 1

    @property
    def pinned(self) -> set[int]:
        """Those that are ours."""
        return {core for core in (self.contestant, self.load) if core is not None}


@dataclass
class Results:
    """Everything that was measured: `figures[workload][contestant]` has one entry for each round that worked.

    `complete` tells a run that came to its end from one that was broken off.
    """

    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = False

    def keep(self, workload: str, contestant: str, figures: dict[str, float], round_number: int) -> None:
        """The figures of one workload of one contestant in one round; none when it was broken off."""
        if figures:
            rounds = self.figures.setdefault(workload, {}).setdefault(contestant, [])
            rounds.append({**figures, "round": float(round_number)})

    def count(self, workload: str, contestant: str, measured: Measured) -> None:
        """Requests and broken ones, also of a try whose figures are not kept."""
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
            say(f"round {number} of {rounds}")
            for contestant in list(able):
                site = Path(name) / f"{number}-{len(list(Path(name).iterdir()))}"
                site.mkdir()
                try:
                    with running(contestant, directory=site, server_ports=server.ports, core=cores.contestant) as live:
                        for workload in workloads:
                            figures = least_disturbed(workload, live, size, cores, server, results, say)
                            results.keep(workload.name, contestant.name, figures, number)
                except ProcessFailed as error:
                    say(f"skipping {contestant.name}: {error}")
                    results.skipped[contestant.name] = " … ".join(dict.fromkeys(error.summary()))
                    able.remove(contestant)
    results.complete = True


def least_disturbed(
    workload: Workload,
    live: Running,
    size: Size,
    cores: Cores,
    server: ProcessTree,
    results: Results,
    say: Callable[[str], None],
) -> dict[str, float]:
    """The figures of the try in which others took least, how much that was among them. Every try is counted."""
    tries: list[dict[str, float]] = []
    for _ in range(cores.tries):
        wait_for_quiet(cores.pinned, cores.quiet_seconds)
        noise = Noise(own_seconds(live.tree, server, cores))
        measured = run_workload(workload, live, size)
        percent = noise.percent()
        results.count(workload.name, live.contestant.name, measured)
        say(f"{live.contestant.name:<14} {workload.name:<10} {as_line(workload, measured, percent)}")
        if measured.figures:
            tries.append(measured.figures if percent is None else {**measured.figures, "others_percent": percent})
        if percent is None or percent <= DISTURBED_PERCENT:
            break
    if not tries:
        return {}
    best = min(tries, key=lambda figures: figures.get("others_percent", 0.0))
    return {**best, **{key: tries[0][key] for key in OF_FIRST_TRY if key in tries[0]}}


def run_workload(workload: Workload, live: Running, size: Size) -> Measured:
    """One try; what breaks it off counts as broken."""
    try:
        return workload.run(live, size)
    except (OSError, TimeoutError) as error:  # nobody listens any more, or answers
        return Measured({}, broken=1, faults=(f"broken off: {str(error) or type(error).__name__}",))


def own_seconds(contestant: ProcessTree | None, server: ProcessTree, cores: Cores) -> dict[int, Callable[[], float]]:
    """By core, what tells the CPU time of our processes there: the contestant on one, server and load on the other."""
    on_core: dict[int, list[Callable[[], float]]] = {}
    if cores.contestant is not None and contestant is not None:
        on_core.setdefault(cores.contestant, []).append(contestant.cpu_seconds)
    if cores.load is not None:
        on_core.setdefault(cores.load, []).extend((server.cpu_seconds, time.process_time))
    return {core: partial(total, parts) for core, parts in on_core.items()}


def total(parts: Sequence[Callable[[], float]]) -> float:
    """The sum of what they tell now."""
    return sum(part() for part in parts)


def as_line(workload: Workload, measured: Measured, others_percent: float | None) -> str:
    """The figures of one try, for those who watch."""
    shown = [
        f"{figure.heading} {measured.figures[figure.key]:,.{figure.digits}f}"
        for figure in workload.figures
        if figure.key in measured.figures
    ]
    if others_percent is not None and others_percent > DISTURBED_PERCENT:
        shown.append(f"others took {others_percent:.0f} %")
    if measured.broken:
        shown.append(f"{measured.broken} BROKEN: {'; '.join(measured.faults)}")
    return " · ".join(shown)


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
