"""Listings for people at a terminal: tables with rich if that is installed, and plain columns without it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, TextIO

from fleetspeak.cli.admin import output
from fleetspeak.cli.admin.output import Column, Listing, Result
from fleetspeak.cli.admin.times import Times

MOST_ROWS = 1000

_LEAST_WIDTH = 8
"""Of a column whose texts may be broken."""

_GAP = 3
"""Between two columns, as rich draws them."""


def fetched(result: Result) -> Result:
    """The same, with what of it is shown fetched already."""
    if not isinstance(result, Listing):
        return result
    return dataclasses.replace(result, rows=list(itertools.islice(result.rows, MOST_ROWS + 1)))


def show(listing: Listing, style: Times, out: TextIO) -> None:
    """Print no more than `MOST_ROWS` rows, and fetch no more pages than these need."""
    columns = listing.columns
    rows = [output.cells(columns, row, style) for row in itertools.islice(listing.rows, MOST_ROWS + 1)]
    shown = rows[:MOST_ROWS]
    if not rows:
        out.write(f"{output.printable(listing.nothing)}\n")
        return
    widths = [max(len(row[index]) for row in [*shown, output.titles(columns)]) for index in range(len(columns))]
    try:
        import rich  # noqa: F401
    except ImportError:
        out.writelines(f"{output.line(columns, widths, row)}\n" for row in [output.titles(columns), *shown])
    else:
        _draw(columns, widths, shown, out)
    if len(rows) > MOST_ROWS:
        out.write(f"... and more; these are the first {MOST_ROWS}. --json, or a pipe, shows all.\n")


def _draw(columns: tuple[Column, ...], widths: list[int], rows: list[list[str]], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    least = (width if column.whole else min(width, _LEAST_WIDTH) for column, width in zip(columns, widths, strict=True))
    if sum(least) + _GAP * len(columns) > console.width:
        _write_blocks(columns, rows, out)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Any = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=column.whole)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _write_blocks(columns: tuple[Column, ...], rows: list[list[str]], out: TextIO) -> None:
    """One line for each cell: for terminals that are too narrow for columns."""
    width = max(len(column.title) for column in columns)
    for number, row in enumerate(rows):
        if number:
            out.write("\n")
        for column, text in zip(columns, row, strict=True):
            out.write(f"{column.title.ljust(width)}  {text}\n")
