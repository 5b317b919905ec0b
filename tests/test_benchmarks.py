"""The benchmark: it measures the real gateway without a broken answer, notices wrong ones, and calculates rightly.

The peers are not installed here and nothing is pinned: the figures themselves mean nothing in a test.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

import benchmarks
from benchmarks.answers import DONE, MODEL, RequestShape, StreamAnswer, order_number
from benchmarks.contestants import Direct, Gateway, Site
from benchmarks.installs import NotAvailable
from benchmarks.load import Drive, Plan, Tally
from benchmarks.rounds import Cores, Results, run_rounds
from benchmarks.scale import ASKED_SERVERS, make_store, write_registrations
from benchmarks.server import STREAM_HEAD, framed, json_answer
from benchmarks.targets import is_ours
from benchmarks.workloads import WORKLOADS, Size, Workload
from multiverse.servers.identity import Registration
from multiverse.storage.store import Store

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
    offered = set(re.findall(r"--[a-z-]+", ran.stdout))
    assert {
        "--quick",
        "--rounds",
        "--only",
        "--workloads",
        "--json",
        "--markdown",
        "--chart",
        "--gateway-env",
    } <= offered
    documents = [ROOT / "benchmarks" / "README.md", ROOT / "docs" / "performance.md"]
    lines = re.findall(r"-m benchmarks (.*)", "\n".join(path.read_text(encoding="utf-8") for path in documents))
    assert lines
    assert set(re.findall(r"--[a-z-]+", " ".join(lines))) <= offered


def test_a_contestant_that_is_not_there_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "gateway,apache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    assert "apache" in ran.stderr


def test_another_tree_is_a_gateway_of_its_own(tmp_path: Path) -> None:
    other = Gateway({"LOG_FORMAT": "json"}, tree=ROOT)
    assert (other.name, is_ours(other.name)) == (f"gateway ({ROOT.name}) LOG_FORMAT=json", True)
    assert other.prepare(allowed=False, say=lambda text: None).startswith("1.")
    assert Gateway(tree=tmp_path).environ(Site(tmp_path, 1, 2, (3,)))["PYTHONPATH"] == str(tmp_path)
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


async def test_the_registrations_of_the_scale_benchmark_are_registrations(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    await make_store(path)
    write_registrations(path, ASKED_SERVERS + 250, (1, 2))
    store = Store(str(path))
    await store.open()
    registrations = [Registration.from_row(row) for row in await store.load_registrations()]
    await store.close()
    by_model = Counter(registration.model_name for registration in registrations)
    assert by_model.pop(MODEL) == ASKED_SERVERS
    assert sorted(by_model.values()) == [50, 100, 100]
    assert len({registration.endpoint for registration in registrations}) == len(registrations)
