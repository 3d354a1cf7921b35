"""Supervises a daemon's process: reports what it uses, and has it killed when it uses too much or has gone silent.

The decisions are those of `fleetspeak.core.supervision` and `fleetspeak.core.usage`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.process.probe import Observation, ProcessGone, ProcessProbe
from fleetspeak.client.process.usage import (
    SEND_LIMIT,
    ObserveInThread,
    Subject,
    UsageMonitor,
    monitoring_message,
    usage_message,
)
from fleetspeak.core.supervision import HeartbeatRules, HeartbeatWatch, memory_exceeded
from fleetspeak.core.usage import SamplingRules
from fleetspeak.pb import channel, common, monitoring

STARTUP_WAIT = 10.0
"""Seconds until a process that has not said who it is, is watched nevertheless (as in the Go client)."""

MAX_VERSION = 256
"""Characters of what a process calls its version; it is in every report."""

Reason = monitoring.KillNotification


@dataclass(frozen=True, slots=True)
class SupervisionRules:
    """What a process is watched for."""

    report_usage: bool = True
    sampling: SamplingRules = field(default=SamplingRules())
    memory_limit: int = 0
    """Bytes; 0: none."""
    heartbeats: HeartbeatRules | None = None
    """None: it may be silent."""
    startup_wait: float = STARTUP_WAIT
    """Seconds."""


class Supervisor:
    """Watches one execution of a daemon's program, from its launch to its end.

    What is watched is the process that the program names in its StartupData, if that is a descendant of the one that
    was started: otherwise any program could have the client kill, and report on, processes that are not its own.
    """

    _log = Logger()

    def __init__(
        self,
        service: str,
        rules: SupervisionRules,
        send: Callable[[common.Message], Deferred[None]],
        condemn: Callable[[str], None],
        blocked: Callable[[], bool],
        reactor: Any,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """@param send: see `fleetspeak.interfaces.IClientServiceContext.send`.
        @param condemn: kills the process and its group, for the reason given.
        @param blocked: may the process be held up, because there is no room for what it sends?
        """
        self._service = service
        self._rules = rules
        self._send = send
        self._condemn = condemn
        self._blocked = blocked
        self._reactor = reactor
        self._monotonic = monotonic
        self._now_ns = now_ns
        self._launched = Subject(service, 0, started_ns=now_ns())
        self._subject = self._launched
        self._probe: ProcessProbe | None = None
        """Of the process that is watched, if it is not the one that was started."""
        self._monitor: UsageMonitor | None = None
        self._heartbeats: HeartbeatWatch | None = None
        self._timer: IDelayedCall | None = None
        self._over = False

    # ---- for the execution

    def launched(self, pid: int) -> None:
        """The program runs, as this process, unless it has `exited` already."""
        if self._over:
            return
        self._launched = replace(self._launched, pid=pid)
        self._set_timer(self._rules.startup_wait, lambda: self._watch(self._launched))

    def introduced(self, startup: channel.StartupData) -> None:
        """The process said who it is."""
        if self._over:
            return
        self._stop_timer()
        if startup.pid in (0, self._launched.pid):
            self._watch(self._subject_of(self._launched.pid, startup.version))
            return
        pool = self._reactor.getThreadPool()
        found = deferToThreadPool(self._reactor, pool, _descendant, startup.pid, self._launched.pid)
        found.addCallback(self._watch_descendant, startup)
        found.addErrback(lambda failure: self._log.failure("cannot watch process {pid}", failure, pid=startup.pid))

    def heard(self) -> None:
        """It gave a sign of life."""
        if self._heartbeats is not None:
            self._heartbeats.heard(self._monotonic())

    def ending(self) -> None:
        """It is being ended: nothing that it does from now on is held against it, or reported."""
        self._over = True
        self._stop_timer()
        if self._monitor is not None:
            self._monitor.stop()

    def exited(self, pid: int, status: object) -> None:
        """The process that was started is gone; `status` says how."""
        self.ending()
        if self._rules.report_usage:
            data = replace(self._launched, pid=pid).data(self._now_ns())
            data.resource_usage.SetInParent()
            data.process_terminated = True
            data.debug_status = str(status)
            self._tell(usage_message(data))

    # ---- whom to watch

    def _subject_of(self, pid: int, version: str) -> Subject:
        return replace(self._launched, pid=pid, version=version[:MAX_VERSION])

    def _watch_descendant(self, probe: ProcessProbe | None, startup: channel.StartupData) -> None:
        if probe is None:
            self._log.warn(
                "service {service}: its process says that it is {reported}, which is no descendant of {pid}; "
                "{pid} is watched. A program that starts another one has to stay until that one has ended",
                service=self._service,
                reported=startup.pid,
                pid=self._launched.pid,
            )
            self._watch(self._subject_of(self._launched.pid, startup.version))
            return
        self._log.info(
            "service {service}: process {reported} is watched, which {pid} has started",
            service=self._service,
            reported=startup.pid,
            pid=self._launched.pid,
        )
        self._probe = probe
        self._watch(self._subject_of(startup.pid, startup.version))

    def _watch(self, subject: Subject) -> None:
        """Watch this process from now on, instead of any other."""
        if self._over:
            return
        self._subject = subject
        if self._monitor is not None:
            self._monitor.stop()
        if self._rules.report_usage or self._rules.memory_limit > 0:
            self._monitor = UsageMonitor(
                subject,
                self._rules.sampling,
                self._report,
                self._reactor,
                ObserveInThread(self._reactor),
                on_sample=self._check_memory,
                now_ns=self._now_ns,
            )
            self._monitor.start()
        if self._rules.heartbeats is not None:
            self._heartbeats = HeartbeatWatch(self._rules.heartbeats, self._monotonic())
            self._expect_heartbeat()

    # ---- verdicts

    def _check_memory(self, observation: Observation) -> None:
        rss = observation.sample.rss
        if memory_exceeded(self._rules.memory_limit, rss):
            self._kill(
                Reason.MEMORY_EXCEEDED, f"it uses {rss} bytes of memory, its memory_limit is {self._rules.memory_limit}"
            )

    def _expect_heartbeat(self) -> None:
        assert self._heartbeats is not None
        self._set_timer(max(0.0, self._heartbeats.deadline - self._monotonic()), self._check_heartbeat)

    def _check_heartbeat(self) -> None:
        assert self._heartbeats is not None
        assert self._rules.heartbeats is not None
        now = self._monotonic()
        if self._heartbeats.check(now, blocked=self._blocked()):
            self._kill(
                Reason.HEARTBEAT_FAILURE,
                f"no sign of life for {self._heartbeats.silence(now):.1f} s, "
                f"its heartbeat_unresponsive_kill_period is {self._rules.heartbeats.kill:g} s",
            )
        else:
            self._expect_heartbeat()

    def _kill(self, reason: monitoring.KillNotification.Reason.ValueType, text: str) -> None:
        """Tell the server, then kill; the notification need not be accepted yet, but is in front of all later ones."""
        if self._over:
            return
        self.ending()
        subject = self._subject
        notification = monitoring.KillNotification(
            service=self._service, pid=subject.pid, version=subject.version, reason=reason
        )
        if subject.started_ns is not None:
            notification.process_start_time.FromNanoseconds(subject.started_ns)
        notification.killed_when.FromNanoseconds(self._now_ns())
        self._tell(monitoring_message("KillNotification", notification))
        self._log.error(
            "service {service}: killing process {pid}: {reason}", service=self._service, pid=subject.pid, reason=text
        )
        if self._probe is not None:
            self._probe.kill()  # it may have left the group
        self._condemn(text)

    # ---- to the server

    def _report(self, data: monitoring.ResourceUsageData) -> None:
        if self._rules.report_usage:
            self._tell(usage_message(data))

    def _tell(self, message: common.Message) -> None:
        """Send it; it is dropped if there is no room for it soon."""

        def dropped(failure: Failure) -> None:
            self._log.warn(
                "service {service}: dropped its {type}: {error}",
                service=self._service,
                type=message.message_type,
                error=failure.value or type(failure.value).__name__,
            )

        self._send(message).addTimeout(SEND_LIMIT, self._reactor).addErrback(dropped)

    # ---- time

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._reactor.callLater(seconds, call)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _descendant(pid: int, ancestor: int) -> ProcessProbe | None:
    """The process of that number, if it exists and `ancestor` started it, or started who did.  Reads files."""
    try:
        probe = ProcessProbe(pid)
    except ProcessGone:
        return None
    return probe if probe.descends_from(ancestor) else None
