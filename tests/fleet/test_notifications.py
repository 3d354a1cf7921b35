"""Two of our servers on one MariaDB: what is inserted at one is at a stream of the other at once (server-core 7)."""

from __future__ import annotations

import time
from unittest import TestCase

from fleetspeak.pb import admin, components
from fleetspeak.records import UNLIMITED
from fleetspeak.testing.wireclient import Identity
from tests.mariadb import the_server
from tests.redis import Redis
from tests.sharing import SERVICE, Sharing, message_for, next_messages, next_text

PROMPT = 15.0
"""Seconds: much less than the half of a minute after which a server looks by itself."""


class TwoServersCase(TestCase):
    def setUp(self) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        self.sharing = Sharing(database)
        self.addCleanup(self.sharing.clean_up)
        self.one, self.other = self.sharing.servers


class NotificationTests(TwoServersCase):
    def test_section_7_a_message_goes_to_the_server_that_holds_the_stream(self) -> None:
        """Wherever the stream moves, and also when the other server was killed and is back."""
        secret = self.sharing.secret_file("what only our servers know\n")
        for server in (self.one, self.other):
            server.process.options = ["-notification_secret_file", secret]
            server.process.start()
        identity, took = Identity.make(), []
        for holder, inserter in ((self.other, self.one), (self.one, self.other), (self.other, self.one)):
            with holder.stream(identity) as stream:
                stub = inserter.admin()
                for number in range(20):
                    begun = time.monotonic()
                    stub.InsertMessage(message_for(identity, f"message {number}"), timeout=30)
                    self.assertEqual(next_text(stream, PROMPT), f"message {number}")
                    took.append(time.monotonic() - begun)
        took.sort()
        print(
            f"insert to stream: median {took[len(took) // 2] * 1e3:.1f} ms, {took[0] * 1e3:.1f} to {took[-1] * 1e3:.1f}"
        )
        self.other.process.program.kill()
        self.one.admin().InsertMessage(message_for(identity, "nobody holds it"), timeout=30)
        self.other.process.start()
        with self.other.stream(identity) as stream:
            self.assertEqual([one.message_type for one in stream.opening.messages], ["nobody holds it"])
            self.one.admin().InsertMessage(message_for(identity, "again"), timeout=30)
            self.assertEqual(next_text(stream, PROMPT), "again")

    def test_section_7_a_server_with_the_admin_api_only(self) -> None:
        """notification_use_http_notifier: it tells others, and nobody can tell it anything."""
        self.other.process.start()

        def admin_only(config: components.Config) -> None:
            config.ClearField("https_config")
            config.ClearField("notification_listen_address")
            config.notification_use_http_notifier = True

        self.one.process.reconfigure(admin_only)
        self.one.process.start()
        identity = Identity.make()
        with self.other.stream(identity) as stream:
            self.one.admin().InsertMessage(message_for(identity, "from an admin server"), timeout=30)
            self.assertEqual(next_text(stream, PROMPT), "from an admin server")

    def test_through_redis(self) -> None:
        """--notifier redis:...: messages, broadcasts, and again when Redis was killed and is back."""
        redis = Redis("--requirepass", "a password")
        self.addCleanup(redis.clean_up)
        secret = self.sharing.secret_file("a password\n")
        for server in (self.one, self.other):
            server.process.reconfigure(lambda config: config.ClearField("notification_listen_address"))
            server.process.options = ["-notifier", f"redis:unix:{redis.socket}", "-notification_secret_file", secret]
            server.process.start()
            server.process.program.wait_for_line("notifications go through Redis")
        identity = Identity.make()
        with self.other.stream(identity) as stream:
            for number in range(5):
                self.one.admin().InsertMessage(message_for(identity, f"message {number}"), timeout=30)
                self.assertEqual(next_text(stream, PROMPT), f"message {number}")
            redis.kill()
            for server in (self.one, self.other):
                server.process.program.wait_for_line("the connection to Redis is lost")
            begun = time.monotonic()
            self.one.admin().InsertMessage(message_for(identity, "while it is away"), timeout=30)
            self.assertLess(time.monotonic() - begun, PROMPT, "inserting does not wait for Redis")
            redis.start()
            for server in (self.one, self.other):
                server.process.program.wait_for_line("notifications go through Redis", times=2)
            self.one.admin().InsertMessage(message_for(identity, "it is back"), timeout=30)
            self.assertEqual(next_messages(stream, 2), ["while it is away", "it is back"])

    def test_a_broadcast_that_another_server_created(self) -> None:
        """No notification: the other server looks every two seconds."""
        for server in (self.one, self.other):
            server.process.start()
        with self.other.stream(Identity.make()) as stream:
            request = admin.CreateBroadcastRequest(limit=UNLIMITED)
            request.broadcast.source.service_name = SERVICE
            request.broadcast.message_type = "to all"
            self.one.admin().CreateBroadcast(request, timeout=30)
            self.assertEqual(next_text(stream, PROMPT), "to all")
