"""Run with: trial tests"""

import platform

from fleetspeak_facts.service import FactsFactory
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.interfaces import IClientService, IClientServiceFactory
from fleetspeak.pb import common
from fleetspeak.testing.clientside import RecordingContext
from fleetspeak.testing.serverside import ThreadlessReactor


class FactsTests(SynchronousTestCase):
    def setUp(self):
        self.context = RecordingContext("facts", ThreadlessReactor())
        self.service = FactsFactory().make(None, self.context)

    def ask(self, question):
        message = common.Message(message_type="Question")
        message.source.service_name = "FactFinder"
        message.data.Pack(StringValue(value=question))
        return Deferred.fromCoroutine(self.service.process(message))

    def test_interfaces(self):
        verifyObject(IClientServiceFactory, FactsFactory())
        verifyObject(IClientService, self.service)

    def test_answers_go_to_who_asked(self):
        for question, key in (("system", "hostname"), ("load", "load"), ("disk /", "free")):
            self.successResultOf(self.ask(question))
            reply = self.context.sent.pop()
            found = Struct()
            self.assertTrue(reply.data.Unpack(found))
            self.assertEqual((reply.destination.service_name, reply.message_type), ("FactFinder", "Answer"))
            self.assertEqual(found["question"], question)
            self.assertIn(key, dict(found))
        self.assertTrue(platform.node())

    def test_what_cannot_be_answered_is_an_error_of_the_message(self):
        self.assertIn(
            "is not known", self.failureResultOf(self.ask("the meaning of life"), ValueError).getErrorMessage()
        )
        self.failureResultOf(self.ask("disk /no/such/folder"), OSError)
        message = common.Message()
        failure = self.failureResultOf(Deferred.fromCoroutine(self.service.process(message)), ValueError)
        self.assertIn("StringValue", failure.getErrorMessage())

    def test_it_waits_while_the_outbox_is_full(self):
        self.context.hold = True
        asked = self.ask("load")
        self.assertNoResult(asked)
        self.context.accept()
        self.successResultOf(asked)

    def test_stopping_takes_the_answer_back(self):
        self.context.hold = True
        asked = self.ask("load")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.context.accept()
        self.assertEqual(self.context.sent, [])
