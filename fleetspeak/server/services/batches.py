"""A service that takes the messages of a contact as one list."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import cast

from fleetspeak.interfaces import IBatchServerService
from fleetspeak.pb import common
from fleetspeak.program.awaiting import failure_of
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT
from fleetspeak.server.services.runner import Attempts, Call, ServiceRunner


class BatchRunner(ServiceRunner):
    """Runs one `IBatchServerService`; its parallelism counts lists."""

    def begin_batch(self, messages: Sequence[common.Message], attempts: Attempts, first_try: bool) -> Call | None:
        """Process `messages` together, now or as soon as their turn comes; see `begin`."""
        call = Call(tuple(messages), self, attempts)
        if self._running >= self._max_parallelism:
            return self._line_up(call, first_try)
        self._take_turn(call)
        return call if call.messages else None

    def room(self, in_hand: int) -> int:
        """See `ServiceRunner.room`; each free place takes a list."""
        return super().room(-(-in_hand // MAX_MESSAGES_PER_CONTACT)) * MAX_MESSAGES_PER_CONTACT

    def _ask(self, call: Call) -> Awaitable[object] | None:
        outcome = cast(IBatchServerService, self.service).process_batch(list(call.messages))
        if outcome is None or isinstance(outcome, Awaitable):
            return outcome
        self._conclude(outcome, call)
        call.settle()
        return None

    def _conclude(self, value: object, call: Call) -> None:
        try:
            outcomes = _checked(value, len(call.messages))
        except TypeError as error:
            self._fail_all(failure_of(error), call)
            return
        for message, attempt, outcome in zip(call.messages, call.attempts, outcomes, strict=True):
            if outcome is None:
                self._succeeded(message, attempt)
            else:
                self._failed(message, failure_of(outcome), attempt)


def _checked(value: object, count: int) -> Sequence[BaseException | None]:
    """What the service says of each of `count` messages.  Raises TypeError: nothing that makes sense."""
    if value is None:
        return [None] * count
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise TypeError(f"process_batch must give None, or a list of {count} outcomes, one for each message")
    if any(one is not None and not isinstance(one, BaseException) for one in value):
        raise TypeError("the outcome of a message must be None or an exception")
    return value
