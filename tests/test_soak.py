"""The soak's own arithmetic: what counts as flat, what the table shows, and that its picture is one."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path

import pytest

from benchmarks.png import Panel, nice_end, write_chart
from benchmarks.soak import ROWS_SHOWN, Sample, as_markdown, drifts

FLAT = [Sample(number / 4, number * 300, 50.0, 20, 3, 4, 0, 2, 12.5) for number in range(40)]


def test_a_flat_run_is_flat() -> None:
    assert drifts(FLAT) == []


def test_growth_before_the_last_half_is_warming_up() -> None:
    grown = [dataclasses.replace(sample, memory_megabytes=min(30 + sample.minute * 10, 80)) for sample in FLAT]
    assert drifts(grown) == []


@pytest.mark.parametrize(
    ("gauge", "per_minute"),
    [
        ("memory_megabytes", 1.0),
        ("descriptors", 2),
        ("threads", 1),
        ("tasks", 2),
        ("connections", 2),
        ("queued_rows", 50),
    ],
)
def test_growth_to_the_end_is_found(gauge: str, per_minute: float) -> None:
    growing = [
        dataclasses.replace(sample, **{gauge: getattr(sample, gauge) + per_minute * sample.minute}) for sample in FLAT
    ]
    (found,) = drifts(growing)
    assert "grew by" in found


def test_one_peak_is_no_growth() -> None:
    peaked = [*FLAT[:-2], dataclasses.replace(FLAT[-2], memory_megabytes=90.0, tasks=30), FLAT[-1]]
    assert drifts(peaked) == []


def test_the_table_is_short_and_shows_both_ends() -> None:
    head, _rule, *rows = as_markdown(FLAT).splitlines()
    assert len(rows) == ROWS_SHOWN
    assert rows[0].startswith("| 0.0 | 0 | 50 |")
    assert rows[-1].startswith("| 9.8 | 11,700 | 50 |")
    assert head.count("|") == rows[0].count("|")
    assert len(as_markdown(FLAT[:1]).splitlines()) == 3


def test_the_picture_is_a_png_with_a_line_in_it(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    write_chart(path, [Panel("memory, MB", [(0.0, 40.0), (10.0, 50.0)]), Panel("tasks", [(0.0, 0.0)])], "minutes", 5.0)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0]
    rows = zlib.decompress(data[start : start + length])
    assert len(rows) == height * (1 + 3 * width)
    assert rows.count(bytes((37, 99, 235))) > width / 2, "a line from one end to the other"


@pytest.mark.parametrize(("highest", "end"), [(0.0, 1), (1.0, 1), (3, 5), (49.9, 50), (51, 100), (2400, 2500)])
def test_scales_end_at_round_numbers(highest: float, end: float) -> None:
    assert nice_end(highest) == end
