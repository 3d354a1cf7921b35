"""The store on a SQL database: `IStore` over workers that carry out what waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
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
    Prunable,
    Prune,
    Pruned,
    ResultUpdate,
    RetryLimits,
    StoredFile,
)
from fleetspeak.store import checks
from fleetspeak.store.sql import (
    audit,
    clients,
    exchange,
    files,
    leases,
    overdue,
    pending,
    pruning,
    removal,
    timeindexes,
    usage,
)
from fleetspeak.store.sql import broadcasts as _broadcasts
from fleetspeak.store.sql import claims as _claims
from fleetspeak.store.sql import contacts as _contacts
from fleetspeak.store.sql import messages as _messages
from fleetspeak.store.sql.calls import each as _each
from fleetspeak.store.sql.calls import one as _one
from fleetspeak.store.sql.calls import plain as _plain
from fleetspeak.store.sql.calls import tried as _tried
from fleetspeak.store.sql.operatorstore import SqlOperatorStore
from fleetspeak.store.sql.rows import ROW_BYTES, result_values, rows_of
from fleetspeak.store.sql.workers import Observer, Worker
from fleetspeak.store.timing import Timing
from fleetspeak.store.usage import check_usage

LOOKS_AROUND = 5
"""Most looks of which other servers take everything that was found, before there is said to be nothing."""


@implementer(IStore)
class SqlStore(SqlOperatorStore):
    """A store whose queries are carried out by four workers.

    `writer` does everything that changes something, in group commits; `reader` the two hot reads, merged; `lister`
    everything that may take long, so that nobody waits behind it; `searcher` what operators look for, perhaps in vain.
    `pruner` deletes what is old, if the database lets it do so beside the writer.
    """

    def __init__(
        self,
        writer: Worker,
        reader: Worker,
        lister: Worker,
        searcher: Worker,
        pruner: Worker | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """`now_ns` and `uniform` are called in the workers' threads."""
        timing = self._timing = Timing(now_ns, uniform)
        super().__init__(writer, reader, searcher, timing)
        self._lister = lister
        self._pruner = pruner or writer
        # The first one makes the database.
        self._workers = [writer, reader, lister, searcher, *([pruner] if pruner else [])]
        self._exchange = partial(exchange.carry_out, timing=timing)
        self._store_messages = partial(exchange.store_messages, timing=timing)
        self._acknowledge = partial(_messages.acknowledge, timing=timing)
        self._claim = partial(_claims.client_messages_for_processing, timing=timing)
        self._record_contacts = partial(_contacts.record_each, timing=timing)
        self._delete_pending = partial(pending.delete, timing=timing)
        self._overdue = partial(overdue.overdue, timing=timing)
        self._look_around = partial(overdue.look_around, timing=timing)
        self._retry = partial(overdue.retry, timing=timing)
        self._with_due = partial(pending.clients_with_due, timing=timing)
        self._add_client = partial(clients.add, timing=timing)
        self._record_usage = partial(usage.record, timing=timing)
        self._create_broadcast = partial(_broadcasts.create, timing=timing)
        self._active_broadcasts = partial(_broadcasts.active, timing=timing)
        self._active_broadcast_ids = partial(_broadcasts.active_ids, timing=timing)
        self._save_broadcasts = partial(_broadcasts.save, timing=timing)
        self._store_file = partial(files.store, timing=timing)
        self._begin_audit = partial(audit.begin, timing=timing)
        self._lease = partial(leases.take, timing=timing)

    def observe(self, observer: Observer) -> None:
        """Tell `observer`, in the reactor's thread, of each transaction; of its worker by the name without prefix."""

        def tell(name: str, calls: int, requests: int, seconds: float) -> None:
            observer(_short(name), calls, requests, seconds)

        for worker in self._workers:
            worker.observe(tell)

    def waiting(self) -> dict[str, tuple[int, int]]:
        """By worker: how many calls wait for it, and of how many bytes."""
        return {_short(worker.name): worker.waiting() for worker in self._workers}

    async def _open(self) -> None:
        try:
            for worker in self._workers:
                await worker.open()
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        for worker in reversed(self._workers):
            await worker.close()

    def open(self) -> Deferred[None]:
        """See `IStore`."""
        return Deferred.fromCoroutine(self._open())

    def close(self) -> Deferred[None]:
        """See `IStore`."""
        return Deferred.fromCoroutine(self._close())

    # -- the hot path

    def exchange(self, exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        """See `IStore`."""
        prepared = [_tried(exchange.prepare, one) for one in exchanges]
        size = sum(one.size for one in prepared if not isinstance(one, StoreError))
        return _each(self._writer, self._exchange, prepared, size)

    def acknowledge(self, acks: Sequence[Ack]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        size = sum(len(ack.message_ids) for ack in acks) * ROW_BYTES
        return _each(self._writer, self._acknowledge, acks, size)

    def client_data(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientData]]:
        """See `IStore`."""
        return _one(self._reader, clients.data, tuple(client_ids))

    def message_results(self, message_ids: Sequence[MessageId]) -> Deferred[dict[MessageId, common.MessageResult]]:
        """See `IStore`."""
        return _one(self._reader, _messages.results, tuple(message_ids))

    def client_streams(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientStream]]:
        """See `IStore`."""
        return _one(self._reader, clients.streams, tuple(client_ids))

    def clients_with_due_messages(self, client_ids: Sequence[ClientId]) -> Deferred[list[ClientId]]:
        """See `IStore`."""
        wanted = list(dict.fromkeys(client_ids))
        return _plain(self._lister, partial(self._with_due, client_ids=wanted))

    # -- messages

    def store_messages(
        self, messages: Sequence[common.Message], contact_id: str = "", audit: AuditCall | None = None
    ) -> Deferred[None]:
        """See `IStore`."""
        try:
            prepared = exchange.Prepared(
                rows_of(messages),
                contact_row=checks.contact_row(contact_id),
                audit=None if audit is None else checks.cut_audit_call(audit),
            )
        except InvalidRecord:
            return fail()
        return _one(self._writer, self._store_messages, prepared, prepared.size)

    def set_message_results(self, updates: Sequence[ResultUpdate]) -> Deferred[None]:
        """See `IStore`."""
        try:
            for update in updates:
                checks.check_result(update.result)
        except InvalidRecord:
            return fail()
        results = [(update.message_id, result_values(update.result)) for update in updates]
        return _one(self._writer, _messages.set_results, results, len(results) * ROW_BYTES)

    def get_messages(self, message_ids: Sequence[MessageId], want_data: bool) -> Deferred[list[common.Message]]:
        """See `IStore`."""
        return _plain(self._lister, partial(_messages.get, message_ids=tuple(message_ids), want_data=want_data))

    def client_messages_for_processing(
        self, claims: Sequence[Claim]
    ) -> Deferred[list[list[common.Message] | StoreError]]:
        """See `IStore`."""
        checked = [_tried(_checked_claim, claim) for claim in claims]
        return _each(self._writer, self._claim, checked, len(checked) * _claims.CLAIM_BYTES)

    def pending_messages(
        self, client_ids: Sequence[ClientId], offset: int = 0, limit: int = 0, want_data: bool = False
    ) -> Deferred[list[common.Message]]:
        """See `IStore`."""
        if offset and not limit:
            return fail(InvalidRecord("if offset is provided, a limit must be provided as well"))
        wanted = list(dict.fromkeys(client_ids))
        return _plain(
            self._lister,
            partial(pending.listing, client_ids=wanted, offset=offset, limit=limit, want_data=want_data),
        )

    def pending_message_count(self, client_ids: Sequence[ClientId]) -> Deferred[int]:
        """See `IStore`."""
        return _plain(self._lister, partial(pending.count, client_ids=list(dict.fromkeys(client_ids))))

    def delete_pending_messages(self, client_ids: Sequence[ClientId]) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(self._delete_pending, client_ids=tuple(client_ids)))

    def overdue_messages(
        self,
        limit: int,
        room: Mapping[str, int] | None = None,
        limits: RetryLimits = NO_LIMITS,
        since_ns: int = 0,
    ) -> Deferred[list[common.Message]]:
        """See `IStore`."""
        room = dict(room or {})
        full = sorted(service for service, places in room.items() if places <= 0)
        claim = partial(self._overdue, limit=limit, room=room, limits=limits)
        if not full:
            return _plain(self._writer, claim)
        return Deferred.fromCoroutine(
            self._overdue_around(partial(self._look_around, limit=limit, full=full, since_ns=since_ns), claim)
        )

    async def _overdue_around(
        self, look: Callable[..., object], claim: Callable[..., list[common.Message]]
    ) -> list[common.Message]:
        """Look beside the writer, since what services without room have may be much; and claim only what was found."""
        for _ in range(LOOKS_AROUND):
            found = await _plain(self._lister, look)
            taken: list[common.Message] = await _plain(self._writer, partial(claim, among=found)) if found else []
            if taken or not found:
                return taken
        return []

    def next_overdue(self) -> Deferred[int | None]:
        """See `IStore`."""
        return _plain(self._reader, pending.next_overdue)

    def retry_messages(self, message_ids: Sequence[MessageId]) -> Deferred[int]:
        """See `IStore`."""
        return _plain(self._writer, partial(self._retry, message_ids=tuple(dict.fromkeys(message_ids))))

    def dead_message_counts(self) -> Deferred[dict[str, int]]:
        """See `IStore`."""
        return _plain(self._lister, overdue.dead_counts)

    # -- clients

    def add_client(self, client_id: ClientId, data: ClientData) -> Deferred[None]:
        """See `IStore`."""
        try:
            checks.check_client_id(client_id)
            checks.check_labels(data.labels)
        except InvalidRecord:
            return fail()
        return _plain(self._writer, partial(self._add_client, client=(client_id, data)))

    def update_client_labels(
        self, client_id: ClientId, add: Sequence[Label], remove: Sequence[Label]
    ) -> Deferred[None]:
        """See `IStore`."""
        try:
            checks.check_labels(add)
        except InvalidRecord:
            return fail()
        return _plain(
            self._writer, partial(clients.update_labels, client_id=client_id, add=tuple(add), remove=tuple(remove))
        )

    def blacklist_client(self, client_id: ClientId) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(clients.blacklist, client_id=client_id))

    def list_clients(self, client_ids: Sequence[ClientId]) -> Deferred[list[admin.Client]]:
        """See `IStore`."""
        return _plain(self._lister, partial(clients.listing, client_ids=tuple(client_ids)))

    def client_ids(
        self, include_blacklisted: bool, contact_after_ns: int | None, after: ClientId, limit: int
    ) -> Deferred[list[ClientId]]:
        """See `IStore`."""
        return _plain(
            self._lister,
            partial(
                clients.page_of_ids,
                include_blacklisted=include_blacklisted,
                contact_after_ns=contact_after_ns,
                after=after,
                limit=limit,
            ),
        )

    def record_contacts(self, contacts: Sequence[Contact]) -> Deferred[list[str | StoreError]]:
        """See `IStore`."""
        return _each(self._writer, self._record_contacts, [_tried(_checked_contact, contact) for contact in contacts])

    def link_messages_to_contact(self, contact_id: str, message_ids: Sequence[MessageId]) -> Deferred[None]:
        """See `IStore`."""
        try:
            row = checks.contact_row(contact_id)
        except InvalidRecord:
            return fail()
        if row is None:
            return fail(InvalidRecord("a contact id is needed to link messages to"))
        return _plain(self._writer, partial(_contacts.link, links=[(row, tuple(message_ids))]))

    def client_contacts(self, client_id: ClientId, after: int, limit: int) -> Deferred[list[ContactEntry]]:
        """See `IStore`."""
        return _plain(self._lister, partial(_contacts.page, client_id=client_id, after=after, limit=limit))

    def record_resource_usage(self, client_id: ClientId, data: monitoring.ResourceUsageData) -> Deferred[None]:
        """See `IStore`."""
        try:
            check_usage(data)
        except InvalidRecord:
            return fail()
        snapshot = monitoring.ResourceUsageData()
        snapshot.CopyFrom(data)
        return _plain(self._writer, partial(self._record_usage, client_id=client_id, data=snapshot))

    def resource_usage(
        self, client_id: ClientId, start_ns: int, end_ns: int
    ) -> Deferred[list[resource.ClientResourceUsageRecord]]:
        """See `IStore`."""
        if start_ns > end_ns:
            return fail(InvalidRecord("timerange is invalid: start timestamp is after end timestamp"))
        return _plain(self._lister, partial(usage.page, client_id=client_id, start_ns=start_ns, end_ns=end_ns))

    # -- broadcasts

    def create_broadcast(self, broadcast: broadcasts.Broadcast, limit: int, max_errors: int = 0) -> Deferred[None]:
        """See `IStore`."""
        try:
            checks.check_broadcast(broadcast, limit, max_errors)
        except InvalidRecord:
            return fail()
        snapshot = broadcasts.Broadcast()
        snapshot.CopyFrom(broadcast)
        return _plain(self._writer, partial(self._create_broadcast, new=(snapshot, limit, max_errors)))

    def active_broadcasts(self) -> Deferred[list[ActiveBroadcast]]:
        """See `IStore`."""
        return _plain(self._lister, self._active_broadcasts)

    def active_broadcast_ids(self) -> Deferred[list[bytes]]:
        """See `IStore`."""
        return _plain(self._reader, self._active_broadcast_ids)

    def sent_broadcasts(self, client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, list[bytes]]]:
        """See `IStore`."""
        return _one(self._reader, _broadcasts.sent, tuple(client_ids))

    def allocate_broadcast(self, broadcast_id: bytes, fraction: float, expiry_ns: int) -> Deferred[Allocation | None]:
        """See `IStore`."""
        return _plain(
            self._writer,
            partial(_broadcasts.allocate, broadcast_id=broadcast_id, fraction=fraction, expiry_ns=expiry_ns),
        )

    def save_broadcast_messages(self, sends: Sequence[BroadcastSend]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        prepared = [_tried(_broadcasts.PreparedSend, send) for send in sends]
        size = sum(one.rows.size for one in prepared if not isinstance(one, StoreError))
        return _each(self._writer, self._save_broadcasts, prepared, size)

    def clean_up_allocation(self, broadcast_id: bytes, allocation_id: bytes, sent: int) -> Deferred[None]:
        """See `IStore`."""
        return _plain(
            self._writer,
            partial(_broadcasts.clean_up, broadcast_id=broadcast_id, allocation_id=allocation_id, sent=sent),
        )

    def sweep_allocations(self, expired_ns: int) -> Deferred[int]:
        """See `IStore`."""
        return _plain(self._writer, partial(_broadcasts.sweep, expired_ns=expired_ns))

    def disable_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(_broadcasts.disable, broadcast_ids=tuple(broadcast_ids)))

    def pause_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(_broadcasts.pause, broadcast_ids=tuple(broadcast_ids)))

    def resume_broadcasts(self, broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(_broadcasts.resume, broadcast_ids=tuple(broadcast_ids)))

    def broadcast_errors(self, broadcast_ids: Sequence[bytes]) -> Deferred[dict[bytes, int]]:
        """See `IStore`."""
        return _plain(self._lister, partial(_broadcasts.errors, broadcast_ids=tuple(broadcast_ids)))

    # -- files

    def store_file(self, service: str, name: str, data: bytes) -> Deferred[None]:
        """See `IStore`."""
        try:
            checks.check_file(service, name, data)
        except InvalidRecord:
            return fail()
        return _plain(self._writer, partial(self._store_file, service=service, name=name, data=data), len(data))

    def delete_file(self, service: str, name: str) -> Deferred[None]:
        """See `IStore`."""
        return _plain(self._writer, partial(files.delete, service=service, name=name))

    def stat_file(self, service: str, name: str) -> Deferred[FileStat]:
        """See `IStore`."""
        return _plain(self._reader, partial(files.stat, service=service, name=name))

    def read_file(self, service: str, name: str) -> Deferred[StoredFile]:
        """See `IStore`."""
        return _plain(self._lister, partial(files.read, service=service, name=name))

    # -- the audit trail

    def begin_audit(self, calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
        """See `IStore`."""
        cut = [checks.cut_audit_call(call) for call in calls]
        return _each(self._writer, self._begin_audit, cut, sum(len(call.request) for call in cut))

    def end_audit(self, ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
        """See `IStore`."""
        cut = [checks.cut_audit_end(end) for end in ends]
        return _each(self._writer, audit.end, cut, sum(len(end.detail) for end in cut))

    def audit_entries(self, wanted: AuditFilter, limit: int) -> Deferred[list[AuditEntry]]:
        """See `IStore`."""
        return _plain(self._lister, partial(audit.page, wanted=wanted, limit=limit))

    def prune_audit(self, before_ns: int, limit: int) -> Deferred[int]:
        """See `IStore`."""
        return _plain(self._writer, partial(audit.prune, before_ns=before_ns, limit=limit))

    # -- retention

    def prune(self, request: Prune) -> Deferred[Pruned]:
        """See `IStore`."""
        return Deferred.fromCoroutine(self._prune(request))

    async def _prune(self, request: Prune) -> Pruned:
        timing = self._timing
        if request.kind is Prunable.AUDIT:
            return await self._prune_audit(request)
        if request.kind is Prunable.BROADCASTS and not request.dry_run:
            await _plain(self._writer, partial(removal.note_ended, timing=timing))
        found = await _plain(self._lister, partial(pruning.look, request=request, timing=timing))
        if not found.keys:
            return Pruned({}, found.position)
        if request.dry_run:
            rows = await _plain(self._lister, partial(removal.count, request=request, found=found))
            return Pruned(rows, found.position)
        remove = partial(removal.remove, request=request, found=found, timing=timing)
        rows, finished = await _plain(self._pruner, remove)
        return Pruned(rows, found.position if finished else request.position)

    async def _prune_audit(self, request: Prune) -> Pruned:
        """The oldest entries, which an index by time finds."""
        if request.dry_run:
            count = await _plain(self._lister, partial(audit.count_old, before_ns=request.before_ns))
            more = False
        else:
            prune = partial(audit.prune, before_ns=request.before_ns, limit=request.rows)
            count = await _plain(self._pruner, prune)
            more = count == request.rows
        return Pruned({"fleetspeak_audit": count} if count else {}, request.position if more else None)

    def create_time_indexes(self) -> Deferred[list[str]]:
        """See `IStore`."""
        return _plain(self._pruner, timeindexes.create)

    def lease(self, name: str, holder: bytes, until_ns: int, state: str | None = None) -> Deferred[str | None]:
        """See `IStore`."""
        return _plain(self._writer, partial(self._lease, name=name, holder=holder, until_ns=until_ns, state=state))


def _short(name: str) -> str:
    return name.removeprefix("store-")


def _checked_claim(claim: Claim) -> Claim:
    checks.check_client_id(claim.client_id)
    return claim


def _checked_contact(contact: Contact) -> Contact:
    checks.check_contact(contact)
    return contact
