"""What operators ask of the store in memory: `IOperatorStore`, the plain way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.listings import (
    BroadcastState,
    ClientCounts,
    ClientFilter,
    Flag,
    ListedBroadcast,
    ListedFile,
    ListedMessage,
    MessageCount,
    MessageFilter,
    MessageKey,
    MessageState,
    Span,
)
from fleetspeak.pb import admin, common
from fleetspeak.records import Contact, ContactEntry, FileStat, StoredFile
from fleetspeak.store import checks

if TYPE_CHECKING:
    from fleetspeak.store.memory import _Client, _Stored
    from fleetspeak.store.memorybroadcasts import MemoryBroadcasts

T = TypeVar("T")


@implementer(IOperatorStore)
class MemoryOperatorStore:
    """The operators' part of `fleetspeak.store.memory.MemoryStore`, whose attributes these are."""

    _now_ns: Callable[[], int]
    _messages: dict[bytes, _Stored]
    _clients: dict[ClientId, _Client]
    _contacts: dict[int, tuple[Contact, int]]
    _broadcasts: MemoryBroadcasts
    _files: dict[tuple[str, str], StoredFile]
    _settings: dict[str, str]

    if TYPE_CHECKING:

        def _do(self, work: Callable[[], T]) -> Deferred[T]: ...

        def _listed_client(self, client_id: ClientId) -> admin.Client: ...

    def client_page(self, wanted: ClientFilter, after: ClientId, limit: int) -> Deferred[list[admin.Client]]:
        """See `IOperatorStore`."""

        def page() -> list[admin.Client]:
            found = sorted(one for one in self._clients if one > after and _client_fits(self._clients[one], wanted))
            return [self._listed_client(client_id) for client_id in found[:limit]]

        return self._do(page)

    def client_counts(self, contact_since_ns: int) -> Deferred[ClientCounts]:
        """See `IOperatorStore`."""

        def count() -> ClientCounts:
            everybody = self._clients.values()
            return ClientCounts(
                len(everybody),
                sum(one.data.blacklisted for one in everybody),
                sum(one.contact_ns >= contact_since_ns for one in everybody),
            )

        return self._do(count)

    def contact_page(self, client_id: ClientId, before: int | None, limit: int) -> Deferred[list[ContactEntry]]:
        """See `IOperatorStore`."""

        def page() -> list[ContactEntry]:
            entries = [
                ContactEntry(row, Contact(client_id, one.sent_nonce, one.received_nonce, one.address), time_ns)
                for row, (one, time_ns) in self._contacts.items()
                if one.client_id == client_id and (before is None or row < before)
            ]
            return entries[::-1][:limit]

        return self._do(page)

    def unblacklist_clients(self, client_ids: Sequence[ClientId]) -> Deferred[None]:
        """See `IOperatorStore`."""

        def unblacklist() -> None:
            for client_id in client_ids:
                if client_id in self._clients:
                    client = self._clients[client_id]
                    client.data = replace(client.data, blacklisted=False)

        return self._do(unblacklist)

    def message_page(
        self, wanted: MessageFilter, before: MessageKey | None, limit: int
    ) -> Deferred[list[ListedMessage]]:
        """See `IOperatorStore`."""

        def page() -> list[ListedMessage]:
            found = [one for one in self._listed(wanted) if before is None or one.key < before]
            return sorted(found, key=lambda one: one.key, reverse=True)[:limit]

        return self._do(page)

    def message_counts(self, wanted: MessageFilter) -> Deferred[list[MessageCount]]:
        """See `IOperatorStore`."""

        def counts() -> list[MessageCount]:
            kinds: Counter[tuple[str, bool, str, int]] = Counter()
            oldest: dict[tuple[str, bool, str, int], int] = {}
            for one in self._listed(wanted):
                to = one.message.destination
                kind = to.service_name, bool(to.client_id), one.message.message_type, one.state.value
                kinds[kind] += 1
                oldest[kind] = min(oldest.get(kind, one.key.seconds), one.key.seconds)
            return [
                MessageCount(*kind[:3], MessageState(kind[3]), count, oldest[kind])
                for kind, count in sorted(kinds.items())
            ]

        return self._do(counts)

    def _listed(self, wanted: MessageFilter) -> Iterable[ListedMessage]:
        for stored in self._messages.values():
            one = stored.listed()
            if _fits(one, wanted):
                yield one

    def cancel_messages(self, message_ids: Sequence[MessageId], reason: str) -> Deferred[int]:
        """See `IOperatorStore`."""

        def cancel() -> int:
            result = common.MessageResult(failed=True, failed_reason=reason)
            result.processed_time.FromNanoseconds(self._now_ns())
            known = [self._messages[one] for one in dict.fromkeys(message_ids) if one in self._messages]
            pending = [stored for stored in known if stored.pending]
            for stored in pending:
                stored.finish(result)
            return len(pending)

        return self._do(cancel)

    def broadcast_page(
        self, state: BroadcastState, service: str, after: bytes, limit: int
    ) -> Deferred[list[ListedBroadcast]]:
        """See `IOperatorStore`."""

        def page() -> list[ListedBroadcast]:
            found = [
                one
                for one in self._broadcasts.listed(self._has_failed)
                if one.broadcast.broadcast_id > after
                and state in (BroadcastState.ANY, one.state(self._now_ns()))
                and service in ("", one.broadcast.source.service_name)
            ]
            return found[:limit]

        return self._do(page)

    def _has_failed(self, message_id: bytes) -> bool:
        stored = self._messages.get(message_id)
        return stored is not None and stored.message.result.failed

    def file_page(self, service: str, after: tuple[str, str], limit: int) -> Deferred[list[ListedFile]]:
        """See `IOperatorStore`."""

        def page() -> list[ListedFile]:
            found = sorted(key for key in self._files if key > after and service in ("", key[0]))
            return [
                ListedFile(*key, FileStat(self._files[key].modified_ns, len(self._files[key].data)))
                for key in found[:limit]
            ]

        return self._do(page)

    def settings(self) -> Deferred[dict[str, str]]:
        """See `IOperatorStore`."""
        return self._do(lambda: dict(self._settings))

    def set_setting(self, name: str, value: str) -> Deferred[None]:
        """See `IOperatorStore`."""

        def put() -> None:
            checks.check_setting(name, value)
            self._settings[name] = value

        return self._do(put)


def _client_fits(client: _Client, wanted: ClientFilter) -> bool:
    """Whether a client is one of those."""
    flag = Flag.ONLY if client.data.blacklisted else Flag.NONE
    return (
        client.data.labels.issuperset(wanted.labels)
        and _within(client.contact_ns, wanted.last_contact)
        and wanted.blacklisted in (Flag.ANY, flag)
    )


def _fits(one: ListedMessage, wanted: MessageFilter) -> bool:
    source, destination = one.message.source, one.message.destination
    return (
        wanted.client_id in (b"", source.client_id, destination.client_id)
        and wanted.service in ("", source.service_name, destination.service_name)
        and wanted.message_type in ("", one.message.message_type)
        and wanted.state in (MessageState.ANY, one.state)
        and _within(one.key.seconds * 10**9 + one.key.nanos, wanted.created)
    )


def _within(time_ns: int, span: Span) -> bool:
    return (span.start_ns is None or span.start_ns <= time_ns) and (span.end_ns is None or time_ns < span.end_ns)
