"""sd_notify: against a real datagram socket, and the example units against systemd's own check."""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.program.systemd import Notifier
from tests.programs import require_on_path

UNITS = Path(__file__).parents[2] / "doc" / "examples" / "systemd"


class Listener:
    """What systemd is for a service: a datagram socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """The messages since the last time."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


class NotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = f"{folder.name}/notify"
        self.listener = self.listen(self.path)
        self.clock = Clock()

    def listen(self, address: str) -> Listener:
        listener = Listener(address)
        self.addCleanup(listener.socket.close)
        return listener

    def test_ready_reloading_and_stopping(self) -> None:
        notifier = Notifier(self.path)
        notifier.ready()
        notifier.reloading()
        notifier.stopping()
        ready, reloading, stopping = self.listener.heard()
        self.assertEqual((ready, stopping), ("READY=1", "STOPPING=1\nSTATUS=stopping"))
        self.assertRegex(reloading, r"^RELOADING=1\nMONOTONIC_USEC=\d+$")

    def test_an_abstract_name(self) -> None:
        name = f"@fleetspeak-test-{secrets.token_hex(8)}"
        listener = self.listen(name)
        Notifier(name).ready()
        self.assertEqual(listener.heard(), ["READY=1"])

    def test_the_watchdog_is_fed_at_half_its_time_by_the_reactor(self) -> None:
        notifier = Notifier(self.path, watchdog=4.0)
        notifier.start(self.clock, str)
        self.assertEqual(self.listener.heard(), ["WATCHDOG=1"])
        self.clock.pump([1.9, 0.1, 2.0, 2.0])
        self.assertEqual(self.listener.heard(), ["WATCHDOG=1"] * 3)
        notifier.stop()
        self.clock.advance(10)
        self.assertEqual(self.listener.heard(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_status_is_told_when_it_changes_and_is_one_line(self) -> None:
        texts = ["one\nREADY=1", "one\nREADY=1", "two"]
        Notifier(self.path).start(self.clock, lambda: texts.pop(0))
        self.clock.pump([10, 10])
        self.assertEqual(self.listener.heard(), ["STATUS=one READY=1", "STATUS=two"])

    def test_the_environment_is_taken_from_the_children(self) -> None:
        environ = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42", "HOME": "/"}
        Notifier.from_environment(environ, pid=42).start(self.clock, str)
        self.assertEqual(environ, {"HOME": "/"})
        self.clock.advance(1.5)
        self.assertEqual(self.listener.heard(), ["WATCHDOG=1"] * 2)

    def test_a_watchdog_that_is_for_another_process_is_not_fed(self) -> None:
        environ = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}
        notifier = Notifier.from_environment(environ, pid=43)
        notifier.start(self.clock, str)
        notifier.ready()
        self.assertEqual(self.listener.heard(), ["READY=1"])

    def test_rubbish_in_the_environment_is_nobody_to_tell(self) -> None:
        for environ in ({}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "here"}, {"WATCHDOG_USEC": "1"}):
            notifier = Notifier.from_environment(environ)
            notifier.start(self.clock, lambda: "fine")
            notifier.ready()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        Notifier.from_environment({"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "-1x"}).start(self.clock, str)
        self.assertEqual(self.listener.heard(), [])

    def test_systemd_not_listening_is_a_warning(self) -> None:
        notifier = Notifier(self.path + "x")
        with capturedLogs() as logged:
            notifier.ready()
        self.assertIn("systemd could not be told 'READY=1'", formatEvent(logged[0]) or "")


class UnitTests(SynchronousTestCase):
    def test_systemd_finds_nothing_wrong_with_the_example_units(self) -> None:
        analyze = require_on_path("systemd-analyze", "install the Debian package systemd")
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for unit in UNITS.glob("*.service"):
            # The program must be there, and the user.
            text = re.sub("/usr/bin/fleetspeak-", f"{Path(sys.executable).parent}/fleetspeak-", unit.read_text())
            copy = Path(folder.name) / unit.name
            copy.write_text(re.sub("User=.*", "User=daemon", text))
            done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
