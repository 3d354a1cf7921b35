"""SQLite: its dialect, its connections, and what its errors mean."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.logger import Logger

from fleetspeak.errors import ConfigError, InvalidRecord, NotFound, StoreError, TookTooLong
from fleetspeak.store.sql.dialect import Dialect, Row
from fleetspeak.store.sql.groupcommit import Unavailable
from fleetspeak.store.sql.schema import MIGRATIONS, VERSION
from fleetspeak.store.sql.statements import marks
from fleetspeak.store.sql.store import SqlStore
from fleetspeak.store.sql.workers import SEARCH_TIME, MakeWorker, ThreadWorker

MIN_VERSION = (3, 33)
"""The first SQLite with UPDATE ... FROM."""

APPLICATION_ID = 0x464C5350
"""``FLSP``, in the header of each of our databases, so that they are told from those of others."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that writes to the same database."""

INSTRUCTIONS = 1_000_000
"""Of SQLite's virtual machine, between two looks at the clock, for each of which the interpreter is needed: some
hundredths of a second."""

FILE_MODE = 0o600

CACHED_STATEMENTS = 512
CACHE_KIB = 64 * 1024
CHECKPOINT_PAGES = 8000
"""Pages in the write-ahead log (4 KiB each) from which on a commit carries them over to the database: a page that
many transactions change is then written once."""

# The numbers of SQLite's errors are in its own documentation ("Result and Error Codes").
_CALLERS_FAULT = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

log = Logger()


@cache
def _insert(table: str, columns: tuple[str, ...], rows: int, ignore: bool) -> str:
    verb = "INSERT OR IGNORE" if ignore else "INSERT"
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES {_values(len(columns), rows)}"


@cache
def _update_joined(table: str, assignments: tuple[str, ...], columns: tuple[str, ...], rows: int, where: str) -> str:
    named = ", ".join(f"column{number} AS {column}" for number, column in enumerate(columns, 1))
    return (
        f"UPDATE {table} SET {', '.join(f'{column} = given.{column}' for column in assignments)}"
        f" FROM (SELECT {named} FROM (VALUES {_values(len(columns), rows)})) AS given WHERE {where}"
    )


def _values(columns: int, rows: int) -> str:
    return ",".join([f"({marks(columns)})"] * rows)


@cache
def _delete_joined(table: str, key: str, other: str, where: str) -> str:
    return f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {other} WHERE {where})"


@cache
def _union_all(query: str, count: int) -> str:
    return "\nUNION ALL ".join([f"SELECT * FROM ({query}) AS one"] * count)


DIALECT = Dialect(
    _insert,
    _update_joined,
    _delete_joined,
    _union_all,
    in_order="CROSS JOIN",
    exact=str,
    prepared=True,
    source_message_id_size=0,
    lock="",
    for_update="",
    row_number="rowid",
    links_refer_to_messages=False,
    indexes="SELECT i.name, c.seqno, c.name FROM pragma_index_list(?) AS i, pragma_index_info(i.name) AS c"
    " WHERE NOT i.partial",
)


class SqliteDatabase:
    """A SQLite file, with one connection, used in one thread.

    A connection that failed is thrown away; the next transaction begins with a new one, so that the store works
    again as soon as the disk does.
    """

    dialect: Dialect = DIALECT

    def __init__(self, path: str, *, read_only: bool = False, time_limit: float | None = None) -> None:
        """`time_limit`: seconds for a statement that gives rows."""
        self._path = os.path.abspath(path)
        self._read_only = read_only
        self._time_limit = time_limit
        self._out_of_time_at = 0.0
        self._connection: sqlite3.Connection | None = None

    # -- opening and closing

    def open(self) -> None:
        """Connect; the one that writes also makes what is missing.  Raises ConfigError."""
        if sqlite3.sqlite_version_info < MIN_VERSION:
            raise ConfigError(
                f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, MIN_VERSION))} is needed"
            )
        try:
            if not self._read_only:
                self._create_file()
            self._connect()
            if not self._read_only:
                self._migrate()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise ConfigError(_explain_opening(self._path, error)) from error
        except StoreError as error:
            self.close()
            raise ConfigError(f"the database cannot be used: {error}") from error
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; the last connection to close folds the write-ahead log into the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                log.error("cannot close database {path} cleanly: {error}", path=self._path, error=error)

    def _create_file(self) -> None:
        """SQLite would make it readable for everyone; its companion files take their mode from it."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode={'ro' if self._read_only else 'rw'}",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            cached_statements=CACHED_STATEMENTS,
        )
        self._connection = connection
        if not self._read_only:
            _check_owner(self._path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute("PRAGMA secure_delete = FAST")
        if self._time_limit is not None:
            connection.set_progress_handler(self._is_out_of_time, INSTRUCTIONS)
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _migrate(self) -> None:
        self.begin()
        ((version,),) = self.rows("PRAGMA user_version")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                self.run(statement)
        if version < VERSION:
            self.run(f"PRAGMA application_id = {APPLICATION_ID}")
            self.run(f"PRAGMA user_version = {VERSION}")
        self.commit()

    # -- transactions

    def begin(self) -> None:
        """Begin a transaction; one that may write takes the lock at once, so that it cannot fail for it later."""
        if self._connection is None:
            self._reconnect()
        self._begin_time()
        self.run("BEGIN" if self._read_only else "BEGIN IMMEDIATE")

    def _reconnect(self) -> None:
        try:
            self._connect()
        except (ConfigError, sqlite3.Error) as error:
            self.close()
            raise Unavailable(f"the database {self._path} cannot be opened any more: {error}") from error

    def commit(self) -> None:
        """Make it durable."""
        self.run("COMMIT")

    def savepoint(self) -> None:
        """Where `undo` goes back to; who only reads has nothing to undo."""
        if not self._read_only:
            self.run("SAVEPOINT one")

    def release(self) -> None:
        """End the savepoint, keep what was done."""
        if not self._read_only:
            self.run("RELEASE one")

    def undo(self) -> None:
        """End the savepoint, undo what was done."""
        if not self._read_only:
            self.run("ROLLBACK TO one")
            self.run("RELEASE one")

    def roll_back(self) -> None:
        """Undo everything, and start anew with a new connection."""
        connection = self._connection
        if connection is not None and connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("cannot roll back in database {path}: {error}", path=self._path, error=error)
        self.close()

    def again(self, tries: int) -> bool:
        """Never: who waits for SQLite's lock has waited already."""
        return False

    # -- statements

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `Connection`."""
        assert self._connection is not None
        try:
            return self._connection.execute(sql, parameters).rowcount
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._explain(error) from error

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """See `Connection`."""
        assert self._connection is not None
        self._begin_time()
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._explain(error) from error

    def _begin_time(self) -> None:
        if self._time_limit is not None:
            self._out_of_time_at = time.monotonic() + self._time_limit

    def _is_out_of_time(self) -> bool:
        return time.monotonic() > self._out_of_time_at

    def insert_numbered(self, sql: str, parameters: Sequence[Any], rows: int, column: str) -> list[int]:
        """See `Connection`.  SQLite numbers the rows of one statement one after the other."""
        assert self._connection is not None
        try:
            last = self._connection.execute(sql, parameters).lastrowid
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._explain(error) from error
        assert last is not None
        return list(range(last - rows + 1, last + 1))

    def alter(self, sql: str) -> None:
        """See `Connection`."""
        self.run(sql)

    def _explain(self, error: Exception) -> StoreError:
        if isinstance(error, (OverflowError, UnicodeError)):
            return InvalidRecord(f"the database cannot hold this: {error}")
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_INTERRUPT:
            return TookTooLong(f"not found within {self._time_limit} s")
        if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            return NotFound("it refers to a client, contact or message that does not exist")
        if isinstance(error, _CALLERS_FAULT):
            return InvalidRecord(f"the database refuses it: {error}")
        return Unavailable(f"{_explain_failing(self._path, code & 0xFF, error)}; nothing was stored")


def _check_owner(path: str, connection: sqlite3.Connection) -> None:
    """Raises ConfigError if the database is not ours, or newer than we are."""
    ((application_id,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    if application_id == APPLICATION_ID:
        if version > VERSION:
            raise ConfigError(
                f"the database {path} was made by a newer version of this program (its schema is {version}, "
                f"known are those up to {VERSION}): run that version, or choose another database path"
            )
    elif application_id or version or tables:
        raise ConfigError(
            f"{path} is a SQLite database of another program: choose another database path; "
            "a file that does not exist yet is created"
        )


def _explain_opening(path: str, error: Exception) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return (
            f"{path} is not a SQLite database, or a damaged one ({error}): choose another database path, "
            "or put back a backup of it"
        )
    parent = Path(path).parent
    if not parent.is_dir():
        return f"the database {path} cannot be opened: there is no folder {parent}; create it, or choose another path"
    return (
        f"the database {path} cannot be opened ({error}): this user must be able to read and write it, "
        f"and to create files in {parent}"
    )


def _explain_failing(path: str, code: int, error: Exception) -> str:
    if code == sqlite3.SQLITE_FULL:
        return f"no space is left for the database {path}: free some ({error})"
    if code == sqlite3.SQLITE_BUSY:
        return f"another process keeps the database {path} locked ({error})"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"the database {path} is damaged: stop, and put back a backup ({error})"
    return f"the database {path} fails ({error})"


class SqliteStore(SqlStore):
    """The embedded store: one SQLite file, written by one thread and read by three."""

    def __init__(
        self,
        path: str,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        uniform: Callable[[], float] = random.random,
        reactor: Any = None,
        make_worker: MakeWorker | None = None,
    ) -> None:
        """
        @param path: of the database; it is made if it is missing.
        @param now_ns: the clock, ns since the Unix epoch.
        @param uniform: a random number, 0 <= u < 1.
        @param reactor: where Deferreds fire; the installed one if None.
        @param make_worker: what makes the workers, if not threads; takes a name and a database.
        """
        if make_worker is None:
            make_worker = partial(ThreadWorker, reactor=reactor or _installed_reactor())
        super().__init__(
            make_worker("store-writer", SqliteDatabase(path)),
            make_worker("store-reader", SqliteDatabase(path, read_only=True)),
            make_worker("store-lister", SqliteDatabase(path, read_only=True)),
            make_worker("store-searcher", SqliteDatabase(path, read_only=True, time_limit=SEARCH_TIME)),
            now_ns=now_ns,
            uniform=uniform,
        )


def _installed_reactor() -> Any:
    from twisted.internet import reactor

    return reactor
