from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.core.authorization import Claimed
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory
from fleetspeak.records import ClientData
from fleetspeak.server.authorizers import (
    LOG_INTERVAL,
    AllowAll,
    AllowAllFactory,
    Guarded,
    RequiredLabel,
    RequiredLabelFactory,
)

HERE = "192.0.2.1:4242"


def claim(*labels: str) -> Claimed:
    return Claimed(ClientId(b"alice-id"), 10, labels)


class AuthorizerTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        verifyObject(IAuthorizer, AllowAll())
        verifyObject(IAuthorizer, RequiredLabel("x"))

    def test_allow_all(self) -> None:
        everyone = AllowAll()
        self.assertTrue(everyone.allow_connection(HERE))
        self.assertTrue(everyone.allow_contact(HERE, claim()))
        self.assertTrue(everyone.allow_client(HERE, claim(), None))
        self.assertEqual(everyone.validate(HERE, claim(), None, []), {})

    def test_required_label(self) -> None:
        members = RequiredLabel("corp")
        self.assertTrue(members.allow_connection(HERE))
        self.assertTrue(members.allow_contact(HERE, claim("linux", "corp")))
        self.assertFalse(members.allow_contact(HERE, claim("linux", "Corp")))
        self.assertFalse(members.allow_contact(HERE, claim()))


class FactoryTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        for factory in (AllowAllFactory(), RequiredLabelFactory()):
            verifyObject(IAuthorizerFactory, factory)

    def test_everyone(self) -> None:
        self.assertTrue(AllowAllFactory().make("", None).allow_contact(HERE, claim()))
        self.assertRaises(ConfigError, AllowAllFactory().make, "corp", None)

    def test_a_label(self) -> None:
        members = RequiredLabelFactory().make("corp:de", None)
        self.assertTrue(members.allow_contact(HERE, claim("corp:de")))
        self.assertFalse(members.allow_contact(HERE, claim("corp")))
        error = self.assertRaises(ConfigError, RequiredLabelFactory().make, "", None)
        self.assertIn("label:corp", str(error))


class GuardedTests(SynchronousTestCase):
    """Somebody else's authorizer: what goes wrong in it lets nobody in."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.inner = mock.Mock(spec=AllowAll())
        self.guarded = Guarded(self.inner, self.clock)

    def stages(self) -> list[Any]:
        one, other = self.inner, self.guarded
        return [
            (one.allow_connection, lambda: other.allow_connection(HERE)),
            (one.allow_contact, lambda: other.allow_contact(HERE, claim())),
            (one.allow_client, lambda: other.allow_client(HERE, claim(), ClientData(b"key"))),
        ]

    def test_it_decides(self) -> None:
        """server-core 2.1: four stages, each with what is known by then."""
        verifyObject(IAuthorizer, self.guarded)
        for stage, ask in self.stages():
            for answer in (True, False):
                stage.return_value = answer
                self.assertIs(ask(), answer)
        for tags in ({}, {"tpm": "good"}, None):
            self.inner.validate.return_value = tags
            self.assertEqual(self.guarded.validate(HERE, claim(), None, []), tags)
        self.inner.allow_client.assert_called_with(HERE, claim(), ClientData(b"key"))
        self.inner.validate.assert_called_with(HERE, claim(), None, [])

    def test_raising_is_a_refusal(self) -> None:
        for stage, ask in self.stages():
            stage.side_effect = ValueError("oops")
            self.assertIs(ask(), False)
        self.inner.validate.side_effect = ValueError("oops")
        self.assertIsNone(self.guarded.validate(HERE, claim(), None, []))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1, "a fleet does not fill the log")
        self.clock.advance(LOG_INTERVAL)
        self.guarded.allow_connection(HERE)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_what_is_no_answer_is_a_refusal(self) -> None:
        """A coroutine or a Deferred is true, but it is no yes."""
        for wrong in (mock.sentinel.deferred, None, 1, "yes"):
            for stage, ask in self.stages():
                stage.return_value = wrong
                self.assertIs(ask(), False)
        for wrong in (True, {"a": 1}, [("a", "b")]):
            self.inner.validate.return_value = wrong
            self.assertIsNone(self.guarded.validate(HERE, claim(), None, []))
        self.flushLoggedErrors(TypeError)
