"""One installed service: calls it, at most so many times at once, and turns what happens into a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.errors import PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common
from fleetspeak.program.awaiting import as_deferred, failure_of
from fleetspeak.server.services.outcome import fail, succeed
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats.attempt import Attempt

LINE_FACTOR = 10
"""Messages that may wait in line for each one that may run; what comes on top waits in the store."""

LOG_INTERVAL = 10.0
"""Least seconds between two lines of the same trouble of one service."""

log = Logger()


class Call:
    """One message with one service: in line, then running, then settled, once."""

    __slots__ = ("attempt", "message", "runner", "settled", "work")

    def __init__(self, message: common.Message, runner: ServiceRunner, attempt: Attempt | None) -> None:
        self.message: common.Message | None = message
        """None once settled: from then on the message belongs to others, and a late outcome must not touch it."""
        self.runner = runner
        self.attempt = attempt
        self.settled: Deferred[None] = Deferred()
        self.work: Deferred[None] | None = None

    def give_up(self) -> None:
        """The time is over.  A service that ends at once when cancelled still decides; otherwise: pending."""
        if self.message is not None:
            self.runner.give_up(self)

    def settle(self) -> None:
        """Hand the message back."""
        self.message = None
        if not self.settled.called:
            self.settled.callback(None)


class ServiceRunner:
    """Runs one service.  All in the reactor's thread."""

    def __init__(
        self,
        name: str,
        service: IServerService,
        max_parallelism: int,
        clock: IReactorTime,
        now_ns: Callable[[], int],
    ) -> None:
        self.name = name
        self.service = service
        self._max_parallelism = max_parallelism
        self._now_ns = now_ns
        self._running = 0
        self._line: dict[Call, None] = {}
        self._moving_up = False
        self._overloaded = SparseLog(clock, LOG_INTERVAL)
        self._postponed = SparseLog(clock, LOG_INTERVAL)
        self._broken = SparseLog(clock, LOG_INTERVAL)

    def begin(self, message: common.Message, attempt: Attempt | None = None) -> Call | None:
        """Process `message` now or as soon as its turn comes; `attempt` is told what becomes of it.

        Returns None if it is finished already: it then has a result, or is to stay pending.  Otherwise its
        `Call`, whose `settled` fires when the message is finished with.
        """
        if self._running >= self._max_parallelism:
            return self._line_up(message, attempt)
        try:
            outcome = self.service.process(message)
        except Exception as error:
            self._failed(message, failure_of(error), attempt)
            return None
        if outcome is None:
            self._succeeded(message, attempt)
            return None
        call = Call(message, self, attempt)
        self._watch(call, outcome)
        return call

    def give_up(self, call: Call) -> None:
        """See `Call.give_up`."""
        if call in self._line:
            del self._line[call]
            self._drop(call.attempt)
        elif call.work is not None:
            call.work.cancel()
            if call.message is not None:
                self._abandon(call)
        call.settle()

    def _line_up(self, message: common.Message, attempt: Attempt | None) -> Call | None:
        if len(self._line) >= LINE_FACTOR * self._max_parallelism:
            self._drop(attempt)
            return None
        call = Call(message, self, attempt)
        self._line[call] = None
        return call

    def _watch(self, call: Call, outcome: Awaitable[None]) -> None:
        self._running += 1
        call.work = as_deferred(outcome)
        call.work.addCallbacks(self._call_succeeded, self._call_failed, callbackArgs=(call,), errbackArgs=(call,))
        call.work.addBoth(self._leave)

    def _call_succeeded(self, _: object, call: Call) -> None:
        if call.message is not None:
            self._succeeded(call.message, call.attempt)
            call.settle()

    def _call_failed(self, failure: Failure, call: Call) -> None:
        if call.message is not None:
            self._failed(call.message, failure, call.attempt)
            call.settle()

    def _leave(self, result: object) -> None:
        self._running -= 1
        if isinstance(result, Failure):  # only a defect of ours can get here
            log.failure("service {name}: while noting an outcome", failure=result, name=self.name)
        if not self._moving_up:  # a call that ends at once gets back here: do not nest as deep as the line is long
            self._moving_up = True
            try:
                self._move_up()
            finally:
                self._moving_up = False

    def _move_up(self) -> None:
        while self._line and self._running < self._max_parallelism:
            call = next(iter(self._line))
            del self._line[call]
            self._take_turn(call)

    def _take_turn(self, call: Call) -> None:
        message = call.message
        assert message is not None, "a call in line is not settled"
        if call.attempt is not None:
            call.attempt.begin()
        try:
            outcome = self.service.process(message)
        except Exception as error:
            self._call_failed(failure_of(error), call)
            return
        if outcome is None:
            self._call_succeeded(None, call)
        else:
            self._watch(call, outcome)

    def _succeeded(self, message: common.Message, attempt: Attempt | None) -> None:
        succeed(message, self._now_ns())
        if attempt is not None:
            attempt.processed()

    def _failed(self, message: common.Message, failure: Failure, attempt: Attempt | None) -> None:
        error = failure.value
        if attempt is not None:
            attempt.errored(temporary=not isinstance(error, PermanentError))
        if isinstance(error, PermanentError):
            fail(message, str(error) or type(error).__name__, self._now_ns())
        elif isinstance(error, CancelledError):
            self._log_postponed("it took too long")
        elif isinstance(error, TemporaryError):
            self._log_postponed(str(error))
        elif self._broken.due():
            log.failure(
                'service "{name}" failed unexpectedly; the message stays pending ({more} more since the last line)',
                failure=failure,
                name=self.name,
                more=self._broken.take_held_back(),
            )

    def _abandon(self, call: Call) -> None:
        if call.attempt is not None:
            call.attempt.errored(temporary=True)
        if self._postponed.due():
            log.warn('service "{name}" does not end when it is cancelled; its message stays pending', name=self.name)

    def _drop(self, attempt: Attempt | None) -> None:
        if attempt is not None:
            attempt.dropped()
        self._log_overload()

    def _log_postponed(self, reason: str) -> None:
        if self._postponed.due():
            log.warn(
                'service "{name}" could not process a message now, it stays pending: {reason} ({more} more since '
                "the last line)",
                name=self.name,
                reason=reason,
                more=self._postponed.take_held_back(),
            )

    def _log_overload(self) -> None:
        if self._overloaded.due():
            log.warn(
                'Overloaded: service "{name}" has {running} messages running, the most it may; others stay pending '
                "({more} more since the last line)",
                name=self.name,
                running=self._running,
                more=self._overloaded.take_held_back(),
            )
