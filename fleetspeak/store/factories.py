"""The factories of the built-in stores.  Cheap to import: clients do it too, when they look for plug-ins."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IStore, IStoreFactory
from fleetspeak.wire import dsn
from fleetspeak.wire.dsn import DataSource

MAX_DSN = 64 * 1024
"""Bytes of a file with the name of a data source."""


@implementer(IStoreFactory)
class SqliteFactory:
    """Makes the embedded store."""

    name = "sqlite"
    help = "An SQLite database in the file that is the argument."

    def make(self, argument: str, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
        """See `IStoreFactory`."""
        if not argument:
            raise ConfigError("sqlite takes the path of the database, such as sqlite:/var/lib/fleetspeak/server.sqlite")
        return sqlite_store(Path(argument).absolute(), reactor, now_ns, uniform)


@implementer(IStoreFactory)
class MysqlFactory:
    """Makes stores on MySQL and MariaDB."""

    name = "mysql"
    help = "A MySQL or MariaDB database; the argument is a file with its data source name, as of the Go server."

    def make(self, argument: str, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
        """See `IStoreFactory`."""
        return mysql_store(read_data_source(argument), reactor, now_ns, uniform)


def sqlite_store(path: Path, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
    """The embedded store, not open yet."""
    from fleetspeak.store.sqlite import SqliteStore

    return SqliteStore(str(path), now_ns=now_ns, uniform=uniform, reactor=reactor)


def mysql_store(source: DataSource, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
    """The store on MySQL, not open yet.  Raises ConfigError if its library is not installed."""
    try:
        from fleetspeak.store.sql.mysql import MysqlStore  # its library is an extra
    except ImportError as error:
        raise ConfigError(
            f"failed to open database: a MySQL database needs PyMySQL ({error}); "
            'install it with: pip install "fleetspeak-twisted[mysql]"'
        ) from None
    return MysqlStore(source, now_ns=now_ns, uniform=uniform, reactor=reactor)


def read_data_source(name: str) -> DataSource:
    """The data source that a file of one line names, which has a password in it.

    @param name: of the file.
    @raise ConfigError: it is not there, everyone may read it, or it is no data source; nothing of it is quoted.
    """
    if not name:
        raise ConfigError(
            "mysql takes the name of a file with the data source name in it, such as mysql:/etc/fleet.dsn"
        )
    if not os.path.isfile(name):
        hint = "; it has to be in a file, since everyone on this machine sees the command line" if "@" in name else ""
        shown = "what was given" if hint else name  # which has a password in it
        raise ConfigError(f"mysql takes the name of a file with the data source name in it; {shown} is none{hint}")
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_DSN + 1)
    except OSError as error:
        raise ConfigError(f"unable to read {name}: {error.strerror}") from None
    if mode & stat.S_IROTH:
        raise ConfigError(f"everyone may read {name}, which has a password in it; do: chmod o= {name}")
    try:
        if len(raw) > MAX_DSN:
            raise ConfigError("it is far too long")
        return dsn.parse(raw.decode().strip())
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not text in UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
