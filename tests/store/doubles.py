"""SQLite stores that do what a test tells them."""

from __future__ import annotations

import sqlite3
from typing import Any

from fleetspeak.store.sql.sqlite import SqliteDatabase, SqliteStore
from fleetspeak.store.sql.workers import MemoryWorker


class TestableDatabase(SqliteDatabase):
    """A database on a disk that can be full."""

    __test__ = False  # pytest: no test

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        self._pages = 0

    def limit(self, pages: int) -> None:
        """From now on the database cannot grow beyond so many pages; 0: it can."""
        self._pages = pages
        if self._connection is not None:
            self._limit(self._connection)

    def execute(self, sql: str) -> list[Any]:
        """Look into the database."""
        assert self._connection is not None
        return self._connection.execute(sql).fetchall()

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        self._limit(connection)
        return connection

    def _limit(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages or 1 << 30}")


class ToldStore(SqliteStore):
    """A store whose workers do nothing until they are told."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        self.workers: dict[str, MemoryWorker] = {}
        self.databases: dict[str, TestableDatabase] = {}
        self._path = path
        super().__init__(path, make_worker=self._make, **kwargs)

    def _make(self, name: str, database: object) -> MemoryWorker:
        self.databases[name] = TestableDatabase(self._path, read_only=name != "store-writer")
        self.workers[name] = MemoryWorker(name, self.databases[name])
        return self.workers[name]

    def write(self) -> bool:
        """Carry out one batch of what changes something."""
        return self.workers["store-writer"].perform()

    def perform(self) -> None:
        """Carry out everything that waits: what changes something first."""
        busy = True
        while busy:  # what is carried out may ask for more
            busy = False
            for worker in self.workers.values():
                while worker.perform():
                    busy = True

    def look(self, sql: str) -> list[Any]:
        """Look into the database."""
        return self.databases["store-writer"].execute(sql)
