"""Results as Markdown tables and as JSON. The numbers come from elsewhere; here they are only set out."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.medians import Rounds, ratios_of, spread, values_of
from benchmarks.rounds import Results
from benchmarks.targets import target_rows
from benchmarks.workloads import Figure, Workload

REFERENCE = "sglang-router"
SHOWN_FAULTS = 3


@dataclass(frozen=True)
class Occasion:
    """When, where and how a run was made."""

    date: str
    size: str
    rounds: int
    contestant_core: int | None
    load_core: int | None

    def sentence(self) -> str:
        """One line of Markdown."""
        pinned = f"contestant on core {self.contestant_core}, load and server on core {self.load_core}"
        if self.contestant_core is None:
            pinned = "nothing pinned"
        rounds = f"{self.rounds} round{'s' if self.rounds > 1 else ''}"
        return f"{self.date} · {self.size}, {rounds} · {pinned} · {machine()}"


def machine() -> str:
    """Processor, cores, memory, kernel and Python of this machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = os.cpu_count()
    return (
        f"{model}, {cores} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
    )


def as_json(results: Results, occasion: Occasion) -> str:
    """Everything, in full precision."""
    value: dict[str, Any] = {"occasion": asdict(occasion), "machine": machine(), **asdict(results)}
    return json.dumps(value, indent=2) + "\n"


def as_markdown(results: Results, workloads: Sequence[Workload], occasion: Occasion) -> str:
    """The tables, and what one must know to read them."""
    parts = [occasion.sentence(), versions_line(results)]
    for workload in workloads:
        if rows := results.figures.get(workload.name):
            parts.append(f"### {workload.title}\n\n{workload_table(workload, rows)}")
    parts.append("### Broken requests\n\n" + broken_table(results))
    if targets := target_rows(results):
        parts.append("### Targets\n\n" + table(targets))
    parts.extend(footnotes(results))
    return "\n\n".join(parts) + "\n"


def versions_line(results: Results) -> str:
    """Who took part, in which version."""
    return "Contestants: " + ", ".join(f"{name} {version}" for name, version in results.versions.items()) + "."


def workload_table(workload: Workload, rows: dict[str, list[dict[str, float]]]) -> str:
    """A row for each contestant: median (least–most) of every figure, and the ratio of the first to the Rust router."""
    main, *others = workload.figures
    lines = [["", main.heading, f"× {REFERENCE}", *(figure.heading for figure in others)]]
    for name, rounds in rows.items():
        ratio = "1" if name == REFERENCE else ratio_text(ratios_of(rounds, rows.get(REFERENCE, ()), main.key))
        lines.append([name, cell(rounds, main), ratio, *(cell(rounds, figure) for figure in others)])
    return table(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the heading, the first column names."""
    heading, *body = rows
    rule = ["---", *(["---:"] * (len(heading) - 1))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, rule, *body))


def cell(rounds: Rounds, figure: Figure) -> str:
    """One figure over the rounds."""
    return spread(values_of(rounds, figure.key), figure.digits)


def ratio_text(ratios: Sequence[float]) -> str:
    """How many times the reference, over the rounds."""
    return spread(ratios, 0 if ratios and statistics.median(ratios) >= 10 else 2)


def broken_table(results: Results) -> str:
    """How many answers were checked, and how many were wrong."""
    rows = [[name, f"{requests:,}", f"{results.broken.get(name, 0):,}"] for name, requests in results.requests.items()]
    return table([["", "requests", "broken"], *rows])


def footnotes(results: Results) -> list[str]:
    """What was skipped, scaled down, broken, or disturbed."""
    notes = [f"Skipped: {name} ({reason})." for name, reason in results.skipped.items()]
    for workload, rows in results.figures.items():
        most = max((figures.get("streams", 0.0) for rounds in rows.values() for figures in rounds), default=0.0)
        for name, rounds in rows.items():
            if (streams := rounds[0].get("streams", most)) < most:
                notes.append(f"{name} was given {streams:.0f} streams instead of {most:.0f} ({workload}).")
    if not results.complete:
        notes.append("The run was broken off.")
    for name, faults in results.faults.items():
        notes.extend(f"{name}, {fault}" for fault in faults[:SHOWN_FAULTS])
    if others := others_sentence(results):
        notes.append(others)
    return notes


def others_sentence(results: Results) -> str:
    """How much of our cores was taken by others: a run with much of it says little about times."""
    shares = [
        (figures["others_percent"], name, workload)
        for workload, rows in results.figures.items()
        for name, rounds in rows.items()
        for figures in rounds
        if "others_percent" in figures
    ]
    if not shares:
        return ""
    most, name, workload = max(shares)
    middle = statistics.median(share for share, _, _ in shares)
    return f"Others took {middle:.0f} % of the busier core (median), at most {most:.0f} % ({name}, {workload})."
