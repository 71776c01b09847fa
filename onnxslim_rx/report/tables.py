"""Tables that fit: numbers are never cut, names are cut in the middle, where they are alike.

On a terminal a table takes the terminal's width. Elsewhere it is plain text of whatever width it
needs, so that files and pipes get whole names. Names come from files that anybody may have made:
they are shown as text, never as markup, and without control characters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from onnxslim_rx.report.text import printable

__all__ = ["make_console", "show_line", "show_table"]

UNLIMITED = 100_000
"""Width of what goes to a file or a pipe, columns."""

_LEAST = 24
"""A column of words that would get less room than this, columns, is left out if it may be."""

_NAME_SHARE = 45
"""The first column may take this much of the room, per cent, before others get their share."""

_GAP = 2
"""Spaces between two columns of a table."""


class _Console(Console):
    """A console that tells its caller when nobody reads any more; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(stream: IO[str] | None = None) -> Console:
    """A console on `stream` (default: standard output); obeys NO_COLOR and COLUMNS."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNLIMITED
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show_line(console: Console, text: str, style: str = "") -> None:
    """Print one line or, on a narrow terminal, one paragraph."""
    console.print(Text(printable(text), style=style))


def show_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    words: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Print a table.

    Args:
        console: from `make_console`.
        columns: headings.
        rows: one cell for each column, shown by `str`.
        title: printed above.
        words: columns that hold words; they stand to the left and may be cut.
        optional: columns that are left out where the room is too small, the last one first.
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = _fit(columns, texts, console.width, words, optional)
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1 if console.is_terminal else _GAP, 0, 0),  # the box adds one
        header_style="bold",
    )
    for index, width in widths.items():
        left = columns[index] in words
        justify: JustifyMethod = "left" if left else "right"
        table.add_column(
            Text(columns[index]), justify=justify, no_wrap=True, overflow="crop", width=width
        )
    dots = "\u2026" if console.encoding.startswith("utf") else "..."
    for row in texts:
        cells = [_cut(row[index], width, dots, index == 0) for index, width in widths.items()]
        table.add_row(*map(Text, cells))
    if title:
        show_line(console, title, "bold")
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def _fit(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    room: int,
    words: Sequence[str],
    optional: Sequence[str],
) -> dict[int, int]:
    """Index of each column that is shown, in order, and its width."""
    widths = {
        index: max([len(name), *(cell_len(row[index]) for row in rows)])
        for index, name in enumerate(columns)
    }
    natural = dict(widths)
    may_go = [columns.index(name) for name in optional]
    while True:
        wordy = [index for index in widths if columns[index] in words]
        fixed = sum(widths[index] for index in widths if index not in wordy)
        free = room - fixed - _GAP * len(widths)
        least = {0: room * _NAME_SHARE // 100}  # names come first: they tell the rows apart
        for left, index in enumerate(sorted(wordy, key=lambda index: (index > 0, natural[index]))):
            fair = max(free // (len(wordy) - left), min(free, least.get(index, 1)))
            widths[index] = max(1, min(natural[index], fair))
            free -= widths[index]
        fits = all(widths[index] >= min(natural[index], _LEAST) for index in wordy)
        if fits or not may_go:
            return widths
        del widths[may_go.pop()]


def _cut(text: str, width: int, dots: str, in_the_middle: bool) -> str:
    """`text` in at most `width` columns; names of layers begin and end alike, so keep both."""
    if cell_len(text) <= width:
        return text
    room = max(width - len(dots), 0)
    tail = text[len(text) - room * 2 // 3 :] if in_the_middle else ""
    if cell_len(tail) > room:  # characters of two columns
        tail = ""
    return str(set_cell_size(text, room - cell_len(tail))).rstrip() + dots[:width] + tail
