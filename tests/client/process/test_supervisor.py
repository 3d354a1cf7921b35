"""The supervisor of one process, on a clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.supervisor import MAX_VERSION, STARTUP_WAIT, SupervisionRules, Supervisor
from fleetspeak.client.process.usage import SEND_LIMIT
from fleetspeak.core.supervision import HeartbeatRules
from fleetspeak.pb import channel, common, monitoring

PID = 4711
HEARTBEATS = SupervisionRules(report_usage=False, heartbeats=HeartbeatRules(5.0, 10.0))


class SupervisorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.clock.advance(1_700_000_000)
        self.events: list[str] = []
        self.sent: list[common.Message] = []
        self.blocked = False
        self.full: list[Deferred[None]] | None = None

    def send(self, message: common.Message) -> Deferred[None]:
        self.events.append(message.message_type)
        self.sent.append(message)
        if self.full is None:
            return succeed(None)
        self.full.append(Deferred())
        return self.full[-1]

    def supervisor(self, rules: SupervisionRules) -> Supervisor:
        return Supervisor(
            "Service",
            rules,
            self.send,
            lambda reason: self.events.append(f"kill: {reason}"),
            lambda: self.blocked,
            self.clock,
            monotonic=self.clock.seconds,
            now_ns=lambda: int(self.clock.seconds() * 1e9),
        )

    def introduce(self, supervisor: Supervisor, version: str = "1.5") -> None:
        supervisor.launched(PID)
        supervisor.introduced(channel.StartupData(pid=PID, version=version))

    def test_the_server_is_told_before_the_kill(self) -> None:
        self.introduce(self.supervisor(HEARTBEATS))
        self.clock.pump([1.0] * 20)
        self.assertEqual(
            [
                "KillNotification",
                "kill: no sign of life for 12.0 s, its heartbeat_unresponsive_kill_period is 10 s",
            ],
            self.events,
        )
        kill = monitoring.KillNotification()
        self.assertTrue(self.sent[0].data.Unpack(kill))
        self.assertEqual(("Service", PID, "1.5"), (kill.service, kill.pid, kill.version))
        self.assertEqual(1, kill.reason)
        self.assertEqual(12, kill.killed_when.seconds - kill.process_start_time.seconds)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_the_kill_does_not_wait_for_room_and_a_notification_that_finds_none_is_given_up(self) -> None:
        self.full = []
        self.introduce(self.supervisor(HEARTBEATS))
        self.clock.pump([1.0] * 12)
        self.assertEqual(2, len(self.events))
        with capturedLogs() as logs:
            self.clock.advance(SEND_LIMIT)
        self.assertEqual(["KillNotification"], [event["type"] for event in logs])
        self.assertTrue(self.full[0].called)

    def test_signs_of_life_and_a_full_outbox_postpone_it(self) -> None:
        supervisor = self.supervisor(HEARTBEATS)
        self.introduce(supervisor)
        for _ in range(10):
            self.clock.pump([1.0] * 9)
            supervisor.heard()
        self.blocked = True
        self.clock.pump([1.0] * 60)
        self.assertEqual([], self.events)
        self.blocked = False
        self.clock.pump([1.0] * 30)
        self.assertEqual(2, len(self.events))

    def test_a_process_that_does_not_introduce_itself_is_watched_after_ten_seconds(self) -> None:
        self.supervisor(HEARTBEATS).launched(PID)
        self.clock.pump([1.0] * int(STARTUP_WAIT + 12))
        self.assertEqual("KillNotification", self.events[0])

    def test_nothing_is_held_against_one_that_is_being_ended(self) -> None:
        supervisor = self.supervisor(HEARTBEATS)
        self.introduce(supervisor)
        supervisor.ending()
        self.assertEqual([], self.clock.getDelayedCalls())
        supervisor.introduced(channel.StartupData(pid=1))
        self.clock.pump([1.0] * 100)
        self.assertEqual([], self.events)

    def test_the_last_report_says_how_it_ended_and_comes_after_an_end_of_any_kind(self) -> None:
        for end in ("exited", "ending", "killed"):
            self.sent.clear()
            supervisor = self.supervisor(SupervisionRules(heartbeats=HeartbeatRules(0.0, 0.1)))
            supervisor.launched(PID)
            if end == "ending":
                supervisor.ending()
            elif end == "killed":
                supervisor._watch(supervisor._launched)
                supervisor._kill(monitoring.KillNotification.HEARTBEAT_FAILURE, "silent")
            supervisor.exited(PID, "exit status 3")
            data = monitoring.ResourceUsageData()
            self.assertTrue(self.sent[-1].data.Unpack(data))
            self.assertEqual((PID, True, "exit status 3"), (data.pid, data.process_terminated, data.debug_status))
            self.assertTrue(data.HasField("resource_usage"))
            self.assertEqual([], self.clock.getDelayedCalls())

    def test_one_that_exits_before_it_is_known_to_run(self) -> None:
        """The reactor may find that out while it starts it."""
        supervisor = self.supervisor(SupervisionRules())
        supervisor.exited(PID, "exit status 0")
        supervisor.launched(PID)
        self.assertEqual(1, len(self.sent))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_version_is_cut(self) -> None:
        self.introduce(self.supervisor(HEARTBEATS), "v" * 2**20)
        self.clock.pump([1.0] * 20)
        kill = monitoring.KillNotification()
        self.assertTrue(self.sent[0].data.Unpack(kill))
        self.assertEqual(MAX_VERSION, len(kill.version))
