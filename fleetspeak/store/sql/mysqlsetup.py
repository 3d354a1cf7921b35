"""What a MySQL server is, and the tables in it, before the store works on them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleetspeak.errors import ConfigError
from fleetspeak.store.sql import literals, mysqlerrors, mysqlschema
from fleetspeak.store.sql.dialect import Row

_MARIADB = re.compile(r"(?:5\.5\.5-)?([0-9]+)\.([0-9]+)\.[0-9]+-MariaDB", re.ASCII)
_MYSQL = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Server:
    """What a server can do, as it told a connection."""

    version: str = ""
    max_packet: int = 4 * 1024 * 1024
    increment: int = 1
    """Between two numbers that it gives to rows."""
    is_galera: bool = False
    """It is a node of a cluster: `increment` changes when nodes come and go, also for connections that are there."""

    @classmethod
    def of(cls, connection: Any) -> Server:
        """Ask.  Raises what the connection raises, and ValueError: it cannot be used."""
        [(version, packet, increment, mode)] = _ask(
            connection, "SELECT @@version, @@max_allowed_packet, @@auto_increment_increment, @@session.sql_mode"
        )
        if "STRICT" not in mode and "TRADITIONAL" not in mode:
            raise ValueError("sql_mode in the DSN must be a strict one: names would be cut without a word")
        galera = [value for _, value in _ask(connection, "SHOW VARIABLES LIKE 'wsrep_on'")] == ["ON"]
        return cls(version, int(packet), int(increment), galera)

    @property
    def skips_locked(self) -> bool:
        """Whether it knows SKIP LOCKED: MariaDB 10.6, MySQL 8.0.1; not what calls itself so and is TiDB."""
        if "tidb" in self.version.lower():
            return False
        if match := _MARIADB.match(self.version):
            return (int(match[1]), int(match[2])) >= (10, 6)
        match = _MYSQL.match(self.version)
        return match is not None and tuple(map(int, match.groups())) >= (8, 0, 1)

    def limit_selects(self, seconds: float) -> str:
        """The statement by which the server gives up each SELECT of a connection after so long."""
        if _MARIADB.match(self.version):
            return f"SET SESSION max_statement_time = {seconds:f}"
        return f"SET SESSION max_execution_time = {round(seconds * 1000)}"

    @property
    def returns(self) -> bool:
        """Whether it knows INSERT ... RETURNING: MariaDB 10.5."""
        match = _MARIADB.match(self.version)
        return match is not None and (int(match[1]), int(match[2])) >= (10, 5)


def tls_options(mode: str) -> dict[str, Any]:
    """What makes a connection encrypted as `fleetspeak.wire.dsn.TLS_MODES` say."""
    if mode == "false":
        return {"ssl_disabled": True}
    if mode == "preferred":
        return {}
    context = ssl.create_default_context()
    if mode == "skip-verify":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}


def prepare(connection: Any, forgotten_before: int) -> Iterator[str]:
    """Make what is missing, change what is old.  Gives lines to log.

    @param forgotten_before: ns; marks of writers that were not seen since are removed.
    @raise ConfigError: the tables cannot be used, or may not be changed; says what to do.
    """
    plan = mysqlschema.plan(look(connection))
    failed = [(statement, error) for statement in plan.needed if (error := _change(connection, statement))]
    if failed:
        # Perhaps another server was quicker; what counts is what is there now.
        plan = mysqlschema.plan(look(connection))
        if plan.needed:
            raise ConfigError(
                f"the tables must be changed, but the database does not let us ({failed[0][1]}); let somebody who may "
                "run this, then start again:\n" + "\n".join(f"{statement};" for statement in plan.needed)
            )
    versions = [(int(v), int(o)) for v, o in _ask(connection, "SELECT version, oldest FROM fleetspeak_schema")]
    mysqlschema.check_version(versions)
    _migrate(connection, max((version for version, _ in versions), default=0))
    _ask(connection, literals.statement("DELETE FROM fleetspeak_writers WHERE seen < ?", (forgotten_before,)).decode())
    _ask(connection, "COMMIT")
    for statement in plan.postponed:
        yield f"the store would be quicker with this, which may take long, while servers run: {statement};"


def _migrate(connection: Any, version: int) -> None:
    for statements in mysqlschema.MIGRATIONS[max(version - 1, 0) :]:
        for statement in statements:
            if error := _change(connection, statement):
                raise ConfigError(f"the tables must be changed, but that fails ({error}): {statement};")
    if version < mysqlschema.VERSION:
        values = (mysqlschema.VERSION, mysqlschema.OLDEST)
        text = literals.statement(
            "INSERT INTO fleetspeak_schema (version, oldest) VALUES (?, ?) ON DUPLICATE KEY UPDATE oldest = oldest",
            values,
        )
        _ask(connection, text.decode())


def look(connection: Any) -> mysqlschema.Found:
    """What is there of our tables.  Other servers may be making some of them meanwhile."""
    found = mysqlschema.Found()
    wanted = ", ".join(f"'{table}'" for table in mysqlschema.TABLES)
    where = f"table_schema = DATABASE() AND table_name IN ({wanted})"
    for table, engine, rows in _ask(
        connection, f"SELECT table_name, engine, table_rows FROM information_schema.tables WHERE {where}"
    ):
        found.columns[table], found.indexes[table] = {}, []
        found.engines[table], found.rows[table] = engine or "", int(rows or 0)
    for table, column, kind in _ask(
        connection,
        f"SELECT table_name, column_name, data_type FROM information_schema.columns WHERE {where}"
        " ORDER BY table_name, ordinal_position",
    ):
        if table in found.columns:
            found.columns[table][column.lower()] = kind.lower()
    indexes: dict[tuple[str, str], list[str]] = {}
    for table, index, column in _ask(
        connection,
        f"SELECT table_name, index_name, column_name FROM information_schema.statistics WHERE {where}"
        " ORDER BY table_name, index_name, seq_in_index",
    ):
        indexes.setdefault((table, index), []).append((column or "").lower())
    for (table, _), columns in indexes.items():
        if table in found.indexes:
            found.indexes[table].append(tuple(columns))
    found.uncascaded = [
        tuple(row)
        for row in _ask(
            connection,
            "SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_name, k.referenced_column_name"
            " FROM information_schema.key_column_usage AS k JOIN information_schema.referential_constraints AS r"
            " ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name"
            " AND r.table_name = k.table_name"
            f" WHERE k.{where.replace('AND table_name', 'AND k.table_name')}"
            " AND k.referenced_table_name IS NOT NULL AND r.delete_rule <> 'CASCADE'"
            " ORDER BY k.table_name, k.constraint_name",
        )
    ]
    return found


def _change(connection: Any, statement: str) -> str:
    """Change the schema.  Returns why that failed, or nothing."""
    try:
        # What refers to what is not checked anew for all rows: it was when they were written.
        _ask(connection, "SET SESSION foreign_key_checks = 0")
        _ask(connection, statement)
    except Exception as error:
        number = error.args[0] if error.args else None
        if isinstance(number, int) and number in mysqlerrors.THERE_ALREADY | mysqlerrors.NO_RIGHT | {1005}:
            return str(error.args[1])
        raise
    finally:
        _ask(connection, "SET SESSION foreign_key_checks = 1")
    return ""


def _ask(connection: Any, sql: str) -> list[Row]:
    cursor = connection.cursor()
    cursor.execute(sql)
    return list(cursor.fetchall())
