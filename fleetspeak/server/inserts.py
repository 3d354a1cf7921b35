"""How a message of the server side enters the system: checked, stored, and pushed to where it is awaited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.errors import InvalidRecord, NotFound, NotReady, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import INotifier, IStore
from fleetspeak.pb import common
from fleetspeak.program.awaiting import when_done
from fleetspeak.records import AuditCall, ClientData
from fleetspeak.server.services.backlog import Backlog, results
from fleetspeak.server.services.manager import Lookup, ServiceManager
from fleetspeak.server.stats import NO_STATS, ServerStats

MAX_MESSAGE = 2 * 1024 * 1024
"""Most bytes of a serialized message for a client: what a client can take in one channel frame."""

STREAM_LIFE_NS = 11 * 60 * 1_000_000_000
"""A stream that began longer ago is over: they live for 10 minutes, jitter on top."""

log = Logger()


class Dispatch(Protocol):
    """`fleetspeak.server.dispatch.Dispatcher.dispatch`: wake the client's stream here; False: there is none."""

    def __call__(self, client_id: ClientId) -> bool: ...


class Inserter:
    """Inserts messages for the admin API and for services.  All in the reactor's thread."""

    def __init__(
        self,
        store: IStore,
        lookup: Lookup,
        dispatch: Dispatch,
        notifier: INotifier,
        manager: ServiceManager,
        backlog: Backlog,
        now_ns: Callable[[], int],
        stats: ServerStats = NO_STATS,
    ) -> None:
        self._store = store
        self._lookup = lookup
        self._dispatch = dispatch
        self._notifier = notifier
        self._manager = manager
        self._backlog = backlog
        self._now_ns = now_ns
        self._stats = stats
        self._at_once: dict[MessageId, Deferred[None]] = {}
        self._looking: set[Deferred[None]] = set()

    async def insert(self, message: common.Message, audit: AuditCall | None = None) -> None:
        """Fill in id and creation time where they are missing, store `message`, and set it on its way.

        Done when it is committed; inserting the same message again is no error.

        @param audit: the call of the admin API by which it comes, to be written down together with it.

        Raises InvalidRecord, NotFound (an unknown client), or another StoreError.
        """
        _complete(message, self._now_ns())
        client_id = _destination(message)
        client = await self._check_for_client(client_id, message) if client_id else None
        message.ClearField("result")
        self._stats.message_saved(message, bool(client_id), client)
        await self._store.store_messages([message], audit=audit)
        if client_id:
            self._push(client_id)
        else:
            self._process_at_once(message)

    async def stop(self) -> None:
        """Wait for the messages that are being processed at once, and for looks for other servers' streams."""
        while self._at_once:
            await when_done(next(iter(self._at_once.values())))
        while self._looking:
            await when_done(next(iter(self._looking)))

    async def _check_for_client(self, client_id: ClientId, message: common.Message) -> ClientData:
        client = await self._lookup(client_id)
        if client is None:
            raise NotFound(f"expected 1 destination client result, got 0: there is no client {ids.show(client_id)}")
        size = message.ByteSize()
        if size > MAX_MESSAGE:
            raise InvalidRecord(
                f"message intended for client {ids.show(client_id)} is of size {size}, "
                f"which exceeds the {MAX_MESSAGE}-byte limit",
                "data",
            )
        return client

    def _push(self, client_id: ClientId) -> None:
        """Best effort, which nobody waits for: the message is committed, and the client's next contact takes it in any
        case."""
        if self._dispatch(client_id) or not self._notifier.reaches_others:
            return
        work = Deferred.fromCoroutine(self._notify_elsewhere(client_id))
        if not work.called:
            self._looking.add(work)
            work.addBoth(lambda _: self._looking.discard(work))

    async def _notify_elsewhere(self, client_id: ClientId) -> None:
        try:
            stream = (await self._store.client_streams([client_id])).get(client_id)
            if stream is not None and self._now_ns() - stream.since_ns < STREAM_LIFE_NS:
                self._notifier.notify(stream.address, client_id)
        except StoreError as error:
            log.warn(
                "cannot find the server of the stream of client {client_id}: {error}",
                client_id=ids.show(client_id),
                error=error,
            )
        except Exception:
            log.failure("cannot tell the server of the stream of client {client_id}", client_id=ids.show(client_id))

    def _process_at_once(self, message: common.Message) -> None:
        """It is stored as pending, so whatever happens here, the backlog finishes it."""
        message_id = MessageId(message.message_id)
        if message_id not in self._at_once:
            work = Deferred.fromCoroutine(self._process(message_id, message))
            if not work.called:
                self._at_once[message_id] = work
                work.addBoth(self._done_at_once, message_id)

    def _done_at_once(self, _: object, message_id: MessageId) -> None:
        del self._at_once[message_id]

    async def _process(self, message_id: MessageId, message: common.Message) -> None:
        try:
            if await self._store.message_results([message_id]):
                return  # it was inserted before, and is done
            await self._manager.process([message], None, first_try=True)
            done = results([message])
            if done:
                await self._store.set_message_results(done)
            else:
                self._backlog.wake()
        except NotReady:
            return  # stopping
        except StoreError as error:
            log.error(
                "message {message_id} stays pending for now: {error}", message_id=ids.show(message_id), error=error
            )
        except Exception:
            log.failure("message {message_id} stays pending for now", message_id=ids.show(message_id))


def _complete(message: common.Message, now_ns: int) -> None:
    if not message.destination.service_name:
        raise InvalidRecord("message must have Destination", "destination.service_name")
    if not message.source.service_name:
        raise InvalidRecord("message must have Source", "source.service_name")
    if not message.message_id:
        message.message_id = ids.random_message_id()
    elif len(message.message_id) != ids.MESSAGE_ID_SIZE:
        raise InvalidRecord("MessageID must be 32 bytes", "message_id")
    if not message.HasField("creation_time"):
        message.creation_time.FromNanoseconds(now_ns)


def _destination(message: common.Message) -> ClientId:
    try:
        return ids.client_id(message.destination.client_id)
    except ValueError as error:
        raise InvalidRecord(f"unable to parse destination client id: {error}", "destination.client_id") from error
