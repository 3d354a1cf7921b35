"""The indexes by time that pruning, and operators' lists, are quicker with.

They cost room, and time at each insert, and other servers may share the database: they are made on request only.
"""

from __future__ import annotations

from fleetspeak.store.sql.dialect import Connection

_INDEXES: dict[str, tuple[str, ...]] = {
    "messages": ("creation_time_seconds", "creation_time_nanos"),  # operators' lists are in this order
    "client_contacts": ("time",),
    "client_resource_usage_records": ("client_id", "server_timestamp"),
}


def columns_of(table: str) -> tuple[str, ...]:
    """The columns of the index of a table."""
    return _INDEXES[table]


def is_there(db: Connection, table: str) -> bool:
    """Whether there is an index that begins with these columns, whoever made it."""
    columns: dict[str, list[str]] = {}
    for index, _, column in sorted(db.rows(db.dialect.indexes, (table,))):
        columns.setdefault(index, []).append(str(column).lower())
    wanted = list(_INDEXES[table])
    return any(found[: len(wanted)] == wanted for found in columns.values())


def create(db: Connection) -> list[str]:
    """Make those that are missing.  Returns the statements."""
    statements = [
        f"CREATE INDEX fleetspeak_{table}_by_time ON {table} ({', '.join(columns)})"
        for table, columns in _INDEXES.items()
        if not is_there(db, table)
    ]
    for statement in statements:
        db.alter(statement)
    return statements
