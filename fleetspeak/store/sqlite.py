"""The embedded store, under the name others use."""

from fleetspeak.store.sql.sqlite import SqliteStore

__all__ = ["SqliteStore"]
