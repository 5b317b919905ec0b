"""The benchmark: it measures the real gateway without a broken answer, notices wrong ones, and calculates rightly.

The peers are not installed here and nothing is pinned: the figures themselves mean nothing in a test.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import benchmarks
from benchmarks.answers import DONE, RequestShape, StreamAnswer, order_number
from benchmarks.chart import as_svg
from benchmarks.contestants import Direct, Gateway
from benchmarks.installs import NotAvailable
from benchmarks.load import Drive, Plan, Tally
from benchmarks.medians import median_ratio, ratios_of
from benchmarks.processes import ProcessTree
from benchmarks.report import Occasion, as_json, as_markdown
from benchmarks.rounds import Cores, Results, run_rounds
from benchmarks.server import STREAM_HEAD, framed, json_answer
from benchmarks.targets import TARGETS, is_ours
from benchmarks.workloads import WORKLOADS, Measured, Size, Workload, percentile

ROOT = Path(__file__).resolve().parent.parent
TINY = Size(
    "tiny",
    settle_seconds=0,
    plain_seconds=0.1,
    plain_lanes=4,
    paced_streams=4,
    paced_each=1,
    wide_streams=12,
    wide_events=6,
    pairs=10,
    warm_requests=4,
)
STREAM_EVENTS = 3


@pytest.fixture(scope="module")
def tiny_results() -> Results:
    """One round of every workload through the gateway, and of one past it."""
    results = Results()
    plain = [workload for workload in WORKLOADS if workload.name == "plain"]
    for contestant, workloads in ((Gateway({"LOG_FORMAT": "json"}), WORKLOADS), (Direct(), plain)):
        run_rounds(
            [contestant],
            workloads,
            rounds=1,
            size=TINY,
            cores=Cores(contestant=None, load=None),
            results=results,
            say=lambda text: None,
        )
    return results


def results_of(**rounds: list[float]) -> Results:
    """Plain CPU figures of contestants in some rounds."""
    figures = {
        name: [{"cpu_us": value, "requests_per_second": 1000.0} for value in values] for name, values in rounds.items()
    }
    return Results(figures={"plain": figures}, requests=dict.fromkeys(rounds, 1000), broken={"gateway": 2})


OCCASION = Occasion(date="2026-01-31 12:00 UTC", size="tiny", rounds=3, contestant_core=0, load_core=1)


def test_every_module_can_be_imported() -> None:
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    assert {"server", "load", "peers", "report", "chart"} <= set(names)
    for name in names:
        if name != "__main__":
            importlib.import_module(f"benchmarks.{name}")


def test_the_command_line_names_its_options() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    for option in ("--quick", "--rounds", "--only", "--workloads", "--json", "--markdown", "--chart", "--gateway-env"):
        assert option in ran.stdout


def test_a_contestant_that_is_not_there_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "gateway,apache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    assert "apache" in ran.stderr


# -- a real run


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_each_workload_gives_its_figures(tiny_results: Results, workload: Workload) -> None:
    figures = tiny_results.figures[workload.name]["gateway LOG_FORMAT=json"][0]
    for figure in workload.figures:
        assert figure.key in figures
        if figure.key not in ("added_ms", "memory_kib"):  # differences: in a tiny run they may be anything
            assert figures[figure.key] > 0, figure.key


def test_no_answer_is_broken(tiny_results: Results) -> None:
    assert tiny_results.skipped == {}
    assert tiny_results.faults == {name: [] for name in tiny_results.faults}
    assert set(tiny_results.broken.values()) == {0}
    assert all(requests > 50 for requests in tiny_results.requests.values())


def test_the_direct_way_has_no_cpu_of_its_own(tiny_results: Results) -> None:
    assert "cpu_us" not in tiny_results.figures["plain"]["direct"][0]


def test_every_wide_stream_was_open_at_once(tiny_results: Results) -> None:
    assert tiny_results.figures["wide"]["gateway LOG_FORMAT=json"][0]["open_streams"] == TINY.wide_streams


# -- wrong answers


def stream_bytes(
    *templates: bytes, number: bytes = order_number(1), done: bytes = DONE, end: bytes = b"0\r\n\r\n"
) -> bytes:
    """A chunked stream of these events and `[DONE]`."""
    events = [template.replace(b"#" * 12, number) for template in (*templates, done)]
    return STREAM_HEAD + b"".join(framed(event) for event in events if event) + end


async def ask_one_that_says(answer: bytes, events: int = 0) -> Tally:
    """Two requests to a server that gives the same answer to both and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        shape = RequestShape(events=events)
        plan = Plan(shape, lanes=1, requests_each=2, limit_seconds=5)
        return await Drive(plan, server.sockets[0].getsockname()[1]).run()


GOOD = StreamAnswer(STREAM_EVENTS).events


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(stream_bytes(GOOD[0], GOOD[2]), id="an event is missing"),
        pytest.param(stream_bytes(GOOD[1], GOOD[0], GOOD[2]), id="events out of order"),
        pytest.param(stream_bytes(*GOOD, GOOD[2]), id="an event twice"),
        pytest.param(stream_bytes(*GOOD, number=order_number(9)), id="another request's answer"),
        pytest.param(stream_bytes(*GOOD, end=b""), id="cut"),
        pytest.param(stream_bytes(*GOOD, done=b""), id="no [DONE]"),
        pytest.param(stream_bytes(*GOOD).replace(b"200 OK", b"502 Bad Gateway"), id="an error"),
        pytest.param(json_answer(b"{}"), id="not a stream"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_a_wrong_stream_is_broken(answer: bytes) -> None:
    tally = await ask_one_that_says(answer, STREAM_EVENTS)
    assert (tally.requests, tally.broken) == (2, 2)
    assert len(tally.faults) == 2


async def test_rewritten_but_right_events_are_not_broken() -> None:
    shortened = [template.replace(b'"object": "chat.completion.chunk", ', b"") for template in GOOD]
    assert shortened != list(GOOD)
    tally = await ask_one_that_says(stream_bytes(*shortened), STREAM_EVENTS)
    # The second request has another number, which this answer lacks.
    assert (tally.requests, tally.broken) == (2, 1)


async def test_a_plain_answer_of_another_request_is_broken() -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "000000000007 something"}}]}
    tally = await ask_one_that_says(json_answer(json.dumps(body).encode()))
    assert (tally.requests, tally.broken) == (2, 2)


# -- counting and calculating


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


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_tables_show_median_range_and_ratio() -> None:
    results = results_of(**{"gateway": [150.0, 120.0, 130.0], "sglang-router": [100.0, 104.0, 90.0], "nginx": [25.0]})
    markdown = as_markdown(results, WORKLOADS, OCCASION)
    assert "| gateway | 130.0 (120.0–150.0) | 1.44 (1.15–1.50) | 1,000 (1,000–1,000) |" in markdown
    assert "| sglang-router | 100.0 (90.0–104.0) | 1.00 (1.00–1.00) |" in markdown
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


def test_another_tree_is_a_gateway_of_its_own(tmp_path: Path) -> None:
    other = Gateway({"LOG_FORMAT": "json"}, tree=ROOT)
    assert (other.name, is_ours(other.name)) == (f"gateway ({ROOT.name}) LOG_FORMAT=json", True)
    assert other.prepare(allowed=False, say=lambda text: None).startswith("1.")
    with pytest.raises(NotAvailable, match="no gateway"):
        Gateway(tree=tmp_path).prepare(allowed=False, say=lambda text: None)


def test_what_was_measured_is_written(tmp_path: Path) -> None:
    outputs = [tmp_path / "new" / name for name in ("run.json", "run.md", "run.svg")]
    options = [f"--{kind}={path}" for kind, path in zip(("json", "markdown", "chart"), outputs, strict=True)]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only=direct", "--workloads=sequential", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    results, tables, chart = (path.read_text(encoding="utf-8") for path in outputs)
    (figures,) = json.loads(results)["figures"]["sequential"]["direct"]
    assert figures["round"] == 1
    assert figures["direct_ms"] > 0
    assert tables.strip() == ran.stdout.strip()
    ElementTree.fromstring(chart)


def test_without_the_rust_router_there_is_no_ratio() -> None:
    assert "| gateway | 130.0 | – | 1,000 |" in as_markdown(results_of(gateway=[130.0]), WORKLOADS, OCCASION)


def test_json_keeps_every_round() -> None:
    results = Results()
    for cpu_us in (150.0, 120.0):
        results.add("plain", "gateway", Measured({"cpu_us": cpu_us}, requests=10, broken=1, faults=("status 500",)))
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
