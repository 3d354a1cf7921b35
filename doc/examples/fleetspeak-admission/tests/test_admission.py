"""Run with: trial tests"""

from pathlib import Path

from fleetspeak_admission.authorizer import LOOK_INTERVAL, AdmissionFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.core.authorization import Claimed
from fleetspeak.errors import ConfigError
from fleetspeak.ids import parse_client_id
from fleetspeak.interfaces import IAuthorizer, IAuthorizerFactory
from fleetspeak.records import ClientData
from fleetspeak.testing.serverside import ThreadlessReactor

LISTED = Claimed(parse_client_id("0102030405060708"), 100, ())
OTHER = Claimed(parse_client_id("0807060504030201"), 100, ())
KNOWN = ClientData(b"key")


class AdmissionTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = ThreadlessReactor()
        self.path = Path(self.mktemp())
        self.path.write_text("network 192.0.2.0/24  # ours\nclient 0102030405060708\n")
        self.authorizer = AdmissionFactory().make(str(self.path), self.reactor)

    def test_interfaces(self):
        verifyObject(IAuthorizerFactory, AdmissionFactory())
        verifyObject(IAuthorizer, self.authorizer)

    def test_who_may_connect(self):
        self.assertTrue(self.authorizer.allow_connection("192.0.2.7:1234"))
        self.assertTrue(self.authorizer.allow_connection("[::ffff:192.0.2.7]:1234"))
        self.assertFalse(self.authorizer.allow_connection("198.51.100.7:1234"))
        self.assertFalse(self.authorizer.allow_connection("[2001:db8::1]:1234"))

    def test_who_may_enrol(self):
        for claim, client, allowed in ((LISTED, None, True), (OTHER, None, False), (OTHER, KNOWN, True)):
            self.assertTrue(self.authorizer.allow_contact("", claim))
            self.assertEqual(self.authorizer.allow_client("", claim, client), allowed)

    def test_what_is_noted(self):
        self.assertEqual(self.authorizer.validate("", LISTED, None, []), {"admission": "listed"})
        self.assertEqual(self.authorizer.validate("", OTHER, KNOWN, []), {"admission": "enrolled before"})

    def test_the_list_changes(self):
        self.path.write_text("network 198.51.100.0/24")
        self.authorizer.allow_connection("198.51.100.7:1234")
        self.assertFalse(self.authorizer.allow_connection("198.51.100.7:1234"))
        self.reactor.advance(LOOK_INTERVAL)
        self.authorizer.allow_connection("198.51.100.7:1234")
        self.assertTrue(self.authorizer.allow_connection("198.51.100.7:1234"))

    def test_a_list_that_becomes_wrong_stays_as_it_was(self):
        self.path.write_text("network somewhere")
        self.reactor.advance(LOOK_INTERVAL)
        self.authorizer.allow_connection("192.0.2.7:1234")
        self.assertTrue(self.authorizer.allow_connection("192.0.2.7:1234"))

    def test_a_wrong_list_says_where(self):
        for text, said in (
            ("client x", ":1: "),
            ("\nclients 1", ':2: expected "network'),
            ("network 1.2.3.4/1", ":1: "),
        ):
            self.path.write_text(text)
            self.assertIn(
                said, str(self.assertRaises(ConfigError, AdmissionFactory().make, str(self.path), self.reactor))
            )
        for argument in ("", "/no/such/list"):
            self.assertRaises(ConfigError, AdmissionFactory().make, argument, self.reactor)
