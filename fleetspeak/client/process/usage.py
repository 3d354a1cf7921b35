"""Watches what a process uses, and reports it to the server: for the client itself, daemons, and peers on sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fleetspeak.client.process.probe import Observation, ProcessGone, ProcessProbe
from fleetspeak.core.usage import SamplingRules, UsageError, UsageMeter
from fleetspeak.pb import common, monitoring

_T = TypeVar("_T")

SEND_LIMIT = 30.0
"""Seconds until a report that the outbox has no room for is dropped (as in the Go client)."""


class Observe(Protocol):
    """Looks at a process without blocking the reactor."""

    def __call__(self, pid: int, /) -> Deferred[Observation]:
        """What it uses now.  The Deferred fails with ProcessGone."""


class ObserveInThread:
    """Looks at one process in a thread of the reactor's own pool."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._probe: ProcessProbe | None = None

    def __call__(self, pid: int, /) -> Deferred[Observation]:
        """See `Observe`."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._observe, pid)

    def _observe(self, pid: int) -> Observation:
        if self._probe is None or self._probe.pid != pid:
            self._probe = ProcessProbe(pid)
        return self._probe.observe()


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose usage it is."""

    scope: str
    """Name of the service, or ``system`` for the client itself."""
    pid: int
    version: str = ""
    """What a service's process said of itself."""
    started_ns: int | None = None
    """When it was started, in nanoseconds of the epoch; None: unknown."""

    def data(self, now_ns: int) -> monitoring.ResourceUsageData:
        """A report about it without figures yet."""
        data = monitoring.ResourceUsageData(scope=self.scope, pid=self.pid, version=self.version)
        if self.started_ns is not None:
            data.process_start_time.FromNanoseconds(self.started_ns)
        data.data_timestamp.FromNanoseconds(now_ns)
        return data


def usage_message(data: monitoring.ResourceUsageData) -> common.Message:
    """A report as the server expects it."""
    return monitoring_message("ResourceUsage", data)


def monitoring_message(
    message_type: str, data: monitoring.ResourceUsageData | monitoring.KillNotification
) -> common.Message:
    """What is told of a process: it may wait, and does not count as activity of the client."""
    message = common.Message(
        message_type=message_type,
        destination=common.Address(service_name="system"),
        priority=common.Message.LOW,
        background=True,
    )
    message.data.Pack(data)
    return message


class UsageMonitor:
    """Takes samples of one process from `start` to `stop`, and hands out a report for every so many of them."""

    _log = Logger()

    def __init__(
        self,
        subject: Subject,
        rules: SamplingRules,
        report: Callable[[monitoring.ResourceUsageData], object],
        clock: IReactorTime,
        observe: Observe,
        *,
        on_sample: Callable[[Observation], object] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """@param report: is given each report; must not block.
        @param on_sample: is given each observation before it is counted.
        """
        self._subject = subject
        self._period = rules.period
        self._meter = UsageMeter(rules)
        self._report = report
        self._clock = clock
        self._observe = observe
        self._on_sample = on_sample
        self._now_ns = now_ns
        self._waiting: Deferred[Any] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin; the first sample comes after a second, or the period if that is shorter."""
        Deferred.fromCoroutine(self._run()).addErrback(self._ended)

    def stop(self) -> None:
        """Take no more samples, for good."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _run(self) -> None:
        due = self._clock.seconds()
        while not self._stopped:
            now = self._clock.seconds()
            wait = self._meter.next_wait()
            # From when the last one was due, so that delays do not add up; unless the clock was set, or we slept.
            due = due + wait if abs(now - due) < wait else now + wait
            await self._wait_for(deferLater(self._clock, max(0.0, due - now)))
            await self._sample()

    async def _sample(self) -> None:
        try:
            observation = await self._wait_for(self._observe(self._subject.pid))
            if self._on_sample is not None:
                self._on_sample(observation)
                if self._stopped:
                    return
            usage = self._meter.add(observation.sample)
        except (ProcessGone, UsageError) as error:
            self._meter.restart()
            self._log.debug("no usage of {scope}: {error}", scope=self._subject.scope, error=error)
            return
        if usage is not None:
            data = self._subject.data(self._now_ns())
            data.resource_usage.CopyFrom(usage)
            data.debug_status = observation.debug_status
            self._report(data)

    async def _wait_for(self, what: Deferred[_T]) -> _T:
        """So that `stop` can cancel it."""
        self._waiting = what
        try:
            return await what
        finally:
            self._waiting = None

    def _ended(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("watching the usage of {scope} failed", failure, scope=self._subject.scope)
