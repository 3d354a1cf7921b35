"""The Daemon service with real child processes (client-tests.md J)."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.duration_pb2 import Duration
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import LoopingCall
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.process.execution import Execution, ExecutionFailed
from fleetspeak.client.process.supervisor import SupervisionRules
from fleetspeak.client.services.daemon import DaemonFactory, DaemonService
from fleetspeak.client.services.daemonconfig import Limits
from fleetspeak.core import supervision
from fleetspeak.core.supervision import HeartbeatRules
from fleetspeak.core.usage import SamplingRules
from fleetspeak.errors import ConfigError, TooLarge
from fleetspeak.interfaces import IClientService, IClientServiceFactory
from fleetspeak.pb import channel, common, daemon, daemon_config
from fleetspeak.testing.clientside import RecordingContext
from fleetspeak.wire import channelframes
from tests import vectors
from tests.client.process.children import LAUNCHER, alive, connected_python, context, message, python, until
from tests.client.services.daemoncase import ECHO, HEAD, QUICK, SAY_PID, DaemonCase, pause


def with_life_of(seconds: float) -> Any:
    """`RespawnSchedule.ended` for a process that seems to have lived so long."""
    ended = supervision.RespawnSchedule.ended

    def ended_later(schedule: supervision.RespawnSchedule, now: float, u: float, *, expected: bool = False) -> None:
        schedule.started(now - seconds)
        ended(schedule, now, u, expected=expected)

    return ended_later


def exists(path: str) -> bool:
    """Has the child made this file?"""
    return os.path.exists(path)


class Talking(DaemonCase):
    async def test_item_89_a_loopback_child_answers(self) -> None:
        service = self.daemon(ECHO)
        for kind in ("RequestTypeA", "RequestTypeB"):
            await service.process(message(kind))
        await until(lambda: len(self.context.sent) == 2)
        expected = [message(kind) for kind in ("RequestTypeAResponse", "RequestTypeBResponse")]
        self.assertEqual(expected, self.context.sent)

    async def test_a_child_behind_a_launcher_is_reached_and_ends_with_it(self) -> None:
        service = self.daemon((*LAUNCHER, "--mode=loopback"))
        await service.process(message("Request"))
        await until(lambda: self.types() == ["RequestResponse"])
        await service.stop()

    async def test_startup_data_is_kept_and_heartbeats_are_consumed(self) -> None:
        service = self.daemon(connected_python(f"{HEAD}connection.Heartbeat()\n{SAY_PID}\ntime.sleep(60)"))
        await until(lambda: self.context.sent)
        (pid,) = self.types()
        assert service._execution is not None
        self.assertEqual(channel.StartupData(pid=int(pid), version="1.0"), service._execution.startup)

    async def test_other_messages_to_system_are_dropped(self) -> None:
        code = (
            "for kind in ('MessageAck', 'Heartbeat', 'StartupData'):\n"
            "  to = common.Address(service_name='system')\n"
            "  connection._write(common.Message(message_type=kind, destination=to))\n"
        )
        with capturedLogs() as logs:
            self.daemon(connected_python(f"{HEAD}{code}{SAY_PID}\ntime.sleep(60)"))
            await until(lambda: self.context.sent)
        self.assertEqual(1, len(self.context.sent))
        self.assertEqual(["MessageAck"], [event["type"] for event in logs if "type" in event])

    async def test_a_message_without_destination_is_dropped_and_the_next_one_is_sent(self) -> None:
        accept = self.context.send

        def refuse_some(sent: common.Message, on_ack: Any = None) -> Deferred[None]:
            if not sent.destination.service_name:
                return fail(ValueError("destination must have ServiceName"))
            return accept(sent, on_ack)

        self.patch(self.context, "send", refuse_some)
        argv = connected_python(f"{HEAD}connection.Send(common.Message())\n{SAY_PID}\ntime.sleep(60)")
        self.daemon(argv)
        await until(lambda: self.context.sent)
        self.assertEqual(1, len(self.context.sent))

    async def test_a_message_that_no_channel_carries_is_refused(self) -> None:
        service = self.daemon(ECHO)
        big = message("Big")
        big.data.value = bytes(channelframes.MAX_MESSAGE)
        await self.assertFailure(self.process(service, big), TooLarge)
        big.data.value = bytes(channelframes.MAX_MESSAGE - 100)
        await service.process(big)
        await until(lambda: self.types() == ["BigResponse"])

    async def test_item_93_back_pressure_in_both_directions(self) -> None:
        """A full outbox blocks the child, a blocked child blocks `process`, and nothing that was accepted is lost."""
        service = self.daemon(ECHO)
        await service.process(message("warm up"))
        await until(lambda: self.context.sent)
        self.context.hold = True
        accepted = []
        for number in range(1000):
            big = message(f"m{number}")
            big.data.value = bytes(16 * 1024)
            outcome: list[str] = []
            processing = self.process(service, big).addTimeout(0.1, self.context.reactor)
            processing.addCallbacks(lambda _, o=outcome: o.append("accepted"), lambda _, o=outcome: o.append("late"))
            await processing
            if outcome == ["late"]:
                break
            accepted.append(f"m{number}Response")
        self.assertTrue(2 < len(accepted) < 100, len(accepted))
        self.context.accept()
        await service.process(message("last"))
        await until(lambda: self.types()[-1] == "lastResponse")
        got = self.types()[1:-1]
        self.assertEqual(accepted, got[: len(accepted)])
        self.assertLessEqual(len(got), len(accepted) + 1)  # the late one may have been on its way


class Environment(DaemonCase):
    async def test_item_97_the_client_id_is_in_the_environment(self) -> None:
        std_params = daemon_config.Config.StdParams(service_name="Out", flush_bytes=1024, flush_time_seconds=5)
        self.daemon(
            ("bash", "-c", "echo $FLEETSPEAK_CLIENT_ID"), replace(QUICK, respawn_delay=60), std_params=std_params
        )
        await until(lambda: self.context.sent, 5)
        (sent,) = self.context.sent
        self.assertEqual(("StdOutput", "Out"), (sent.message_type, sent.destination.service_name))
        self.assertEqual((common.Message.MEDIUM, False), (sent.priority, sent.background))
        output = daemon.StdOutputData()
        sent.data.Unpack(output)
        self.assertEqual((b"0102030405060708\n", b"", 0), (output.stdout, output.stderr, output.message_index))
        self.assertGreater(output.pid, 0)

    async def test_item_101_descriptors_and_variables(self) -> None:
        """Vector daemon_process.json, but for the process group, which is the child's own here."""
        expected = vectors.load("daemon_process")["start"]
        code = (
            "import fcntl, stat\n"
            "def access(fd): return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE\n"
            "say = [os.readlink('/proc/self/fd/0'), os.readlink('/proc/self/fd/1'), os.readlink('/proc/self/fd/2'),\n"
            "       access(3) == os.O_RDONLY, access(4) == os.O_WRONLY, os.getpgrp() == os.getpid(),\n"
            "       os.environ['FLEETSPEAK_COMMS_CHANNEL_INFD'], os.environ['FLEETSPEAK_COMMS_CHANNEL_OUTFD']]\n"
            "connection.Send(common.Message(message_type=repr(say), destination=common.Address(service_name='S')))\n"
            "time.sleep(60)"
        )
        self.daemon(connected_python(HEAD + code))
        await until(lambda: self.context.sent)
        null = expected["fd0"]
        environment = expected["env"]
        self.assertEqual(
            repr(
                [null, null, null, True, True, True]
                + [environment[f"FLEETSPEAK_COMMS_CHANNEL_{end}"] for end in ("INFD", "OUTFD")]
            ),
            self.types()[0],
        )

    async def test_std_forward_gives_the_child_our_own_standard_output(self) -> None:
        self.context = RecordingContext("TestService", context().reactor, std_forward=True)
        say = "connection.Send(common.Message(message_type=os.readlink('/proc/self/fd/2'), "
        argv = connected_python(f"{HEAD}{say}destination=common.Address(service_name='S')))\ntime.sleep(60)")
        service = DaemonFactory(QUICK).make(daemon_config.Config(argv=argv), self.context)
        service.start()
        self.addCleanup(service.stop)
        await until(lambda: self.context.sent)
        self.assertEqual([os.readlink("/proc/self/fd/2")], self.types())


class StandardOutput(DaemonCase):
    async def test_item_99_much_output_arrives_complete_and_in_order(self) -> None:
        lines = 131072
        out = "The quick brown fox jumped over the lazy dogs.\n"
        err = "The brown quick fox jumped over some lazy dogs.\n"
        code = (
            "import sys\n"
            f"for _ in range({lines}):\n  sys.stdout.write({out!r})\n  sys.stderr.write({err!r})\n"
            "sys.stdout.flush(); sys.stderr.flush()"
        )
        std_params = daemon_config.Config.StdParams(service_name="Out", flush_time_seconds=5)
        self.daemon(python(code), replace(QUICK, respawn_delay=600), std_params=std_params)
        wanted = lines * (len(out) + len(err))
        records: list[daemon.StdOutputData] = []

        def complete() -> bool:
            for sent in self.context.sent[len(records) :]:
                record = daemon.StdOutputData()
                sent.data.Unpack(record)
                records.append(record)
            return sum(len(record.stdout) + len(record.stderr) for record in records) >= wanted

        await until(complete, 30)
        self.assertEqual(list(range(len(records))), [record.message_index for record in records])
        self.assertEqual((out * lines).encode(), b"".join(record.stdout for record in records))
        self.assertEqual((err * lines).encode(), b"".join(record.stderr for record in records))
        for record in records:
            self.assertLessEqual(len(record.stdout) + len(record.stderr), 2**20)

    async def test_output_does_not_wait_longer_than_asked(self) -> None:
        std_params = daemon_config.Config.StdParams(service_name="Out", flush_time_seconds=1)
        self.daemon(connected_python("print('hello', flush=True)\ntime.sleep(60)"), QUICK, std_params=std_params)
        await until(lambda: self.context.sent, 10)

    async def test_a_full_outbox_blocks_the_writes_of_the_child(self) -> None:
        done = self.mktemp()
        size = 2**20
        code = f"import sys; sys.stdout.write('x' * {size}); sys.stdout.flush(); open({done!r}, 'w').close()"
        std_params = daemon_config.Config.StdParams(service_name="Out", flush_bytes=4096)
        self.context.hold = True
        service = self.daemon(python(code), replace(QUICK, respawn_delay=600, grace=5.0), std_params=std_params)
        await until(lambda: service._execution is not None and service._execution._output.blocked)
        await pause(self.context.reactor, 0.3)
        self.assertFalse(exists(done))
        self.context.accept()
        await until(lambda: self.context.stats.finished)
        self.assertTrue(exists(done))
        written = b""
        for sent in self.context.sent:
            output = daemon.StdOutputData()
            sent.data.Unpack(output)
            written += output.stdout
        self.assertEqual(b"x" * size, written)

    async def test_without_a_service_name_there_is_no_forwarding(self) -> None:
        with capturedLogs() as logs:
            self.daemon(ECHO, std_params=daemon_config.Config.StdParams(flush_bytes=1))
        self.assertIn(LogLevel.error, [event["log_level"] for event in logs])


class LifeCycle(DaemonCase):
    async def test_item_91_a_child_that_ends_is_started_again_not_before_the_delay(self) -> None:
        code = f"{HEAD}{SAY_PID}\nsys.exit(42)"
        service = self.daemon(connected_python(code), replace(QUICK, respawn_delay=1.0))
        clock = self.context.reactor
        started = clock.seconds()
        with capturedLogs() as logs:
            await until(lambda: len(set(self.types())) == 3)
        self.assertTrue(2.0 <= clock.seconds() - started <= 10.0)
        await service.stop()
        lines = [formatEvent(event) or "" for event in logs]
        ends = [re.search(r"is gone: (.*)\. It is started again in (.*) s", line) for line in lines]
        reasons = [(end[1], float(end[2])) for end in ends if end]
        self.assertEqual(2, len(reasons), lines)
        for (reason, delay), least in zip(reasons, (1.0, 2.0), strict=True):
            self.assertIn("exit status 42", reason)
            self.assertTrue(least <= delay <= 1.5 * least, reasons)

    async def test_after_some_short_lives_the_log_says_where_to_look(self) -> None:
        with capturedLogs() as logs:
            self.daemon(("/bin/false", "secret"), Limits(respawn_delay=0.01, grace=0.2))
            await until(lambda: any("times in a row" in (formatEvent(event) or "") for event in logs))
        (line,) = [line for event in logs if "3 times in a row" in (line := formatEvent(event) or "")]
        self.assertIn("To see what /bin/false says, set std_params, or run it by hand as the user of the client", line)
        self.assertNotIn("secret", "".join(formatEvent(event) or "" for event in logs))

    async def test_after_a_long_life_it_is_started_again_at_once(self) -> None:
        self.patch(supervision.RespawnSchedule, "ended", with_life_of(3600.0))
        code = f"{HEAD}{SAY_PID}\nsys.exit(42)"
        self.daemon(connected_python(code), replace(QUICK, respawn_delay=600))
        await until(lambda: len(set(self.types())) == 3)

    async def test_item_92_a_child_that_is_idle_is_ended_and_gets_each_message_first(self) -> None:
        service = self.daemon(ECHO, inactivity_timeout=Duration(seconds=1))
        pids = []
        clock = self.context.reactor
        for number in range(3):
            await service.process(message(f"m{number}"))
            assert service._execution is not None
            pids.append(service._execution.pid)
            delivered = clock.seconds()
            await until(lambda: service._execution is None)
            self.assertGreaterEqual(clock.seconds() - delivered, 1.0)
            self.assertEqual(f"m{number}Response", self.types()[-1])
        self.assertEqual(3, len(set(pids)))
        self.assertEqual([None] * 3, self.context.stats.finished)
        self.assertEqual(["m0Response", "m1Response", "m2Response"], self.types())

    async def test_item_92_messages_in_both_directions_are_activity(self) -> None:
        service = self.daemon(ECHO, inactivity_timeout=Duration(seconds=1))
        await service.process(message("first"))
        assert service._execution is not None
        pid = service._execution.pid
        started = self.context.reactor.seconds()
        while self.context.reactor.seconds() < started + 1.8:
            await service.process(message("again"))
            count = len(self.context.sent)
            await until(lambda: len(self.context.sent) > count)  # noqa: B023
            await pause(self.context.reactor, 0.4)
        assert service._execution is not None
        self.assertEqual(pid, service._execution.pid)

    async def test_a_child_that_is_held_up_by_a_full_outbox_is_not_idle(self) -> None:
        service = self.daemon(ECHO, inactivity_timeout=Duration(seconds=2))
        self.context.hold = True
        await service.process(message("m"))
        await until(lambda: service._execution is not None and service._execution._messages.waiting)
        await pause(self.context.reactor, 2.5)
        self.assertEqual([], self.context.stats.finished)
        self.context.accept()
        await until(lambda: self.context.stats.finished)
        self.assertEqual(["mResponse"], self.types())

    async def test_a_child_that_takes_its_time_to_start_is_not_idle_while_a_message_waits_for_it(self) -> None:
        code = "while 1:\n  m, _ = connection.Recv(); connection.Send(m)"
        program, argument, source = connected_python(code)
        service = self.daemon(
            (program, argument, f"import time; time.sleep(1)\n{source}"),
            inactivity_timeout=Duration(nanos=500_000_000),
        )
        await service.process(message("m"))
        await until(lambda: self.types() == ["m"])
        await until(lambda: self.context.stats.finished)
        self.assertEqual([None], self.context.stats.finished)

    async def test_a_lazy_service_starts_nothing_before_there_is_a_message(self) -> None:
        service = self.daemon(ECHO, lazy_start=True)
        await pause(self.context.reactor, 0.2)
        self.assertIsNone(service._execution)
        await service.process(message("wake up"))
        await until(lambda: self.types() == ["wake upResponse"])

    async def test_item_102_a_missing_program_is_tried_again(self) -> None:
        with capturedLogs() as logs:
            service = self.daemon(("/no/such/program",))
            waiting = self.process(service, message("m"))
            await until(lambda: len([event for event in logs if event["log_level"] == LogLevel.error]) >= 2)
        self.assertIn("No such file", str(logs[0]["error"]))
        waiting.cancel()
        await self.assertFailure(waiting, Exception)

    async def test_item_105_a_message_taken_while_the_child_dies_goes_to_the_next_one(self) -> None:
        """Also when the service is lazy, and has no other reason to start a child again."""
        folder = self.mktemp()
        code = (
            f"{HEAD}first = not os.path.exists({folder!r})\n"
            f"open({folder!r}, 'w').close()\n"
            "if first: time.sleep(.3); os.kill(os.getpid(), 9)\n"
            "while 1:\n  m, _ = connection.Recv(); connection.Send(m)\n"
        )
        service = self.daemon(connected_python(code), lazy_start=True)
        await service.process(message("precious"))
        await until(lambda: self.context.sent)
        self.assertEqual(["precious"], self.types())

    async def test_what_was_not_read_when_the_service_stopped_goes_to_the_next_instance_of_it(self) -> None:
        deaf = self.daemon(connected_python("time.sleep(60)"))
        for kind in ("one", "two"):
            await deaf.process(message(kind))
        await deaf.stop()
        self.assertEqual(2, len(self.context.left_over))
        self.daemon(ECHO)
        await until(lambda: self.types() == ["oneResponse", "twoResponse"])
        self.assertFalse(self.context.left_over)

    async def test_item_133_stop_during_the_respawn_delay_is_quick(self) -> None:
        service = self.daemon(("/bin/false",), replace(QUICK, respawn_delay=600.0))
        waiting = self.process(service, message("m"))
        await until(lambda: service._execution is None)
        waiting.cancel()
        started = self.context.reactor.seconds()
        await service.stop()
        self.assertLess(self.context.reactor.seconds() - started, 1.0)
        await self.assertFailure(waiting, Exception)

    async def test_item_103_a_grandchild_with_the_output_does_not_delay_the_restart(self) -> None:
        code = f"import subprocess\n{HEAD}{SAY_PID}\nsubprocess.Popen(['sleep', '60'], pass_fds=[3, 4])\nsys.exit(1)"
        std_params = daemon_config.Config.StdParams(service_name="Out")
        self.daemon(connected_python(code), std_params=std_params)
        await until(lambda: len(set(self.types())) == 3, 10)

    async def test_item_103_grandchildren_are_ended_at_stop(self) -> None:
        code = (
            f"import subprocess\n{HEAD}\nchild = subprocess.Popen(['sleep', '60'])\n"
            "to = common.Address(service_name='S')\n"
            "connection.Send(common.Message(message_type=str(child.pid), destination=to))\n"
            "connection.Recv()"
        )
        service = self.daemon(connected_python(code))
        await until(lambda: self.context.sent)
        await service.stop()
        (pid,) = self.types()
        await until(lambda: not alive(int(pid)))

    async def test_stop_does_not_wait_for_a_full_outbox(self) -> None:
        service = self.daemon(ECHO)
        await service.process(message("warm up"))
        await until(lambda: self.context.sent)
        self.context.hold = True
        await service.process(message("stuck"))
        await until(lambda: self.context._held)
        started = self.context.reactor.seconds()
        await service.stop()
        self.assertLess(self.context.reactor.seconds() - started, 4.5)

    async def test_stop_does_not_wait_for_a_full_outbox_with_more_in_the_pipe(self) -> None:
        """What is not read any more hides that the pipe has an end."""
        talking = f"{HEAD}while True: connection.Send(common.Message(message_type='x' * 50000))"
        self.context.hold = True
        service = self.daemon(connected_python(talking))
        await until(lambda: self.context._held)
        started = self.context.reactor.seconds()
        await service.stop()
        self.assertLess(self.context.reactor.seconds() - started, 2.5)
        self.assertEqual(self.context.stats.finished, [None])


class Misbehaving(DaemonCase):
    """Item 98: each execution ends, with an error that says why, and the next one comes."""

    async def check(self, argv: Sequence[str], expected: str, read_limit: float = 0.05) -> None:
        service = self.daemon(argv, replace(QUICK, read_limit=read_limit))
        finished = self.context.stats.finished
        await until(lambda: len(finished) >= 2, 10)
        await service.stop()
        for error in finished[:2]:
            self.assertIsInstance(error, ExecutionFailed)
            self.assertRegex(str(error), expected)

    def test_item_98_frozen(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.check(("sleep", "60"), "timed out"))

    def test_item_98_frozen_and_ignoring_the_interrupt(self) -> Deferred[None]:
        code = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "timed out"))

    def test_item_98_garbage(self) -> Deferred[None]:
        code = "import os, time; os.write(4, b'garbage' * 9); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "unexpected magic number", 10.0))

    def test_garbage_behind_the_magic(self) -> Deferred[None]:
        code = "import os, time; os.write(4, bytes.fromhex('0110eef1 04000000 ffffffff 0110eef1')); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "error parsing received message", 10.0))

    def test_a_length_over_the_limit(self) -> Deferred[None]:
        code = "import os, time; os.write(4, bytes.fromhex('0110eef1 01002000')); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "unexpected size", 10.0))

    def test_item_98_exit_42(self) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self.check(("sh", "-c", "exit 42"), "exit status 42|reading magic number: EOF", 10.0)
        )

    def test_closed_output(self) -> Deferred[None]:
        code = "import os, time; os.write(4, bytes.fromhex('0110eef1')); os.close(4); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "closed its output", 10.0))

    def test_closed_input(self) -> Deferred[None]:
        code = "import os, time; os.write(4, bytes.fromhex('0110eef1')); os.close(3); time.sleep(60)"
        return Deferred.fromCoroutine(self.check(python(code), "closed its input", 10.0))

    async def test_messages_in_front_of_garbage_are_sent(self) -> None:
        frame = channelframes.encode(
            common.Message(message_type="good", destination=common.Address(service_name="S")).SerializeToString()
        )
        code = f"import os, time; os.write(4, {channelframes.MAGIC + frame + b'garbage!'!r}); time.sleep(60)"
        self.daemon(python(code), replace(QUICK, respawn_delay=60.0))
        await until(lambda: self.context.sent)
        self.assertEqual(["good"], self.types())


class Killed(DaemonCase):
    """The issue: kill -9 of a daemon at any moment loses nothing."""

    async def test_kill_9_again_and_again(self) -> None:
        service = self.daemon(ECHO, replace(QUICK, respawn_delay=0.01))
        count, pids = 300, set()
        for number in range(count):
            await service.process(message(f"m{number}"))
            if number % 60 == 30 and service._execution is not None:
                pids.add(service._execution.pid)
                os.kill(service._execution.pid, signal.SIGKILL)
        await until(lambda: f"m{count - 1}Response" in self.types())
        self.assertEqual({f"m{number}Response" for number in range(count)}, set(self.types()))
        self.assertGreaterEqual(len(pids), 3)

    async def test_a_new_process_starts_in_another_turn_of_the_reactor(self) -> None:
        """Events of the old one's pipes that are still to be told would be taken for events of the new one's."""
        turns, ends, starts = [0], [], []
        counting = LoopingCall(lambda: turns.append(len(turns)))
        counting.start(0)
        self.addCleanup(counting.stop)
        child_ended, start = Execution.child_ended, Execution.start
        self.patch(Execution, "child_ended", lambda execution: (ends.append(turns[-1]), child_ended(execution)))
        self.patch(Execution, "start", lambda execution: (starts.append(turns[-1]), start(execution)))
        self.daemon(("/bin/true",), replace(QUICK, respawn_delay=0.0))
        await until(lambda: len(starts) > 3)
        self.assertTrue(all(end < started for end, started in zip(ends, starts[1:], strict=False)), (ends, starts))


class Configuration(SynchronousTestCase):
    def test_interfaces(self) -> None:
        factory = DaemonFactory()
        verifyObject(IClientServiceFactory, factory)
        service = factory.make(daemon_config.Config(argv=["x"]), RecordingContext())
        verifyObject(IClientService, service)

    def test_item_102_empty_argv_is_refused(self) -> None:
        for config in (None, daemon_config.Config(), daemon_config.Config(argv=[""])):
            error = self.assertRaises(ConfigError, DaemonFactory().make, config, RecordingContext())
            self.assertIn("argv", str(error))

    def test_any_inactivity_timeout_makes_it_lazy(self) -> None:
        config = daemon_config.Config(argv=[sys.executable], inactivity_timeout=Duration())
        service = DaemonFactory().make(config, RecordingContext())
        self.assertIsNone(service._program.inactivity_timeout)
        self.assertTrue(service._lazy)

    def refused(self, **config: Any) -> str:
        """Why a configuration is not installed."""
        make = DaemonFactory().make
        return str(self.assertRaises(ConfigError, make, daemon_config.Config(argv=["x"], **config), RecordingContext()))

    def test_item_102_sample_size_1_is_refused(self) -> None:
        self.assertIn(
            "sample size 1 invalid - must be at least 2 (for rate computation)",
            self.refused(resource_monitoring_sample_size=1),
        )

    def test_heartbeats_without_a_kill_period_are_refused(self) -> None:
        self.assertIn("heartbeat_unresponsive_kill_period", self.refused(monitor_heartbeats=True))

    def supervision(self, **config: Any) -> SupervisionRules:
        """What a process with this configuration is watched for."""
        service = DaemonFactory().make(daemon_config.Config(argv=["x"], **config), RecordingContext())
        assert isinstance(service, DaemonService)
        return service._program.supervision

    def test_supervision_by_default(self) -> None:
        self.assertEqual(SupervisionRules(True, SamplingRules(20, 30.0), 0, None, 10.0), self.supervision())

    def test_the_durations_have_precedence_over_the_fields_they_replaced(self) -> None:
        old = {
            "resource_monitoring_sample_period_seconds": 5,
            "monitor_heartbeats": True,
            "heartbeat_unresponsive_grace_period_seconds": 6,
            "heartbeat_unresponsive_kill_period_seconds": 7,
        }
        rules = self.supervision(**old)
        self.assertEqual((5.0, HeartbeatRules(6.0, 7.0)), (rules.sampling.period, rules.heartbeats))
        rules = self.supervision(
            resource_monitoring_sample_period=Duration(nanos=30_000_000),
            heartbeat_unresponsive_grace_period=Duration(seconds=1, nanos=500_000_000),
            heartbeat_unresponsive_kill_period=Duration(seconds=2),
            **old,
        )
        self.assertEqual((0.03, HeartbeatRules(1.5, 2.0)), (rules.sampling.period, rules.heartbeats))

    def test_heartbeats_and_memory_are_watched_without_resource_monitoring_too(self) -> None:
        rules = self.supervision(
            disable_resource_monitoring=True,
            memory_limit=5,
            monitor_heartbeats=True,
            heartbeat_unresponsive_kill_period_seconds=7,
        )
        self.assertEqual(SupervisionRules(False, SamplingRules(), 5, HeartbeatRules(0, 7)), rules)
