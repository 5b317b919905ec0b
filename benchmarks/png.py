"""Line charts over time as a PNG, drawn pixel by pixel: zlib and struct are all that it takes, so nothing is installed.

Each panel has one line, its own scale from zero, and its name. What is drawn, and what it means, stands in soak.py.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WHITE, INK, GRID, LINE, SHADE = (255, 255, 255), (15, 23, 42), (226, 232, 240), (37, 99, 235), (241, 245, 249)
WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 170, 90, 20, 34, 26
SCALE = 2  # pixels per dot of a letter
LETTER_WIDTH = 6 * SCALE
NICE_STEPS = (1, 2, 2.5, 5, 10)

Colour = tuple[int, int, int]

# Letters of five columns each, seven dots high; the lowest bit is the highest dot.
FONT = {
    " ": "0000000000", "%": "2313086462", "(": "001c224100", ")": "0041221c00", ",": "0080703000", "-": "0808080808",
    ".": "0000606000", "/": "2010080402", "0": "3e5149453e", "1": "00427f4000", "2": "7249494946", "3": "2141494d33",
    "4": "1814127f10", "5": "2745454539", "6": "3c4a494931", "7": "4121110907", "8": "3649494936", "9": "464949291e",
    ":": "0000140000", "B": "7f49494936", "K": "7f08142241", "M": "7f021c027f", "a": "2054547840", "b": "7f28444438",
    "c": "3844444428", "d": "384444287f", "e": "3854545418", "f": "00087e0902", "g": "18a4a49c78", "h": "7f08040478",
    "i": "00447d4000", "j": "2040403d00", "k": "7f10284400", "l": "00417f4000", "m": "7c04780478", "n": "7c08040478",
    "o": "3844444438", "p": "fc18242418", "q": "18242418fc", "r": "7c08040408", "s": "4854545424", "t": "04043f4424",
    "u": "3c4040207c", "v": "1c2040201c", "w": "3c4030403c", "x": "4428102844", "y": "4c9090907c", "z": "4464544c44",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One line: `points` are (moment, value), in their order."""

    name: str
    points: Sequence[tuple[float, float]]


class Canvas:
    """Pixels, red green blue, from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._pixels = bytearray(bytes(WHITE) * (width * height))

    def dot(self, left: int, top: int, colour: Colour) -> None:
        """One pixel; outside it is nothing."""
        if 0 <= left < self.width and 0 <= top < self.height:
            start = (top * self.width + left) * 3
            self._pixels[start : start + 3] = bytes(colour)

    def box(self, left: int, top: int, width: int, height: int, colour: Colour) -> None:
        """A filled rectangle."""
        for row in range(top, top + height):
            for column in range(left, left + width):
                self.dot(column, row, colour)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        """A straight line, two pixels thick."""
        steps = max(int(abs(end[0] - start[0])), int(abs(end[1] - start[1])), 1)
        for step in range(steps + 1):
            share = step / steps
            left, top = (round(begin + (finish - begin) * share) for begin, finish in zip(start, end, strict=True))
            self.box(left, top, 2, 2, colour)

    def text(self, left: int, top: int, words: str, colour: Colour = INK) -> None:
        """A line of text; letters that the font lacks are spaces."""
        for place, letter in enumerate(words):
            for column, dots in enumerate(bytes.fromhex(FONT.get(letter, FONT[" "]))):
                for row in range(8):
                    if dots >> row & 1:
                        at = left + place * LETTER_WIDTH + column * SCALE
                        self.box(at, top + row * SCALE, SCALE, SCALE, colour)

    def as_png(self) -> bytes:
        """The picture in the format of RFC 2083: 8 bits per colour, no filter."""
        row_bytes = self.width * 3
        rows = (self._pixels[start : start + row_bytes] for start in range(0, len(self._pixels), row_bytes))
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_chart(path: Path, panels: Sequence[Panel], time_name: str, shaded_from: float) -> None:
    """Draw the panels one below the other; from the moment `shaded_from` on, the ground is shaded."""
    canvas = Canvas(WIDTH, PANEL_HEIGHT * len(panels) + BOTTOM)
    for place, panel in enumerate(panels):
        _draw(canvas, panel, place * PANEL_HEIGHT, shaded_from)
    canvas.text(WIDTH - RIGHT - len(time_name) * LETTER_WIDTH, canvas.height - 20, time_name)
    path.write_bytes(canvas.as_png())


def _draw(canvas: Canvas, panel: Panel, top: int, shaded_from: float) -> None:
    width, height = WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    last = max((moment for moment, _value in panel.points), default=1.0) or 1.0
    highest = nice_end(max((value for _moment, value in panel.points), default=1.0))
    ground = top + TOP + height

    def at(moment: float, value: float) -> tuple[float, float]:
        return LEFT + moment / last * width, ground - value / highest * height

    shade = round(at(min(shaded_from, last), 0)[0])
    canvas.box(shade, top + TOP, LEFT + width - shade, height, SHADE)
    for share in (0.0, 0.5, 1.0):
        row = round(at(0, highest * share)[1])
        canvas.box(LEFT, row, width, 1, GRID)
        _label(canvas, f"{highest * share:g}", LEFT - 8, row - 7)
        _label(canvas, f"{last * share:.1f}", round(at(last * share, 0)[0]) + 2 * LETTER_WIDTH, ground + 6)
    canvas.text(LEFT, top + 10, panel.name)
    for start, end in itertools.pairwise(panel.points):
        canvas.line(at(*start), at(*end), LINE)


def _label(canvas: Canvas, words: str, right: int, top: int) -> None:
    canvas.text(min(right, WIDTH) - len(words) * LETTER_WIDTH, top, words)


def nice_end(highest: float) -> float:
    """The end of a scale that holds `highest`: a round number."""
    power = 1.0
    while power * 10 <= highest:
        power *= 10
    return next(step * power for step in NICE_STEPS if step * power >= highest)
