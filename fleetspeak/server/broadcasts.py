"""Broadcasts: this server's shares of them, and the clients these go to.  All in the reactor's thread."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.core.broadcasts import (
    FRACTION,
    GRACE_NS,
    LIFETIME_NS,
    REFILL_FRACTION,
    Entry,
    affordable,
    candidates,
    kept,
)
from fleetspeak.errors import AlreadyExists, NotSent, StoreError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.program.awaiting import when_done
from fleetspeak.records import UNLIMITED, ActiveBroadcast, BroadcastSend, Label
from fleetspeak.server.stats import NO_STATS, ServerStats

RATE = 500.0
"""Connected clients a second that are sent a new broadcast, if nobody says otherwise: each costs a look and a write,
and answers come back just as fast."""

STEP = 0.05
"""Seconds between two groups of clients that are woken."""

LOOK = 2.0
"""Most seconds until it is seen that another server created, paused or disabled a broadcast."""

REFILL_PAUSE = 0.1
"""Seconds after a share was used up until another one is taken."""

REMEMBERED = 65_536
"""Most clients of which it is known that there is nothing for them."""

log = Logger()


class Streams(Protocol):
    """`fleetspeak.server.dispatch.Dispatcher`: the clients that have streams here."""

    def client_ids(self) -> list[ClientId]: ...

    def dispatch(self, client_id: ClientId) -> bool: ...


class BroadcastManager:
    """Takes shares of active broadcasts, hands them out to clients, and gives back what is left.

    The store is looked at in three ways: a refresh, as rarely as upstream does; a look at the ids of what is active,
    which makes for a refresh when they changed; and at once when told by `refresh_soon`.
    """

    def __init__(
        self,
        store: IStore,
        streams: Streams,
        reactor: Any,
        now_ns: Callable[[], int],
        *,
        poll_time: float = 60.0,
        rate: float = RATE,
        uniform: Callable[[], float] = random.random,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """@param poll_time: seconds; a refresh follows the one before after once to twice as many.
        @param rate: connected clients a second that are sent a new broadcast."""
        self._store = store
        self._reactor = reactor
        self._now_ns = now_ns
        self._poll_time = poll_time
        self._uniform = uniform
        self._stats = stats
        self._spread = _Spread(streams, reactor, rate)
        self._entries: dict[bytes, Entry] = {}
        self._active: list[bytes] = []
        """The ids of what was active at the last refresh."""
        self._generation = 0
        """Grows with each broadcast that is new here."""
        self._nothing_for: OrderedDict[ClientId, tuple[int, frozenset[Label]]] = OrderedDict()
        """Clients for which there was nothing (more) of that generation, as long as they had these labels."""
        self._short: set[ClientId] = set()
        """Clients that got nothing because the share was used up."""
        self._refill: IDelayedCall | None = None
        self._next_refresh = 0.0
        self._going = self._woken = False
        self._sleep: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        self._returning: set[Deferred[None]] = set()

    async def start(self) -> None:
        """Take the first shares.  Raises StoreError."""
        await self._refresh()
        self._going = True
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(lambda failure: log.failure("the broadcasts have ended", failure=failure))

    async def stop(self) -> None:
        """Send no more, and give everything back."""
        self._going = False
        self._spread.stop()
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        self.refresh_soon()
        if self._loop is not None:
            await self._loop
            self._loop = None
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            if not entry.users:  # else it is given back by the last of them
                self._give_back(entry)
        while self._returning:
            await when_done(next(iter(self._returning)))

    def refresh_soon(self) -> None:
        """Something has changed: a broadcast was created, paused, resumed or disabled here."""
        self._next_refresh = 0.0
        self._woken = True
        if self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep.callback(None)

    # -- what a client gets

    def may_have(self, client_id: ClientId, labels: frozenset[Label]) -> bool:
        """See `fleetspeak.server.contact.seams.Broadcaster`."""
        if not self._entries or self._nothing_for.get(client_id) == (self._generation, labels):
            return False
        return bool(candidates(self._entries.values(), labels, self._now_ns()))

    async def take(
        self, client_id: ClientId, labels: frozenset[Label], tokens: Mapping[str, int] | None, contact_id: str
    ) -> list[common.Message]:
        """See `fleetspeak.server.contact.seams.Broadcaster`."""
        generation = self._generation
        try:
            had = (await self._store.sent_broadcasts([client_id])).get(client_id, [])
            now_ns = self._now_ns()
            wanted = [
                entry for entry in candidates(self._entries.values(), labels, now_ns) if entry.broadcast_id not in had
            ]
            reserved = [entry for entry in affordable(wanted, tokens) if self._reserve(entry, client_id)]
            sent = await self._send(reserved, client_id, contact_id, now_ns) if reserved else []
        except CancelledError:
            raise
        except StoreError as error:
            log.warn("no broadcasts for client {client_id}: {error}", client_id=ids.show(client_id), error=error)
            return []
        if len(sent) == len(wanted):
            self._remember(client_id, generation, labels)
        return sent

    def _reserve(self, entry: Entry, client_id: ClientId) -> bool:
        if entry.reserve():
            return True
        self._note_short(client_id)
        self._refill_soon()
        return False

    def _note_short(self, client_id: ClientId) -> None:
        if len(self._short) < REMEMBERED:
            self._short.add(client_id)

    def _refill_soon(self) -> None:
        if self._refill is None and self._going:
            self._refill = self._reactor.callLater(REFILL_PAUSE, self._refill_now)

    def _refill_now(self) -> None:
        self._refill = None
        self.refresh_soon()

    async def _send(
        self, entries: Sequence[Entry], client_id: ClientId, contact_id: str, now_ns: int
    ) -> list[common.Message]:
        sends = [
            BroadcastSend(_message(entry, client_id, now_ns), entry.broadcast_id, entry.allocation_id, contact_id)
            for entry in entries
        ]
        for entry in entries:
            entry.users += 1
        outcomes: Sequence[StoreError | None] = [NotSent("it was given up")] * len(entries)
        try:
            outcomes = await self._store.save_broadcast_messages(sends)
        finally:
            # What was saved although nobody heard of it is in the store's own count, which is the one that binds.
            for entry, outcome in zip(entries, outcomes, strict=True):
                self._settle(entry, outcome)
        for entry, outcome in zip(entries, outcomes, strict=True):
            self._explain(entry, client_id, outcome)
        sent = [send for send, outcome in zip(sends, outcomes, strict=True) if outcome is None]
        for send in sent:
            self._stats.message_saved(send.message, True, None)
            self._stats.broadcast_sent(send.broadcast_id)
        return [send.message for send in sent]

    def _settle(self, entry: Entry, outcome: StoreError | None) -> None:
        entry.users -= 1
        if outcome is not None:
            entry.unreserve()
        if entry.users:
            return
        if self._entries.get(entry.broadcast_id) is not entry:
            self._give_back(entry)
        elif not entry.has_room:
            self._refill_soon()  # and let it be seen how far the broadcast is

    def _explain(self, entry: Entry, client_id: ClientId, outcome: StoreError | None) -> None:
        if isinstance(outcome, NotSent):
            entry.is_void = True
            self._note_short(client_id)
            self.refresh_soon()
        elif outcome is not None and not isinstance(outcome, AlreadyExists):  # else another connection had it
            log.warn(
                "broadcast {broadcast_id} was not sent to client {client_id}: {error}",
                broadcast_id=ids.show(entry.broadcast_id),
                client_id=ids.show(client_id),
                error=outcome,
            )

    def _remember(self, client_id: ClientId, generation: int, labels: frozenset[Label]) -> None:
        self._nothing_for.pop(client_id, None)
        self._nothing_for[client_id] = (generation, labels)
        if len(self._nothing_for) > REMEMBERED:
            self._nothing_for.popitem(last=False)

    # -- refreshing

    async def _run(self) -> None:
        while self._going:
            await self._pause(min(LOOK, self._poll_time))
            try:
                if self._going and await self._is_due():
                    await self._refresh()
            except StoreError as error:
                log.error("cannot look for broadcasts: {error}", error=error)
            except Exception:
                log.failure("cannot look for broadcasts")

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless `refresh_soon` was called since the last time."""
        if not self._woken:
            self._sleep = Deferred()
            timer = self._reactor.callLater(seconds, self.refresh_if_due)
            try:
                await self._sleep
            finally:
                if timer.active():
                    timer.cancel()
        self._woken = False

    def refresh_if_due(self) -> None:
        """Look whether there is a reason for a refresh."""
        if self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep.callback(None)

    async def _is_due(self) -> bool:
        if self._reactor.seconds() >= self._next_refresh:
            return True
        if await self._store.active_broadcast_ids() != self._active:
            return True
        return bool(await self._failing(self._entries.values()))

    async def _refresh(self) -> None:
        self._next_refresh = self._reactor.seconds() + self._poll_time * (1 + self._uniform())
        active = await self._store.active_broadcasts()
        failing = await self._failing(active)
        if failing:
            await self._disable(failing)
            active = [one for one in active if one.broadcast.broadcast_id not in failing]
        before = self._entries
        keep = kept(before.values(), self._now_ns(), int(2 * self._poll_time * 1e9))
        table: dict[bytes, Entry] = {}
        for one in active:
            broadcast_id = one.broadcast.broadcast_id
            entry = keep.get(broadcast_id) or await self._open(one, before.get(broadcast_id))
            if entry is not None:
                table[broadcast_id] = entry
        self._entries = table
        self._active = [one.broadcast.broadcast_id for one in active]
        self._hand_out(before, table)
        for entry in before.values():
            if table.get(entry.broadcast_id) is not entry and not entry.users:
                self._give_back(entry)
        await self._account(table.values())
        await self._store.sweep_allocations(self._now_ns() - GRACE_NS)

    def _hand_out(self, before: Mapping[bytes, Entry], table: Mapping[bytes, Entry]) -> None:
        """Let the clients that are connected come for what is new."""
        short, self._short = self._short, set()
        if any(broadcast_id not in before for broadcast_id in table):
            self._generation += 1
            self._spread.to_all()
        elif any(before[broadcast_id] is not entry for broadcast_id, entry in table.items()):
            self._spread.to(short)

    async def _open(self, active: ActiveBroadcast, before: Entry | None) -> Entry | None:
        """Begin with a broadcast, or go on, if anything of it is left."""
        broadcast, limit = active.broadcast, active.limit
        if limit == UNLIMITED:
            return Entry(broadcast, UNLIMITED, max_errors=active.max_errors)
        fraction = FRACTION if before is None or before.has_room else REFILL_FRACTION
        try:
            allocation = await self._store.allocate_broadcast(
                broadcast.broadcast_id, fraction, self._now_ns() + LIFETIME_NS
            )
        except StoreError as error:
            log.error(
                "no share of broadcast {broadcast_id}: {error}",
                broadcast_id=ids.show(broadcast.broadcast_id),
                error=error,
            )
            return None
        if allocation is None:
            return None
        return Entry(
            broadcast, allocation.limit, allocation.allocation_id, allocation.expiry_ns, max_errors=active.max_errors
        )

    async def _failing(self, active: Iterable[ActiveBroadcast | Entry]) -> list[bytes]:
        """Those with which so many clients failed that they are to stop."""
        most = {one.broadcast.broadcast_id: one.max_errors for one in active if one.max_errors}
        if not most:
            return []
        errors = await self._store.broadcast_errors(list(most))
        return [broadcast_id for broadcast_id, count in errors.items() if count >= most[broadcast_id]]

    async def _disable(self, broadcast_ids: Sequence[bytes]) -> None:
        await self._store.disable_broadcasts(broadcast_ids)
        for broadcast_id in broadcast_ids:
            log.error(
                "broadcast {broadcast_id} was stopped: too many clients failed with it",
                broadcast_id=ids.show(broadcast_id),
            )

    # -- giving back

    async def _account(self, entries: Iterable[Entry]) -> None:
        """Let others see how far unlimited broadcasts are."""
        for entry in entries:
            count = entry.sent - entry.accounted
            if not entry.allocation_id and not entry.users and count:
                await self._store.clean_up_allocation(entry.broadcast_id, b"", count)
                entry.accounted += count

    def _give_back(self, entry: Entry) -> None:
        work = Deferred.fromCoroutine(self._return(entry))
        self._returning.add(work)
        work.addBoth(lambda _: self._returning.discard(work))

    async def _return(self, entry: Entry) -> None:
        try:
            await self._store.clean_up_allocation(entry.broadcast_id, entry.allocation_id, entry.sent - entry.accounted)
        except Exception as error:
            log.error(
                "a share of broadcast {broadcast_id} waits for the sweep: {error}",
                broadcast_id=ids.show(entry.broadcast_id),
                error=error,
            )


class _Spread:
    """Wakes streams, so many a second."""

    def __init__(self, streams: Streams, reactor: Any, rate: float) -> None:
        self._streams = streams
        self._reactor = reactor
        self._rate = rate
        self._waiting: deque[ClientId] = deque()
        self._credit = 0.0
        self._timer: IDelayedCall | None = None

    def to_all(self) -> None:
        """Wake all streams that are here now, in place of what was still to be done."""
        self._waiting = deque(self._streams.client_ids())
        self._go()

    def to(self, client_ids: Iterable[ClientId]) -> None:
        """Wake these too."""
        self._waiting.extend(client_ids)
        self._go()

    def stop(self) -> None:
        """Wake no more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        if self._timer is None and self._waiting:
            self._wake_some()

    def _wake_some(self) -> None:
        self._timer = None
        self._credit = min(self._credit + self._rate * STEP, max(1.0, self._rate * STEP))
        while self._waiting and self._credit >= 1:
            self._credit -= self._streams.dispatch(self._waiting.popleft())
        if self._waiting:
            self._timer = self._reactor.callLater(STEP, self._wake_some)


def _message(entry: Entry, client_id: ClientId, now_ns: int) -> common.Message:
    broadcast = entry.broadcast
    message = common.Message(
        message_id=ids.random_message_id(),
        source=common.Address(service_name=broadcast.source.service_name),
        destination=common.Address(client_id=client_id, service_name=entry.service),
        message_type=broadcast.message_type,
    )
    if broadcast.HasField("data"):
        message.data.CopyFrom(broadcast.data)
    message.creation_time.FromNanoseconds(now_ns)
    return message
