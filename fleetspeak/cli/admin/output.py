"""What commands return, and how it is shown: as plain text, as a table for people, as JSON for programs.

A row is a dict with stable names.  Its values are texts, numbers, booleans, None, lists of these, ids as bytes, and
points in time as protobuf's Timestamp.  Texts may come from anywhere: whoever shows them removes control characters.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.cli.admin import times
from fleetspeak.cli.admin.times import Times

Row = Mapping[str, Any]

SHOWN_TO_PEOPLE = 1000
"""Most rows of a table on a terminal."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a listing."""

    key: str
    title: str
    width: int = 0
    """Least width in plain text."""
    show: Callable[[Any], str] | None = None
    """For people; None: by the kind of the value."""
    right: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """Any number of rows."""

    columns: tuple[Column, ...]
    rows: Iterable[Row]
    nothing: str
    """What is said instead of a table without rows."""
    plain: Callable[[list[Row], Times], Iterator[str]] | None = None
    """Lines as upstream's tool prints them, if it has this listing."""


@dataclass(frozen=True, slots=True)
class Report:
    """One thing, told in lines of text."""

    lines: Callable[[Times], Iterable[str]]
    record: Row | None = None
    """The same for programs; None: nothing is printed for them."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Rows for programs, whatever the options say."""

    rows: Iterable[Row]


@dataclass(frozen=True, slots=True)
class Script:
    """Text for another program, whatever the options say."""

    text: str


Result = Listing | Report | Lines | Script


def show(result: Result, *, as_json: bool, local: bool, out: TextIO | None = None) -> None:
    """Print it in the form that fits."""
    out = sys.stdout if out is None else out
    style = Times(local)
    match result:
        case Script():
            out.write(result.text)
        case Report() if as_json:
            if result.record is not None:
                out.write(json_line(result.record))
        case Report():
            out.writelines(f"{printable(line)}\n" for line in result.lines(style))
        case Lines():
            for row in result.rows:
                out.write(json_line(row))
        case Listing() if as_json:
            for row in result.rows:
                out.write(json_line(row))
        case Listing() if out.isatty():
            _table(result, style, out)
        case Listing():
            lines = _upstream(result, style) if result.plain else _plain(result, style)
            out.writelines(f"{printable(line)}\n" for line in lines)
    out.flush()


def json_line(row: Row) -> str:
    """One object and a line's end, in ASCII."""
    return json.dumps({key: _json_value(value) for key, value in row.items()}) + "\n"


def printable(text: str) -> str:
    """The text without anything that a terminal would obey, or that would break the line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shown(value: Any, style: Times) -> str:
    """A value for people."""
    match value:
        case None | b"" | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case bytes():
            return value.hex()
        case Timestamp():
            return style.show(value)
        case list():
            return ", ".join(shown(one, style) for one in value) or "-"
        case _:
            return printable(str(value))


def _json_value(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex() or None
        case Timestamp():
            return times.as_json(value)
        case list():
            return [_json_value(one) for one in value]
        case dict():
            return {key: _json_value(one) for key, one in value.items()}
        case _:
            return value


def _upstream(listing: Listing, style: Times) -> Iterator[str]:
    assert listing.plain is not None
    rows = list(listing.rows)
    return listing.plain(rows, style) if rows else iter((listing.nothing,))


def _plain(listing: Listing, style: Times) -> Iterator[str]:
    """A header and lines in columns; as they come, so that a long list needs no memory."""
    rows = iter(listing.rows)
    first = next(rows, None)
    if first is None:
        yield listing.nothing
        return
    yield _line(listing.columns, [column.title for column in listing.columns])
    for row in itertools.chain((first,), rows):
        yield _line(listing.columns, _cells(listing.columns, row, style))


def _cells(columns: tuple[Column, ...], row: Row, style: Times) -> list[str]:
    return [
        printable(column.show(row[column.key])) if column.show else shown(row[column.key], style) for column in columns
    ]


def _line(columns: tuple[Column, ...], cells: list[str]) -> str:
    padded = (
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for column, cell in zip(columns, cells, strict=True)
    )
    return "  ".join(padded).rstrip()


def _table(listing: Listing, style: Times, out: TextIO) -> None:
    """With rich if it is installed, else as plain text."""
    rows = list(itertools.islice(listing.rows, SHOWN_TO_PEOPLE + 1))
    columns = listing.columns
    if not rows:
        out.write(f"{printable(listing.nothing)}\n")
        return
    cells = [_cells(columns, row, style) for row in rows[:SHOWN_TO_PEOPLE]]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        shown_columns = tuple(
            Column(
                column.key,
                column.title,
                max(len(cell[index]) for cell in [*cells, _titles(columns)]),
                None,
                column.right,
            )
            for index, column in enumerate(columns)
        )
        out.writelines(f"{_line(shown_columns, line)}\n" for line in [_titles(columns), *cells])
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for line in cells:
            table.add_row(*map(Text, line))
        Console(file=out).print(table)
    if len(rows) > SHOWN_TO_PEOPLE:
        out.write(f"... and more; these are the first {SHOWN_TO_PEOPLE}. --json, or a pipe, shows all.\n")


def _titles(columns: tuple[Column, ...]) -> list[str]:
    return [column.title for column in columns]
