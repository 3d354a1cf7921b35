"""MySQL and MariaDB: the dialect, the connections, and how a transaction that is lost is told from one that is not.

The one module that imports PyMySQL.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, Protocol

import pymysql
from twisted.logger import Logger

from fleetspeak.errors import AlreadyExists, ConfigError, InvalidRecord, NotFound, StoreError, TookTooLong
from fleetspeak.store.sql import literals, mysqlerrors, mysqlsetup
from fleetspeak.store.sql.dialect import Dialect, Row, TooLong
from fleetspeak.store.sql.groupcommit import Again, Unavailable
from fleetspeak.store.sql.statements import marks
from fleetspeak.store.sql.store import SqlStore
from fleetspeak.store.sql.workers import SEARCH_TIME, MakeWorker, ThreadWorker
from fleetspeak.wire.dsn import DataSource

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds, if the data source does not say: for a connection, and for the answer to a statement."""

IDLE = 30.0
"""Seconds after which a connection is tried before it is used: servers and proxies drop those that are idle."""

MAX_TRIES = 50
RETRY_STEP = 0.1
MAX_RETRY_DELAY = 1.0
RETRY_TIME = 20.0
"""A batch is carried out again at once, after one step, after two, and so on, for so many tries and so many seconds.
The first two are upstream's."""

SETTLE_TIME = 60.0
"""Seconds to find out whether a COMMIT without an answer has happened."""

LOCK_WAIT = 10
"""Seconds to wait for a lock of another server."""

FORGOTTEN_AFTER = 30 * 24 * 3600 * 10**9
"""Nanoseconds after which the mark of a writer that did not remove it is removed."""

SESSION = (
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',"
    f" innodb_lock_wait_timeout = {LOCK_WAIT}"
)

log = Logger()


@lru_cache(maxsize=1024)
def _insert(table: str, columns: tuple[str, ...], rows: int, ignore: bool) -> str:
    # Not INSERT IGNORE, which would also pass over rows that do not fit, or that refer to nothing.
    end = f" ON DUPLICATE KEY UPDATE {columns[0]} = {table}.{columns[0]}" if ignore else ""
    values = ",".join([f"({marks(len(columns))})"] * rows)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values}{end}"


@lru_cache(maxsize=1024)
def _update_joined(table: str, assignments: tuple[str, ...], columns: tuple[str, ...], rows: int, where: str) -> str:
    first = f"SELECT {', '.join(f'? AS {column}' for column in columns)}"
    given = " UNION ALL ".join([first, *[f"SELECT {marks(len(columns))}"] * (rows - 1)])
    sets = ", ".join(f"{table}.{column} = given.{column}" for column in assignments)
    return f"UPDATE {table} JOIN ({given}) AS given ON {where} SET {sets}"


@cache
def _delete_joined(table: str, key: str, other: str, where: str) -> str:
    return f"DELETE {table} FROM {other} STRAIGHT_JOIN {table} ON {table}.{key} = {other}.{key} WHERE {where}"


@cache
def _union_all(query: str, count: int) -> str:
    return "\nUNION ALL ".join([f"({query})"] * count)


def _exact(column: str) -> str:
    return f"CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin"


DIALECT = Dialect(
    _insert,
    _update_joined,
    _delete_joined,
    _union_all,
    in_order="STRAIGHT_JOIN",
    exact=_exact,
    prepared=False,
    source_message_id_size=16,
    lock=" FOR UPDATE",
    for_update=" FOR UPDATE",
    row_number="",
    links_refer_to_messages=True,
    indexes="SELECT index_name, seq_in_index, column_name FROM information_schema.statistics"
    " WHERE table_schema = DATABASE() AND table_name = ?",
)
DIALECT_WITH_SKIP_LOCKED = replace(DIALECT, lock=" FOR UPDATE SKIP LOCKED")


class Clock(Protocol):
    """What of `time` is used in the workers' threads."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class MysqlDatabase:
    """A database on a server, with one connection, used in one thread.

    A transaction that is lost with its connection, or to others, raises `Again`.  Each transaction that writes also
    writes its number into the row of its writer, in a table of ours; so a COMMIT whose answer did not come is not
    guessed at: the next connection asks for the number, and by writing to the row itself makes sure that the old
    transaction has come to its end, on whichever server of a cluster.
    """

    def __init__(
        self,
        source: DataSource,
        *,
        read_only: bool = False,
        on_demand: bool = False,
        read_timeout: float = READ_TIMEOUT,
        clock: Clock = time,
        time_limit: float | None = None,
    ) -> None:
        """
        @param on_demand: connect when there is something to do; another one makes what is missing.
        @param read_timeout: seconds an answer may take, if the source does not say.
        @param time_limit: seconds after which the server gives up a SELECT.
        """
        self.dialect = DIALECT
        self._source = source
        self._read_only = read_only
        self._on_demand = on_demand
        self._read_timeout = source.read_timeout or read_timeout
        self._clock = clock
        self._time_limit = time_limit
        if time_limit is not None and self._read_timeout is not None:
            self._time_limit = min(time_limit, 0.8 * self._read_timeout)  # else the connection would be lost instead
        self._writer = secrets.token_bytes(16)
        self._batch = 0
        self._connection: pymysql.Connection[Any] | None = None
        self._server = mysqlsetup.Server()
        self._used_at = 0.0
        self._touched = self._wrote = False
        """In this transaction."""
        self._savepoint = ""
        """``wanted``: before the next statement.  ``set``."""
        self._first_try_at = 0.0
        self._down = False
        """The last batch could not be carried out for want of a server."""

    # -- opening and closing

    def open(self) -> None:
        """Connect; the one that writes also makes what is missing.  Raises ConfigError."""
        if self._on_demand:
            return
        tries = 0
        while True:
            try:
                if not self._read_only:
                    self._prepare()
                self._connect()
                return
            except (pymysql.Error, OSError, ValueError) as error:
                self._drop()
                tries += 1
                if _number(error) not in mysqlerrors.UNDONE or not self.again(tries):  # another server starts, too
                    raise ConfigError(self._explain_opening(error)) from error

    def close(self) -> None:
        """Disconnect, and remove the mark of this writer."""
        if self._connection is not None and not self._read_only:
            try:
                self._send(literals.statement("DELETE FROM fleetspeak_writers WHERE writer = ?", (self._writer,)))
                self._send(b"COMMIT")
            except (pymysql.Error, OSError) as error:
                log.warn("cannot take leave of database {source}: {error}", source=self._source, error=error)
        self._drop()

    def _prepare(self) -> None:
        connection = self._new_connection(read_timeout=None)
        try:
            for line in mysqlsetup.prepare(connection, time.time_ns() - FORGOTTEN_AFTER):
                log.warn("{line}", line=line)
        finally:
            connection.close()

    def _connect(self) -> None:
        self._drop()
        connection = self._new_connection(self._read_timeout)
        self._connection = connection
        self._server = mysqlsetup.Server.of(connection)
        if self._time_limit is not None:
            with suppress(pymysql.Error):  # what does not know it is only less well protected
                self._send(self._server.limit_selects(self._time_limit).encode())
        self.dialect = DIALECT_WITH_SKIP_LOCKED if self._server.skips_locked else DIALECT
        self._used_at = self._clock.monotonic()
        self._touched = self._wrote = False
        self._savepoint = ""
        if not self._read_only:
            self._send(
                literals.statement(
                    "INSERT INTO fleetspeak_writers (writer, batch, fence, seen) VALUES (?, 0, 0, ?)"
                    " ON DUPLICATE KEY UPDATE seen = VALUES(seen)",
                    (self._writer, time.time_ns()),
                )
            )
            self._send(b"COMMIT")

    def _new_connection(self, read_timeout: float | None) -> pymysql.Connection[Any]:
        source = self._source
        place: dict[str, Any] = (
            {"unix_socket": source.socket} if source.socket else {"host": source.host, "port": source.port}
        )
        connection = pymysql.connect(
            **place,
            user=source.user,
            password=source.password.encode(),
            database=source.database,
            charset="utf8mb4",
            collation=source.collation if source.collation.startswith("utf8mb4_") else None,
            connect_timeout=source.timeout or CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            write_timeout=source.write_timeout or read_timeout,
            autocommit=self._read_only,
            program_name="fleetspeak",
            auth_plugin_map={} if source.allow_cleartext_passwords else {"mysql_clear_password": _NoCleartext},
            **mysqlsetup.tls_options(source.tls),
        )
        try:
            cursor = connection.cursor()
            cursor.execute(SESSION)
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            for name, value in source.variables:
                cursor.execute(f"SET {name} = {value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(pymysql.Error, OSError):
                connection.close()

    # -- transactions

    def begin(self) -> None:
        """Make sure that there is a connection; the transaction begins with its first statement."""
        if self._connection is not None and self._clock.monotonic() - self._used_at > IDLE:
            try:
                self._connection.ping(reconnect=False)
            except (pymysql.Error, OSError):
                self._drop()
        if self._connection is None:
            try:
                self._connect()
            except (pymysql.Error, OSError, ValueError) as error:
                self._drop()
                raise Again(f"the database {self._source} cannot be reached: {_text(error)}") from error

    def commit(self) -> None:
        """Make it durable."""
        if self._touched and not self._read_only:
            if self._wrote:
                self._batch += 1
                self._run(
                    literals.statement(
                        "UPDATE fleetspeak_writers SET batch = ? WHERE writer = ?", (self._batch, self._writer)
                    )
                )
            self._commit()
        self._touched = self._wrote = self._down = False
        self._savepoint = ""

    def _commit(self) -> None:
        try:
            self._send(b"COMMIT")
        except (pymysql.Error, OSError) as error:
            if _number(error) in mysqlerrors.ROLLED_BACK or not self._wrote:
                raise Again(f"the database {self._source} gave a transaction up: {_text(error)}") from error
            log.warn(
                "it is not known whether database {source} has committed: {error}", source=self._source, error=error
            )
            if not self._settle(error):
                raise Again(f"the database {self._source} lost a transaction: {_text(error)}") from error

    def _settle(self, cause: Exception) -> bool:
        """Find out whether the transaction that was just sent was committed.  Raises Unavailable."""
        end = self._clock.monotonic() + SETTLE_TIME
        delay = 0.0
        while True:
            try:
                self._connect()
                self._send(
                    literals.statement(
                        "UPDATE fleetspeak_writers SET fence = fence + 1 WHERE writer = ?", (self._writer,)
                    )
                )
                found = self._send(
                    literals.statement("SELECT batch FROM fleetspeak_writers WHERE writer = ?", (self._writer,))
                )
                self._send(b"COMMIT")
                return bool(found and found[0][0] == self._batch)
            except (pymysql.Error, OSError, ValueError) as error:
                self._drop()
                if self._clock.monotonic() + delay > end:
                    raise Unavailable(
                        f"the connection to database {self._source} broke during a commit ({_text(cause)}), and it "
                        f"cannot be found out whether that has happened: {_text(error)}"
                    ) from error
                self._clock.sleep(delay)
                delay = min(delay + RETRY_STEP, MAX_RETRY_DELAY)

    def savepoint(self) -> None:
        """Where `undo` goes back to: as long as nothing was written that is the beginning."""
        self._savepoint = "wanted" if self._wrote else ""

    def release(self) -> None:
        """The next savepoint takes the place of this one."""
        self._savepoint = ""

    def undo(self) -> None:
        """Undo what was done since the savepoint."""
        savepoint, self._savepoint = self._savepoint, ""
        if savepoint == "set":
            self._run(b"ROLLBACK TO SAVEPOINT one")
        elif not savepoint and self._touched and not self._read_only:
            self._run(b"ROLLBACK")
            self._touched = self._wrote = False

    def roll_back(self) -> None:
        """Undo everything; a connection that cannot is thrown away."""
        if self._connection is not None and self._touched and not self._read_only:
            try:
                self._send(b"ROLLBACK")
            except (pymysql.Error, OSError):
                self._drop()
        self._touched = self._wrote = False
        self._savepoint = ""

    def again(self, tries: int) -> bool:
        """Wait for a while, unless there was no server before already; then one that calls is told so at once."""
        now = self._clock.monotonic()
        if tries == 1:
            self._first_try_at = now
        delay = min(RETRY_STEP * (tries - 1), MAX_RETRY_DELAY)
        if self._down or tries > MAX_TRIES or now + delay > self._first_try_at + RETRY_TIME:
            self._down = self._connection is None
            return False
        self._clock.sleep(delay)
        return True

    # -- statements

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `Connection`."""
        query = self._query(sql, parameters)
        self._wrote = True
        return int(self._run(query).rowcount)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """See `Connection`."""
        return list(self._run(self._query(sql, parameters)).fetchall())

    def insert_numbered(self, sql: str, parameters: Sequence[Any], rows: int, column: str) -> list[int]:
        """See `Connection`.

        Where the server cannot tell the numbers: one INSERT of a known number of rows takes them one after the
        other, in steps, in every lock mode.
        """
        self._wrote = True
        if self._server.returns:
            return [number for (number,) in self.rows(f"{sql} RETURNING {column}", parameters)]
        step = self._increment()
        first = self._run(self._query(sql, parameters)).lastrowid
        if step != self._increment():
            raise Again(f"the cluster of database {self._source} has changed its size; nothing was stored")
        return list(range(first, first + rows * step, step))

    def _increment(self) -> int:
        """Between the numbers of rows, now."""
        if not self._server.is_galera:
            return self._server.increment
        [(step,)] = self.rows("SELECT @@auto_increment_increment")
        return int(step)

    def alter(self, sql: str) -> None:
        """See `Connection`: by a connection of its own, whose answers may take any time."""
        try:
            connection = self._new_connection(read_timeout=None)
            try:
                connection.cursor().execute(sql)
            finally:
                connection.close()
        except (pymysql.Error, OSError) as error:
            if _number(error) in mysqlerrors.NO_RIGHT:
                raise InvalidRecord(
                    f"the database does not let us ({_text(error)}); let somebody who may run: {sql};"
                ) from error
            raise Unavailable(f"the database {self._source} fails ({_text(error)})") from error

    def _query(self, sql: str, parameters: Sequence[Any]) -> bytes:
        try:
            query = literals.statement(sql, parameters)
        except literals.Unfit as error:
            raise InvalidRecord(f"the database cannot hold this: {error}") from None
        if len(query) > self._longest:
            raise TooLong(f"{len(query)} bytes, where the database takes {self._longest} (max_allowed_packet)")
        return query

    @property
    def _longest(self) -> int:
        own = self._source.max_allowed_packet
        theirs = self._server.max_packet - 1024
        return min(own, theirs) if own else theirs

    def _run(self, query: bytes) -> Any:
        """Run a statement in this transaction; gives the cursor.  Raises StoreError."""
        try:
            if self._savepoint == "wanted":
                self._savepoint = "set"
                self._cursor(b"SAVEPOINT one")
            self._touched = True
            return self._cursor(query)
        except (pymysql.Error, OSError) as error:
            raise self._explain(error) from error

    def _cursor(self, query: bytes) -> Any:
        if self._connection is None:
            raise pymysql.InterfaceError(0, "there is no connection any more")
        cursor = self._connection.cursor()
        cursor.execute(query)
        self._used_at = self._clock.monotonic()
        return cursor

    def _send(self, query: bytes) -> list[Row]:
        return list(self._cursor(query).fetchall())

    def _explain(self, error: Exception) -> StoreError:
        number = _number(error)
        if number in mysqlerrors.NO_PARENT:
            return NotFound("it refers to a client, contact or message that does not exist")
        if number in mysqlerrors.DUPLICATE:
            return AlreadyExists(f"there is one already: {_text(error)}")
        if number in mysqlerrors.UNFIT:
            return InvalidRecord(f"the database refuses it: {_text(error)}")
        if number in mysqlerrors.OUT_OF_TIME and self._time_limit is not None:
            return TookTooLong(f"not found within {self._time_limit} s")
        if number in mysqlerrors.UNDONE:
            return Again(f"the database {self._source} gave a transaction up ({_text(error)}); nothing was stored")
        if number in mysqlerrors.LOST or isinstance(error, OSError):
            self._drop()
            return Again(f"the connection to database {self._source} is lost ({_text(error)}); nothing was stored")
        if number in mysqlerrors.FULL:
            return Unavailable(f"no space is left for database {self._source} ({_text(error)}); nothing was stored")
        return Unavailable(f"the database {self._source} fails ({_text(error)}); nothing was stored")

    def _explain_opening(self, error: Exception) -> str:
        number, text = _number(error), f"the database {self._source} cannot be opened: {_text(error)}"
        if number in mysqlerrors.NO_RIGHT:
            return f"{text}: let user {self._source.user!r} do that, or name another one in mysql_data_source_name"
        if number == 1049:
            return f"{text}: create it with CREATE DATABASE {self._source.database}, or name another one"
        return text


class _NoCleartext:
    """Tells a server that asks for it no password, which any program in between would read."""

    def __init__(self, connection: object) -> None:
        pass

    def authenticate(self, packet: object) -> None:
        raise pymysql.OperationalError(
            2059, "the server asks for the password itself; allowCleartextPasswords=true in the DSN would send it"
        )


def _number(error: Exception) -> int:
    number = error.args[0] if isinstance(error, pymysql.Error) and error.args else -1
    return number if isinstance(number, int) else -1


def _text(error: Exception) -> str:
    if isinstance(error, pymysql.Error) and len(error.args) > 1:
        return f"{error.args[1]} (error {error.args[0]})"
    return str(error)


class MysqlStore(SqlStore):
    """A store that servers may share: a database that is written by one connection of each, and read by two.

    While an operator looks for something there is one more that reads, and while rows are pruned one more that writes:
    what is deleted there holds up nothing but itself.
    """

    def __init__(
        self,
        source: DataSource,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        uniform: Callable[[], float] = random.random,
        reactor: Any = None,
        make_worker: MakeWorker | None = None,
    ) -> None:
        """
        @param now_ns: the clock, ns since the Unix epoch; that of all servers must go alike.
        @param uniform: a random number, 0 <= u < 1.
        @param reactor: where Deferreds fire.
        @param make_worker: what makes the workers, if not threads; takes a name and a database.
        """
        if make_worker is None:
            make_worker = partial(ThreadWorker, reactor=reactor)
        super().__init__(
            make_worker("store-writer", MysqlDatabase(source)),
            make_worker("store-reader", MysqlDatabase(source, read_only=True)),
            make_worker("store-lister", MysqlDatabase(source, read_only=True, read_timeout=10 * READ_TIMEOUT)),
            make_worker(
                "store-searcher", MysqlDatabase(source, read_only=True, on_demand=True, time_limit=SEARCH_TIME)
            ),
            make_worker("store-pruner", MysqlDatabase(source, on_demand=True)),
            now_ns=now_ns,
            uniform=uniform,
        )
