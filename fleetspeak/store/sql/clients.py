"""Clients and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleetspeak import ids
from fleetspeak.errors import AlreadyExists, NotFound
from fleetspeak.ids import ClientId
from fleetspeak.pb import admin
from fleetspeak.records import ClientData, ClientStream, Label
from fleetspeak.store.checks import label_fits
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.statements import insert, rows_in, run_in
from fleetspeak.store.timing import Timing

_NEW_COLUMNS = ("client_id", "client_key", "blacklisted", "last_contact_time")
_LABEL_COLUMNS = ("client_id", "service_name", "label")

NewClient = tuple[ClientId, ClientData]


def add(db: Connection, client: NewClient, *, timing: Timing) -> None:
    """Add a client.  Raises AlreadyExists."""
    if _keys(db, [client[0]]):
        raise AlreadyExists(f"there is a client {ids.show(client[0])} already")
    _insert(db, [client], timing.now_ns())


def enrol(db: Connection, clients: Sequence[NewClient], now_ns: int) -> None:
    """Add clients that are not there yet; what a client claims wrongly about itself is left out.

    Raises AlreadyExists if there is one of that id with another key.
    """
    if not clients:
        return
    keys = _keys(db, list(dict.fromkeys(client_id for client_id, _ in clients)))
    new: list[NewClient] = []
    for client_id, data in clients:
        if client_id not in keys:
            keys[client_id] = data.key
            new.append((client_id, data))
        elif keys[client_id] != data.key:
            raise AlreadyExists(f"there is a client {ids.show(client_id)} already, with another key")
    if _insert(db, new, now_ns, ignore=True) < len(new):
        # Another server was quicker with some of them.
        found = _keys(db, [client_id for client_id, _ in new])
        for client_id, data in new:
            if found.get(client_id) != data.key:
                raise AlreadyExists(f"there is a client {ids.show(client_id)} already, with another key")


def _keys(db: Connection, client_ids: Sequence[ClientId]) -> dict[ClientId, bytes]:
    return dict(rows_in(db, "SELECT client_id, client_key FROM clients WHERE client_id IN ({keys})", (), client_ids))


def _insert(db: Connection, clients: Sequence[NewClient], now_ns: int, *, ignore: bool = False) -> int:
    flat: list[Any] = []
    labels: list[Any] = []
    for client_id, data in clients:
        flat += (client_id, data.key, data.blacklisted, now_ns)
        labels += _label_rows(client_id, filter(label_fits, data.labels))
    inserted = insert(db, "clients", _NEW_COLUMNS, flat, ignore=ignore)
    insert(db, "client_labels", _LABEL_COLUMNS, labels, ignore=True)
    return inserted


def _label_rows(client_id: ClientId, labels: Any) -> list[Any]:
    return [value for label in labels for value in (client_id, label.service, label.label)]


def update_labels(db: Connection, client_id: ClientId, add: Sequence[Label], remove: Sequence[Label]) -> None:
    """Remove and add labels.  Raises NotFound for an unknown client."""
    if not _keys(db, [client_id]):
        raise NotFound(f"there is no client {ids.show(client_id)}")
    for label in remove:
        db.run("DELETE FROM client_labels WHERE client_id = ? AND service_name = ? AND label = ?", (client_id, *label))
    insert(db, "client_labels", _LABEL_COLUMNS, _label_rows(client_id, add), ignore=True)


def blacklist(db: Connection, client_id: ClientId) -> None:
    """Set the flag."""
    db.run("UPDATE clients SET blacklisted = 1 WHERE client_id = ?", (client_id,))


def unblacklist(db: Connection, client_ids: Sequence[ClientId]) -> None:
    """Clear the flag."""
    run_in(db, "UPDATE clients SET blacklisted = 0 WHERE client_id IN ({keys})", (), list(dict.fromkeys(client_ids)))


def data(db: Connection, calls: Sequence[Sequence[ClientId]]) -> list[dict[ClientId, ClientData]]:
    """For each call, what is known of those of its clients that exist."""
    wanted = list(dict.fromkeys(client_id for call in calls for client_id in call))
    rows = rows_in(
        db,
        "SELECT c.client_id, c.client_key, c.blacklisted, l.service_name, l.label"
        " FROM clients AS c LEFT JOIN client_labels AS l ON l.client_id = c.client_id WHERE c.client_id IN ({keys})",
        (),
        wanted,
    )
    labels: dict[ClientId, set[Label]] = {}
    for client_id, _, _, service, label in rows:
        of_client = labels.setdefault(client_id, set())
        if service is not None:
            of_client.add(Label(service, label))
    known = {
        client_id: ClientData(key or b"", frozenset(labels[client_id]), bool(blacklisted))
        for client_id, key, blacklisted, _, _ in rows
    }
    return [{client_id: known[client_id] for client_id in call if client_id in known} for call in calls]


def streams(db: Connection, calls: Sequence[Sequence[ClientId]]) -> list[dict[ClientId, ClientStream]]:
    """For each call, those of its clients whose last contact began a stream."""
    rows = rows_in(
        db,
        "SELECT client_id, last_contact_streaming_to, last_contact_time FROM clients WHERE client_id IN ({keys})",
        (),
        list(dict.fromkeys(client_id for call in calls for client_id in call)),
    )
    known = {client_id: ClientStream(address, time_ns) for client_id, address, time_ns in rows if address}
    return [{client_id: known[client_id] for client_id in call if client_id in known} for call in calls]


_CLIENT = (
    "SELECT client_id, last_contact_time, last_contact_address, last_contact_streaming_to,"
    " last_clock_seconds, last_clock_nanos, blacklisted FROM clients"
)
_LABELS = "SELECT client_id, service_name, label FROM client_labels"


def listing(db: Connection, client_ids: Sequence[ClientId]) -> list[admin.Client]:
    """These clients as far as they exist, or all."""
    if client_ids:
        wanted = list(dict.fromkeys(client_ids))
        rows = rows_in(db, _CLIENT + " WHERE client_id IN ({keys})", (), wanted)
        labels = rows_in(db, _LABELS + " WHERE client_id IN ({keys})", (), wanted)
    else:
        rows = db.rows(_CLIENT)
        labels = db.rows(_LABELS)
    clients = {row[0]: _client(row) for row in rows}
    for client_id, service, label in labels:
        if client_id in clients:
            clients[client_id].labels.add(service_name=service, label=label)
    return list(clients.values())


def _client(row: tuple[Any, ...]) -> admin.Client:
    client_id, contact_time, address, streaming_to, clock_seconds, clock_nanos, blacklisted = row
    client = admin.Client(
        client_id=client_id,
        last_contact_address=address or "",
        last_contact_streaming_to=streaming_to or "",
        blacklisted=bool(blacklisted),
    )
    client.last_contact_time.FromNanoseconds(contact_time)
    if clock_seconds is not None and clock_nanos is not None:
        client.last_clock.seconds = clock_seconds
        client.last_clock.nanos = clock_nanos
    return client


def page_of_ids(
    db: Connection, include_blacklisted: bool, contact_after_ns: int | None, after: ClientId, limit: int
) -> list[ClientId]:
    """Ids of clients by ascending id, behind `after`."""
    sql = "SELECT client_id FROM clients WHERE client_id > ?"
    parameters: list[Any] = [after]
    if not include_blacklisted:
        sql += " AND NOT blacklisted"
    if contact_after_ns is not None:
        sql += " AND last_contact_time > ?"
        parameters.append(contact_after_ns)
    return [row[0] for row in db.rows(sql + " ORDER BY client_id LIMIT ?", (*parameters, limit))]
