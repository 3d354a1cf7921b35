"""From grpc's threads into the reactor and back."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.errors import AlreadyExists, InvalidRecord, NotFound, NotReady, StoreError, TookTooLong
from fleetspeak.program.awaiting import failure_of
from fleetspeak.server.admin.details import KEY, details_of
from fleetspeak.server.admin.operations import Refused

if TYPE_CHECKING:
    import grpc

CALL_LIMIT = 60.0
"""Seconds that one hop may take, if the caller sets no nearer deadline."""

log = Logger()
_T = TypeVar("_T")


class Hop:
    """The way into the reactor of one call of the API; used in the thread that the call holds.

    What it has under way is cancelled when the caller goes away.
    """

    def __init__(self, context: grpc.ServicerContext, reactor: Any, limit: float = CALL_LIMIT) -> None:
        """`limit`: seconds for each `run`, if the caller sets no nearer deadline."""
        self._context = context
        self._reactor = reactor
        self._limit = limit
        self._work: _Work[Any] | None = None
        self._gone = False
        if not context.add_callback(self._caller_has_gone):
            self._gone = True

    def run(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Run ``function(*args)`` in the reactor's thread; block this thread until its outcome is there.

        Raises what the work raises; CancelledError when the caller has gone; `Refused` when its time is up.
        """
        work: _Work[_T] = _Work(function, args)
        self._work = work  # before the look at `_gone`, which is set before the look at `_work`
        if self._gone:
            raise CancelledError("the caller has gone away")
        self._reactor.callFromThread(work.start)
        remaining = self._context.time_remaining()
        limit = self._limit if remaining is None else min(remaining, self._limit)
        try:
            return work.outcome.result(limit)
        except concurrent.futures.TimeoutError:
            self._reactor.callFromThread(work.cancel)
            raise Refused("DEADLINE_EXCEEDED", f"not done within {limit:.0f} s") from None
        finally:
            self._work = None

    def each(self, requests: Iterator[_T], limit: float) -> Iterator[_T]:
        """The requests of the call; it is cancelled when the next one takes longer than `limit` seconds to come.

        Raises CancelledError when the caller has gone.
        """
        import grpc

        while True:
            impatience = _Impatience(self._reactor, limit, self._context.cancel)
            try:
                request = next(requests)
            except StopIteration:
                return
            except grpc.RpcError:
                raise CancelledError("the caller has gone away") from None
            finally:
                impatience.end()
            yield request

    def _caller_has_gone(self) -> None:
        """In one of grpc's threads; also when the call has simply ended."""
        self._gone = True
        work = self._work
        if work is not None:
            self._reactor.callFromThread(work.cancel)


class _Impatience:
    """Calls `out_of_time` in the reactor's thread, unless it is ended within the limit."""

    def __init__(self, reactor: Any, limit: float, out_of_time: Callable[[], object]) -> None:
        self._reactor = reactor
        self._limit = limit
        self._out_of_time = out_of_time
        self._later: Any = None
        reactor.callFromThread(self._begin)

    def _begin(self) -> None:
        self._later = self._reactor.callLater(self._limit, self._out_of_time)

    def end(self) -> None:
        """In any thread."""
        self._reactor.callFromThread(self._end)

    def _end(self) -> None:
        if self._later.active():
            self._later.cancel()


class _Work(Generic[_T]):
    """One function on its way through the reactor.  Its methods are called in the reactor's thread."""

    def __init__(self, function: Callable[..., Awaitable[_T]], args: tuple[Any, ...]) -> None:
        self.outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self._function = function
        self._args = args
        self._running: Deferred[_T] | None = None
        self._cancelled = False

    def start(self) -> None:
        """Begin, unless the caller has gone away meanwhile."""
        if self._cancelled:
            self.outcome.set_exception(CancelledError())
            return
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addCallbacks(self.outcome.set_result, self._fail)

    async def _run(self) -> _T:
        return await self._function(*self._args)

    def cancel(self) -> None:
        """Also called when all is over; then it does nothing."""
        self._cancelled = True
        if self._running is not None:
            self._running.cancel()

    def _fail(self, failure: Failure) -> None:
        self.outcome.set_exception(failure.value)


def abort(context: grpc.ServicerContext, method: str, error: Exception) -> NoReturn:
    """End a call with the status that says what is wrong with it."""
    import grpc

    code, text = status_of(error)
    if code == "INTERNAL":
        log.failure("admin API: {method} failed", failure=failure_of(error), method=method)
    status = grpc.StatusCode[code]
    details = details_of(status.value[0], text, error)
    if details is not None:
        context.set_trailing_metadata(((KEY, details),))
    context.abort(status, text)


def status_of(error: Exception) -> tuple[str, str]:
    """The name of the gRPC status code for an error, and the text to go with it."""
    match error:
        case Refused():
            return error.code, str(error)
        case InvalidRecord() | ValueError():
            return "INVALID_ARGUMENT", str(error)
        case TookTooLong():
            return "DEADLINE_EXCEEDED", f"{error}; ask for less, such as one client or a shorter time"
        case NotFound():
            return "NOT_FOUND", str(error)
        case AlreadyExists():
            return "ALREADY_EXISTS", str(error)
        case StoreError() | NotReady():
            return "UNAVAILABLE", str(error)
        case CancelledError():
            return "CANCELLED", "the call was cancelled"
        case _:
            return "INTERNAL", "an error of the server; its log has the details"
