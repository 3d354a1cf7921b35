"""What comes with Fleetspeak is found as anybody's plug-ins are."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.assembly import communicator_factory, service_factories
from fleetspeak.client.identity import KeyedIdentity
from fleetspeak.interfaces import IClientServiceContext, IClientServiceFactory, ICommunicator, ICommunicatorFactory
from fleetspeak.testing.clientside import (
    FakeCommunicator,
    FakeCommunicatorFactory,
    FakeLink,
    RecordingContext,
    client_settings,
)


class BuiltInTests(SynchronousTestCase):
    def test_the_kinds_of_services_are_those_of_the_go_client(self) -> None:
        factories = service_factories()
        self.assertEqual(sorted(factories), ["Daemon", "NOOP", "Socket", "Stdin"])
        for factory in factories.values():
            verifyObject(IClientServiceFactory, factory)

    def test_the_settings_choose_the_transport(self) -> None:
        for streaming, name in ((True, "streaming"), (False, "polling")):
            factory = communicator_factory(client_settings(streaming=streaming))
            verifyObject(ICommunicatorFactory, factory)
            self.assertEqual(factory.name, name)


class DoublesTests(SynchronousTestCase):
    def test_the_doubles_provide_what_they_stand_for(self) -> None:
        verifyObject(IClientServiceContext, RecordingContext())
        verifyObject(ICommunicatorFactory, FakeCommunicatorFactory())
        verifyObject(ICommunicator, FakeCommunicator(FakeLink()))
        self.assertIsInstance(FakeLink().identity, KeyedIdentity)
        self.assertIsInstance(RecordingContext().reactor, Clock)
