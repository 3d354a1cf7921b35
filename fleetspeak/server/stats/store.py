"""Times every operation of a store; put around it only if somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.records import Exchange, Exchanged
from fleetspeak.server.stats import ServerStats

NAMES = {
    "acknowledge": "SetMessageResult",
    "client_data": "GetClientData",
    "message_results": "GetMessageResult",
    "set_message_results": "SetMessageResult",
    "pending_messages": "GetPendingMessages",
    "pending_message_count": "GetPendingMessageCount",
    "client_ids": "StreamClientIds",
    "record_contacts": "RecordClientContact",
    "client_contacts": "ListClientContacts",
    "record_resource_usage": "RecordResourceUsageData",
    "resource_usage": "FetchResourceUsageRecords",
    "active_broadcasts": "ListActiveBroadcasts",
    "sent_broadcasts": "ListSentBroadcasts",
    "allocate_broadcast": "CreateAllocation",
    "save_broadcast_messages": "SaveBroadcastMessage",
    "clean_up_allocation": "CleanupAllocation",
}
"""Upstream's names of operations that are called otherwise here; all others are told as theirs, in Go's spelling."""

_NOT_OPERATIONS = ("open", "close", "exchange", "update_client_labels")
"""Not measured, or measured by a method of their own."""


def go_name(method: str) -> str:
    """Upstream's name for an operation of `IStore`."""
    return NAMES.get(method) or "".join(word.capitalize() for word in method.split("_"))


@implementer(IStore)
class MeasuredStore:
    """A store that tells how long its operations take, from the call to the outcome; otherwise it is the one inside."""

    def __init__(self, store: IStore, stats: ServerStats) -> None:
        self._store = store
        self._stats = stats
        names = list(IStore.names(all=True))
        if IOperatorStore.providedBy(store):
            directlyProvides(self, IOperatorStore)
            names += IOperatorStore.names(all=True)
        for name in names:
            if name not in _NOT_OPERATIONS:
                setattr(self, name, partial(self._measure, go_name(name), getattr(store, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def exchange(self, exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        """Told as the operations that upstream makes of it, each with the time of the whole."""
        began = self._stats.seconds()
        return self._store.exchange(exchanges).addBoth(self._exchanged, exchanges, began)

    def update_client_labels(self, client_id: Any, add: Sequence[Any], remove: Sequence[Any]) -> Deferred[None]:
        """Told as adding, removing, or both."""
        began = self._stats.seconds()
        names = [name for name, labels in (("AddClientLabel", add), ("RemoveClientLabel", remove)) if labels]
        return self._store.update_client_labels(client_id, add, remove).addBoth(self._ended, names, began)

    def _measure(self, name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        began = self._stats.seconds()
        outcome = method(*arguments, **named)
        if isinstance(outcome, Deferred):
            outcome.addBoth(self._ended, (name,), began)
        return outcome

    def _ended(self, result: Any, names: Sequence[str], began: float) -> Any:
        seconds = self._stats.seconds() - began
        for error in _errors(result):
            for name in names:
                self._stats.store_operation(name, seconds, error)
        return result

    def _exchanged(self, result: Any, exchanges: Sequence[Exchange], began: float) -> Any:
        seconds = self._stats.seconds() - began
        outcomes = [result] * len(exchanges) if isinstance(result, Failure) else result
        for exchange, outcome in zip(exchanges, outcomes, strict=True):
            (error,) = _errors(outcome)
            for name in _parts(exchange, outcome):
                self._stats.store_operation(name, seconds, error)
        return result


def _errors(result: Any) -> Sequence[Exception | None]:
    """For each request of a plural operation its error; of others only one."""
    if isinstance(result, Failure):
        return [cast("Exception", result.value)]
    if isinstance(result, list) and any(isinstance(one, StoreError) for one in result):
        return [one if isinstance(one, StoreError) else None for one in result]
    return [result if isinstance(result, StoreError) else None]


def _parts(exchange: Exchange, outcome: object) -> list[str]:
    parts = []
    if exchange.new_client is not None:
        parts.append("AddClient")
    if exchange.contact is not None:
        parts.append("RecordClientContact")
    if exchange.messages:
        parts.append("StoreMessages")
    if exchange.claim is not None:
        parts.append("ClientMessagesForProcessing")
    if isinstance(outcome, Exchanged) and outcome.messages:
        parts.append("LinkMessagesToContact")
    return parts
