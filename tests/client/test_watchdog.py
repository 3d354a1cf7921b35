"""The watchdog of a client, as a thread and with real processes (client-core section 8)."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import TestCase, mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.watchdog import Watchdog, limit_for
from fleetspeak.core.pollschedule import PollSchedule
from fleetspeak.core.watchdog import Watchdog as Decision
from fleetspeak.pb import client
from fleetspeak.testing.clientside import client_settings
from tests.client.wholeclient import WholeClientCase
from tests.programs import Program

PREFIX = "fleetspeak-polling-traces-"

WEDGED = """
import sys, time
from twisted.internet import reactor
from fleetspeak.client.watchdog import Watchdog

Watchdog(0.3, "fleetspeak-streaming-traces-", reactor, grace=0.1).start()

def wedge():
    print("wedged", flush=True)
    time.sleep(600)

reactor.callWhenRunning(wedge)
reactor.run()
"""


class ThreadTests(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        patch = mock.patch("tempfile.tempdir", str(self.folder))
        patch.start()
        self.addCleanup(patch.stop)
        self.exits: queue.Queue[int] = queue.Queue()

    def watchdog(self, limit: float, grace: float = 5.0) -> Watchdog:
        watchdog = Watchdog(limit, PREFIX, Clock(), grace=grace, exit=self.exits.put)
        self.addCleanup(watchdog.stop)
        watchdog.start()
        return watchdog

    def test_a_reload_gives_it_another_limit_and_it_goes_on_watching(self) -> None:
        watchdog = self.watchdog(3600.0, grace=0.0)
        settings = client_settings()
        with mock.patch("fleetspeak.client.watchdog.limit_for", return_value=0.05):
            watchdog.adjust(settings)
        self.assertEqual(watchdog.limit, 0.05)
        self.assertEqual(self.exits.get(timeout=10), 1)

    def test_item_43_it_is_quiet_when_stopped_or_reset_and_writes_one_file_when_not(self) -> None:
        began = time.monotonic()
        unreset = self.watchdog(1.0)
        stopped = self.watchdog(1.0)
        stopped.stop()
        kept = self.watchdog(1.0, grace=0.0)
        exits: list[int] = []
        while not exits and time.monotonic() < began + 10:
            kept.reset("a poll")
            with contextlib.suppress(queue.Empty):
                exits.append(self.exits.get(timeout=0.05))
        self.assertEqual(exits, [1])
        self.assertLess(time.monotonic() - began, 6.5)
        unreset.stop()
        kept.stop()
        (path,) = self.folder.iterdir()
        self.assertTrue(path.name.startswith(PREFIX))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        text = path.read_text()
        self.assertIn("no attempt at contact for 6 s; last: has not begun to make contact", text)
        self.assertIn("(MainThread)", text)
        self.assertIn("test_item_43", text, "the stack of the main thread")

    def test_without_room_for_the_file_it_ends_the_process_nevertheless(self) -> None:
        with mock.patch("tempfile.tempdir", str(self.folder / "none")):
            self.watchdog(0.05, grace=0.0)
            self.assertEqual(self.exits.get(timeout=10), 1)


class ProcessTests(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_a_wedged_reactor_is_noticed(self) -> None:
        program = Program("wedged", [sys.executable, "-c", WEDGED], environment={"TMPDIR": str(self.folder)})
        self.addCleanup(program.make_sure_it_ended)
        self.assertEqual(program.wait(), 1)
        (path,) = self.folder.iterdir()
        self.assertTrue(path.name.startswith("fleetspeak-streaming-traces-"))
        self.assertIn("in wedge", path.read_text())
        self.assertIn(str(path), program.lines[-1])

    def test_a_process_that_was_stopped_for_long_gets_the_grace(self) -> None:
        script = WEDGED.replace("0.3", "0.5").replace("grace=0.1", "grace=60").replace("600", "0")
        program = Program("stopped", [sys.executable, "-c", script], environment={"TMPDIR": str(self.folder)})
        self.addCleanup(program.make_sure_it_ended)
        program.wait_for_line("wedged")
        os.kill(program.pid, signal.SIGSTOP)
        time.sleep(0.7)
        os.kill(program.pid, signal.SIGCONT)
        self.assertEqual(program.terminate(), 0)
        self.assertEqual(list(self.folder.iterdir()), [])


class DerivedLimitTests(SynchronousTestCase):
    def test_item_137_a_poll_delay_of_two_hours_does_not_set_it_off(self) -> None:
        config = client.CommunicatorConfig(
            max_poll_delay_seconds=7200, max_buffer_delay_seconds=5, min_failure_delay_seconds=300
        )
        watchdog = Decision(limit_for(client_settings(communicator=config)), 0.0)
        schedule = PollSchedule(7200, 5)
        now = 0.0
        for u in (0.0, 0.5, 0.999, 0.999, 0.999):
            schedule.succeeded(now, active=False, u=u)
            self.assertGreater(watchdog.check(schedule.due), 0)
            now = schedule.due
            watchdog.reset(now)

    def test_a_long_failure_delay_counts_too(self) -> None:
        config = client.CommunicatorConfig(min_failure_delay_seconds=20_000)
        self.assertGreater(limit_for(client_settings(communicator=config)), 30_000)

    def test_the_default_is_upstreams_hour(self) -> None:
        config = client.CommunicatorConfig(
            max_poll_delay_seconds=300, max_buffer_delay_seconds=5, min_failure_delay_seconds=300
        )
        self.assertEqual(limit_for(client_settings(communicator=config)), 3600)


class WatchedClientTests(WholeClientCase):
    def test_a_client_resets_it_at_each_attempt_and_stops_it(self) -> None:
        watchdog = mock.create_autospec(Watchdog, instance=True)
        service = self.start(watchdog=watchdog)
        self.server.link.attempting("memory:0")
        self.successResultOf(service.stopService())
        self.assertEqual(
            watchdog.mock_calls,
            [mock.call.start(), mock.call.reset("an attempt at contact with memory:0"), mock.call.stop()],
        )
