"""All operations of the operators' API that a store can carry out."""

from __future__ import annotations

from collections.abc import Callable

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.server.admin.filestorage import FileStorage
from fleetspeak.server.admin.operator.broadcasts import BroadcastLists, BroadcastOperations
from fleetspeak.server.admin.operator.callers import CallerOperations
from fleetspeak.server.admin.operator.clients import ClientOperations
from fleetspeak.server.admin.operator.enrolment import EnrolmentOperations
from fleetspeak.server.admin.operator.files import FileOperations
from fleetspeak.server.admin.operator.messages import MessageOperations


def make_operations(
    store: IStore,
    files: FileStorage,
    now_ns: Callable[[], int],
    seconds: Callable[[], float],
    *,
    broadcasts_changed: Callable[[], object],
    client_changed: Callable[[ClientId], object],
    enrolment_changed: Callable[[], object],
    messages_due: Callable[[], object],
) -> list[object]:
    """What carries RPCs out; those that need an `IOperatorStore` are missing if `store` is none.

    The others are told what has changed, so that this server sees it at once.
    """
    found: list[object] = [
        CallerOperations(),
        BroadcastOperations(store, broadcasts_changed),
        FileOperations(files, seconds),
    ]
    operators = IOperatorStore(store, None)
    if operators is not None:
        found += [
            BroadcastLists(operators, now_ns),
            ClientOperations(operators, client_changed),
            EnrolmentOperations(store, operators, enrolment_changed, client_changed, now_ns),
            MessageOperations(store, operators, messages_due),
        ]
    return found
