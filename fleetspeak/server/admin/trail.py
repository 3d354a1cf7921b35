"""The audit trail: no call that changes something is carried out before its entry is in the store.

An entry is written before a call, without an outcome; a store that cannot write it means that the call is refused.  The
outcome follows behind the call, many at a time, and nobody waits for it.  What has no outcome in the trail was under
way when the server was killed, or its outcome could not be written: it may have been carried out.

The entry of an inserted message is written in the same transaction as the message: one commit does for both.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from fleetspeak.core.auditing import describe
from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.pb import admin, common, operator
from fleetspeak.program.awaiting import when_done
from fleetspeak.records import AuditCall, AuditEnd
from fleetspeak.server.admin.access import Caller, Denied
from fleetspeak.server.admin.hop import status_of
from fleetspeak.store.outcome import only

MAX_WAITING = 10_000
"""Most outcomes that wait for the store; of more, the oldest are given up."""

BATCH = 500
RETRY = 1.0
"""Seconds until outcomes that could not be written are tried again."""

DENIALS = 30
DENIALS_PER_SECOND = 1.0
"""Refused calls that are written down: so many at once, and so many a second.  Others are counted."""

T = TypeVar("T")

log = Logger()


class Trail:
    """Writes the entries.  All in the reactor's thread."""

    def __init__(self, store: IStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor
        self._ends: deque[AuditEnd] = deque()
        self._writing: Deferred[None] | None = None
        self._is_writing = False
        self._sleep: Deferred[None] | None = None
        self._stopping = False
        self._denials = _Bucket(DENIALS, DENIALS_PER_SECOND, reactor.seconds)
        self._denied: set[Deferred[None]] = set()

    async def begin(self, caller: Caller, method: str, request: Message) -> Begun:
        """Write the entry of a call that is about to be carried out.

        @raise StoreError: it cannot be written, and the call must not be carried out.
        """
        call = _call(caller, method, request)
        try:
            number = await only(self._store.begin_audit([call]))
        except StoreError as error:
            raise StoreError(f"nothing was done, because the audit trail cannot be written: {error}") from error
        return Begun(self, number, self._reactor.seconds)

    async def follow(self, caller: Caller, method: str, work: Callable[[Any], Awaitable[T]], request: Any) -> T:
        """Carry out ``work(request)`` with an entry.  Raises what it raises, and what `begin` raises."""
        begun = await self.begin(caller, method, request)
        try:
            reply = await work(request)
        except BaseException as error:
            begun.end(error)
            raise
        begun.end()
        return reply

    async def together(
        self, caller: Caller, method: str, work: Callable[[Any, AuditCall], Awaitable[T]], request: Any
    ) -> T:
        """Carry out ``work(request, entry)``, which writes the entry in the transaction of what it changes.

        For what is called often.  If nothing was changed, the entry is written here, and says why.  A call that is
        cancelled in between has its entry if it had its effect.
        """
        call = _call(caller, method, request)
        since = self._reactor.seconds()
        try:
            return await work(request, call)
        except Exception as error:
            if not isinstance(error, CancelledError):
                await self._write(call, *status_of(error), since)
            raise

    def denied(self, method: str, denied: Denied) -> None:
        """Write down that a call was refused, unless there are too many."""
        if len(self._denied) >= DENIALS or not self._denials.take():
            return
        before = self._denials.forget_missed()
        request = f"{before} calls that were refused before this one are not written down" if before else ""
        caller = denied.caller
        call = AuditCall(caller.name, caller.address, _role(caller), method, request)
        writing = Deferred.fromCoroutine(self._write(call, denied.code, str(denied), self._reactor.seconds()))
        self._denied.add(writing)
        writing.addBoth(lambda _: self._denied.discard(writing))

    async def settled(self) -> None:
        """Wait until what has ended by now is written, or could not be."""
        for writing in list(self._denied):
            await when_done(writing)
        if self._is_writing and self._writing is not None:
            await when_done(self._writing)

    async def stop(self) -> None:
        """Write what is left."""
        self._stopping = True
        self._wake()
        await self.settled()

    def ended(self, end: AuditEnd) -> None:
        """Have an outcome written."""
        self._ends.append(end)
        if len(self._ends) > MAX_WAITING:
            self._ends.popleft()
        if not self._is_writing:
            self._is_writing = True
            self._writing = Deferred.fromCoroutine(self._write_ends())
            self._writing.addErrback(lambda failure: log.failure("the audit trail has no outcomes", failure=failure))

    async def _write_ends(self) -> None:
        try:
            while self._ends:
                batch = [self._ends.popleft() for _ in range(min(BATCH, len(self._ends)))]
                if not await self._write_batch(batch):
                    return
        finally:
            self._is_writing = False

    async def _write_batch(self, batch: list[AuditEnd]) -> bool:
        """False: it is time to give up."""
        try:
            await self._store.end_audit(batch)
        except StoreError as error:
            log.error(
                "the outcomes of {count} calls are not in the audit trail: {error}", count=len(batch), error=error
            )
            if self._stopping:
                return False
            self._ends.extendleft(reversed(batch))
            await self._pause()
        return True

    async def _pause(self) -> None:
        self._sleep = Deferred()
        timer = self._reactor.callLater(RETRY, self._wake)
        try:
            await self._sleep
        finally:
            if timer.active():
                timer.cancel()

    def _wake(self) -> None:
        if self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep.callback(None)

    async def _write(self, call: AuditCall, code: str, text: str, since: float) -> None:
        """Write the entry of a call that changed nothing."""
        try:
            number = await only(self._store.begin_audit([call]))
        except StoreError as error:
            log.error("a call that was refused is not in the audit trail: {error}", error=error)
        else:
            self.ended(AuditEnd(number, code, text, int((self._reactor.seconds() - since) * 1e9)))


class Begun:
    """A call that is in the trail, and has no outcome yet."""

    def __init__(self, trail: Trail, number: int, seconds: Callable[[], float]) -> None:
        self._trail = trail
        self._number = number
        self._seconds = seconds
        self._since = seconds()

    def end(self, error: BaseException | None = None) -> None:
        """It is over; None: all went well."""
        code, text = ("OK", "") if error is None else _outcome(error)
        self._trail.ended(AuditEnd(self._number, code, text, int((self._seconds() - self._since) * 1e9)))


class _Bucket:
    """So many at once, and so many a second."""

    def __init__(self, size: int, rate: float, seconds: Callable[[], float]) -> None:
        self._size = self._left = float(size)
        self._rate = rate
        self._seconds = seconds
        self._seen = seconds()
        self._missed = 0

    def take(self) -> bool:
        now = self._seconds()
        self._left = min(self._size, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1:
            self._missed += 1
            return False
        self._left -= 1
        return True

    def forget_missed(self) -> int:
        missed, self._missed = self._missed, 0
        return missed


def _outcome(error: BaseException) -> tuple[str, str]:
    if isinstance(error, CancelledError):
        return "CANCELLED", "the call was cancelled while it was carried out; it may have had its effect"
    return status_of(error) if isinstance(error, Exception) else ("UNKNOWN", type(error).__name__)


def _call(caller: Caller, method: str, request: Message) -> AuditCall:
    """The entry.  The ids that the server would choose are chosen here, so that the entry has them."""
    _choose_ids(request)
    return AuditCall(caller.name, caller.address, _role(caller), method, describe(request))


def _role(caller: Caller) -> str:
    return str(caller.role) if caller.role else ""


def _choose_ids(request: Message) -> None:
    if isinstance(request, common.Message):
        if not request.message_id:
            request.message_id = secrets.token_bytes(32)
    elif (
        isinstance(request, (admin.CreateBroadcastRequest, operator.CreateBroadcastRequest))
        and request.HasField("broadcast")
        and not request.broadcast.broadcast_id
    ):
        request.broadcast.broadcast_id = secrets.token_bytes(8)
