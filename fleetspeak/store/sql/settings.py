"""Settings that all servers on one database share."""

from __future__ import annotations

from fleetspeak.store.sql.dialect import Connection


def get(db: Connection) -> dict[str, str]:
    """All of them."""
    return dict(db.rows("SELECT name, value FROM fleetspeak_settings"))


def put(db: Connection, name: str, value: str) -> None:
    """Keep one, in place of what it was."""
    db.run("DELETE FROM fleetspeak_settings WHERE name = ?", (name,))
    db.run("INSERT INTO fleetspeak_settings (name, value) VALUES (?, ?)", (name, value))
