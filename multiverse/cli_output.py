"""What the command line shows: text made safe for a terminal, tables that fit it, JSON for programs.

Names and answers come from other people's machines: no control character of theirs ever reaches the terminal. Where
values come from lives in cli_client.py; which columns a command shows lives with the command.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

# C0, DEL and C1 command a terminal; a lone surrogate cannot be encoded.
COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Line separators and the marks that turn the direction of text could make one cell pass for another.
DISGUISES = re.compile("[\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# one_line() has escaped tabs and line ends; the last four are what keyboards for Chinese and Japanese write.
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
GAP = "  "
ELLIPSIS = "…"


def one_line(text: str) -> str:
    """`text` with everything a terminal would act on, line ends included, written as an escape."""
    return DISGUISES.sub(_escape, COMMANDS.sub(_escape, text))


def flowing(text: str) -> str:
    """A model's text: line ends and tabs stay, what else a terminal would act on becomes an escape."""
    return COMMANDS.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match), text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code_point = ord(match[0])
    return f"\\x{code_point:02x}" if code_point < 0x100 else f"\\u{code_point:04x}"


def as_json(document: Any) -> str:
    """`document` as readable JSON; what a terminal would act on is in its JSON escape, so that nothing is lost."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    # json.dumps has escaped C0 already, except the line ends that it puts between values itself.
    for pattern in (COMMANDS, DISGUISES):
        text = pattern.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    return text


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """`rows` as CSV; a cell that a spreadsheet would take for a formula gets an apostrophe (OWASP, CSV injection)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = ["" if row.get(name) is None else one_line(str(row[name])) for name in columns]
        writer.writerow([f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell for cell in cells])
    return text.getvalue()


def show_json(document: Any) -> None:
    """Print `document` for programs."""
    click.echo(as_json(document))


@dataclass(frozen=True)
class Column:
    """One column: its title, its text for a row, and how it gives way when the terminal is narrow.

    It may be cut to `least_width` (None = never cut), and left out altogether when `optional`.
    """

    title: str
    text: Callable[[Mapping[str, Any]], str]
    least_width: int | None = None
    optional: bool = False


def field(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A column's text: the field `name` of the row, empty when it is null."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def show_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print `rows` as an aligned table; on a terminal it keeps to the terminal's width if it can."""
    for line in format_table(columns, list(rows), terminal_columns()):
        click.echo(line)


def terminal_columns() -> int | None:
    """The width to keep to, or None when the output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], limit: int | None) -> list[str]:
    """The lines of a table at most `limit` wide (None = as wide as it needs)."""
    shown, widths = _layout(columns, rows, limit)
    titles = [column.title for column in shown]
    lines = [titles, *([one_line(column.text(row)) for column in shown] for row in rows)]
    return [GAP.join(map(_cell, line, widths)).rstrip() for line in lines]


def _layout(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], limit: int | None
) -> tuple[list[Column], list[int]]:
    """Which columns are shown, and how wide: optional ones go first, from the right; then the widest is cut."""
    shown = list(columns)
    wanted = {column: _wanted_width(column, rows) for column in shown}
    if limit is None:
        return shown, [wanted[column] for column in shown]
    least = {column: min(wanted[column], column.least_width or wanted[column]) for column in shown}
    for column in reversed(columns):
        if column.optional and _total(least[kept] for kept in shown) > limit:
            shown.remove(column)
    widths = {column: wanted[column] for column in shown}
    while _total(widths.values()) > limit:
        room = [column for column in shown if widths[column] > least[column]]
        if not room:
            break
        widths[max(room, key=lambda column: widths[column])] -= 1
    return shown, [widths[column] for column in shown]


def _wanted_width(column: Column, rows: Sequence[Mapping[str, Any]]) -> int:
    return max(map(display_width, (column.title, *(one_line(column.text(row)) for row in rows))))


def _total(widths: Iterable[int]) -> int:
    every = list(widths)
    return sum(every) + len(GAP) * (len(every) - 1)


def display_width(text: str) -> int:
    """How many columns of a terminal `text` takes (Unicode Standard Annex 11)."""
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _cell(text: str, width: int) -> str:
    """`text` in exactly `width` columns: padded, or cut with an ellipsis."""
    if display_width(text) > width:
        while text and display_width(text) + 1 > width:
            text = text[:-1]
        text += ELLIPSIS
    return text + " " * (width - display_width(text))


def show_record(record: Mapping[str, Any]) -> None:
    """Print the fields of one record that have a value, one on a line."""
    shown = {name: value for name, value in record.items() if value not in (None, "", [])}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"  {one_line(name):{width}}  {one_line(as_text(value))}")


def as_text(value: Any) -> str:
    """A value of a record for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
