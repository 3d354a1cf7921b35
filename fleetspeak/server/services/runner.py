"""One installed service: calls it, at most so many times at once, and turns what happens into results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from fleetspeak.errors import PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common
from fleetspeak.program.awaiting import as_deferred, failure_of
from fleetspeak.server.services.outcome import fail, succeed
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats.attempt import Attempt

LINE_FACTOR = 10
"""Messages that may wait in line for each one that may run; what comes on top waits in the store."""

LINE_BYTES = 32 * 1024 * 1024
"""Bytes of messages in line from which on no more are let in: they may have 20 MiB each."""

RESERVE_SHARE = 10
"""One of so many places of a service is for the backlog, however much is new: what is old must not wait for ever."""

LOG_INTERVAL = 10.0
"""Least seconds between two lines of the same trouble of one service."""

log = Logger()

Attempts = Sequence[Attempt | None]
"""One for each message of a call."""


class Call:
    """What a service is given at once: in line, then running, then settled, once."""

    __slots__ = ("attempts", "line", "messages", "runner", "settled", "size", "work")

    def __init__(self, messages: Sequence[common.Message], runner: ServiceRunner, attempts: Attempts) -> None:
        self.messages = messages
        """Empty once settled: from then on they belong to others, and a late outcome must not touch them."""
        self.runner = runner
        self.attempts = attempts
        self.settled: Deferred[None] = Deferred()
        self.work: Deferred[object] | None = None
        self.line: dict[Call, None] | None = None
        """In which it waits."""
        self.size = 0
        """Bytes, while it is in line."""

    def give_up(self) -> None:
        """The time is over.  A service that ends at once when cancelled still decides; otherwise: pending."""
        if self.messages:
            self.runner.give_up(self)

    def settle(self) -> None:
        """Hand the messages back."""
        self.messages = ()
        if not self.settled.called:
            self.settled.callback(None)


class ServiceRunner:
    """Runs one service.  All in the reactor's thread.

    Whatever a service raises, by whatever way, is the end of that call only: SystemExit and KeyboardInterrupt too,
    as the program is ended by signals, and not by services.
    """

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
        self._new: dict[Call, None] = {}
        """The line of new messages."""
        self._old: dict[Call, None] = {}
        """That of the backlog, which puts no more into it than it was told there is room for: it goes first."""
        self._in_line = 0
        self._line_bytes = 0
        self._moving_up = False
        self._tell_room: Callable[[], None] | None = None
        self._overloaded = SparseLog(clock, LOG_INTERVAL)
        self._postponed = SparseLog(clock, LOG_INTERVAL)
        self._broken = SparseLog(clock, LOG_INTERVAL)

    # -- messages

    @property
    def load(self) -> tuple[int, int]:
        """How many calls are running, and how many messages wait in line."""
        return self._running, self._in_line

    def begin(self, message: common.Message, attempt: Attempt | None = None, first_try: bool = True) -> Call | None:
        """Process `message` now or as soon as its turn comes; `attempt` is told what becomes of it.

        @param first_try: it is new, and does not come from the backlog.

        Returns None if it is finished already: it then has a result, or is to stay pending.  Otherwise its
        `Call`, whose `settled` fires when the message is finished with.
        """
        if self._running >= self._max_parallelism:
            return self._line_up(Call((message,), self, (attempt,)), first_try)
        try:
            outcome = self.service.process(message)
        except BaseException as error:
            self._failed(message, failure_of(error), attempt)
            return None
        if outcome is None:
            self._succeeded(message, attempt)
            return None
        call = Call((message,), self, (attempt,))
        self._watch(call, outcome)
        return call

    def give_up(self, call: Call) -> None:
        """See `Call.give_up`."""
        if call.line is not None:
            self._step_out(call, call.line)
            self._drop(call)
        elif call.work is not None:
            self._cancel(call, call.work)
        call.settle()

    def _cancel(self, call: Call, work: Deferred[object]) -> None:
        try:
            work.cancel()
        except BaseException as error:  # of the function that the service's Deferred is cancelled by
            self._log_broken(failure_of(error))
        if call.messages:
            self._abandon(call)

    # -- room

    def room(self, in_hand: int) -> int:
        """How many messages the backlog may give it, which has `in_hand` of its messages already."""
        reserved = max(self._max_parallelism // RESERVE_SHARE, 1) - in_hand
        return max(0 if self._in_line else self._max_parallelism - self._running, reserved, 0)

    def when_room(self, tell: Callable[[], None]) -> None:
        """Call `tell` once, as soon as a good part of its places is free."""
        self._tell_room = tell

    def _look_for_room(self) -> None:
        if self._tell_room is None or self._in_line:
            return
        if self._max_parallelism - self._running >= max(self._max_parallelism // 4, 1):
            tell, self._tell_room = self._tell_room, None
            tell()

    # -- the line

    def _line_up(self, call: Call, first_try: bool) -> Call | None:
        call.size = sum(message.ByteSize() for message in call.messages)
        if first_try and self._is_full(len(call.messages)):
            self._drop(call)
            return None
        call.line = self._new if first_try else self._old
        call.line[call] = None
        self._in_line += len(call.messages)
        self._line_bytes += call.size
        return call

    def _is_full(self, count: int) -> bool:
        too_many = self._in_line + count > LINE_FACTOR * self._max_parallelism and self._in_line > 0
        return too_many or self._line_bytes >= LINE_BYTES

    def _step_out(self, call: Call, line: dict[Call, None]) -> None:
        del line[call]
        call.line = None
        self._in_line -= len(call.messages)
        self._line_bytes -= call.size

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
            self._look_for_room()

    def _move_up(self) -> None:
        while self._running < self._max_parallelism and (line := self._old or self._new):
            call = next(iter(line))
            self._step_out(call, line)
            self._take_turn(call)

    # -- calls

    def _take_turn(self, call: Call) -> None:
        for attempt in call.attempts:
            if attempt is not None:
                attempt.begin()
        try:
            outcome = self._ask(call)
        except BaseException as error:
            self._call_failed(failure_of(error), call)
            return
        if outcome is None:
            self._call_succeeded(None, call)
        else:
            self._watch(call, outcome)

    def _ask(self, call: Call) -> Awaitable[object] | None:
        """Have the service process it."""
        return self.service.process(call.messages[0])

    def _watch(self, call: Call, outcome: Awaitable[object]) -> None:
        self._running += 1
        call.work = as_deferred(outcome)
        call.work.addCallbacks(self._call_succeeded, self._call_failed, callbackArgs=(call,), errbackArgs=(call,))
        call.work.addBoth(self._leave)

    def _call_succeeded(self, value: object, call: Call) -> None:
        if call.messages:
            self._conclude(value, call)
            call.settle()

    def _call_failed(self, failure: Failure, call: Call) -> None:
        if call.messages:
            self._fail_all(failure, call)
            call.settle()

    def _conclude(self, value: object, call: Call) -> None:
        """The service has not raised: what its `value` means for the messages."""
        for message, attempt in zip(call.messages, call.attempts, strict=True):
            self._succeeded(message, attempt)

    def _fail_all(self, failure: Failure, call: Call) -> None:
        for message, attempt in zip(call.messages, call.attempts, strict=True):
            self._failed(message, failure, attempt)

    # -- outcomes

    def _succeeded(self, message: common.Message, attempt: Attempt | None) -> None:
        succeed(message, self._now_ns())
        if attempt is not None:
            attempt.processed()

    def _failed(self, message: common.Message, failure: Failure, attempt: Attempt | None) -> None:
        error = failure.value
        if attempt is not None:
            attempt.errored(temporary=not isinstance(error, PermanentError))
        if isinstance(error, PermanentError):
            fail(message, safe_str(error) or type(error).__name__, self._now_ns())
        elif isinstance(error, CancelledError):
            self._log_postponed("it took too long")
        elif isinstance(error, TemporaryError):
            self._log_postponed(safe_str(error))
        else:
            self._log_broken(failure)

    def _abandon(self, call: Call) -> None:
        for attempt in call.attempts:
            if attempt is not None:
                attempt.errored(temporary=True)
        if self._postponed.due():
            log.warn('service "{name}" does not end when it is cancelled; its message stays pending', name=self.name)

    def _drop(self, call: Call) -> None:
        for attempt in call.attempts:
            if attempt is not None:
                attempt.dropped()
        self._log_overload()

    # -- lines of the log

    def _log_broken(self, failure: Failure) -> None:
        if self._broken.due():
            log.failure(
                'service "{name}" failed unexpectedly; the message stays pending ({more} more since the last line)',
                failure=failure,
                name=self.name,
                more=self._broken.take_held_back(),
            )

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
