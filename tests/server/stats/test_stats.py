"""The statistics plug-ins of a server: server-core 9.1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyClass

from fleetspeak.interfaces import IServerStats
from fleetspeak.pb import common
from fleetspeak.server.stats import LOG_INTERVAL, NO_STATS, ServerStats
from fleetspeak.testing.serverside import RecordingServerStats

PLUGIN = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from fleetspeak.interfaces import IServerStats
from fleetspeak.server.stats import ServerStats

@implementer(IPlugin, IServerStats)
class Printing(ServerStats):
    def contact_refused(self, stage):
        print("refused", stage)

one = Printing()
other = Printing()
"""

PROGRAM = """
from fleetspeak.server.tap import collectors
from fleetspeak.server.stats import ServerStats

stats = ServerStats(collectors())
stats.contact_refused("contact")
stats.rows_pruned("messages", 1)
"""


class Failing(RecordingServerStats):
    """Cannot take anything."""

    def contact_refused(self, stage: str) -> None:
        """It is full."""
        raise RuntimeError("full")


def arguments_of(interface: type[Interface], hook: str) -> list[object]:
    """Something for each argument of a hook."""
    method: Any = interface[hook]  # type: ignore[index]  # zope's
    return [object() for _ in method.positional]


class ServerStatsTests(SynchronousTestCase):
    def test_server_core_9_1_each_hook_reaches_every_collector_with_all_it_was_given(self) -> None:
        collectors = [RecordingServerStats(), RecordingServerStats()]
        stats = ServerStats(collectors, Clock())
        expected = []
        for hook in IServerStats:
            arguments = arguments_of(IServerStats, hook)
            getattr(stats, hook)(*arguments)
            expected.append((hook, tuple(arguments)))
        self.assertEqual([collector.told for collector in collectors], [expected, expected])

    def test_one_that_fails_is_logged_and_the_others_are_told_all_the_same(self) -> None:
        other = RecordingServerStats()
        ServerStats([Failing(), other], Clock()).contact_refused("contact")
        self.assertEqual(other.calls("contact_refused"), [("contact",)])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_one_that_always_fails_does_not_fill_the_log(self) -> None:
        clock = Clock()
        stats = ServerStats([Failing()], clock)
        for _ in range(1000):
            stats.contact_refused("contact")
        clock.advance(LOG_INTERVAL)
        stats.contact_refused("contact")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_without_collectors_nothing_is_active_and_hooks_may_be_called_all_the_same(self) -> None:
        self.assertFalse(NO_STATS.active)
        self.assertTrue(ServerStats([RecordingServerStats()], Clock()).active)
        NO_STATS.message_sent(common.Message(), None)
        NO_STATS.rows_pruned("messages", 3)

    def test_the_steady_clock_is_the_reactors(self) -> None:
        clock = Clock()
        clock.advance(17)
        self.assertEqual(ServerStats([RecordingServerStats()], clock).seconds(), 17)

    def test_what_passes_on_and_what_records_keep_the_interface(self) -> None:
        verifyClass(IServerStats, ServerStats)
        for hook in IServerStats:
            getattr(RecordingServerStats(), hook)
        self.assertRaises(AttributeError, getattr, RecordingServerStats(), "no_such_hook")


class PlugInTests(SynchronousTestCase):
    def test_several_providers_of_somebody_elses_package_are_found(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        plugins = Path(folder.name) / "fleetspeak" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "printing_server.py").write_text(PLUGIN)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": folder.name},
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(done.stdout.splitlines(), ["refused contact"] * 2)
