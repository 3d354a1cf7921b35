"""What the Daemon service reports of its processes, and what it kills them for (client-tests.md J)."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from fleetspeak.pb import common, monitoring
from tests.client.process.children import LAUNCHER, TESTCLIENT, alive, connected_python, message, until
from tests.client.services.daemoncase import ECHO, HEAD, QUICK, SAY_PID, DaemonCase, pause

FREEZED = (*TESTCLIENT, "--mode=freezed")
SHORT = Duration(nanos=30_000_000)


class SupervisionCase(DaemonCase):
    def sent(self, message_type: str) -> list[common.Message]:
        """The messages of this type so far."""
        return [sent for sent in self.context.sent if sent.message_type == message_type]

    def unpacked(self, sent: common.Message, data: ProtobufMessage) -> None:
        """Check that it is addressed as what the client tells of processes is, and take its data."""
        self.assertEqual(common.Address(service_name="system"), sent.destination)
        self.assertEqual((common.Message.LOW, True), (sent.priority, sent.background))
        self.assertTrue(sent.data.Unpack(data))

    def usage(self) -> list[monitoring.ResourceUsageData]:
        """The reports while a process runs."""
        return [data for data in self.all_usage() if not data.process_terminated]

    def last_words(self) -> list[monitoring.ResourceUsageData]:
        """The reports of its end."""
        return [data for data in self.all_usage() if data.process_terminated]

    def all_usage(self) -> list[monitoring.ResourceUsageData]:
        reports = []
        for sent in self.sent("ResourceUsage"):
            data = monitoring.ResourceUsageData()
            self.unpacked(sent, data)
            self.assertEqual("TestService", data.scope)
            self.assertGreaterEqual(data.data_timestamp.ToNanoseconds(), data.process_start_time.ToNanoseconds())
            self.assertGreater(data.process_start_time.seconds, 1_600_000_000)
            reports.append(data)
        return reports

    def kills(self) -> list[monitoring.KillNotification]:
        notifications = []
        for sent in self.sent("KillNotification"):
            data = monitoring.KillNotification()
            self.unpacked(sent, data)
            self.assertEqual("TestService", data.service)
            self.assertGreaterEqual(data.killed_when.ToNanoseconds(), data.process_start_time.ToNanoseconds())
            notifications.append(data)
        return notifications

    def own_types(self) -> list[str]:
        """The types of the messages of the process itself."""
        return [kind for kind in self.types() if kind not in ("ResourceUsage", "KillNotification")]


class Usage(SupervisionCase):
    async def test_item_90_reports_are_of_the_process_that_said_its_pid_and_the_last_of_the_launched_one(self) -> None:
        service = self.daemon(
            (*LAUNCHER, "--mode=loopback"),
            disable_resource_monitoring=False,
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period=SHORT,
        )
        await until(lambda: len(self.usage()) >= 3)
        assert service._execution is not None
        launched = service._execution.pid
        await service.stop()
        pids = {data.pid for data in self.usage()}
        self.assertEqual(1, len(pids))
        self.assertNotIn(launched, pids)
        self.assertEqual({"0.5"}, {data.version for data in self.usage()})
        (last,) = self.last_words()
        self.assertEqual((launched, ""), (last.pid, last.version))
        self.assertTrue(last.HasField("resource_usage"))
        self.assertEqual(monitoring.AggregatedResourceUsage(), last.resource_usage)
        self.assertIn("status", last.debug_status)

    async def test_item_100_size_2_and_period_1_give_a_report_every_two_seconds_and_one_of_the_end(self) -> None:
        """A child that lives for 4.2 s and is kept busy."""
        code = "while 1:\n  m, _ = connection.Recv(); m.message_type += 'Response'; connection.Send(m)"
        service = self.daemon(
            connected_python(code),
            replace(QUICK, respawn_delay=600.0),
            disable_resource_monitoring=False,
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period_seconds=1,
        )
        await service.process(message("0"))
        await until(lambda: len(self.context.sent) == 1)
        started = self.context.reactor.seconds()
        count = 1
        while self.context.reactor.seconds() < started + 4.2:
            await service.process(message(str(count)))
            count += 1
            await pause(self.context.reactor, 0.1)
        await service.stop()
        self.assertEqual([f"{number}Response" for number in range(count)], self.own_types())
        reports = self.usage()
        self.assertEqual((2, 1), (len(reports), len(self.last_words())), self.types())
        for report in reports:
            self.assertGreater(report.resource_usage.mean_resident_memory, 0)
            self.assertGreater(report.resource_usage.max_num_fds, 0)
            self.assertIn(f"Pid:\t{report.pid}\n", report.debug_status)
        start, first, second = (
            time.ToNanoseconds() / 1e9
            for time in (reports[0].process_start_time, reports[0].data_timestamp, reports[1].data_timestamp)
        )
        self.assertGreaterEqual(first - start, 2.0)
        self.assertTrue(1.0 < second - first < 3.0, second - first)

    async def test_a_process_that_does_not_say_who_it_is_is_watched_all_the_same(self) -> None:
        service = self.daemon(
            ("sleep", "60"),
            replace(QUICK, startup_wait=0.1),
            disable_resource_monitoring=False,
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period=SHORT,
        )
        await until(self.usage)
        assert service._execution is not None
        self.assertEqual((service._execution.pid, ""), (self.usage()[0].pid, self.usage()[0].version))

    async def test_item_104_a_pid_that_is_no_descendant_is_ignored(self) -> None:
        """The launched process is watched and killed instead; the version is believed."""
        program = (
            "import os, sys, time\n"
            "from fleetspeak.pb import channel, common\n"
            "from fleetspeak.wire import channelframes\n"
            "say = common.Message(message_type='StartupData', destination=common.Address(service_name='system'))\n"
            "say.data.Pack(channel.StartupData(pid=int(sys.argv[1]), version='6.6'))\n"
            "os.write(4, channelframes.MAGIC + channelframes.encode(say.SerializeToString()))\n"
            "time.sleep(60)\n"
        )
        with capturedLogs() as logs:
            service = self.daemon(
                (sys.executable, "-c", program, str(os.getpid())),
                replace(QUICK, respawn_delay=600.0),
                disable_resource_monitoring=False,
                resource_monitoring_sample_size=2,
                resource_monitoring_sample_period=SHORT,
                monitor_heartbeats=True,
                heartbeat_unresponsive_kill_period=SHORT,
            )
            await until(self.usage)
            assert service._execution is not None
            pid = service._execution.pid
            await until(lambda: service._execution is None)
        self.assertEqual({(pid, "6.6")}, {(data.pid, data.version) for data in self.usage()})
        self.assertEqual([(pid, "6.6")], [(data.pid, data.version) for data in self.kills()])
        self.assertTrue(any("is no descendant of" in (formatEvent(event) or "") for event in logs))

    async def test_resource_monitoring_can_be_turned_off(self) -> None:
        service = self.daemon(ECHO, resource_monitoring_sample_size=2, resource_monitoring_sample_period=SHORT)
        await service.process(message("m"))
        await until(lambda: self.own_types() == ["mResponse"])
        await pause(self.context.reactor, 0.3)
        await service.stop()
        self.assertEqual(["mResponse"], self.types())

    async def test_a_report_that_finds_no_room_is_dropped_and_holds_up_nothing(self) -> None:
        service = self.daemon(
            connected_python(f"{HEAD}connection.Recv()"),
            replace(QUICK, respawn_delay=600.0),
            disable_resource_monitoring=False,
        )
        await until(lambda: service._execution is not None and service._execution.startup is not None)
        self.context.hold = True
        await service.process(message("end"))
        await until(lambda: service._execution is None)
        self.assertEqual(1, len(self.context.stats.finished))
        self.context.accept()
        self.assertEqual(1, len(self.last_words()))


class Killing(SupervisionCase):
    async def test_item_94_a_process_over_its_memory_limit_is_killed_and_started_again(self) -> None:
        service = self.daemon(
            (*TESTCLIENT, "--mode=memoryhog"),
            memory_limit=10 * 1024 * 1024,
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period=SHORT,
        )
        await until(lambda: service._execution is not None)
        assert service._execution is not None
        first = service._execution.pid
        alive_then = []
        send = self.context.send

        def watching(sent: common.Message) -> Deferred[None]:
            if sent.message_type == "KillNotification":
                alive_then.append(alive(first))
            return send(sent)

        self.patch(service._execution._supervisor, "_send", watching)
        await until(lambda: self.kills() and service._execution is not None and service._execution.pid != first)
        kill = self.kills()[0]
        self.assertEqual((monitoring.KillNotification.MEMORY_EXCEEDED, first), (kill.reason, kill.pid))
        self.assertEqual("0.5", kill.version)
        self.assertEqual([True], alive_then)
        self.assertFalse(alive(first))
        self.assertIn("memory_limit is 10485760", str(self.context.stats.finished[0]))

    async def test_item_95_a_silent_process_is_killed_and_started_again(self) -> None:
        send, finished = self.context.send, self.context.stats.finished
        finished_at_kill = []

        def watching(sent: common.Message, *args: Any) -> Deferred[None]:
            if sent.message_type == "KillNotification":
                finished_at_kill.append(len(finished))
            return send(sent, *args)

        self.patch(self.context, "send", watching)
        service = self.daemon(
            FREEZED,
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period=SHORT,
            disable_resource_monitoring=False,
            monitor_heartbeats=True,
            heartbeat_unresponsive_kill_period=Duration(nanos=100_000_000),
        )
        await until(lambda: len(self.kills()) == 2)
        await service.stop()
        self.assertEqual([0, 1], finished_at_kill)
        first, second = self.kills()
        self.assertNotEqual(first.pid, second.pid)
        for kill in (first, second):
            self.assertEqual((monitoring.KillNotification.HEARTBEAT_FAILURE, "0.5"), (kill.reason, kill.version))
        self.assertIn("signal: killed", self.last_words()[0].debug_status)

    async def test_item_96_a_process_that_gives_signs_of_life_lives(self) -> None:
        service = self.daemon(
            (*TESTCLIENT, "--mode=100ms-heartbeat"),
            resource_monitoring_sample_size=2,
            resource_monitoring_sample_period=SHORT,
            disable_resource_monitoring=False,
            monitor_heartbeats=True,
            heartbeat_unresponsive_kill_period=Duration(nanos=310_000_000),
        )
        await until(self.usage)
        before = len(self.usage())
        await pause(self.context.reactor, 2.5)
        self.assertEqual(1, len({data.pid for data in self.usage()}))
        self.assertGreater(len(self.usage()), before + 10)
        self.assertEqual(([], []), (self.kills(), self.context.stats.finished))
        await service.stop()

    async def test_heartbeats_are_watched_without_resource_monitoring(self) -> None:
        self.daemon(FREEZED, monitor_heartbeats=True, heartbeat_unresponsive_kill_period=Duration(nanos=100_000_000))
        await until(self.kills)
        self.assertEqual([], self.all_usage())

    async def test_while_the_outbox_is_full_a_process_is_not_taken_for_silent(self) -> None:
        service = self.daemon(
            ECHO,
            monitor_heartbeats=True,
            heartbeat_unresponsive_grace_period=Duration(seconds=1),
            heartbeat_unresponsive_kill_period=Duration(nanos=100_000_000),
        )
        await service.process(message("warm up"))
        await until(lambda: self.context.sent)
        self.context.hold = True
        await service.process(message("stuck"))
        await until(lambda: service._execution is not None and service._execution._messages.waiting)
        await pause(self.context.reactor, 3.5)
        self.assertEqual([], self.kills())
        self.context.accept()
        await until(self.kills)

    async def test_a_kill_reaches_a_process_that_has_left_the_group(self) -> None:
        code = f"import subprocess; subprocess.run({[*FREEZED]}, pass_fds=[3, 4], start_new_session=True)"
        self.daemon(
            (sys.executable, "-c", code),
            replace(QUICK, respawn_delay=600.0),
            monitor_heartbeats=True,
            heartbeat_unresponsive_kill_period=Duration(nanos=100_000_000),
        )
        await until(self.kills)
        await until(lambda: not alive(self.kills()[0].pid))

    async def test_messages_of_a_process_that_was_killed_go_to_the_next_one(self) -> None:
        """It had no chance to finish with what it had read."""
        folder = self.mktemp()
        code = (
            f"{HEAD}first = not os.path.exists({folder!r})\n"
            f"open({folder!r}, 'w').close()\n"
            "while 1:\n"
            "  m, _ = connection.Recv()\n"
            "  if first: time.sleep(60)\n"
            "  connection.Send(m)\n"
            "  connection.Heartbeat()\n"
        )
        service = self.daemon(
            connected_python(code),
            monitor_heartbeats=True,
            heartbeat_unresponsive_grace_period=Duration(seconds=1),
            heartbeat_unresponsive_kill_period=Duration(seconds=1),
        )
        await service.process(message("precious"))
        await until(lambda: self.own_types() == ["precious"])
        self.assertEqual(1, len(self.kills()))


class Statistics(SupervisionCase):
    async def test_the_hook_hears_of_each_execution_once(self) -> None:
        service = self.daemon(connected_python(f"{HEAD}{SAY_PID}\nconnection.Recv()\nsys.exit(3)"))
        for number in (1, 2):
            await service.process(message("end"))
            await until(lambda: len(self.context.stats.finished) == number)  # noqa: B023
        await until(lambda: len(self.types()) == 3)
        await service.stop()
        *failed, stopped = self.context.stats.finished
        self.assertEqual(2, len(failed))
        for error in failed:
            self.assertIn("exit status 3", str(error))
        self.assertIsNone(stopped)

    async def test_a_kill_by_somebody_else_is_told(self) -> None:
        service = self.daemon(ECHO, replace(QUICK, respawn_delay=600.0))
        await service.process(message("m"))
        assert service._execution is not None
        os.kill(service._execution.pid, signal.SIGKILL)
        await until(lambda: self.context.stats.finished)
        self.assertIn("signal: killed", str(self.context.stats.finished[0]))
