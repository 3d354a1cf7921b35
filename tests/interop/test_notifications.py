"""Our servers and upstream's notify each other of messages for streams (server-core 7)."""

from __future__ import annotations

import http.client
from unittest import TestCase

from fleetspeak.pb import common
from fleetspeak.testing.wireclient import Identity
from tests.mariadb import the_server
from tests.sharing import Sharing, SharingServer, message_for, next_text

from .fleet import OURS, UPSTREAM

PROMPT = 15.0
"""Seconds: much less than the half of a minute after which our server looks by itself; upstream's never does."""

REQUESTS = (
    ("POST", "/client/0102030405060708"),
    ("POST", "/client/01020304050607FF"),
    ("POST", "/client/0102030405060708?a=b"),
    ("POST", "/client/%30102030405060708"),
    ("POST", "/"),
    ("POST", "/client"),
    ("POST", "/clients/0102030405060708"),
    ("POST", "/client/0102030405060708/"),
    ("POST", "/client/0102030405060708/more"),
    ("GET", "/"),
    ("GET", "/client/0102030405060708"),
    ("PUT", "/client/0102030405060708"),
    ("GET", "/client/wrong"),
    ("POST", "/client/"),
    ("GET", "/client/"),
    ("POST", "/client/nil"),
    ("POST", "/client/01020304"),
    ("POST", "/client/010203040506070g"),
    ("POST", "/client/010203040506070809"),
)


class NotificationTests(TestCase):
    """One of ours and one of upstream's on one database, each with a listener."""

    sharing: Sharing
    ours: SharingServer
    upstream: SharingServer

    @classmethod
    def setUpClass(cls) -> None:
        database = the_server().new_database()
        cls.addClassCleanup(database.drop)
        cls.sharing = Sharing(database, (OURS, UPSTREAM))
        cls.addClassCleanup(cls.sharing.clean_up)
        cls.ours, cls.upstream = cls.sharing.servers
        secret = cls.sharing.secret_file("what only our servers know\n")
        cls.ours.process.options = ["-notification_secret_file", secret, "-notification_accept_unsigned=true"]
        for server in cls.sharing.servers:
            server.process.start()

    def assert_notifies(self, one: SharingServer, other: SharingServer) -> None:
        identity = Identity.make()
        with other.stream(identity) as stream:
            self.assertEqual(self.stored_address(identity), other.notification_address)
            for number in range(3):
                one.admin().InsertMessage(message_for(identity, f"message {number}"), timeout=30)
                self.assertEqual(next_text(stream, PROMPT), f"message {number}")

    def stored_address(self, identity: Identity) -> object:
        assert self.ours.process.database is not None
        [(address,)] = self.ours.process.database.query(
            f"SELECT last_contact_streaming_to FROM clients WHERE client_id = x'{identity.client_id.hex()}'"
        )
        return address

    def test_section_7_ours_tells_upstreams(self) -> None:
        """Upstream's listener passes over the header by which ours proves who it is."""
        self.assert_notifies(self.ours, self.upstream)

    def test_section_7_upstreams_tells_ours(self) -> None:
        """Ours has a secret, which upstream's knows nothing of, and is allowed to hear it."""
        self.assert_notifies(self.upstream, self.ours)

    def test_section_7_a_poll_empties_the_address(self) -> None:
        identity = Identity.make()
        for server in self.sharing.servers:
            with server.stream(identity):
                self.assertEqual(self.stored_address(identity), server.notification_address)
            connection = server.connect(identity)
            connection.poll(common.ContactData())
            connection.close()
            self.assertIn(self.stored_address(identity), (None, ""))

    def test_section_7_the_answers_of_both_listeners_are_equal(self) -> None:
        for method, path in REQUESTS:
            with self.subTest(f"{method} {path}"):
                ours, upstream = ask(self.ours, method, path), ask(self.upstream, method, path)
                if b"must be hexadecimal" in ours[1]:  # theirs is of Go's library
                    ours, upstream = ((status, body.partition(b"]: ")[0]) for status, body in (ours, upstream))
                self.assertEqual(ours, upstream)


def ask(server: SharingServer, method: str, path: str) -> tuple[int, bytes]:
    """Status and body of an answer of its listener."""
    connection = http.client.HTTPConnection("127.0.0.1", server.notification_port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
