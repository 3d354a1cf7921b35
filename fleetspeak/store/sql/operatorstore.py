"""What operators ask of a store on a SQL database: `IOperatorStore`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.listings import (
    BroadcastState,
    ClientCounts,
    ClientFilter,
    ListedBroadcast,
    ListedFile,
    ListedMessage,
    MessageCount,
    MessageFilter,
    MessageKey,
)
from fleetspeak.pb import admin
from fleetspeak.records import ContactEntry
from fleetspeak.store.checks import check_setting
from fleetspeak.store.sql import clients, lists, messagelists, settings
from fleetspeak.store.sql.calls import plain
from fleetspeak.store.sql.workers import Worker
from fleetspeak.store.timing import Timing


@implementer(IOperatorStore)
class SqlOperatorStore:
    """The operators' part of `fleetspeak.store.sql.store.SqlStore`."""

    def __init__(self, writer: Worker, reader: Worker, searcher: Worker, timing: Timing) -> None:
        """`searcher` has a connection that gives up what takes too long."""
        self._writer = writer
        self._reader = reader
        self._searcher = searcher
        self._page_of_broadcasts = partial(lists.broadcasts, timing=timing)
        self._cancel = partial(messagelists.cancel, timing=timing)

    def client_page(self, wanted: ClientFilter, after: ClientId, limit: int) -> Deferred[list[admin.Client]]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(lists.clients, wanted=wanted, after=after, limit=limit))

    def client_counts(self, contact_since_ns: int) -> Deferred[ClientCounts]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(lists.counts, contact_since_ns=contact_since_ns))

    def contact_page(self, client_id: ClientId, before: int | None, limit: int) -> Deferred[list[ContactEntry]]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(lists.contacts, client_id=client_id, before=before, limit=limit))

    def unblacklist_clients(self, client_ids: Sequence[ClientId]) -> Deferred[None]:
        """See `IOperatorStore`."""
        return plain(self._writer, partial(clients.unblacklist, client_ids=tuple(client_ids)))

    def message_page(
        self, wanted: MessageFilter, before: MessageKey | None, limit: int
    ) -> Deferred[list[ListedMessage]]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(messagelists.page, wanted=wanted, before=before, limit=limit))

    def message_counts(self, wanted: MessageFilter) -> Deferred[list[MessageCount]]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(messagelists.counts, wanted=wanted))

    def cancel_messages(self, message_ids: Sequence[MessageId], reason: str) -> Deferred[int]:
        """See `IOperatorStore`."""
        return plain(self._writer, partial(self._cancel, message_ids=tuple(message_ids), reason=reason))

    def broadcast_page(
        self, state: BroadcastState, service: str, after: bytes, limit: int
    ) -> Deferred[list[ListedBroadcast]]:
        """See `IOperatorStore`."""
        return plain(
            self._searcher,
            partial(self._page_of_broadcasts, state=state, service=service, after=after, limit=limit),
        )

    def file_page(self, service: str, after: tuple[str, str], limit: int) -> Deferred[list[ListedFile]]:
        """See `IOperatorStore`."""
        return plain(self._searcher, partial(lists.files, service=service, after=after, limit=limit))

    def settings(self) -> Deferred[dict[str, str]]:
        """See `IOperatorStore`."""
        return plain(self._reader, settings.get)

    def set_setting(self, name: str, value: str) -> Deferred[None]:
        """See `IOperatorStore`."""
        try:
            check_setting(name, value)
        except InvalidRecord:
            return fail()
        return plain(self._writer, partial(settings.put, name=name, value=value))
