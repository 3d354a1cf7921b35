from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.core.authorization import Claimed
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IAuthorizer
from fleetspeak.server.authorizers import AllowAll, RequiredLabel

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
