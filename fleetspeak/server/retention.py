"""Deletes what is old, as long as the server runs or once.  All in the reactor's thread."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from fleetspeak.core import retention
from fleetspeak.core.retention import Keep, Pass
from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.program.awaiting import when_done
from fleetspeak.program.nap import Nap

INTERVAL = 3600.0
"""Seconds from the end of a pass to the beginning of the next one."""

FIRST_PAUSE = 60.0
"""Seconds after the start, at most, when the first pass begins: the server has other things to do then."""

LEASE_NAME = "retention"
LEASE = 60.0
"""Seconds after which another process takes over from one that has gone without a word."""

RENEWAL = 15.0
"""Seconds between two renewals; a process that is killed repeats what it did since the last one."""

OTHERS_TURN = 30.0
"""Seconds until we ask again whether another process still prunes."""

BACK_OFF = 60.0
"""Seconds of rest after the store failed."""

STOP_TIME = 5.0
"""Seconds that a part may take when the server stops, before it is given up."""

log = Logger()


class PruningStats(Protocol):
    """Who hears of it; `fleetspeak.interfaces.IServerStats` has this."""

    def rows_pruned(self, table: str, rows: int) -> None:
        """So many rows were deleted from a table."""


class Pruner:
    """Carries out passes, one process at a time."""

    def __init__(
        self,
        store: IStore,
        keep: Keep,
        reactor: Any,
        now_ns: Callable[[], int],
        stats: PruningStats | None = None,
        *,
        share: float = retention.SHARE,
    ) -> None:
        """
        @param keep: for how long; see `fleetspeak.core.retention.parse_keep`.
        @param share: of the time, how much is spent pruning.
        """
        self._store = store
        self._keep = keep
        self._reactor = reactor
        self._now_ns = now_ns
        self._stats = stats
        self._share = share
        self._holder = secrets.token_bytes(16)
        self._renewed_at = 0.0
        self._nap = Nap(reactor)
        self.going = True
        """False: end after the part that is just being carried out."""
        self.rows: Counter[str] = Counter()
        """Deleted so far, by table."""

    async def begin(self) -> str | None:
        """Become the only one who prunes.

        @return: what the last one has left; None: another one is at it.  @raise StoreError
        """
        return await self._lease(None)

    async def finish_pass(self, state: str) -> bool:
        """Carry out a pass, or the rest of one, and let others begin.

        @return: False if it was broken off; it can be gone on with.  @raise StoreError
        """
        current = Pass(self._keep, state, share=self._share)
        try:
            return await self._go_through(current)
        finally:
            await self.end(current.state() or retention.finished(self._keep, self._now_ns()))

    async def end(self, state: str | None) -> None:
        """Let others begin.  @param state: what they shall know; None: what they would anyway."""
        try:
            await self._store.lease(LEASE_NAME, self._holder, 0, state)
        except StoreError as error:
            log.warn("cannot tell others that retention has paused here: {error}", error=error)

    async def count(self) -> dict[str, Counter[str]]:
        """What a pass would delete: by kind, the rows by table.  Locks nothing, and needs no turn."""
        counted: dict[str, Counter[str]] = {}
        current = Pass(self._keep, share=self._share, dry_run=True)
        while (request := current.next(self._now_ns())) is not None and self.going:
            began = self._reactor.seconds()
            pruned = await self._store.prune(request)
            counted.setdefault(request.kind, Counter()).update(pruned.rows)
            await self.pause(current.done(pruned, self._reactor.seconds() - began))
        return counted

    async def _go_through(self, current: Pass) -> bool:
        while self.going:
            request = current.next(self._now_ns())
            if request is None:
                return True
            began = self._reactor.seconds()
            pruned = await self._store.prune(request)
            pause = current.done(pruned, self._reactor.seconds() - began)
            for table, rows in pruned.rows.items():
                self.rows[table] += rows
                if self._stats is not None:
                    self._stats.rows_pruned(table, rows)
            if self._reactor.seconds() - self._renewed_at > RENEWAL and await self._lease(current.state()) is None:
                log.warn("another process has taken over retention: this one was too slow")
                return False
            await self.pause(pause)
        return False

    async def _lease(self, state: str | None) -> str | None:
        self._renewed_at = self._reactor.seconds()
        return await self._store.lease(LEASE_NAME, self._holder, self._now_ns() + int(LEASE * 1e9), state)

    async def pause(self, seconds: float) -> None:
        """Sleep, until `wake`."""
        if self.going:
            await self._nap.sleep(seconds)

    def wake(self) -> None:
        """End a pause."""
        self._nap.wake()


class Retention:
    """Prunes as long as the server runs: passes, with an hour of rest after each, in turn with other servers."""

    def __init__(
        self,
        store: IStore,
        keep: Keep,
        reactor: Any,
        now_ns: Callable[[], int],
        stats: PruningStats | None = None,
        uniform: Callable[[], float] = random.random,
        interval: float = INTERVAL,
    ) -> None:
        """See `Pruner`.  @param interval: seconds of rest."""
        self._keep = keep
        self._now_ns = now_ns
        self._uniform = uniform
        self._interval = interval
        self._reactor = reactor
        self._pruner = Pruner(store, keep, reactor, now_ns, stats)
        self._loop: Deferred[None] | None = None

    @property
    def rows(self) -> Counter[str]:
        """Deleted since the start, by table."""
        return self._pruner.rows

    def start(self) -> None:
        """Begin, after a while."""
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(_ended)

    async def stop(self) -> None:
        """End after the part that is just being carried out, or give it up."""
        self._pruner.going = False
        self._pruner.wake()
        if self._loop is not None:
            timer = self._reactor.callLater(STOP_TIME, self._loop.cancel)
            await when_done(self._loop)
            if timer.active():
                timer.cancel()
            self._loop = None

    async def _run(self) -> None:
        rest = FIRST_PAUSE * self._uniform()
        while self._pruner.going:
            await self._pruner.pause(rest)
            if not self._pruner.going:
                return
            rest = await self._turn_or_wait()

    async def _turn_or_wait(self) -> float:
        try:
            return await self._turn()
        except CancelledError:
            raise
        except StoreError as error:
            log.error("retention has to wait {rest:.0f} s: {error}", rest=BACK_OFF, error=error)
        except Exception:
            log.failure("retention has failed in a way nobody thought of")
        return BACK_OFF

    async def _turn(self) -> float:
        """Prune, if it is our turn.  Returns for how many seconds to rest."""
        state = await self._pruner.begin()
        if state is None:
            return OTHERS_TURN
        rest = retention.wait(state, self._keep, self._now_ns(), int(self._interval * 1e9)) / 1e9
        if rest:
            await self._pruner.end(None)
            return rest
        before, began = self.rows.copy(), self._reactor.seconds()
        if await self._pruner.finish_pass(state):
            _tell(self.rows - before, self._reactor.seconds() - began)
        return self._interval


def _tell(rows: Counter[str], seconds: float) -> None:
    if rows:
        listed = ", ".join(f"{count} of {table}" for table, count in sorted(rows.items()))
        log.info(
            "retention deleted {rows} rows in {seconds:.0f} s: {listed}",
            rows=rows.total(),
            seconds=seconds,
            listed=listed,
        )


def _ended(failure: Any) -> None:
    if not failure.check(CancelledError):
        log.failure("retention has ended", failure=failure)
