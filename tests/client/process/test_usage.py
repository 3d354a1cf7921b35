"""Watching what real processes use, and reporting it (client-tests.md 27, 39 to 42)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.process.probe import Observation, ProcessGone, ProcessProbe
from fleetspeak.client.process.usage import ObserveInThread, Subject, UsageMonitor, usage_message
from fleetspeak.client.reports import Reports
from fleetspeak.core.usage import Sample, SamplingRules
from fleetspeak.pb import common, monitoring
from fleetspeak.testing.clientside import TEST_CLIENT_ID
from tests import vectors
from tests.client.process.children import python, until


class ProbeCase(SynchronousTestCase):
    def run_child(self, *argv: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end, child)
        return child

    def end(self, child: subprocess.Popen[str]) -> None:
        child.kill()
        child.communicate()


class Probing(ProbeCase):
    def test_item_40_a_busy_process(self) -> None:
        started = time.monotonic()
        code = (
            "import time\n"
            "end = time.monotonic() + .5\n"
            "while time.monotonic() < end: open('/dev/null').close()\n"
            "input(print())"
        )
        child = self.run_child(*python(code))
        assert child.stdout is not None
        child.stdout.readline()
        observation = ProcessProbe(child.pid).observe()
        sample = observation.sample
        wall = 1000 * (time.monotonic() - started) * (os.cpu_count() or 1)
        self.assertTrue(0 < sample.user_cpu_ms <= wall, sample)
        self.assertTrue(0 <= sample.system_cpu_ms <= wall, sample)
        self.assertTrue(128 * 1024 <= sample.rss <= 100 * 1024**2, sample)
        self.assertGreater(sample.fds, 0)
        self.assertIn(f"Pid:\t{child.pid}\n", observation.debug_status)
        self.assertTrue(started <= sample.time <= time.monotonic())

    def test_reaped_children_count(self) -> None:
        """Their CPU time is in the fields cutime and cstime of /proc/<pid>/stat."""
        burn = "import time\nwhile time.process_time() < .3: pass"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}]); input(print())"
        child = self.run_child(*python(code))
        assert child.stdout is not None
        child.stdout.readline()
        sample = ProcessProbe(child.pid).observe().sample
        self.assertGreaterEqual(sample.user_cpu_ms + sample.system_cpu_ms, 290)

    def test_item_42_a_name_with_spaces_and_parentheses(self) -> None:
        program = Path(self.mktemp()).absolute() / "a) S (1 2) x"
        program.parent.mkdir()
        shutil.copy("/bin/cat", program)
        child = self.run_child(str(program))
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("it runs\n")
        child.stdin.flush()
        self.assertEqual("it runs\n", child.stdout.readline())
        sample = ProcessProbe(child.pid).observe().sample
        self.assertTrue(0 <= sample.user_cpu_ms < 10_000)
        self.assertGreater(sample.rss, 128 * 1024)
        self.assertIn("Name:\ta) S (1 2) x\n", ProcessProbe(child.pid).observe().debug_status)

    def test_a_process_that_is_gone(self) -> None:
        child = self.run_child("/bin/cat")
        probe = ProcessProbe(child.pid)
        self.end(child)
        self.assertRaises(ProcessGone, probe.observe)
        self.assertRaises(ProcessGone, ProcessProbe, child.pid)
        self.assertFalse(probe.kill())
        self.assertFalse(probe.descends_from(os.getpid()))
        for strange in (-1, 2**63 - 1):
            self.assertRaises(ProcessGone, ProcessProbe, strange)

    def test_descendants(self) -> None:
        code = "import subprocess; p = subprocess.Popen(['cat']); print(p.pid, flush=True); p.wait()"
        child = self.run_child(*python(code))
        assert child.stdout is not None
        grandchild = ProcessProbe(int(child.stdout.readline()))
        self.addCleanup(grandchild.kill)
        self.assertTrue(grandchild.descends_from(child.pid))
        self.assertTrue(grandchild.descends_from(os.getpid()))
        self.assertFalse(ProcessProbe(child.pid).descends_from(grandchild.pid))
        self.assertFalse(ProcessProbe(child.pid).descends_from(child.pid))
        self.assertTrue(grandchild.kill())


class FakeSamples(SynchronousTestCase):
    def test_item_39_fake_samples_end_in_the_figures_that_upstream_expects(self) -> None:
        clock = Clock()
        observations = iter(
            Observation(sample, f"status {number}")
            for number in (0, 1)
            for sample in (Sample(10.0 + number, 13, 5, 10000, 8), Sample(10.01 + number, 27, 9, 30000, 42))
        )
        data: list[monitoring.ResourceUsageData] = []
        monitor = UsageMonitor(
            Subject("Service", 1234, started_ns=1234567890 * 10**9),
            SamplingRules(2, 0.1),
            data.append,
            clock,
            lambda pid: succeed(next(observations)),
        )
        started = time.time_ns()
        monitor.start()
        clock.pump([0.1] * 4)
        self.assertEqual(2, len(data))
        for number, report in enumerate(data):
            self.assertEqual(
                ("Service", 1234, 1234567890), (report.scope, report.pid, report.process_start_time.seconds)
            )
            self.assertEqual(f"status {number}", report.debug_status)
            self.assertGreaterEqual(report.data_timestamp.ToNanoseconds(), started)
            usage = report.resource_usage
            for rates, expected in (
                ((usage.mean_user_cpu_rate, usage.max_user_cpu_rate), 1400),
                ((usage.mean_system_cpu_rate, usage.max_system_cpu_rate), 400),
            ):
                for rate in rates:
                    self.assertAlmostEqual(expected, rate, places=6)
            self.assertEqual((20000, 30000), (usage.mean_resident_memory, usage.max_resident_memory))
            self.assertEqual((25, 42), (usage.mean_num_fds, usage.max_num_fds))


class Monitoring(SynchronousTestCase):
    """On a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.data: list[monitoring.ResourceUsageData] = []
        self.observe = lambda pid: succeed(Observation(Sample(self.clock.seconds(), 0, 0, 4096, 3), "Pid:\t7\n"))

    def monitor(self, size: int, period: float) -> UsageMonitor:
        monitor = UsageMonitor(
            Subject("RawD", 7, "9.9", 1_000_000_000),
            SamplingRules(size, period),
            self.data.append,
            self.clock,
            lambda pid: self.observe(pid),
            now_ns=lambda: int(self.clock.seconds() * 1e9),
        )
        monitor.start()
        return monitor

    def test_item_41_reports_come_at_5_and_9_seconds(self) -> None:
        monitor = self.monitor(2, 2.0)
        self.clock.pump([0.5] * 22)
        self.assertEqual([5, 9], [data.data_timestamp.seconds for data in self.data])
        monitor.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_report_says_whose_it_is(self) -> None:
        self.monitor(2, 1.0)
        self.clock.pump([1, 1])
        (data,) = self.data
        self.assertEqual(("RawD", 7, "9.9", 1), (data.scope, data.pid, data.version, data.process_start_time.seconds))
        self.assertEqual((4096, "Pid:\t7\n"), (data.resource_usage.max_resident_memory, data.debug_status))

    def test_the_message_is_that_of_the_go_client(self) -> None:
        for captured in vectors.load("resource_usage")["captured"]:
            theirs = common.Message.FromString(bytes.fromhex(captured["message_hex"]))
            data = monitoring.ResourceUsageData()
            self.assertTrue(theirs.data.Unpack(data))
            ours = usage_message(data)
            ours.source.CopyFrom(theirs.source)
            ours.source_message_id = theirs.source_message_id
            self.assertEqual(theirs, ours)

    def test_delays_do_not_add_up_and_a_set_clock_does_no_harm(self) -> None:
        self.monitor(2, 1.0)
        self.clock.pump([1.2, 0.8, 1.2, 0.8])
        self.assertEqual(2, len(self.data))
        self.clock.advance(1e6)
        self.clock.pump([1, 1])
        self.assertEqual(3, len(self.data))
        self.clock.rightNow -= 1e5
        for call in self.clock.getDelayedCalls():
            call.reset(0)
        self.clock.pump([0, 1, 1, 1, 1])
        self.assertGreaterEqual(len(self.data), 4)

    def test_a_process_that_is_gone_for_a_while_is_watched_again(self) -> None:
        self.monitor(2, 1.0)
        found, self.observe = self.observe, lambda pid: fail(ProcessGone("gone"))
        self.clock.pump([1, 1, 1])
        self.assertEqual([], self.data)
        self.observe = found
        self.clock.pump([1, 1])
        self.assertEqual(1, len(self.data))

    def test_a_look_that_takes_for_ever_is_left_behind_at_stop(self) -> None:
        self.observe = lambda pid: Deferred()
        monitor = self.monitor(2, 1.0)
        self.clock.advance(1)
        monitor.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_is_told_of_a_sample_may_stop_it(self) -> None:
        seen: list[Observation] = []
        monitor = UsageMonitor(
            Subject("S", 7), SamplingRules(2, 1.0), self.data.append, self.clock, self.observe, on_sample=seen.append
        )
        self.patch(monitor, "_on_sample", lambda observation: (seen.append(observation), monitor.stop()))
        monitor.start()
        self.clock.pump([1, 1, 1])
        self.assertEqual(1, len(seen))


class TheClientItself(TestCase):
    async def test_item_27_the_clients_own_usage_is_reported(self) -> None:
        outbox = ClientOutbox()
        reports = Reports(outbox, reactor, lambda: TEST_CLIENT_ID)  # type: ignore[arg-type]
        subject = Subject("system", os.getpid(), started_ns=1234567890 * 10**9)
        monitor = UsageMonitor(subject, SamplingRules(5, 0.1), reports.usage, reactor, ObserveInThread(reactor))  # type: ignore[arg-type]
        monitor.start()
        self.addCleanup(monitor.stop)
        sent: list[common.Message] = []

        def came() -> bool:
            sent.extend(entry.message for entry in outbox.take(10, 2**20))
            return bool(sent)

        await until(came, 2)
        (message,) = sent
        self.assertEqual(("ResourceUsage", "system"), (message.message_type, message.destination.service_name))
        self.assertEqual((common.Message.LOW, True), (message.priority, message.background))
        self.assertEqual("system", message.source.service_name)
        data = monitoring.ResourceUsageData()
        self.assertTrue(message.data.Unpack(data))
        self.assertEqual(("system", os.getpid()), (data.scope, data.pid))
        self.assertEqual(1234567890, data.process_start_time.seconds)
        usage = data.resource_usage
        self.assertGreater(usage.mean_resident_memory, 0)
        self.assertGreater(usage.max_resident_memory, 0)
        self.assertGreater(usage.max_num_fds, 0)
        self.assertIn(f"Pid:\t{os.getpid()}", data.debug_status)
