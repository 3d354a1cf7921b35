from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.cli import glog
from fleetspeak.cli.goflags import FlagSet

LINE = r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ test\.place\] "


class ObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.stderr = io.StringIO()

    def logger(self, *words: str) -> Logger:
        flags = FlagSet("program", "")
        glog.declare(flags)
        values: dict[str, Any] = flags.parse([f"-log_dir={self.folder}", *words])
        with contextlib.redirect_stderr(self.stderr):
            observer = glog.observer("program", values)
        verifyObject(ILogObserver, observer)
        return Logger("test.place", observer=observer)

    def log_all(self, log: Logger) -> None:
        log.debug("fine")
        log.info("note {number}", number=1)
        log.warn("odd")
        log.error("bad")

    @property
    def file(self) -> str:
        return (self.folder / "program.INFO").read_text()

    def test_by_default_to_files_and_errors_to_stderr_too(self) -> None:
        self.log_all(self.logger())
        self.assertRegex(self.file, rf"\AI{LINE[6:]}note 1\nW{LINE[6:]}odd\nE{LINE[6:]}bad\n\Z")
        self.assertRegex(self.stderr.getvalue(), rf"\A{LINE}bad\n\Z")

    def test_to_stderr_only(self) -> None:
        self.log_all(self.logger("-logtostderr"))
        self.assertEqual(len(self.stderr.getvalue().splitlines()), 3)
        self.assertEqual(os.listdir(self.folder), [])

    def test_to_both(self) -> None:
        self.log_all(self.logger("-alsologtostderr"))
        self.assertEqual(self.file, self.stderr.getvalue())

    def test_the_threshold_of_stderr(self) -> None:
        for threshold in ("WARNING", "1"):
            self.stderr = io.StringIO()
            self.log_all(self.logger(f"-stderrthreshold={threshold}"))
            self.assertEqual(len(self.stderr.getvalue().splitlines()), 2)

    def test_debugging_messages_when_asked(self) -> None:
        self.log_all(self.logger("-v=1"))
        self.assertIn("fine", self.file)

    def test_a_failure_comes_with_its_traceback(self) -> None:
        log = self.logger()
        try:
            raise ValueError("the cause")
        except ValueError:
            log.failure("broken", Failure())
        self.assertRegex(self.file, rf"\AF{LINE[6:]}broken\nTraceback")
        self.assertIn("the cause", self.file)

    def test_files_have_glogs_names_and_are_not_for_everybody(self) -> None:
        self.logger().info("x")
        link = self.folder / "program.INFO"
        self.assertTrue(link.is_symlink())
        self.assertRegex(link.resolve().name, rf"\Aprogram\..+\.log\.INFO\.\d{{8}}-\d{{6}}\.\d+\.{os.getpid()}\Z")
        self.assertEqual(stat.S_IMODE(link.stat().st_mode) & 0o027, 0)

    def test_a_large_file_is_followed_by_a_new_one(self) -> None:
        log = self.logger()
        self.patch(glog, "_MAX_FILE_SIZE", 10)
        log.info("one")
        log.info("two")
        self.assertIn("two", self.file)
        self.assertNotIn("one", self.file)
        self.assertEqual(len(os.listdir(self.folder)), 3)

    def test_a_folder_that_cannot_be_written_is_told_and_stderr_takes_over(self) -> None:
        with contextlib.redirect_stderr(self.stderr):
            self.log_all(self.logger(f"-log_dir={self.folder / 'none'}"))
        self.assertIn("unable to write log files", self.stderr.getvalue())
        self.assertIn("note 1", self.stderr.getvalue())

    def test_a_full_disk_or_a_closed_stderr_ends_nothing(self) -> None:
        class Broken(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError("no space left")

        glog.Observer(None, 0, verbose=False, stderr=Broken())(
            {"log_level": LogLevel.error, "log_format": "x", "log_time": 0.0, "log_namespace": "n"}
        )

    def test_the_flags_without_effect_are_taken(self) -> None:
        self.logger("-vmodule=a=1", "-log_backtrace_at=", "-logbuflevel=0", f"-log_link={self.folder}").info("x")
