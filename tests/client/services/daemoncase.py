"""A Daemon service with real child processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fleetspeak.client.services.daemon import DaemonFactory, DaemonService
from fleetspeak.client.services.daemonconfig import Limits
from fleetspeak.client.stats import Stats
from fleetspeak.pb import common, daemon_config
from tests.client.process.children import TESTCLIENT, context

QUICK = Limits(respawn_delay=0.05, read_limit=5.0, grace=0.2)
ECHO = (*TESTCLIENT, "--mode=loopback")

SAY_PID = "connection.Send(common.Message(message_type=str(os.getpid()), destination=common.Address(service_name='S')))"
HEAD = "from fleetspeak.pb import common\n"


def pause(clock: Any, seconds: float) -> Deferred[None]:
    """Fires so much later: for what must not happen meanwhile."""
    return deferLater(clock, seconds)


class Finished(Stats):
    """Keeps what it is told of executions."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[Exception | None] = []

    def daemon_finished(self, service: str, error: Exception | None) -> None:
        self.finished.append(error)


class DaemonCase(TestCase):
    def setUp(self) -> None:
        self.context = context()
        self.context.stats = Finished()

    def daemon(self, argv: Sequence[str], limits: Limits = QUICK, **config: Any) -> DaemonService:
        """An installed and started service; what its processes use is reported only if that is asked for."""
        config.setdefault("disable_resource_monitoring", True)
        service = DaemonFactory(limits).make(daemon_config.Config(argv=argv, **config), self.context)
        assert isinstance(service, DaemonService)
        service.start()
        self.addCleanup(service.stop)
        return service

    def types(self) -> list[str]:
        """The types of the messages that the process has sent."""
        return [sent.message_type for sent in self.context.sent]

    def process(self, service: DaemonService, sent: common.Message) -> Deferred[None]:
        """As the inbox does it."""
        return Deferred.fromCoroutine(service.process(sent))
