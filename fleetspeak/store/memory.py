"""A store in memory, for tests: the same contract as the SQL stores, checked by the same suite.

It is plain on purpose.  Every call is carried out at once, and its Deferred has fired when it is returned.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute, succeed
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.core.retrytimes import given_up
from fleetspeak.errors import AlreadyExists, InvalidRecord, NotFound, StoreError
from fleetspeak.ids import NO_CLIENT, ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.listings import ListedMessage, MessageState
from fleetspeak.pb import admin, broadcasts, common, monitoring, resource
from fleetspeak.records import (
    NO_LIMITS,
    Ack,
    ActiveBroadcast,
    Allocation,
    AuditCall,
    AuditEnd,
    AuditEntry,
    AuditFilter,
    BroadcastSend,
    Claim,
    ClientData,
    ClientStream,
    Contact,
    ContactEntry,
    Exchange,
    Exchanged,
    FileStat,
    Label,
    Prune,
    Pruned,
    ResultUpdate,
    RetryLimits,
    StoredFile,
)
from fleetspeak.store import checks
from fleetspeak.store.allotment import Allotment
from fleetspeak.store.memoryaudit import MemoryAudit
from fleetspeak.store.memorybroadcasts import MemoryBroadcasts
from fleetspeak.store.memoryoperator import MemoryOperatorStore
from fleetspeak.store.memoryretention import Kept, prune
from fleetspeak.store.timing import Timing, modified_after
from fleetspeak.store.usage import check_usage, usage_record

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Stored:
    """A message, with its payload as long as it is pending."""

    message: common.Message
    due_us: int = 0
    retries: int = 0
    dead: bool = False
    """Given up: it has a failed result, and its payload."""

    @property
    def pending(self) -> bool:
        return not self.message.HasField("result")

    @property
    def client_id(self) -> ClientId:
        return ClientId(self.message.destination.client_id)

    def finish(self, result: common.MessageResult) -> None:
        self.message.result.CopyFrom(result)
        if result.failed:
            self.message.result.failed_reason = checks.cut_reason(result.failed_reason)
        else:
            self.message.result.failed_reason = ""
        self.message.ClearField("data")
        self.dead = False

    @property
    def created_ns(self) -> int:
        return self.message.creation_time.ToNanoseconds()

    def bury(self, reason: str, now_ns: int) -> None:
        self.message.result.failed, self.message.result.failed_reason = True, reason
        self.message.result.processed_time.FromNanoseconds(now_ns)
        self.dead = True

    def listed(self) -> ListedMessage:
        message, size = self.copy(False), len(self.message.data.value)
        if self.pending:
            state = MessageState.SENT if self.retries else MessageState.WAITING
            return ListedMessage(message, state, self.retries, self.due_us * 1000, size)
        if not message.result.failed:
            return ListedMessage(message, MessageState.PROCESSED)
        if not self.dead:
            return ListedMessage(message, MessageState.FAILED)
        return ListedMessage(message, MessageState.DEAD, payload_size=size)

    def copy(self, want_data: bool) -> common.Message:
        copy = common.Message()
        copy.CopyFrom(self.message)
        if not want_data:
            copy.ClearField("data")
        return copy


@dataclass
class _Client:
    data: ClientData
    contact_ns: int
    last: Contact | None = None
    usage: list[resource.ClientResourceUsageRecord] = field(default_factory=list)


@implementer(IStore)
class MemoryStore(MemoryOperatorStore):
    """A store in memory."""

    def __init__(
        self, *, now_ns: Callable[[], int] = time.time_ns, uniform: Callable[[], float] = random.random
    ) -> None:
        self._now_ns = now_ns
        self._timing = Timing(now_ns, uniform)
        self._open = False
        self._messages: dict[bytes, _Stored] = {}
        self._clients: dict[ClientId, _Client] = {}
        self._contacts: dict[int, tuple[Contact, int]] = {}
        """By row, with the time of each."""
        self._last_row = 0
        self._links: set[tuple[int, bytes]] = set()
        self._broadcasts = MemoryBroadcasts()
        self._files: dict[tuple[str, str], StoredFile] = {}
        self._audit = MemoryAudit()
        self._leases: dict[str, tuple[bytes, int, str]] = {}
        self._settings: dict[str, str] = {}

    def open(self) -> Deferred[None]:
        """See `IStore`."""
        self._open = True
        return succeed(None)

    def close(self) -> Deferred[None]:
        """See `IStore`."""
        self._open = False
        return succeed(None)

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        def checked() -> T:
            if not self._open:
                raise StoreError("the store is not open")
            return work(*args, **kwargs)

        return execute(checked)

    def _do_each(self, work: Callable[[T], R], items: Iterable[T]) -> Deferred[list[R | StoreError]]:
        def tried(item: T) -> R | StoreError:
            try:
                return work(item)
            except StoreError as error:
                return error

        return self._do(lambda: [tried(item) for item in items])

    # -- the hot path

    def exchange(self, exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        """See `IStore`."""
        return self._do_each(self._exchange, exchanges)

    def _exchange(self, exchange: Exchange) -> Exchanged:
        checks.check_exchange(exchange)
        for message in exchange.messages:
            checks.check_message(message)
        contact, new = exchange.contact, exchange.new_client
        if contact is None:
            row = self._contact_row(exchange.contact_id)
        else:
            known = self._clients.get(contact.client_id)
            if known is not None and new is not None and known.data.key != new.key:
                raise AlreadyExists(f"there is a client {ids.show(contact.client_id)} already, with another key")
            if known is None and new is not None:
                labels = frozenset(filter(checks.label_fits, new.labels))
                self._clients[contact.client_id] = _Client(ClientData(new.key, labels, new.blacklisted), self._now_ns())
            row = self._record(contact)
        for message in exchange.messages:
            self._store(message)
        taken = [] if exchange.claim is None else self._claim(exchange.claim)
        if row is not None:
            self._links.update((row, message.message_id) for message in [*exchange.messages, *taken])
        return Exchanged("" if row is None else checks.contact_id_of(row), taken)

    def acknowledge(self, acks: Sequence[Ack]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        return self._do_each(self._acknowledge, acks)

    def _acknowledge(self, ack: Ack) -> None:
        for message_id in ack.message_ids:
            stored = self._messages.get(message_id)
            if stored is None or not stored.pending or not stored.client_id:
                continue
            message = stored.message
            rekey = message.message_type == "RekeyRequest" and message.source.service_name == "system"
            if stored.client_id == ack.client_id or rekey:
                stored.finish(self._success())

    def client_data(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientData]]:
        """See `IStore`."""
        return self._do(lambda: {one: self._clients[one].data for one in client_ids if one in self._clients})

    def message_results(self, message_ids: Sequence[MessageId]) -> Deferred[dict[MessageId, common.MessageResult]]:
        """See `IStore`."""

        def results() -> dict[MessageId, common.MessageResult]:
            known = {one: self._messages[one] for one in message_ids if one in self._messages}
            return {one: stored.copy(False).result for one, stored in known.items() if not stored.pending}

        return self._do(results)

    def client_streams(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientStream]]:
        """See `IStore`."""

        def streams() -> dict[ClientId, ClientStream]:
            known = {one: self._clients[one] for one in client_ids if one in self._clients}
            return {
                one: ClientStream(client.last.streaming_to, client.contact_ns)
                for one, client in known.items()
                if client.last is not None and client.last.streaming_to
            }

        return self._do(streams)

    def clients_with_due_messages(self, client_ids: Sequence[ClientId]) -> Deferred[list[ClientId]]:
        """See `IStore`."""

        def due() -> list[ClientId]:
            now_us = self._now_ns() // 1000
            waiting = {one.client_id for one in self._messages.values() if one.pending and one.due_us <= now_us}
            return [one for one in dict.fromkeys(client_ids) if one and one in waiting]

        return self._do(due)

    # -- messages

    def store_messages(
        self, messages: Sequence[common.Message], contact_id: str = "", audit: AuditCall | None = None
    ) -> Deferred[None]:
        """See `IStore`."""

        def store() -> None:
            for message in messages:
                checks.check_message(message)
            row = self._contact_row(contact_id)
            for message in messages:
                self._store(message)
            if row is not None:
                self._links.update((row, message.message_id) for message in messages)
            if audit is not None:
                number = self._audit.begin(audit, self._now_ns())
                self._audit.end(AuditEnd(number, "OK", "", 0))

        return self._do(store)

    def _store(self, message: common.Message) -> None:
        known = self._messages.get(message.message_id)
        if known is None:
            known = _Stored(common.Message())
            known.message.CopyFrom(message)
            known.message.ClearField("result")
            known.due_us = self._timing.first_due(self._now_ns(), not known.client_id)
            self._messages[message.message_id] = known
        if message.HasField("result") and (known.pending or not message.result.failed):
            known.finish(message.result)

    def set_message_results(self, updates: Sequence[ResultUpdate]) -> Deferred[None]:
        """See `IStore`."""

        def set_all() -> None:
            for update in updates:
                checks.check_result(update.result)
            for update in updates:
                if update.message_id in self._messages:
                    self._messages[update.message_id].finish(update.result)

        return self._do(set_all)

    def get_messages(self, message_ids: Sequence[MessageId], want_data: bool) -> Deferred[list[common.Message]]:
        """See `IStore`."""

        def get() -> list[common.Message]:
            for message_id in message_ids:
                if message_id not in self._messages:
                    raise NotFound(f"there is no message {ids.show(message_id)}")
            return [self._messages[message_id].copy(want_data) for message_id in message_ids]

        return self._do(get)

    def client_messages_for_processing(
        self, claims: Sequence[Claim]
    ) -> Deferred[list[list[common.Message] | StoreError]]:
        """See `IStore`."""
        return self._do_each(self._claim, claims)

    def _claim(self, claim: Claim) -> list[common.Message]:
        checks.check_client_id(claim.client_id)
        now_ns = self._now_ns()
        allotment = Allotment(claim)
        taken = []
        for stored in sorted(self._pending([claim.client_id]), key=lambda one: checks.age(one.message)):
            message = stored.message
            if stored.due_us > now_ns // 1000:
                continue
            if allotment.take(message.destination.service_name, len(message.data.value)):
                stored.retries += 1
                stored.due_us = self._timing.client_due(now_ns)
                taken.append(stored.copy(True))
                if (message.message_type, message.destination.service_name) == ("Die", "system"):
                    stored.finish(self._success())
        return taken

    def pending_messages(
        self, client_ids: Sequence[ClientId], offset: int = 0, limit: int = 0, want_data: bool = False
    ) -> Deferred[list[common.Message]]:
        """See `IStore`."""

        def listing() -> list[common.Message]:
            if offset and not limit:
                raise InvalidRecord("if offset is provided, a limit must be provided as well")
            found = sorted(self._pending(client_ids), key=lambda stored: stored.message.message_id)
            return [stored.copy(want_data) for stored in found[offset : offset + limit if limit else None]]

        return self._do(listing)

    def _pending(self, client_ids: Sequence[ClientId]) -> list[_Stored]:
        return [one for one in self._messages.values() if one.pending and one.client_id and one.client_id in client_ids]

    def pending_message_count(self, client_ids: Sequence[ClientId]) -> Deferred[int]:
        """See `IStore`."""
        return self._do(lambda: len(self._pending(client_ids)))

    def delete_pending_messages(self, client_ids: Sequence[ClientId]) -> Deferred[None]:
        """See `IStore`."""

        def delete() -> None:
            result = self._success()
            result.failed = True
            result.failed_reason = "Removed by admin action."
            for stored in self._pending(client_ids):
                stored.finish(result)

        return self._do(delete)

    def overdue_messages(
        self,
        limit: int,
        room: Mapping[str, int] | None = None,
        limits: RetryLimits = NO_LIMITS,
        since_ns: int = 0,
    ) -> Deferred[list[common.Message]]:
        """See `IStore`."""

        def overdue() -> list[common.Message]:
            now_ns, left, found = self._now_ns(), dict(room or {}), []
            allotment = Allotment(Claim(NO_CLIENT, limit))
            for stored in self._due(limit, room or {}, since_ns // 1000, now_ns // 1000):
                reason = given_up(now_ns, stored.created_ns, stored.retries, limits)
                service = stored.message.destination.service_name
                if reason is not None:
                    stored.bury(reason, now_ns)
                    found.append(stored.copy(False))
                elif left.get(service, 1) > 0 and allotment.take("", len(stored.message.data.value)):
                    left[service] = left.get(service, limit) - 1
                    stored.retries += 1
                    stored.due_us = self._timing.server_due(now_ns, stored.created_ns, stored.retries, limits)
                    found.append(stored.copy(True))
            return sorted(found, key=checks.age)

        return self._do(overdue)

    def _due(self, limit: int, room: Mapping[str, int], since_us: int, now_us: int) -> list[_Stored]:
        if all(places > 0 for places in room.values()):
            since_us = 0
        due = [
            one
            for one in self._for_server()
            if since_us <= one.due_us <= now_us and room.get(one.message.destination.service_name, 1) > 0
        ]
        return sorted(due, key=lambda one: one.due_us)[:limit]

    def retry_messages(self, message_ids: Sequence[MessageId]) -> Deferred[int]:
        """See `IStore`."""

        def retry() -> int:
            known = [self._messages[one] for one in dict.fromkeys(message_ids) if one in self._messages]
            dead = [one for one in known if one.dead]
            for stored in dead:
                stored.message.ClearField("result")
                stored.dead, stored.retries, stored.due_us = False, 0, self._now_ns() // 1000
            return len(dead)

        return self._do(retry)

    def dead_message_counts(self) -> Deferred[dict[str, int]]:
        """See `IStore`."""
        return self._do(
            lambda: dict(Counter(one.message.destination.service_name for one in self._messages.values() if one.dead))
        )

    def next_overdue(self) -> Deferred[int | None]:
        """See `IStore`."""
        return self._do(lambda: min((one.due_us * 1000 for one in self._for_server()), default=None))

    def _for_server(self) -> list[_Stored]:
        return [one for one in self._messages.values() if one.pending and not one.client_id]

    # -- clients

    def add_client(self, client_id: ClientId, data: ClientData) -> Deferred[None]:
        """See `IStore`."""

        def add() -> None:
            checks.check_client_id(client_id)
            checks.check_labels(data.labels)
            if client_id in self._clients:
                raise AlreadyExists(f"there is a client {ids.show(client_id)} already")
            self._clients[client_id] = _Client(data, self._now_ns())

        return self._do(add)

    def update_client_labels(
        self, client_id: ClientId, add: Sequence[Label], remove: Sequence[Label]
    ) -> Deferred[None]:
        """See `IStore`."""

        def update() -> None:
            checks.check_labels(add)
            client = self._client(client_id)
            labels = client.data.labels.difference(remove).union(Label(*label) for label in add)
            client.data = ClientData(client.data.key, labels, client.data.blacklisted)

        return self._do(update)

    def blacklist_client(self, client_id: ClientId) -> Deferred[None]:
        """See `IStore`."""

        def blacklist() -> None:
            client = self._clients.get(client_id)
            if client is not None:
                client.data = ClientData(client.data.key, client.data.labels, blacklisted=True)

        return self._do(blacklist)

    def list_clients(self, client_ids: Sequence[ClientId]) -> Deferred[list[admin.Client]]:
        """See `IStore`."""
        return self._do(
            lambda: [
                _listed(client_id, client)
                for client_id, client in self._clients.items()
                if not client_ids or client_id in client_ids
            ]
        )

    def client_ids(
        self, include_blacklisted: bool, contact_after_ns: int | None, after: ClientId, limit: int
    ) -> Deferred[list[ClientId]]:
        """See `IStore`."""

        def page() -> list[ClientId]:
            found = [
                client_id
                for client_id, client in self._clients.items()
                if client_id > after
                and (include_blacklisted or not client.data.blacklisted)
                and (contact_after_ns is None or client.contact_ns > contact_after_ns)
            ]
            return sorted(found)[:limit]

        return self._do(page)

    def record_contacts(self, contacts: Sequence[Contact]) -> Deferred[list[str | StoreError]]:
        """See `IStore`."""
        return self._do_each(lambda contact: checks.contact_id_of(self._record(contact)), contacts)

    def _record(self, contact: Contact) -> int:
        checks.check_contact(contact)
        client = self._client(contact.client_id)
        client.contact_ns = self._now_ns()
        client.last = contact
        self._last_row += 1
        self._contacts[self._last_row] = contact, client.contact_ns
        return self._last_row

    def link_messages_to_contact(self, contact_id: str, message_ids: Sequence[MessageId]) -> Deferred[None]:
        """See `IStore`."""

        def link() -> None:
            row = self._contact_row(contact_id)
            if row is None:
                raise InvalidRecord("a contact id is needed to link messages to")
            self._links.update((row, message_id) for message_id in message_ids)

        return self._do(link)

    def client_contacts(self, client_id: ClientId, after: int, limit: int) -> Deferred[list[ContactEntry]]:
        """See `IStore`."""

        def page() -> list[ContactEntry]:
            entries = [
                ContactEntry(
                    row,
                    Contact(client_id, contact.sent_nonce, contact.received_nonce, contact.address),
                    time_ns,
                )
                for row, (contact, time_ns) in self._contacts.items()
                if contact.client_id == client_id and row > after
            ]
            return entries[:limit]

        return self._do(page)

    def record_resource_usage(self, client_id: ClientId, data: monitoring.ResourceUsageData) -> Deferred[None]:
        """See `IStore`."""

        def record() -> None:
            check_usage(data)
            self._client(client_id).usage.append(usage_record(data, self._now_ns()))

        return self._do(record)

    def resource_usage(
        self, client_id: ClientId, start_ns: int, end_ns: int
    ) -> Deferred[list[resource.ClientResourceUsageRecord]]:
        """See `IStore`."""

        def records() -> list[resource.ClientResourceUsageRecord]:
            if start_ns > end_ns:
                raise InvalidRecord("timerange is invalid: start timestamp is after end timestamp")
            known = self._clients.get(client_id)
            stored = [] if known is None else known.usage
            return [one for one in stored if start_ns <= one.server_timestamp.ToNanoseconds() < end_ns]

        return self._do(records)

    # -- broadcasts

    def create_broadcast(self, broadcast: broadcasts.Broadcast, limit: int, max_errors: int = 0) -> Deferred[None]:
        """See `IStore`."""

        def create() -> None:
            checks.check_broadcast(broadcast, limit, max_errors)
            self._broadcasts.create(broadcast, limit, max_errors, self._now_ns())

        return self._do(create)

    def active_broadcasts(self) -> Deferred[list[ActiveBroadcast]]:
        """See `IStore`."""
        return self._do(lambda: self._broadcasts.active(self._now_ns()))

    def active_broadcast_ids(self) -> Deferred[list[bytes]]:
        """See `IStore`."""
        return self._do(lambda: [one.broadcast.broadcast_id for one in self._broadcasts.active(self._now_ns())])

    def sent_broadcasts(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, list[bytes]]]:
        """See `IStore`."""
        return self._do(self._broadcasts.sent_to, client_ids)

    def allocate_broadcast(self, broadcast_id: bytes, fraction: float, expiry_ns: int) -> Deferred[Allocation | None]:
        """See `IStore`."""
        return self._do(self._broadcasts.allocate, broadcast_id, fraction, expiry_ns)

    def save_broadcast_messages(self, sends: Sequence[BroadcastSend]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        return self._do_each(self._save_broadcast_message, sends)

    def _save_broadcast_message(self, send: BroadcastSend) -> None:
        message, now_ns = send.message, self._now_ns()
        checks.check_message(message)
        row = checks.contact_row(send.contact_id)
        client_id = ClientId(message.destination.client_id)
        self._broadcasts.check(send.broadcast_id, send.allocation_id, client_id, now_ns)
        self._client(client_id)
        if row is not None:
            self._contact_row(send.contact_id)
            self._links.add((row, message.message_id))
        self._broadcasts.count(send.broadcast_id, send.allocation_id, client_id, message.message_id)
        self._store(message)
        self._messages[message.message_id].due_us = self._timing.client_due(now_ns)

    def clean_up_allocation(self, broadcast_id: bytes, allocation_id: bytes, sent: int) -> Deferred[None]:
        """See `IStore`."""
        return self._do(self._broadcasts.clean_up, broadcast_id, allocation_id, sent)

    def sweep_allocations(self, expired_ns: int) -> Deferred[int]:
        """See `IStore`."""
        return self._do(self._broadcasts.sweep, expired_ns)

    def disable_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return self._do(self._broadcasts.disable, broadcast_ids)

    def pause_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return self._do(self._broadcasts.pause, broadcast_ids)

    def resume_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return self._do(self._broadcasts.resume, broadcast_ids)

    def broadcast_errors(self, broadcast_ids: Sequence[bytes]) -> Deferred[dict[bytes, int]]:
        """See `IStore`."""

        def count() -> dict[bytes, int]:
            failed = [
                broadcast_id
                for (_, broadcast_id), message_id in self._broadcasts.sent.items()
                if broadcast_id in broadcast_ids
                and (stored := self._messages.get(message_id)) is not None
                and stored.message.result.failed
            ]
            return dict(Counter(failed))

        return self._do(count)

    # -- files

    def store_file(self, service: str, name: str, data: bytes) -> Deferred[None]:
        """See `IStore`."""

        def store() -> None:
            checks.check_file(service, name, data)
            before = self._files.get((service, name))
            modified_ns = modified_after(before.modified_ns if before else None, self._now_ns())
            self._files[service, name] = StoredFile(modified_ns, bytes(data))

        return self._do(store)

    def delete_file(self, service: str, name: str) -> Deferred[None]:
        """See `IStore`."""

        def delete() -> None:
            self._files.pop((service, name), None)

        return self._do(delete)

    def stat_file(self, service: str, name: str) -> Deferred[FileStat]:
        """See `IStore`."""

        def stat() -> FileStat:
            found = self._file(service, name)
            return FileStat(found.modified_ns, len(found.data))

        return self._do(stat)

    def read_file(self, service: str, name: str) -> Deferred[StoredFile]:
        """See `IStore`."""
        return self._do(lambda: self._file(service, name))

    # -- the audit trail

    def begin_audit(self, calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
        """See `IStore`."""
        return self._do_each(lambda call: self._audit.begin(call, self._now_ns()), calls)

    def end_audit(self, ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        return self._do_each(self._audit.end, ends)

    def audit_entries(self, wanted: AuditFilter, limit: int) -> Deferred[list[AuditEntry]]:
        """See `IStore`."""
        return self._do(self._audit.page, wanted, limit)

    def prune_audit(self, before_ns: int, limit: int) -> Deferred[int]:
        """See `IStore`."""
        return self._do(self._audit.prune, before_ns, limit)

    # -- retention

    def prune(self, request: Prune) -> Deferred[Pruned]:
        """See `IStore`."""
        kept = Kept(self._messages, self._clients, self._contacts, self._links, self._broadcasts, self._audit)
        return self._do(lambda: prune(kept, request, self._now_ns()))

    def create_time_indexes(self) -> Deferred[list[str]]:
        """See `IStore`."""
        return self._do(list)

    def lease(self, name: str, holder: bytes, until_ns: int, state: str | None = None) -> Deferred[str | None]:
        """See `IStore`."""

        def take() -> str | None:
            of, until, kept = self._leases.get(name, (holder, 0, ""))
            if of != holder and until > self._now_ns():
                return None
            self._leases[name] = holder, until_ns, kept if state is None else state
            return self._leases[name][2]

        return self._do(take)

    def _listed_client(self, client_id: ClientId) -> admin.Client:
        return _listed(client_id, self._clients[client_id])

    # -- looks that fail

    def _file(self, service: str, name: str) -> StoredFile:
        try:
            return self._files[service, name]
        except KeyError:
            raise NotFound(f"there is no file {service}/{name}") from None

    def _client(self, client_id: ClientId) -> _Client:
        try:
            return self._clients[client_id]
        except KeyError:
            raise NotFound(f"there is no client {ids.show(client_id)}") from None

    def _contact_row(self, contact_id: str) -> int | None:
        row = checks.contact_row(contact_id)
        if row is not None and row not in self._contacts:
            raise NotFound(f"there is no contact {contact_id}")
        return row

    def _success(self) -> common.MessageResult:
        result = common.MessageResult()
        result.processed_time.FromNanoseconds(self._now_ns())
        return result


def _listed(client_id: ClientId, client: _Client) -> admin.Client:
    listed = admin.Client(client_id=client_id, blacklisted=client.data.blacklisted)
    listed.last_contact_time.FromNanoseconds(client.contact_ns)
    for label in sorted(client.data.labels):
        listed.labels.add(service_name=label.service, label=label.label)
    if client.last is not None:
        listed.last_contact_address = client.last.address
        listed.last_contact_streaming_to = client.last.streaming_to
        clock = checks.clock_of(client.last)
        if clock is not None:
            listed.last_clock.CopyFrom(clock)
    return listed
