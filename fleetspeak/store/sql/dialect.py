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
    """(table, columns, rows, ignore): insert so many rows; with `ignore` pass over those whose key is there already.

    The first of `columns` belongs to the table's primary key.
    """

    update_joined: Callable[[str, tuple[str, ...], tuple[str, ...], int, str], str]
    """(table, assignments, columns, rows, where): update `table` from so many given rows.

    The given rows are called ``given`` and have `columns`; `assignments` are columns of `table`, each of which
    takes the given column of the same name; `where` joins the two, both with their names.
    """

    delete_joined: Callable[[str, str, str, str], str]
    """(table, key, other, where): delete the rows of `table` whose `key` is that of a row of `other` with `where`,
    which names columns with their table."""

    union_all: Callable[[str, int], str]
    """(query, count): the rows of as many such queries, each of which has an order and a limit of its own."""

    in_order: str
    """Joins two tables, the left one first."""

    exact: Callable[[str], str]
    """(column): a text column, compared by its bytes, whatever the collation of its table is."""

    prepared: bool
    """Statements are kept prepared, so that a few texts, used again and again, cost less than one that just fits."""

    source_message_id_size: int
    """Bytes that the column holds, 0 for any number."""

    lock: str
    """Ends a SELECT of rows that are about to be changed, and passes over those that others have locked.  Empty
    where nobody else can write during a transaction."""

    for_update: str
    """The same, but it waits for those that others have locked."""

    row_number: str
    """A column of `messages` by which they are in the order in which they are on the disk; empty: that is their id."""

    links_refer_to_messages: bool
    """A link of a contact to a message ends with the message; otherwise only with the contact."""

    indexes: str
    """Takes the name of a table; gives of its indexes: name, number and name of each column."""


class TooLong(Exception):
    """A statement is longer than the database takes; nothing was done.  Never leaves `statements`."""


class Connection(Protocol):
    """One connection to a database, used by one thread at a time.

    Its methods raise StoreError, and `TooLong`."""

    dialect: Dialect

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement that gives no rows.  Returns how many rows it changed.

        For an update of rows to the values that they have already, that may be less than were found.
        """

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and take all its rows."""

    def insert_numbered(self, sql: str, parameters: Sequence[Any], rows: int, column: str) -> list[int]:
        """Insert `rows` rows into a table that numbers its rows in `column`.  Returns their numbers, in this order."""

    def alter(self, sql: str) -> None:
        """Change the schema, however long that takes.  Where that cannot be part of a transaction it is none."""
