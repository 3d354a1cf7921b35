"""The tables of the SQLite database, and how an older database becomes a newer one.

Tables, columns, types and their meaning are those that servers share on MySQL, with ids as BLOBs.  What is ours:
messages keep priority, background and is_blocklisted_source; broadcasts have groups, pauses and bounds on
errors; there are the indexes the hot queries need; and the
links of a contact to its messages do not refer to messages, since that would take another index, which every message
would have to be put into at a random place.  A link goes with its contact.

A database carries its version in ``user_version``; version n is what the first n migrations make.  A migration
that was released is never changed: another one follows it.
"""

from __future__ import annotations

_VERSION_1 = (
    """
    CREATE TABLE clients (
        client_id BLOB NOT NULL PRIMARY KEY,
        client_key BLOB,
        blacklisted INTEGER NOT NULL,
        last_contact_time INTEGER NOT NULL,      -- ns; of its creation before the first contact
        last_contact_address TEXT,
        last_contact_streaming_to TEXT,          -- NULL: the last contact was a poll
        last_clock_seconds INTEGER,
        last_clock_nanos INTEGER
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE client_labels (
        client_id BLOB NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
        service_name TEXT NOT NULL,
        label TEXT NOT NULL,
        PRIMARY KEY (client_id, service_name, label)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE client_contacts (
        client_contact_id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_id BLOB NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
        time INTEGER NOT NULL,                   -- ns
        sent_nonce BLOB NOT NULL,                -- 8 bytes, little-endian
        received_nonce BLOB NOT NULL,
        address TEXT
    )
    """,
    "CREATE INDEX client_contacts_of_client ON client_contacts (client_id)",
    """
    CREATE TABLE client_resource_usage_records (
        client_id BLOB NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
        scope TEXT NOT NULL,
        pid INTEGER,
        process_start_time INTEGER,              -- ns
        client_timestamp INTEGER,                -- ns
        server_timestamp INTEGER,                -- ns, when it was stored
        process_terminated INTEGER NOT NULL,
        mean_user_cpu_rate REAL,                 -- ms per s
        max_user_cpu_rate REAL,
        mean_system_cpu_rate REAL,
        max_system_cpu_rate REAL,
        mean_resident_memory_mib INTEGER,
        max_resident_memory_mib INTEGER,
        mean_num_fds INTEGER,
        max_num_fds INTEGER
    )
    """,
    "CREATE INDEX client_resource_usage_of_client ON client_resource_usage_records (client_id, server_timestamp)",
    """
    CREATE TABLE messages (
        message_id BLOB NOT NULL PRIMARY KEY,
        source_client_id BLOB,                   -- NULL: from a server service
        source_service_name TEXT NOT NULL,
        source_message_id BLOB,
        destination_client_id BLOB,              -- NULL: for a server service
        destination_service_name TEXT NOT NULL,
        message_type TEXT,
        creation_time_seconds INTEGER NOT NULL,
        creation_time_nanos INTEGER NOT NULL,
        processed_time_seconds INTEGER,          -- NULL: pending
        processed_time_nanos INTEGER,
        validation_info BLOB,
        failed INTEGER,                          -- 1 or NULL
        failed_reason TEXT,
        annotations BLOB,
        priority INTEGER NOT NULL DEFAULT 0,
        background INTEGER NOT NULL DEFAULT 0,
        is_blocklisted_source INTEGER NOT NULL DEFAULT 0
    )
    """,
    # What waits for a client, in the order in which it is claimed; a processed message leaves it.
    """
    CREATE INDEX messages_pending_for_client
        ON messages (destination_client_id, creation_time_seconds, creation_time_nanos, message_id)
        WHERE processed_time_seconds IS NULL AND destination_client_id IS NOT NULL
    """,
    """
    CREATE TABLE pending_messages (
        for_server INTEGER NOT NULL,
        message_id BLOB NOT NULL PRIMARY KEY REFERENCES messages (message_id) ON DELETE CASCADE,
        retry_count INTEGER NOT NULL,
        scheduled_time INTEGER NOT NULL,         -- microseconds
        data_type_url TEXT,                      -- NULL: the message has no data
        data_value BLOB
    )
    """,
    "CREATE INDEX pending_messages_for_server ON pending_messages (scheduled_time) WHERE for_server = 1",
    """
    CREATE TABLE client_contact_messages (
        client_contact_id INTEGER NOT NULL REFERENCES client_contacts (client_contact_id) ON DELETE CASCADE,
        message_id BLOB NOT NULL,
        PRIMARY KEY (client_contact_id, message_id)
    ) WITHOUT ROWID
    """,
)

_VERSION_2 = (
    """
    CREATE TABLE broadcasts (
        broadcast_id BLOB NOT NULL PRIMARY KEY,
        source_service_name TEXT NOT NULL,
        destination_service_name TEXT,           -- NULL: no destination was given
        message_type TEXT NOT NULL,
        expiration_time_seconds INTEGER,         -- NULL: never
        expiration_time_nanos INTEGER,
        data_type_url TEXT,
        data_value BLOB,
        sent INTEGER NOT NULL,                   -- of allocations that were given back
        allocated INTEGER NOT NULL,              -- to the allocations there are
        message_limit INTEGER NOT NULL,
        group_name TEXT,
        paused_limit INTEGER,                    -- not NULL: paused; message_limit is 0 meanwhile
        max_errors INTEGER                       -- NULL: any number of clients may fail
    )
    """,
    """
    CREATE TABLE broadcast_labels (
        broadcast_id BLOB NOT NULL REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE,
        service_name TEXT NOT NULL,
        label TEXT NOT NULL,
        PRIMARY KEY (broadcast_id, service_name, label)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE broadcast_allocations (
        broadcast_id BLOB NOT NULL REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE,
        allocation_id BLOB NOT NULL,
        sent INTEGER NOT NULL,
        message_limit INTEGER NOT NULL,
        expiration_time_seconds INTEGER NOT NULL,
        expiration_time_nanos INTEGER NOT NULL,
        PRIMARY KEY (broadcast_id, allocation_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE broadcast_sent (
        client_id BLOB NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
        broadcast_id BLOB NOT NULL REFERENCES broadcasts (broadcast_id) ON DELETE CASCADE,
        message_id BLOB,                         -- by which it was sent
        PRIMARY KEY (client_id, broadcast_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX broadcast_sent_of_broadcast ON broadcast_sent (broadcast_id)",
)

_VERSION_3 = (
    """
    CREATE TABLE files (
        service TEXT NOT NULL,
        name TEXT NOT NULL,
        modified_time_nanos INTEGER NOT NULL,
        data BLOB,
        PRIMARY KEY (service, name)
    )
    """,
)

_VERSION_4 = (
    """
    CREATE TABLE fleetspeak_audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,                   -- ns
        caller TEXT NOT NULL,
        address TEXT NOT NULL,
        role TEXT NOT NULL,
        method TEXT NOT NULL,
        request TEXT NOT NULL,
        outcome TEXT NOT NULL,                   -- empty: no end was recorded
        detail TEXT NOT NULL,
        duration INTEGER NOT NULL                -- ns
    )
    """,
    "CREATE INDEX fleetspeak_audit_by_time ON fleetspeak_audit (time)",
)

_VERSION_5 = (
    # ns, when it was first seen to have ended, by retention
    "ALTER TABLE broadcasts ADD COLUMN ended_time INTEGER",
    """
    CREATE TABLE fleetspeak_leases (
        name TEXT NOT NULL PRIMARY KEY,          -- of what only one process does at a time
        holder BLOB NOT NULL,                    -- a process
        until_ns INTEGER NOT NULL,               -- another one may take it from then on
        state TEXT NOT NULL                      -- what the next holder shall know
    ) WITHOUT ROWID
    """,
)

_VERSION_6 = (
    """
    CREATE TABLE fleetspeak_settings (
        name TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL
    )
    """,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6)

VERSION = len(MIGRATIONS)
