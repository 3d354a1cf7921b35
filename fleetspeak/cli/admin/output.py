"""What commands return, and how it is shown: as plain text, as a table for people, as JSON for programs.

A row is a dict with stable names.  Its values are texts, numbers, booleans, None, lists of these, ids as bytes, and
points in time as protobuf's Timestamp.  Texts may come from anywhere: whoever shows them removes control characters.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.cli.admin import times
from fleetspeak.cli.admin.times import Times

Row = Mapping[str, Any]


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
    whole: bool = False
    """Never broken into lines, so that it can be copied."""


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
            from fleetspeak.cli.admin import tables

            tables.show(result, style, out)
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
    widths = [column.width for column in listing.columns]
    yield line(listing.columns, widths, titles(listing.columns))
    for row in itertools.chain((first,), rows):
        yield line(listing.columns, widths, cells(listing.columns, row, style))


def titles(columns: tuple[Column, ...]) -> list[str]:
    """Of all columns."""
    return [column.title for column in columns]


def cells(columns: tuple[Column, ...], row: Row, style: Times) -> list[str]:
    """A row as texts."""
    return [
        printable(column.show(row[column.key])) if column.show else shown(row[column.key], style) for column in columns
    ]


def line(columns: tuple[Column, ...], widths: Sequence[int], texts: Sequence[str]) -> str:
    """Texts in columns of at least these widths."""
    padded = (
        text.rjust(width) if column.right else text.ljust(width)
        for column, width, text in zip(columns, widths, texts, strict=True)
    )
    return "  ".join(padded).rstrip()
