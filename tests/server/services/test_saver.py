"""Saving messages as files."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from google.protobuf import text_format
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceFactory
from fleetspeak.pb import common
from fleetspeak.server.services.saver import MessageSaver, MessageSaverFactory
from tests.server.services.doubles import message


class SaverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp()) / "deep" / "messages"
        self.addCleanup(shutil.rmtree, self.folder.parent.parent)
        self.saver = MessageSaver(self.folder, self.run_here)
        self.saver.start()

    def run_here(self, function: Callable[..., Any], *args: object) -> Deferred[Any]:
        return maybeDeferred(function, *args)

    def read(self, name: str) -> common.Message:
        return text_format.Parse((self.folder / name).read_text(), common.Message())

    def test_interfaces(self) -> None:
        verifyObject(IServerService, self.saver)
        verifyObject(IServerServiceFactory, MessageSaverFactory())

    def test_each_message_is_a_text_file_named_by_its_id(self) -> None:
        one, other = message(number=1), message(number=2)
        other.message_type = "Grüße"
        self.successResultOf(self.saver.process(one))
        self.successResultOf(self.saver.process(other))
        names = [f"{n:064x}.textproto" for n in (1, 2)]
        self.assertEqual(sorted(os.listdir(self.folder)), names)
        self.assertEqual([self.read(name) for name in names], [one, other])

    def test_a_repeat_changes_nothing(self) -> None:
        sent = message()
        for _ in range(2):
            self.successResultOf(self.saver.process(sent))
        self.assertEqual(len(os.listdir(self.folder)), 1)

    def test_the_folder_is_made_for_its_owner_only(self) -> None:
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)

    def test_a_disk_that_fails_is_a_temporary_error_and_leaves_nothing(self) -> None:
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            failure = self.failureResultOf(self.saver.process(message()), TemporaryError)
        self.assertIn("No space left on device", str(failure.value))
        self.assertEqual(os.listdir(self.folder), [])

    def test_an_id_never_leads_out_of_the_folder(self) -> None:
        self.assertRaises(ValueError, self.saver.process, common.Message(message_id=b"../../x"))
        self.assertRaises(PermanentError, self.saver.process, common.Message())

    def test_a_folder_that_cannot_be_written_to_stops_the_start(self) -> None:
        file = self.folder / "file"
        file.touch()
        error = self.assertRaises(ConfigError, MessageSaver(file, self.run_here).start)
        self.assertIn(str(file), str(error))

    def test_the_config_is_the_folder(self) -> None:
        factory, context = MessageSaverFactory(), mock.Mock(service_name="keep")
        self.assertEqual(factory.make(StringValue(value="/a/b"), context)._folder, Path("/a/b"))
        for missing in (None, StringValue()):
            error = self.assertRaises(ConfigError, factory.make, missing, context)
            self.assertIn("google.protobuf.StringValue", str(error))
