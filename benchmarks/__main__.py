"""`python -m benchmarks`: the command line. Installs what is missing, runs rounds, prints and writes the results.

Exit codes: 0 done with nothing broken, 1 something was broken or nothing could be measured, 2 wrong usage.
"""

from __future__ import annotations

import datetime
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks.chart import as_svg
from benchmarks.contestants import Contestant, Direct, Gateway
from benchmarks.peers import HAProxy, LiteLLM, Nginx, SglangRouter, VllmRouter
from benchmarks.report import Occasion, as_json, as_markdown
from benchmarks.rounds import DISTURBED_PERCENT, Cores, Results, prepare, run_rounds
from benchmarks.workloads import FULL, QUICK, WORKLOADS, Workload

CONTESTANTS: tuple[Callable[[], Contestant], ...] = (Direct, Gateway, SglangRouter, VllmRouter, Nginx, HAProxy, LiteLLM)
FULL_ROUNDS, QUICK_ROUNDS, MOST_ROUNDS = 5, 1, 50
RESULTS = Path(__file__).resolve().parent / "results"
MOST_DESCRIPTORS = 16384
MOST_QUIET_SECONDS = 600.0
MOST_TRIES = 20


def say(text: str) -> None:
    """Progress, which is no result."""
    click.echo(text, err=True)


def chosen_contestants(names: str | None, trees: Sequence[Path], variations: Sequence[str]) -> list[Contestant]:
    """Those of `--only` in the order of the list, then one gateway for each `--gateway-tree` and `--gateway-env`."""
    contestants = [make() for make in CONTESTANTS]
    if names is not None:
        wanted = chosen(names, [contestant.name for contestant in contestants], "--only")
        contestants = [contestant for contestant in contestants if contestant.name in wanted]
    others = [Gateway(tree=tree) for tree in trees]
    return [*contestants, *others, *(Gateway(settings_of(variation)) for variation in variations)]


def chosen_workloads(names: str | None) -> list[Workload]:
    """Those of `--workloads` in the order in which they run."""
    if names is None:
        return list(WORKLOADS)
    wanted = chosen(names, [workload.name for workload in WORKLOADS], "--workloads")
    return [workload for workload in WORKLOADS if workload.name in wanted]


def chosen(names: str, known: Sequence[str], option: str) -> set[str]:
    """The names between commas; raises BadParameter for one that is not known."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if unknown := sorted(wanted - set(known)):
        raise click.BadParameter(f"{option}: no {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


def settings_of(variation: str) -> dict[str, str]:
    """The settings of one `--gateway-env`: NAME=VALUE, several separated by commas."""
    pairs = [part.partition("=") for part in variation.split(",")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise click.BadParameter(f"--gateway-env: {variation!r} is not NAME=VALUE")
    return {name.strip(): value for name, _, value in pairs}


def pinned_cores(quiet_seconds: float, tries: int) -> Cores:
    """The first core that we may use for the contestant, the second for load and server."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        say("only one core: contestant and load share it, and every time is too long")
    return Cores(contestant=cores[0], load=cores[min(1, len(cores) - 1)], quiet_seconds=quiet_seconds, tries=tries)


def allow_many_descriptors() -> None:
    """A thousand streams are two thousand connections in a contestant."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def end_in_order(number: int, frame: object) -> None:
    """A signal leaves through every `with`, so that no process stays behind."""
    sys.exit(128 + number)


def output(
    option: str, name: str, file_name: str, help_text: str
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """An option for a file that is written in any case, beside the installed peers unless told otherwise."""
    default = RESULTS / file_name
    return click.option(option, name, type=click.Path(path_type=Path, dir_okay=False), default=default, help=help_text)


def write(path: Path, text: str) -> None:
    """Write a file and the directories that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Short workloads, one round: a look, not a measurement.")
@click.option("--rounds", type=click.IntRange(1, MOST_ROUNDS), help=f"Rounds [{FULL_ROUNDS}; quick: {QUICK_ROUNDS}].")
@click.option("--only", metavar="A,B", help="Only these contestants.")
@click.option("--workloads", "workload_names", metavar="A,B", help="Only these workloads.")
@click.option(
    "--gateway-env",
    "variations",
    multiple=True,
    metavar="NAME=VALUE[,…]",
    help="One more gateway, with these settings.",
)
@click.option(
    "--gateway-tree",
    "trees",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="One more gateway, from another working tree: main beside a branch.",
)
@output("--json", "json_path", "latest.json", "Where all figures of all rounds go.")
@output("--markdown", "markdown_path", "latest.md", "Where the tables go.")
@output("--chart", "chart_path", "latest.svg", "Where the bar chart goes (SVG).")
@click.option(
    "--wait-for-quiet",
    "quiet_seconds",
    type=click.FloatRange(0, MOST_QUIET_SECONDS),
    default=0.0,
    metavar="SECONDS",
    help="Before each workload, wait so long at most until others leave both cores alone.",
)
@click.option(
    "--tries",
    type=click.IntRange(1, MOST_TRIES),
    default=1,
    help=f"Tries of a workload while others take over {DISTURBED_PERCENT:.0f} % of a core; the quietest one counts.",
)
@click.option("--no-install", is_flag=True, help="Skip peers that are not installed yet.")
def main(
    quick: bool,
    rounds: int | None,
    only: str | None,
    workload_names: str | None,
    variations: tuple[str, ...],
    trees: tuple[Path, ...],
    json_path: Path,
    markdown_path: Path,
    chart_path: Path,
    quiet_seconds: float,
    tries: int,
    no_install: bool,
) -> None:
    """Measure the gateway beside its peers on this machine; README.md in benchmarks/ tells how to read the tables."""
    if sys.platform != "linux":
        raise click.ClickException("the benchmark reads /proc and pins processes to cores: it runs on Linux only")
    contestants, workloads = chosen_contestants(only, trees, variations), chosen_workloads(workload_names)
    results = Results()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_in_order)
    contestants = prepare(contestants, results, allowed=not no_install, say=say)
    size, rounds = (QUICK, rounds or QUICK_ROUNDS) if quick else (FULL, rounds or FULL_ROUNDS)
    cores = pinned_cores(quiet_seconds, tries)
    allow_many_descriptors()
    os.sched_setaffinity(0, {cores.load if cores.load is not None else 0})
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    occasion = Occasion(date, size.name, rounds, cores.contestant, cores.load)
    try:
        run_rounds(contestants, workloads, rounds=rounds, size=size, cores=cores, results=results, say=say)
    finally:  # what was measured before somebody broke the run off is worth its minutes
        markdown = as_markdown(results, workloads, occasion)
        write(json_path, as_json(results, occasion))
        write(markdown_path, markdown)
        write(chart_path, as_svg(results))
        click.echo(markdown)
    sys.exit(1 if any(results.broken.values()) or not results.figures else 0)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
