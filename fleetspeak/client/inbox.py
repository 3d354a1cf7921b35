"""A service's inbox and the worker that empties it: one message at a time, strictly in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.flow import Flow
from fleetspeak.client.reports import Reports
from fleetspeak.errors import FleetspeakError
from fleetspeak.interfaces import IClientService
from fleetspeak.pb import common
from fleetspeak.program.awaiting import outcome_of

CAPACITY = 100
"""Messages of the server that wait for one service; what the server is granted.  As many local ones may wait."""

_TURN = 100
"""Messages that are processed at a stretch before others get the reactor."""


class ServiceGone(Exception):
    """The service a local message waited for was removed."""


@dataclass(slots=True, eq=False)
class _Item:
    message: common.Message
    from_server: bool
    finished: bool = False


class Inbox:
    """Takes messages for one service, and hands them to it while it is attached.

    Success acks the server's message, an exception becomes a MessageError.  What is in progress when the service
    is detached is cancelled and not reported, so that the server sends it again; what is queued stays for the
    next instance.
    """

    _log = Logger()

    def __init__(self, name: str, flow: Flow, reports: Reports, clock: IReactorTime) -> None:
        self._name = name
        self._flow = flow
        self._reports = reports
        self._clock = clock
        self._queue: deque[_Item] = deque()
        self._local = 0
        self._waiting: deque[tuple[common.Message, Deferred[None]]] = deque()
        self._service: IClientService | None = None
        self._current: _Item | None = None
        self._working: Deferred[None] | None = None
        self._busy = False
        self._next_turn: IDelayedCall | None = None

    # ---- in

    def deliver(self, message: common.Message) -> bool:
        """Take a message of the server.  False: there is no room, the server exceeded its grant."""
        if len(self._queue) - self._local >= CAPACITY:
            return False
        self._flow.accepted(self._name)
        self._queue.append(_Item(message, from_server=True))
        self._work()
        return True

    def deliver_local(self, message: common.Message) -> Deferred[None]:
        """Take a message of a service on this client.

        @return: fires when there was room for it; cancelling takes it back until then.  Fails with ServiceGone.
        """
        if self._waiting or self._local >= CAPACITY:
            accepted: Deferred[None] = Deferred(lambda _: self._waiting.remove(waiting))
            waiting = (message, accepted)
            self._waiting.append(waiting)
            return accepted
        self._put_local(message)
        self._work()
        return succeed(None)

    # ---- the service

    def attach(self, service: IClientService) -> None:
        """Hand the messages to this service from now on."""
        self._service = service
        self._work()

    def detach(self) -> None:
        """Hand out no more messages, and cancel the one that is being processed."""
        self._service = None
        self._current = None
        self._busy = False
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        working, self._working = self._working, None
        if working is not None:
            working.cancel()

    def close(self) -> None:
        """Detach, and drop what is queued: the server sends it again."""
        self.detach()
        self._queue.clear()
        self._local = 0
        while self._waiting:
            self._waiting.popleft()[1].errback(ServiceGone(f"service {self._name} is stopped"))

    # ---- out

    def _work(self) -> None:
        if self._busy:
            return
        for _ in range(_TURN):
            if self._service is None or not self._queue:
                return
            if not self._process(self._service, self._take()):
                return
        if self._queue:
            self._busy = True
            self._next_turn = self._clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._next_turn = None
        self._busy = False
        self._work()

    def _take(self) -> _Item:
        item = self._queue.popleft()
        if item.from_server:
            self._flow.processed(self._name)
        else:
            self._local -= 1
            while self._waiting and self._local < CAPACITY:
                message, accepted = self._waiting.popleft()
                self._put_local(message)
                accepted.callback(None)
        return item

    def _process(self, service: IClientService, item: _Item) -> bool:
        """Begin with a message.  True: it is done already."""
        self._busy = True
        self._current = item
        try:
            outcome = service.process(item.message)
        except Exception:
            self._failed(Failure(), item)  # type: ignore[no-untyped-call]
            return self._done(item)
        if outcome is None:
            self._succeeded(None, item)
            return self._done(item)
        working = outcome_of(outcome)
        working.addCallbacks(self._succeeded, self._failed, callbackArgs=(item,), errbackArgs=(item,))
        if item.finished:
            return self._done(item)
        if self._current is item:
            self._working = working
            working.addCallback(self._resume, item)
        else:
            working.cancel()
        return False

    def _resume(self, _: None, item: _Item) -> None:
        if self._done(item):
            self._work()

    def _done(self, item: _Item) -> bool:
        """False: the service was detached meanwhile, and whoever was attached since is none of our business."""
        if self._current is not item:
            return False
        self._current = None
        self._working = None
        self._busy = False
        return True

    def _succeeded(self, _: object, item: _Item) -> None:
        item.finished = True
        if item.from_server:
            self._reports.ack(item.message.message_id)

    def _failed(self, failure: Failure, item: _Item) -> None:
        item.finished = True
        if self._current is not item:
            return
        self._log.warn(
            "service {service} failed to process a message of type {type!r}: {error}",
            service=self._name,
            type=item.message.message_type,
            error=failure.value,
        )
        if not isinstance(failure.value, FleetspeakError):  # not meant for people: perhaps a mistake in the service
            self._log.debug("{traceback()}", traceback=failure.getTraceback)
        if item.from_server:
            self._reports.error(item.message.message_id, str(failure.value) or type(failure.value).__name__)

    def _put_local(self, message: common.Message) -> None:
        self._queue.append(_Item(message, from_server=False))
        self._local += 1
