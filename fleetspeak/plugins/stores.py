"""The stores that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.store.factories import MysqlFactory, SqliteFactory

sqlite = SqliteFactory()
mysql = MysqlFactory()
