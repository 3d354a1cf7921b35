"""Files for clients."""

from __future__ import annotations

from fleetspeak.errors import NotFound
from fleetspeak.records import FileStat, StoredFile
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.statements import insert
from fleetspeak.store.timing import Timing, modified_after

_COLUMNS = ("service", "name", "modified_time_nanos", "data")


def store(db: Connection, service: str, name: str, data: bytes, *, timing: Timing) -> None:
    """Store a file, in place of another one of this name; names were checked."""
    before = db.rows("SELECT modified_time_nanos FROM files WHERE service = ? AND name = ?", (service, name))
    delete(db, service, name)
    modified_ns = modified_after(before[0][0] if before else None, timing.now_ns())
    insert(db, "files", _COLUMNS, [service, name, modified_ns, data])


def delete(db: Connection, service: str, name: str) -> None:
    """Delete a file, if it is there."""
    db.run("DELETE FROM files WHERE service = ? AND name = ?", (service, name))


def stat(db: Connection, service: str, name: str) -> FileStat:
    """Time and size.  Raises NotFound."""
    modified_ns, size = _row(db, "modified_time_nanos, LENGTH(data)", service, name)
    return FileStat(modified_ns, size or 0)


def read(db: Connection, service: str, name: str) -> StoredFile:
    """The content, and its time.  Raises NotFound."""
    modified_ns, data = _row(db, "modified_time_nanos, data", service, name)
    return StoredFile(modified_ns, data or b"")


def _row(db: Connection, columns: str, service: str, name: str) -> Row:
    rows = db.rows(f"SELECT {columns} FROM files WHERE service = ? AND name = ?", (service, name))
    if not rows:
        raise NotFound(f"there is no file {service}/{name}")
    return rows[0]
