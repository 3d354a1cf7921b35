"""The lock on a state: one client at a time, and nobody's for longer than its process lives."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.persistence.lock import StateLock
from fleetspeak.errors import ConfigError


class StateLockTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state.lock"
        self.lock = StateLock(self.path)
        self.addCleanup(self.lock.release)
        self.other = StateLock(self.path)
        self.addCleanup(self.other.release)

    def test_a_second_one_is_refused_with_the_pid_of_the_first(self) -> None:
        self.lock.acquire()
        error = self.assertRaises(ConfigError, self.other.acquire)
        self.assertIn(f"process {os.getpid()} has locked {self.path}", str(error))
        self.assertNotIn("\n", str(error))

    def test_once_released_it_is_anybodys(self) -> None:
        self.lock.acquire()
        self.lock.release()
        self.lock.release()
        self.other.acquire()
        self.assertRaises(ConfigError, self.lock.acquire)

    def test_who_has_it_may_ask_again(self) -> None:
        self.lock.acquire()
        self.lock.acquire()

    def test_what_another_one_left_in_the_file_is_replaced(self) -> None:
        self.path.write_text("1234567890123\n")
        self.lock.acquire()
        self.assertEqual(self.path.read_text(), f"{os.getpid()}\n")

    def test_a_holder_that_did_not_say_who_it_is(self) -> None:
        with self.path.open("w") as file:
            file.write("rubbish")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertIn("process of unknown id", str(self.assertRaises(ConfigError, self.lock.acquire)))

    def test_the_file_is_private_and_no_link_is_followed(self) -> None:
        self.lock.acquire()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.lock.release()
        self.path.unlink()
        self.path.symlink_to(self.path.with_name("elsewhere"))
        self.assertIn("cannot open the lock file", str(self.assertRaises(ConfigError, self.lock.acquire)))

    def test_children_do_not_inherit_it(self) -> None:
        self.lock.acquire()
        # close_fds=False: only what is closed at exec is closed, as with whoever starts a child.
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False, start_new_session=True
        )
        try:
            self.lock.release()
            self.other.acquire()
        finally:
            child.communicate(b"\n")

    def test_a_file_system_without_locks_is_a_warning(self) -> None:
        with (
            patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks available")),
            capturedLogs() as logged,
        ):
            self.lock.acquire()
        self.assertIn("No locks available", formatEvent(logged[0]))

    def test_whatever_else_goes_wrong_stops_the_client(self) -> None:
        with patch.object(fcntl, "flock", side_effect=OSError(errno.EIO, "Input/output error")):
            self.assertIn("Input/output error", str(self.assertRaises(ConfigError, self.lock.acquire)))
