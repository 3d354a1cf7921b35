"""What differs between databases, and nothing else.

The queries are written once, with ``?`` for parameters, in the SQL that all of them share; where they share none, a
query asks its connection's dialect for the text.  Texts for several rows are made once per number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The SQL of one database.

    The functions give the same text object for the same arguments, so that statements can be kept prepared.
    """

    insert: Callable[[str, tuple[str, ...], int, bool], str]
    """(table, columns, rows, ignore): insert so many rows; with `ignore` pass over those whose key is there already."""

    update_joined: Callable[[str, tuple[str, ...], tuple[str, ...], int, str], str]
    """(table, assignments, columns, rows, where): update `table` from so many given rows.

    The given rows are called ``given`` and have `columns`; `assignments` are columns of `table`, each of which
    takes the given column of the same name; `where` joins the two, both with their names.
    """

    skip_locked: str
    """Ends a SELECT that claims rows, where several servers may do so at a time."""


class Connection(Protocol):
    """One connection to a database, used by one thread at a time.  Its methods raise StoreError only."""

    dialect: Dialect

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement that gives no rows.  Returns how many rows it changed (those found, for an update)."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and take all its rows."""

    def insert_counted(self, sql: str, parameters: Sequence[Any], rows: int) -> int:
        """Insert `rows` rows into a table that numbers its rows, in one statement.

        Returns the number of the first one; the others follow it without a gap.
        """
