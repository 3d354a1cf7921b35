"""What is old in the store in memory, and how it is deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import Contact, Prunable, Prune, Pruned
from fleetspeak.store.memoryaudit import MemoryAudit
from fleetspeak.store.memorybroadcasts import MemoryBroadcasts

_FUTURE = 86_400


@dataclass
class Kept:
    """The tables of a store in memory."""

    messages: dict[bytes, Any]
    clients: dict[ClientId, Any]
    contacts: dict[int, tuple[Contact, int]]
    links: set[tuple[int, bytes]]
    broadcasts: MemoryBroadcasts
    audit: MemoryAudit


class _Old(NamedTuple):
    """Something that is old enough."""

    key: str
    """By which it is walked."""
    rows: dict[str, int]
    """It, and what goes with it, by table."""
    delete: Callable[[], object]


def prune(store: Kept, request: Prune, now_ns: int) -> Pruned:
    """See `IStore.prune`.  What is found is deleted as a whole, however many rows it has."""
    if request.kind is Prunable.AUDIT:
        return _prune_audit(store.audit, request)
    if request.kind is Prunable.BROADCASTS and not request.dry_run:
        store.broadcasts.note_ended(now_ns)
    found = sorted(one for one in _old(store, request, now_ns) if one.key > request.position)
    rows: Counter[str] = Counter()
    for number, one in enumerate(found):
        if rows.total() >= request.rows:
            return Pruned(dict(+rows), found[number - 1].key)
        rows.update(one.rows)
        if not request.dry_run:
            one.delete()
    return Pruned(dict(+rows), None)


def _prune_audit(audit: MemoryAudit, request: Prune) -> Pruned:
    count = audit.old(request.before_ns) if request.dry_run else audit.prune(request.before_ns, request.rows)
    more = count == request.rows and not request.dry_run
    return Pruned({"fleetspeak_audit": count} if count else {}, request.position if more else None)


def _old(store: Kept, request: Prune, now_ns: int) -> Iterator[_Old]:
    match request.kind:
        case Prunable.CONTACTS:
            for row, (_, time_ns) in list(store.contacts.items()):
                if time_ns < request.before_ns:
                    yield _contact(store, row)
        case Prunable.RESOURCE_USAGE:
            yield from _usage(store, request.before_ns)
        case Prunable.BROADCASTS:
            for broadcast_id in store.broadcasts.ended_before(request.before_ns):
                rows = store.broadcasts.rows_of(broadcast_id)
                yield _Old(broadcast_id.hex(), rows, _bound(store.broadcasts.delete, broadcast_id))
        case Prunable.CLIENTS:
            for client_id, client in list(store.clients.items()):
                if client.contact_ns < request.before_ns and not client.data.blacklisted:
                    yield _client(store, client_id)
        case _:
            for message_id, stored in list(store.messages.items()):
                if _is_old(store, stored.message, request, now_ns):
                    rows = {"messages": 1, "pending_messages": int(stored.pending or stored.dead)}
                    yield _Old(message_id.hex(), rows, _bound(store.messages.pop, message_id))


def _is_old(store: Kept, message: common.Message, request: Prune, now_ns: int) -> bool:
    before = request.before_ns // 10**9
    created = message.creation_time.seconds
    if not message.HasField("result"):
        return request.kind is Prunable.PENDING_MESSAGES and created < before
    if request.kind is Prunable.PENDING_MESSAGES or message.result.processed_time.seconds >= before:
        return False
    if before <= created <= now_ns // 10**9 + _FUTURE:
        return False
    ids = [ClientId(one.client_id) for one in (message.source, message.destination) if one.client_id]
    return request.kind is Prunable.MESSAGES or any(one not in store.clients for one in ids)


def _contact(store: Kept, row: int) -> _Old:
    links = [link for link in store.links if link[0] == row]

    def delete() -> None:
        del store.contacts[row]
        store.links.difference_update(links)

    return _Old(f"{row:016x}", {"client_contacts": 1, "client_contact_messages": len(links)}, delete)


def _usage(store: Kept, before_ns: int) -> Iterator[_Old]:
    for client_id, client in store.clients.items():
        kept = [one for one in client.usage if one.server_timestamp.ToNanoseconds() >= before_ns]
        old = len(client.usage) - len(kept)
        if old:
            keep = _bound(setattr, client, "usage", kept)
            yield _Old(client_id.hex(), {"client_resource_usage_records": old}, keep)


def _client(store: Kept, client_id: ClientId) -> _Old:
    client = store.clients[client_id]
    contacts = [_contact(store, row) for row, (one, _) in store.contacts.items() if one.client_id == client_id]
    rows = Counter(clients=1, client_labels=len(client.data.labels), client_resource_usage_records=len(client.usage))
    rows["broadcast_sent"] = sum(of == client_id for of, _ in store.broadcasts.sent)
    for contact in contacts:
        rows.update(contact.rows)

    def delete() -> None:
        for contact in contacts:
            contact.delete()
        store.broadcasts.forget_client(client_id)
        del store.clients[client_id]

    return _Old(client_id.hex(), rows, delete)


def _bound(do: Callable[..., Any], *arguments: Any) -> Callable[[], object]:
    return lambda: do(*arguments)
