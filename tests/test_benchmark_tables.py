"""What the benchmark makes of its figures: CPU of process trees, noise, medians, ratios, targets, tables, JSON, chart.

The figures are made up; test_benchmarks.py has a real run.
"""

from __future__ import annotations

import json
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.chart import as_svg
from benchmarks.contestants import Direct, Running
from benchmarks.medians import median_ratio, ratios_of
from benchmarks.noise import Noise
from benchmarks.processes import ProcessTree
from benchmarks.report import Occasion, as_json, as_markdown
from benchmarks.rounds import Cores, Results, least_disturbed, run_workload
from benchmarks.targets import TARGETS, is_ours
from benchmarks.workloads import QUICK, WORKLOADS, Measured, Size, Workload, percentile


def results_of(**rounds: list[float]) -> Results:
    """Plain CPU figures of contestants in some rounds."""
    figures = {
        name: [{"cpu_us": value, "requests_per_second": 1000.0} for value in values] for name, values in rounds.items()
    }
    return Results(figures={"plain": figures}, requests=dict.fromkeys(rounds, 1000), broken={"gateway": 2})


OCCASION = Occasion(date="2026-01-31 12:00 UTC", size="tiny", rounds=3, contestant_core=0, load_core=1)


def test_cpu_of_children_is_counted_after_their_end(tmp_path: Path) -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); print('done'); time.sleep(9)"
    )
    with ProcessTree("burner", [sys.executable, "-c", parent], directory=tmp_path, core=None) as tree:
        tree.wait_for_line("done", 20)
        assert 0.3 <= tree.cpu_seconds() < 3
        assert tree.memory().rss_bytes >= tree.memory().pss_bytes > 1_000_000
        assert tree.alive
    assert not tree.alive


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); import time; time.sleep(60)"
    with ProcessTree("family", [sys.executable, "-c", script], directory=tmp_path, core=None) as tree:
        child = Path("/proc") / tree.wait_for_line("", 20)
        assert len(tree.pids()) == 2
    deadline = time.monotonic() + 2
    while (child / "cmdline").exists() and (child / "cmdline").read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (child / "cmdline").exists() or not (child / "cmdline").read_bytes()  # gone, or not yet collected


@pytest.mark.parametrize(
    ("error", "told"), [(TimeoutError(), "TimeoutError"), (OSError("nobody listens"), "nobody listens")]
)
def test_what_breaks_a_workload_off_is_told(error: Exception, told: str) -> None:
    def run(subject: Running, size: Size) -> Measured:
        raise error

    broken_off = run_workload(Workload("plain", "", (), run), Running(Direct(), 1, 1, None, 0.0), QUICK)
    assert (broken_off.broken, broken_off.faults) == (1, (f"broken off: {told}",))


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_tables_show_median_range_and_ratio() -> None:
    results = results_of(**{"gateway": [150.0, 120.0, 130.0], "sglang-router": [100.0, 104.0, 90.0], "nginx": [25.0]})
    markdown = as_markdown(results, WORKLOADS, OCCASION)
    assert "| gateway | 130.0 (120.0–150.0) | 1.44 (1.15–1.50) | 1,000 (1,000–1,000) |" in markdown
    assert "| sglang-router | 100.0 (90.0–104.0) | 1 |" in markdown
    assert "| nginx | 25.0 | 0.25 | 1,000 |" in markdown
    assert "| gateway | 1,000 | 2 |" in markdown


def test_ratios_are_taken_within_a_round() -> None:
    ours = [{"round": 1.0, "cpu_us": 30.0}, {"round": 3.0, "cpu_us": 90.0}]
    theirs = [{"round": 2.0, "cpu_us": 1.0}, {"round": 3.0, "cpu_us": 45.0}, {"round": 4.0}]
    assert ratios_of(ours, theirs, "cpu_us") == [2.0]
    assert median_ratio(ours, [{"round": 1.0, "cpu_us": 0.0}], "cpu_us") is None


def test_targets_tell_what_is_held_and_what_is_missed() -> None:
    results = results_of(
        **{"gateway": [150.0], "gateway (other)": [109.0], "sglang-router": [100.0], "litellm": [6000.0]}
    )
    results.figures["sequential"] = {"gateway": [{"added_ms": 0.4}], "gateway (other)": [{"added_ms": 0.6}]}
    markdown = as_markdown(results, WORKLOADS, OCCASION)
    assert "| CPU per request, plain, × sglang-router's | ≤ 1.1 × | 1.50, missed | 1.09, held |" in markdown
    assert "| cheaper than LiteLLM per request, plain | ≥ 50 × | 40.00, missed | 55.05, held |" in markdown
    assert "| added to a direct call, sequential, mean, ms | ≤ 0.5 | 0.40, held | 0.60, missed |" in markdown
    assert "| first event p99, 200 streams, × nginx's | ≤ 3 × | – | – |" in markdown
    assert "| broken requests | 0 | 2, missed | 0, held |" in markdown


def test_targets_ask_for_figures_that_workloads_give() -> None:
    figures = {(workload.name, figure.key) for workload in WORKLOADS for figure in workload.figures}
    assert {(target.workload, target.key) for target in TARGETS} <= figures


def test_without_a_gateway_there_are_no_targets() -> None:
    assert not is_ours("gateway-of-others")
    assert "### Targets" not in as_markdown(results_of(nginx=[25.0]), WORKLOADS, OCCASION)


def test_the_least_disturbed_try_counts_and_all_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others are made up here: what they take on a real machine cannot be told beforehand."""
    shares = iter((90.0, 30.0, 60.0, 5.0, 70.0))
    monkeypatch.setattr(Noise, "percent", lambda noise: next(shares))
    figures = iter({"cpu_us": float(number), "memory_kib": 10.0 * number} for number in range(1, 9))
    workload = Workload("plain", "", (), lambda subject, size: Measured(next(figures), requests=10, broken=1))
    live = Running(Direct(), 1, 1, None, 0.0)
    results, said = Results(), list[str]()
    with ProcessTree("server", [sys.executable, "-c", ""], directory=tmp_path, core=None) as server:
        for tries, expected in ((3, 2.0), (3, 4.0), (1, 5.0)):
            cores = Cores(contestant=None, load=None, tries=tries)
            best = least_disturbed(workload, live, QUICK, cores, server, results, said.append)
            assert best["cpu_us"] == expected
            assert best["memory_kib"] == {2.0: 10.0, 4.0: 40.0, 5.0: 50.0}[expected]
    assert (results.requests, results.broken) == ({"direct": 50}, {"direct": 5})
    assert "others took 90 %" in said[0]


def test_own_work_is_no_noise(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with ProcessTree("burner", [sys.executable, "-c", "while True: pass"], directory=tmp_path, core=core) as tree:
        with_it, without_it = Noise({core: lambda: 0.0}), Noise({core: tree.cpu_seconds})
        time.sleep(0.3)
        of_anybody, of_others = with_it.percent(), without_it.percent()
    assert of_anybody is not None
    assert of_others is not None
    assert of_anybody - of_others > 10
    assert Noise({}).percent() is None


def test_without_the_rust_router_there_is_no_ratio() -> None:
    assert "| gateway | 130.0 | – | 1,000 |" in as_markdown(results_of(gateway=[130.0]), WORKLOADS, OCCASION)


def test_json_keeps_every_round() -> None:
    results = Results()
    for number, cpu_us in enumerate((150.0, 120.0), 1):
        results.keep("plain", "gateway", {"cpu_us": cpu_us}, number)
        results.count("plain", "gateway", Measured({}, requests=10, broken=1, faults=("status 500",)))
    value = json.loads(as_json(results, OCCASION))
    assert [figures["cpu_us"] for figures in value["figures"]["plain"]["gateway"]] == [150.0, 120.0]
    assert (value["requests"], value["broken"]) == ({"gateway": 20}, {"gateway": 2})
    assert value["faults"] == {"gateway": ["plain: status 500"] * 2}
    assert value["occasion"]["rounds"] == 3


def test_the_chart_cuts_the_bar_that_dwarfs_all_others_but_never_ours() -> None:
    results = results_of(**{"nginx": [25.0], "sglang-router": [100.0], "gateway": [500.0], "litellm": [9000.0]})
    chart = ElementTree.fromstring(as_svg(results))
    bars = chart.findall("{*}rect[@rx]")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(widths[0] * 4, rel=0.01)
    assert widths[2] == pytest.approx(widths[0] * 20, rel=0.01)
    assert widths[2] < widths[3] < widths[0] * 100
    assert len(chart.findall("{*}path")) == 2  # the two strokes of one cut
