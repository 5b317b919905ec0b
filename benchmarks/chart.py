"""A bar chart of the CPU per request and per event as SVG, made of strings: no library, no script, no outside font.

A bar that would dwarf all others is cut, marked, and carries its number like the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.medians import median_of
from benchmarks.rounds import Results
from benchmarks.targets import is_ours
from benchmarks.workloads import WORKLOADS

PANELS = (("plain", "CPU per request, µs"), ("paced", "CPU per event of a paced stream, µs"))
WIDTH, NAME_WIDTH, NUMBER_WIDTH = 760, 210, 90
BAR_HEIGHT, BAR_GAP, TITLE_HEIGHT, PANEL_GAP = 22, 8, 34, 18
OWN_COLOUR, PEER_COLOUR = "#2563eb", "#94a3b8"
DWARFS = 4.0  # a bar this many times as long as the next shorter one is cut


@dataclass(frozen=True)
class Bar:
    """One contestant's median."""

    name: str
    value: float


def as_svg(results: Results) -> str:
    """The chart; panels without figures are left out."""
    parts: list[str] = []
    top = 8
    for workload_name, title in PANELS:
        if bars := bars_of(results, workload_name):
            parts.append(panel(title, bars, top))
            top += TITLE_HEIGHT + len(bars) * (BAR_HEIGHT + BAR_GAP) + PANEL_GAP
    style = "font-family: system-ui, sans-serif; font-size: 14px"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
        f' role="img" style="{style}">\n'
        f"<title>CPU per request and per event</title>\n"
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "".join(parts) + "</svg>\n"
    )


def bars_of(results: Results, workload_name: str) -> list[Bar]:
    """The contestants by their medians, cheapest first."""
    (main,) = (workload.figures[0] for workload in WORKLOADS if workload.name == workload_name)
    medians = {name: median_of(rounds, main.key) for name, rounds in results.figures.get(workload_name, {}).items()}
    return sorted((Bar(name, value) for name, value in medians.items() if value is not None), key=lambda bar: bar.value)


def scale_end(bars: Sequence[Bar]) -> float:
    """The value of the longest bar that is drawn in full: never less than ours. `bars` ascend."""
    end = bars[0].value
    for place, bar in enumerate(bars):
        ours_follows = any(is_ours(later.name) for later in bars[place:])
        if place > 1 and bar.value > DWARFS * end and not ours_follows:
            break
        end = bar.value
    return end


def panel(title: str, bars: Sequence[Bar], top: int) -> str:
    """A heading and its bars, as SVG elements."""
    longest = WIDTH - NAME_WIDTH - NUMBER_WIDTH
    end = scale_end(bars)
    lines = [f'<text x="8" y="{top + 18}" font-weight="600" fill="#0f172a">{escape(title)}</text>']
    for place, bar in enumerate(bars):
        bar_top = top + TITLE_HEIGHT + place * (BAR_HEIGHT + BAR_GAP)
        cut = bar.value > end
        length = longest if cut else bar.value / end * longest * 0.9
        colour = OWN_COLOUR if is_ours(bar.name) else PEER_COLOUR
        baseline = bar_top + BAR_HEIGHT - 6
        number = f"{bar.value:,.0f}" if bar.value >= 10 else f"{bar.value:.1f}"
        lines += [
            f'<text x="{NAME_WIDTH - 8}" y="{baseline}" text-anchor="end" fill="#0f172a">{escape(bar.name)}</text>',
            f'<rect x="{NAME_WIDTH}" y="{bar_top}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="3" fill="{colour}"/>',
            f'<text x="{NAME_WIDTH + length + 8:.1f}" y="{baseline}" fill="#0f172a">{number}</text>',
        ]
        if cut:
            lines.append(cut_mark(NAME_WIDTH + longest - 40, bar_top))
    return "\n".join(lines) + "\n"


def cut_mark(left: int, top: int) -> str:
    """Two slanted strokes of paper: the bar goes on beyond the chart."""
    strokes = (
        f'<path d="M {left + shift} {top + BAR_HEIGHT + 2} l 8 -{BAR_HEIGHT + 4}" stroke="#ffffff" stroke-width="4"/>'
        for shift in (0, 9)
    )
    return "".join(strokes)
