"""The service `system` of the server: what clients tell the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.errors import InvalidRecord, NotFound, PermanentError, StoreError, TemporaryError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IServerService, IStore
from fleetspeak.pb import common, monitoring, system
from fleetspeak.records import Ack, ClientData, Label, ResultUpdate
from fleetspeak.server.services.outcome import SHOWN, cut
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.store.outcome import only

CLIENT = "client"
"""The owner of the labels that a client states about itself."""

KILL_LOG_INTERVAL = 15 * 60.0
ERROR_LIMIT = 65_535
"""Most bytes of a client's error text that are kept: what the column of the MySQL schema holds."""

log = Logger()
_P = TypeVar("_P", bound=ProtobufMessage)


@implementer(IServerService)
class SystemService:
    """Acknowledgements, errors, labels and resource usage of clients."""

    def __init__(
        self,
        store: IStore,
        forget_client: Callable[[ClientId], object],
        now_ns: Callable[[], int],
        clock: IReactorTime,
        *,
        lookup: Callable[[ClientId], Awaitable[ClientData | None]] | None = None,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """
        @param forget_client: drops a client from the cache, after its labels have changed.
        @param lookup: the cache's; only asked if somebody listens to `stats`.
        """
        self._lookup = lookup
        self._stats = stats
        self._store = store
        self._forget_client = forget_client
        self._now_ns = now_ns
        self._kills = SparseLog(clock, KILL_LOG_INTERVAL)
        self._foreign = SparseLog(clock, KILL_LOG_INTERVAL)
        self._handlers: dict[str, Callable[[ClientId, common.Message], Coroutine[Any, Any, None]]] = {
            "MessageAck": self._acknowledge,
            "MessageError": self._note_error,
            "ClientInfo": self._update_labels,
            "ResourceUsage": self._record_usage,
        }

    def start(self) -> None:
        """Nothing to get ready."""

    def stop(self) -> None:
        """Nothing to finish."""

    def process(self, message: common.Message) -> Awaitable[None] | None:
        """Raises PermanentError for what is no system message of a client."""
        client_id = _source(message)
        if not message.HasField("data"):
            raise PermanentError("no Data present")
        if message.message_type == "KillNotification":
            kill = _unpack(message, monitoring.KillNotification())
            self._log_kill(client_id, kill)
            return self._count_kill(client_id, kill) if self._stats.active else None
        handler = self._handlers.get(message.message_type)
        if handler is None:
            raise PermanentError(f"unknown system message type: {message.message_type}")
        return _judged(handler(client_id, message))

    async def _acknowledge(self, client_id: ClientId, message: common.Message) -> None:
        acked = _unpack(message, system.MessageAckData()).message_ids
        message_ids = [_message_id(raw) for raw in acked]
        if message_ids:
            await only(self._store.acknowledge([Ack(client_id, message_ids)]))

    async def _note_error(self, client_id: ClientId, message: common.Message) -> None:
        error = _unpack(message, system.MessageErrorData())
        message_id = _message_id(error.message_id)
        if not message_id:
            raise PermanentError("the message error names no message")
        [failed] = await self._store.get_messages([message_id], want_data=False)
        if failed.destination.client_id != client_id:
            raise PermanentError(f"message {ids.show(message_id)} was not addressed to client {ids.show(client_id)}")
        result = common.MessageResult(failed=True, failed_reason=cut(error.error, ERROR_LIMIT))
        result.processed_time.FromNanoseconds(self._now_ns())
        await self._store.set_message_results([ResultUpdate(message_id, result, destination=client_id)])

    async def _update_labels(self, client_id: ClientId, message: common.Message) -> None:
        stated = self._own_labels(client_id, _unpack(message, system.ClientInfoData()))
        known = (await self._store.client_data([client_id])).get(client_id)
        if known is None:
            raise TemporaryError(f"client {ids.show(client_id)} is not stored yet")
        stored = {label for label in known.labels if label.service == CLIENT}
        if stated != stored:
            await self._store.update_client_labels(client_id, sorted(stated - stored), sorted(stored - stated))
        self._forget_client(client_id)

    def _own_labels(self, client_id: ClientId, info: system.ClientInfoData) -> set[Label]:
        labels = {Label(label.service_name, label.label) for label in info.labels}
        own = {label for label in labels if label.service == CLIENT}
        if len(own) < len(labels) and self._foreign.due():
            log.error(
                "client {client_id} states labels of other services than client; they are passed over",
                client_id=ids.show(client_id),
            )
        return own

    async def _record_usage(self, client_id: ClientId, message: common.Message) -> None:
        usage = _unpack(message, monitoring.ResourceUsageData())
        if self._stats.active:
            self._stats.resource_usage_received(client_id, usage, await self._known(client_id))
        await self._store.record_resource_usage(client_id, usage)

    async def _count_kill(self, client_id: ClientId, kill: monitoring.KillNotification) -> None:
        self._stats.kill_notification_received(client_id, kill, await self._known(client_id))

    async def _known(self, client_id: ClientId) -> ClientData | None:
        """For statistics only, so a store that fails must not fail the message."""
        try:
            return await self._lookup(client_id) if self._lookup is not None else None
        except StoreError:
            return None

    def _log_kill(self, client_id: ClientId, kill: monitoring.KillNotification) -> None:
        if self._kills.due():
            known = monitoring.KillNotification.Reason.DESCRIPTOR.values_by_number.get(kill.reason)
            log.warn(
                "client {client_id} killed process {pid} of service {service} (reason {reason}); "
                "{more} more such notifications since the last line",
                client_id=ids.show(client_id),
                pid=kill.pid,
                service=cut(kill.service, SHOWN),
                reason=known.name if known is not None else kill.reason,
                more=self._kills.take_held_back(),
            )


async def _judged(work: Coroutine[Any, Any, None]) -> None:
    """Tell failures that will never go away from those that may."""
    try:
        await work
    except (InvalidRecord, NotFound) as error:
        raise PermanentError(str(error)) from error
    except StoreError as error:
        raise TemporaryError(f"the store failed: {error}") from error


def _source(message: common.Message) -> ClientId:
    if not message.HasField("source"):
        raise PermanentError("source is nil")
    try:
        client_id = ids.client_id(message.source.client_id)
    except ValueError as error:
        raise PermanentError(f"invalid source client id[{message.source.client_id.hex()}]: {error}") from error
    if not client_id:
        raise PermanentError("invalid source client id[nil]: it is empty")
    return client_id


def _message_id(raw: bytes) -> MessageId:
    try:
        return ids.message_id(raw)
    except ValueError as error:
        raise PermanentError(str(error)) from error


def _unpack(message: common.Message, into: _P) -> _P:
    wanted = into.DESCRIPTOR.full_name
    try:
        if message.data.Unpack(into):
            return into
    except DecodeError as error:
        raise PermanentError(f"unable to parse the {wanted} of a {message.message_type}: {error}") from error
    raise PermanentError(f"a {message.message_type} must carry a {wanted}, got [{message.data.type_url}]")
