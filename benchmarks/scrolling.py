"""`python -m benchmarks.scrolling`: how smoothly the dashboard scrolls with a thousand servers, in a real Chromium.

A frame is smooth when the page's own thread works on it for less than FRAME_MS. Its CPU time is what counts: the time
between two frames says as much about what else the machine does. Exit codes: 0 smooth, 1 not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
from playwright.sync_api import CDPSession, Page, expect

from tests.browser import DESKTOP, Visitor, chromium
from tests.peers import PeerLoop
from tests.processes import GatewayProcess
from tests.stores import add_many_servers

FRAME_MS = 1000 / 60
TURNS = 200
LOADED_WITHIN_MS = 60_000
# The table grows by some rows whenever its end comes near, and times grow older once a second, whatever one does.
WAYS = {"down, as it grows": 500, "up again": -500, "not at all": 0}
COUNT_FRAMES = """() => {
    window.frames = [];
    let last = performance.now();
    const note = (now) => {
        window.frames.push(now - last);
        last = now;
        window.counting = requestAnimationFrame(note);
    };
    window.counting = requestAnimationFrame(note);
}"""


@dataclass(frozen=True)
class Run:
    """One way of scrolling; times in milliseconds, `cpu_ms` and `layout_ms` for each frame."""

    way: str
    frames: int
    cpu_ms: float
    layout_ms: float
    median_ms: float
    percentile_95_ms: float


def work_ms(devtools: CDPSession) -> dict[str, float]:
    """The CPU time of the page's thread so far, by kind of work."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return {metric["name"]: metric["value"] * 1000 for metric in metrics}


def scroll(page: Page, devtools: CDPSession, way: str, step_pixels: int) -> Run:
    """Turn the wheel TURNS times and measure."""
    before = work_ms(devtools)
    page.evaluate(COUNT_FRAMES)
    for _turn in range(TURNS):
        page.mouse.wheel(0, step_pixels)
        page.wait_for_timeout(FRAME_MS)
    gaps = page.evaluate("() => { cancelAnimationFrame(window.counting); return window.frames; }")
    after = work_ms(devtools)
    return Run(
        way=way,
        frames=len(gaps),
        cpu_ms=(after["TaskDuration"] - before["TaskDuration"]) / len(gaps),
        layout_ms=(after["LayoutDuration"] - before["LayoutDuration"]) / len(gaps),
        median_ms=statistics.median(gaps),
        percentile_95_ms=statistics.quantiles(gaps, n=20)[-1],
    )


def measure(servers: int) -> list[Run]:
    """Start a gateway with so many servers and scroll through its dashboard."""
    with tempfile.TemporaryDirectory() as directory, PeerLoop() as loop, chromium() as browser, loop.peer() as peer:
        gateway = GatewayProcess(Path(directory), HEALTH_CHECK_INTERVAL_SECONDS=60).start()
        gateway.stop()
        add_many_servers(gateway.directory / "gateway.db", peer.url, servers)
        gateway.start()
        try:
            visitor = Visitor(browser.new_context(viewport=DESKTOP), gateway)
            visitor.sign_in()
            page = visitor.open("/")
            expect(page.locator("#servers-verdicts")).to_contain_text(f"{servers:,} healthy", timeout=LOADED_WITHIN_MS)
            devtools = visitor.context.new_cdp_session(page)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.mouse.move(DESKTOP["width"] / 2, DESKTOP["height"] / 2)
            return [scroll(page, devtools, way, step_pixels) for way, step_pixels in WAYS.items()]
        finally:
            gateway.stop()


def as_markdown(runs: list[Run]) -> str:
    """The table of results."""
    lines = [
        "| scrolling | frames | CPU per frame, ms | of it layout | between frames, ms | 95 % below |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {run.way} | {run.frames} | {run.cpu_ms:.1f} | {run.layout_ms:.1f} | {run.median_ms:.1f} "
        f"| {run.percentile_95_ms:.1f} |"
        for run in runs
    ]
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--servers", default=1000, show_default=True, type=click.IntRange(min=1, max=5000))
def main(servers: int) -> None:
    """Scroll through a long table of servers, and say whether it is smooth."""
    runs = measure(servers)
    click.echo(as_markdown(runs))
    smooth = all(run.cpu_ms < FRAME_MS for run in runs)
    click.echo(f"\nA frame's share of a core is {FRAME_MS:.1f} ms: {'smooth' if smooth else 'not smooth'}.")
    sys.exit(0 if smooth else 1)


if __name__ == "__main__":
    main()
