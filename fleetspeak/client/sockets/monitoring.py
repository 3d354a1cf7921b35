"""Watches what the process at the other end of a socket uses, and reports it to the server."""

from __future__ import annotations

from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.process.probe import ProcessGone, ProcessProbe
from fleetspeak.client.process.usage import SEND_LIMIT, ObserveInThread, Subject, UsageMonitor, usage_message
from fleetspeak.client.sockets.listening import PeerCredentials
from fleetspeak.core.usage import SamplingRules
from fleetspeak.interfaces import IClientServiceContext
from fleetspeak.pb import channel, monitoring


class PeerMonitor:
    """Watches one process, from its StartupData until `stop`.

    It is the one that the process names, if that has connected or descends from the one that has: a process must
    not have us look at others'.
    """

    _log = Logger()

    def __init__(self, rules: SamplingRules, context: IClientServiceContext) -> None:
        self._rules = rules
        self._context = context
        self._reactor: Any = context.reactor
        self._monitor: UsageMonitor | None = None
        self._stopped = False

    def introduced(self, startup: channel.StartupData, peer: PeerCredentials | None) -> None:
        """A process said who it is; `peer` is who has connected, as far as the kernel tells."""
        if peer is None or peer.pid in (0, startup.pid):
            self._watch(startup.pid, startup.version)
            return
        found = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), _is_descendant, startup.pid, peer.pid)
        found.addCallback(self._choose, startup, peer.pid)
        found.addErrback(lambda failure: self._log.failure("cannot watch process {pid}", failure, pid=startup.pid))

    def stop(self) -> None:
        """Watch it no more."""
        self._stopped = True
        if self._monitor is not None:
            self._monitor.stop()

    def _choose(self, descends: bool, startup: channel.StartupData, connected: int) -> None:
        if not descends:
            self._log.warn(
                "service {service}: its process says that it is {reported}, but {pid} has connected and is watched",
                service=self._context.service_name,
                reported=startup.pid,
                pid=connected,
            )
        self._watch(startup.pid if descends else connected, startup.version)

    def _watch(self, pid: int, version: str) -> None:
        if self._stopped:
            return
        subject = Subject(self._context.service_name, pid, version)
        self._monitor = UsageMonitor(subject, self._rules, self._report, self._reactor, ObserveInThread(self._reactor))
        self._monitor.start()

    def _report(self, data: monitoring.ResourceUsageData) -> None:
        def dropped(failure: Failure) -> None:
            self._log.warn(
                "service {service}: dropped a report on its process: {error}",
                service=self._context.service_name,
                error=failure.value or type(failure.value).__name__,
            )

        self._context.send(usage_message(data)).addTimeout(SEND_LIMIT, self._reactor).addErrback(dropped)


def _is_descendant(pid: int, ancestor: int) -> bool:
    """Reads files."""
    try:
        return ProcessProbe(pid).descends_from(ancestor)
    except ProcessGone:
        return False
