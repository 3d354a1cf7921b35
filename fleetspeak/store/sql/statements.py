"""Statements for many rows at a time.

Every statement costs a fixed price, and with a busy reactor a wait for the interpreter lock on top, so rows go in
together; and where statements are kept prepared, a text of another length has to be parsed anew, so lengths are powers
of two there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from fleetspeak.errors import InvalidRecord
from fleetspeak.store.sql.dialect import Connection, Row, TooLong

MAX_ROWS = 512
"""Most rows in one statement: with 20 columns it stays far below the parameters a statement may have (32,766)."""


def insert(db: Connection, table: str, columns: tuple[str, ...], flat: list[Any], *, ignore: bool = False) -> int:
    """Insert the rows whose values follow each other in `flat`.  Returns how many were inserted."""
    width = len(columns)
    inserted = 0
    for start, rows in _portions(len(flat) // width, db.dialect.prepared):
        inserted += _insert_portion(db, table, columns, rows, flat[start * width : (start + rows) * width], ignore)
    return inserted


def _insert_portion(
    db: Connection, table: str, columns: tuple[str, ...], rows: int, flat: list[Any], ignore: bool
) -> int:
    try:
        return db.run(db.dialect.insert(table, columns, rows, ignore), flat)
    except TooLong as error:
        if rows == 1:
            raise InvalidRecord(f"a row of {table} is too long: {error}") from None
    half, width = rows // 2, len(columns)
    inserted = _insert_portion(db, table, columns, half, flat[: half * width], ignore)
    return inserted + _insert_portion(db, table, columns, rows - half, flat[half * width :], ignore)


def insert_numbered(db: Connection, table: str, number: str, columns: tuple[str, ...], flat: list[Any]) -> list[int]:
    """Insert rows into a table that numbers them itself in column `number`.  Returns these, in the order given."""
    width = len(columns)
    numbers: list[int] = []
    for start, rows in _portions(len(flat) // width, db.dialect.prepared):
        sql = db.dialect.insert(table, columns, rows, False)
        numbers += db.insert_numbered(sql, flat[start * width : (start + rows) * width], rows, number)
    return numbers


def update_joined(
    db: Connection,
    table: str,
    assignments: tuple[str, ...],
    columns: tuple[str, ...],
    flat: list[Any],
    where: str,
) -> int:
    """Update rows of `table` from the rows in `flat`, which are called ``given``.  Returns how many were updated.

    Given rows that are joined to the same row must assign the same values.
    """
    width = len(columns)
    updated = 0
    for start, rows in _portions(len(flat) // width, db.dialect.prepared):
        sql = db.dialect.update_joined(table, assignments, columns, rows, where)
        updated += db.run(sql, flat[start * width : (start + rows) * width])
    return updated


def run_in(db: Connection, sql: str, before: Sequence[Any], keys: Sequence[Any]) -> int:
    """Run `sql` for all `keys`: its ``{keys}`` stands for them in a list, behind the parameters `before`."""
    return sum(db.run(_with_keys(sql, len(part)), [*before, *part]) for part in portions_of(keys, db.dialect.prepared))


def rows_in(db: Connection, sql: str, before: Sequence[Any], keys: Sequence[Any]) -> list[Row]:
    """The rows `sql` gives for all `keys`, as `run_in` puts them in; keys must be free of repeats."""
    found: list[Row] = []
    for part in portions_of(keys, db.dialect.prepared):
        found.extend(db.rows(_with_keys(sql, len(part)), [*before, *part]))
    return found


@lru_cache(maxsize=2048)
def marks(count: int) -> str:
    """`count` parameters, separated by commas."""
    return ",".join("?" * count)


@lru_cache(maxsize=2048)
def _with_keys(sql: str, count: int) -> str:
    return sql.replace("{keys}", marks(count))


def _portions(rows: int, prepared: bool) -> Iterator[tuple[int, int]]:
    """Cut so many rows up, where statements are prepared into powers of two: (first row, rows)."""
    start = 0
    while start < rows:
        left = rows - start
        size = min(1 << (left.bit_length() - 1) if prepared else left, MAX_ROWS)
        yield start, size
        start += size


def portions_of(keys: Sequence[Any], prepared: bool) -> Iterator[list[Any]]:
    """Cut keys up.

    Where statements are prepared each part is filled up to a power of two with its last key: a list may name a key
    twice.
    """
    for start in range(0, len(keys), MAX_ROWS):
        part = list(keys[start : start + MAX_ROWS])
        if prepared:
            part.extend(part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part)))
        yield part
