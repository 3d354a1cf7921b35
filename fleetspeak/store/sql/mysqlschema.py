"""The tables on MySQL, which servers of several kinds share, and how those of older servers become them.

Names, columns and their types are upstream's; what is ours disturbs nobody who names the columns of his inserts:
columns of `messages`, `broadcasts` and `broadcast_sent` that may be left out, indexes, and tables of our own, whose
names begin with ``fleetspeak_``.
Others insert into `client_resource_usage_records` by position: it has exactly these columns.

No I/O here: what is there is passed in, and what is to be done comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fleetspeak.errors import ConfigError

MIGRATIONS: tuple[tuple[str, ...], ...] = ()
"""What follows version 1, which is what `plan` makes of any tables: for each further version its statements, which can
be repeated.  One that was released is never changed."""

VERSION = 1 + len(MIGRATIONS)
"""Of the schema that this program makes; kept in `fleetspeak_schema`."""

OLDEST = 1
"""The oldest program, by the version of its schema, that can work on what this one makes."""

MAX_ROWS_TO_INDEX = 1_000_000
"""In a table with more rows than about so many an index is not made at start, since that may take long."""

TABLES: dict[str, str] = {
    "clients": """
        client_id BINARY(8) NOT NULL,
        client_key BLOB,
        blacklisted BOOL NOT NULL,
        last_contact_time BIGINT NOT NULL,
        last_contact_address TEXT(64),
        last_contact_streaming_to TEXT(128),
        last_clock_seconds BIGINT UNSIGNED,
        last_clock_nanos INT UNSIGNED,
        PRIMARY KEY (client_id)""",
    "client_labels": """
        client_id BINARY(8) NOT NULL,
        service_name VARCHAR(128) NOT NULL,
        label VARCHAR(128) NOT NULL,
        PRIMARY KEY (client_id, service_name, label),
        CONSTRAINT client_labels_fk_1 FOREIGN KEY (client_id) REFERENCES clients (client_id) ON DELETE CASCADE""",
    "client_contacts": """
        client_contact_id INTEGER NOT NULL AUTO_INCREMENT,
        client_id BINARY(8) NOT NULL,
        time BIGINT NOT NULL,
        sent_nonce BINARY(8) NOT NULL,
        received_nonce BINARY(8) NOT NULL,
        address VARCHAR(64),
        PRIMARY KEY (client_contact_id),
        CONSTRAINT client_contacts_fk_1 FOREIGN KEY (client_id) REFERENCES clients (client_id) ON DELETE CASCADE""",
    "client_resource_usage_records": """
        client_id BINARY(8) NOT NULL,
        scope VARCHAR(128) NOT NULL,
        pid BIGINT,
        process_start_time BIGINT,
        client_timestamp BIGINT,
        server_timestamp BIGINT,
        process_terminated BOOL NOT NULL,
        mean_user_cpu_rate DOUBLE,
        max_user_cpu_rate DOUBLE,
        mean_system_cpu_rate DOUBLE,
        max_system_cpu_rate DOUBLE,
        mean_resident_memory_mib INT4,
        max_resident_memory_mib INT4,
        mean_num_fds INT4,
        max_num_fds INT4,
        CONSTRAINT client_resource_usage_records_fk_1
            FOREIGN KEY (client_id) REFERENCES clients (client_id) ON DELETE CASCADE""",
    # The index is upstream's, with more columns: what waits for a client, in the order in which it is claimed.
    "messages": """
        message_id BINARY(32) NOT NULL,
        source_client_id BINARY(8),
        source_service_name VARCHAR(128) NOT NULL,
        source_message_id VARBINARY(16),
        destination_client_id BINARY(8),
        destination_service_name VARCHAR(128) NOT NULL,
        message_type VARCHAR(128),
        creation_time_seconds BIGINT NOT NULL,
        creation_time_nanos INT NOT NULL,
        processed_time_seconds BIGINT,
        processed_time_nanos INT,
        validation_info BLOB,
        failed TINYINT,
        failed_reason TEXT,
        annotations BLOB,
        priority INT NOT NULL DEFAULT 0,
        background BOOL NOT NULL DEFAULT 0,
        is_blocklisted_source BOOL NOT NULL DEFAULT 0,
        PRIMARY KEY (message_id),
        INDEX destination_client_id
            (destination_client_id, processed_time_seconds, creation_time_seconds, creation_time_nanos)""",
    "pending_messages": """
        for_server BOOL NOT NULL,
        message_id BINARY(32) NOT NULL,
        retry_count INT NOT NULL,
        scheduled_time BIGINT NOT NULL,
        data_type_url TEXT,
        data_value MEDIUMBLOB,
        PRIMARY KEY (for_server, message_id),
        INDEX scheduled_time (scheduled_time),
        INDEX fleetspeak_due (for_server, scheduled_time),
        CONSTRAINT pending_messages_fk_1 FOREIGN KEY (message_id) REFERENCES messages (message_id) ON DELETE CASCADE""",
    "client_contact_messages": """
        client_contact_id INTEGER NOT NULL,
        message_id BINARY(32) NOT NULL,
        PRIMARY KEY (client_contact_id, message_id),
        CONSTRAINT client_contact_messages_fk_1
            FOREIGN KEY (client_contact_id) REFERENCES client_contacts (client_contact_id) ON DELETE CASCADE,
        CONSTRAINT client_contact_messages_fk_2
            FOREIGN KEY (message_id) REFERENCES messages (message_id) ON DELETE CASCADE""",
    "broadcasts": """
        broadcast_id BINARY(8) NOT NULL,
        source_service_name VARCHAR(128) NOT NULL,
        destination_service_name VARCHAR(128),
        message_type VARCHAR(128) NOT NULL,
        expiration_time_seconds BIGINT,
        expiration_time_nanos INT,
        data_type_url TEXT,
        data_value MEDIUMBLOB,
        sent BIGINT UNSIGNED,
        allocated BIGINT UNSIGNED,
        message_limit BIGINT UNSIGNED,
        group_name VARCHAR(128),
        paused_limit BIGINT UNSIGNED,              -- not NULL: paused; message_limit is 0 meanwhile
        max_errors INT,                            -- NULL: any number of clients may fail
        ended_time BIGINT,                         -- ns, when it was first seen to have ended, by retention
        PRIMARY KEY (broadcast_id)""",
    "broadcast_labels": """
        broadcast_id BINARY(8) NOT NULL,
        service_name VARCHAR(128) NOT NULL,
        label VARCHAR(128) NOT NULL,
        PRIMARY KEY (broadcast_id, service_name, label),
        CONSTRAINT broadcast_labels_fk_1
            FOREIGN KEY (broadcast_id) REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE""",
    "broadcast_allocations": """
        broadcast_id BINARY(8) NOT NULL,
        allocation_id BINARY(8) NOT NULL,
        sent BIGINT UNSIGNED,
        message_limit BIGINT UNSIGNED,
        expiration_time_seconds BIGINT,
        expiration_time_nanos INT,
        PRIMARY KEY (broadcast_id, allocation_id),
        CONSTRAINT broadcast_allocations_fk_1
            FOREIGN KEY (broadcast_id) REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE""",
    "broadcast_sent": """
        broadcast_id BINARY(8) NOT NULL,
        client_id BINARY(8) NOT NULL,
        message_id BINARY(32),                     -- by which it was sent
        PRIMARY KEY (client_id, broadcast_id),
        CONSTRAINT broadcast_sent_fk_1
            FOREIGN KEY (broadcast_id) REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE,
        CONSTRAINT broadcast_sent_fk_2 FOREIGN KEY (client_id) REFERENCES clients (client_id) ON DELETE CASCADE""",
    "files": """
        service VARCHAR(128) NOT NULL,
        name VARCHAR(128) NOT NULL,
        modified_time_nanos BIGINT NOT NULL,
        data MEDIUMBLOB,
        PRIMARY KEY (service, name)""",
    # Ours.
    "fleetspeak_schema": """
        version INT NOT NULL,
        oldest INT NOT NULL,                       -- of the programs that can work on it, by their version
        PRIMARY KEY (version)""",
    "fleetspeak_leases": """
        name VARCHAR(64) NOT NULL,                 -- of what only one server does at a time
        holder BINARY(16) NOT NULL,                -- a process
        until_ns BIGINT NOT NULL,                  -- another one may take it from then on
        state VARCHAR(1000) NOT NULL,              -- what the next holder shall know
        PRIMARY KEY (name)""",
    "fleetspeak_writers": """
        writer BINARY(16) NOT NULL,                -- a process, as long as it runs
        batch BIGINT NOT NULL,                     -- the last transaction that it committed
        fence BIGINT NOT NULL,                     -- counts how often that was asked for
        seen BIGINT NOT NULL,                      -- ns, of its last connection
        PRIMARY KEY (writer)""",
    "fleetspeak_audit": """
        number BIGINT NOT NULL AUTO_INCREMENT,
        time BIGINT NOT NULL,                      -- ns
        caller VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        address VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        role VARCHAR(16) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        method VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        request TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        outcome VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,  -- empty: no end was recorded
        detail TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        duration BIGINT NOT NULL,                  -- ns
        PRIMARY KEY (number),
        INDEX time (time)""",
    "fleetspeak_settings": """
        name VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        value TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        PRIMARY KEY (name)""",
}
"""In the order in which they are made: a table after those that it refers to."""

_ADDED_COLUMNS = (
    ("broadcasts", "destination_service_name", "VARCHAR(128) AFTER source_service_name"),
    ("broadcasts", "group_name", "VARCHAR(128)"),
    ("broadcasts", "paused_limit", "BIGINT UNSIGNED"),
    ("broadcasts", "max_errors", "INT"),
    ("broadcasts", "ended_time", "BIGINT"),
    ("broadcast_sent", "message_id", "BINARY(32)"),
    ("client_resource_usage_records", "mean_num_fds", "INT4"),
    ("client_resource_usage_records", "max_num_fds", "INT4"),
    ("messages", "annotations", "BLOB"),
    ("messages", "priority", "INT NOT NULL DEFAULT 0"),
    ("messages", "background", "BOOL NOT NULL DEFAULT 0"),
    ("messages", "is_blocklisted_source", "BOOL NOT NULL DEFAULT 0"),
)
"""Those that older servers, and upstream's, make tables without."""

_WIDENED_COLUMNS = (("pending_messages", "data_value"), ("broadcasts", "data_value"), ("files", "data"))
"""They held 64 KiB once."""

_BINARY_COLUMNS = (("clients", "client_id"), ("messages", "message_id"))

_INDEXES = (
    (
        "messages",
        "fleetspeak_due",
        ("destination_client_id", "processed_time_seconds", "creation_time_seconds", "creation_time_nanos"),
    ),
    ("pending_messages", "fleetspeak_due", ("for_server", "scheduled_time")),
)


@dataclass(slots=True)
class Found:
    """What is there, of the tables in `TABLES`."""

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """By table, in order: the columns with their types, in small letters, without lengths."""
    engines: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """About how many."""
    indexes: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    """By table, the columns of each."""
    uncascaded: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    """Foreign keys that do not delete with their parents: table, name, column, table and column referred to."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to a database."""

    needed: tuple[str, ...] = ()
    """Statements without which we cannot work."""
    postponed: tuple[str, ...] = ()
    """Statements that would make us quicker, but may take long."""


def plan(found: Found) -> Plan:
    """What makes the tables that are there into ours.  Raises ConfigError if that cannot be."""
    _refuse_foreign(found)
    needed = [
        f"CREATE TABLE IF NOT EXISTS {table} ({text}\n) ENGINE=InnoDB"
        for table, text in TABLES.items()
        if table not in found.columns
    ]
    needed += _altered_columns(found)
    needed += _cascades(found)
    postponed: list[str] = []
    for table, name, columns in _INDEXES:
        if table in found.columns and not any(index[: len(columns)] == columns for index in found.indexes[table]):
            statement = f"ALTER TABLE {table} ADD INDEX {name} ({', '.join(columns)})"
            (needed if found.rows[table] <= MAX_ROWS_TO_INDEX else postponed).append(statement)
    return Plan(tuple(needed), tuple(postponed))


def _refuse_foreign(found: Found) -> None:
    for table, engine in found.engines.items():
        if engine.lower() != "innodb":
            raise ConfigError(
                f"table {table} is of engine {engine}, which has no transactions: run ALTER TABLE {table} ENGINE=InnoDB"
            )
    for table, column in _BINARY_COLUMNS:
        kind = found.columns.get(table, {}).get(column, "binary")
        if kind != "binary":
            raise ConfigError(
                f"column {column} of table {table} is of type {kind}: this database is older than any that can be "
                "taken over (ids were texts until 2018), or is one of another program; choose an empty one"
            )


def _altered_columns(found: Found) -> Iterator[str]:
    for table in TABLES:
        columns = found.columns.get(table)
        if columns is None:
            continue
        changes = [
            f"ADD COLUMN {column} {definition}"
            for of_table, column, definition in _ADDED_COLUMNS
            if of_table == table and column not in columns
        ]
        changes += [
            f"MODIFY COLUMN {column} MEDIUMBLOB"
            for of_table, column in _WIDENED_COLUMNS
            if of_table == table and columns.get(column) in ("blob", "tinyblob")
        ]
        if changes:
            yield f"ALTER TABLE {table} {', '.join(changes)}"


def _cascades(found: Found) -> Iterator[str]:
    for table, name, column, parent, key in found.uncascaded:
        number = name.rpartition("_")[2]
        new = f"{table}_fk_{number}" if number.isdecimal() else f"{table}_fk_{column}"
        if new == name:
            new = f"{name}_cascade"
        yield (
            f"ALTER TABLE {table} DROP FOREIGN KEY {name}, ADD CONSTRAINT {new}"
            f" FOREIGN KEY ({column}) REFERENCES {parent} ({key}) ON DELETE CASCADE"
        )


def check_version(rows: list[tuple[int, int]]) -> None:
    """Refuse a database that only newer programs understand.  `rows` are those of `fleetspeak_schema`."""
    oldest = max((oldest for _, oldest in rows), default=0)
    if oldest > VERSION:
        raise ConfigError(
            f"the database was changed by a newer version of this program (its schema is {max(rows)[0]}, known are "
            f"those up to {VERSION}, and it asks for {oldest} at least): run that version"
        )
