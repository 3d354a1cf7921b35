"""Run with: trial tests"""

import json
from pathlib import Path

from fleetspeak_jsonlines.service import JsonLinesFactory
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceFactory
from fleetspeak.testing.serverside import RecordingServerContext, message_from_client


class JsonLinesTests(SynchronousTestCase):
    def setUp(self):
        self.path = Path(self.mktemp())
        self.context = RecordingServerContext("log")
        self.service = JsonLinesFactory().make(StringValue(value=str(self.path)), self.context)
        self.service.start()

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def test_interfaces(self):
        verifyObject(IServerServiceFactory, JsonLinesFactory())
        verifyObject(IServerService, self.service)

    def test_a_line(self):
        message = message_from_client("log", "Note")
        message.data.Pack(StringValue(value="hello"))
        self.successResultOf(self.service.process(message))
        [line] = self.lines()
        self.assertEqual(line["client_id"], "0102030405060708")
        self.assertEqual(line["type"], "Note")
        self.assertEqual(line["data"]["value"], "hello")

    def test_a_payload_of_an_unknown_type(self):
        message = message_from_client("log")
        message.data.type_url, message.data.value = "type.googleapis.com/who.Knows", b"\xff"
        self.successResultOf(self.service.process(message))
        self.assertEqual(self.lines()[0]["data"], {"@type": "type.googleapis.com/who.Knows", "base64": "/w=="})

    def test_many_at_once_are_written_together(self):
        self.context.reactor.hold = True
        processing = [self.service.process(message_from_client()) for _ in range(5)]
        self.context.reactor.work()
        self.successResultOf(processing[0])
        self.assertNoResult(processing[1])
        self.context.reactor.work()
        for one in processing[1:]:
            self.successResultOf(one)
        self.assertEqual(len(self.lines()), 5)

    def test_cancelled_after_30_seconds(self):
        self.context.reactor.hold = True
        processing = self.service.process(message_from_client())
        processing.cancel()
        self.failureResultOf(processing, CancelledError)
        self.context.reactor.work()

    def test_a_disk_that_fails_is_temporary(self):
        self.path.unlink()
        self.path.mkdir()
        self.failureResultOf(self.service.process(message_from_client()), TemporaryError)

    def test_a_wrong_configuration_says_what_to_write(self):
        error = self.assertRaises(ConfigError, JsonLinesFactory().make, None, self.context)
        self.assertIn("StringValue", str(error))
        service = JsonLinesFactory().make(StringValue(value="/no/such/folder/file"), self.context)
        self.assertRaises(ConfigError, service.start)
