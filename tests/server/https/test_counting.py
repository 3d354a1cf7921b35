"""What collectors hear of contacts: server-core 9.1, with the statistics of server-https 3, 4.3, 4.4 and 4.5."""

from __future__ import annotations

import zlib

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.pb import common
from fleetspeak.records import ClientData, ClientPoll, Label
from fleetspeak.server.https.frontend import AdmittingTls
from fleetspeak.server.https.poll import POLL_LIMIT
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.contact.world import Gatekeeper, for_client, from_client, identity, wrapped
from tests.server.https.wire import PEER, Connection, Server, record, stream_start

ALICE = identity("alice")
KNOWN = ClientData(ALICE.key, frozenset({Label("client", "linux")}))


class CountingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.heard = RecordingServerStats()
        self.gatekeeper = Gatekeeper()
        self.server = Server(self.gatekeeper, collectors=[self.heard])
        self.world = self.server.world
        self.clock = self.server.clock
        self.world.now(self.world.store.add_client(ALICE.client_id, KNOWN))

    def polls(self) -> list[ClientPoll]:
        return [poll for (poll,) in self.heard.calls("client_poll")]

    def seen(self) -> list[tuple[str, int]]:
        return [(poll.type, poll.status) for poll in self.polls()]

    def start(self, first: common.WrappedContactData | None = None) -> Connection:
        connection = self.server.connect()
        connection.begin_stream()
        connection.chunk(stream_start(first or wrapped()))
        return connection


class PollTests(CountingCase):
    def test_server_https_3_one_poll_with_its_status_sizes_and_times(self) -> None:
        self.world.store.is_holding = True
        sent = wrapped(from_client()).SerializeToString()
        connection = self.server.connect()
        connection.begin_stream("/message")
        self.clock.advance(1)
        connection.chunk(sent)
        self.clock.advance(2)
        connection.chunk(b"")
        self.clock.advance(4)
        self.world.store.release()
        (poll,) = self.polls()
        self.assertEqual((poll.type, poll.status, poll.client_id), ("POLL", 200, ALICE.client_id))
        self.assertEqual((poll.seconds, poll.read_seconds), (7, 3))
        self.assertEqual(poll.read_bytes, len(sent))
        self.assertEqual((poll.write_bytes, poll.write_seconds), (len(connection.response().body), 0))

    def test_a_compressed_body_counts_as_what_is_in_it(self) -> None:
        sent = wrapped(from_client()).SerializeToString()
        connection = self.server.connect()
        connection.post("/message", zlib.compress(sent), headers={"Content-Encoding": "deflate"})
        self.assertEqual([poll.read_bytes for poll in self.polls()], [len(sent)])

    def test_cache_hit_says_whether_the_store_had_to_be_asked(self) -> None:
        for _ in range(2):
            self.server.poll(wrapped())
        self.assertEqual([poll.cache_hit for poll in self.polls()], [False, True])

    def test_a_refused_poll_is_told_with_its_status_and_so_is_who_refused_it(self) -> None:
        for stage in ("contact", "client", "signatures"):
            self.gatekeeper.refuse = {stage}
            self.assertEqual(self.server.poll(wrapped()).status, 503)
        self.assertEqual(self.seen(), [("POLL", 503)] * 3)
        self.assertEqual(self.heard.calls("contact_refused"), [("contact",), ("client",), ("signatures",)])

    def test_another_key_for_a_client_id_is_a_refusal_of_its_own(self) -> None:
        self.world.cache.put(ALICE.client_id, ClientData(b"another key"))
        self.server.poll(wrapped())
        self.assertEqual(self.heard.calls("contact_refused"), [("key",)])

    def test_a_store_that_fails_a_body_that_is_none_and_one_that_takes_too_long(self) -> None:
        self.world.store.errors = [StoreError("full")]
        self.server.poll(wrapped())
        connection = self.server.connect()
        connection.post("/message", b"\xff\xff")
        self.world.store.is_holding = True
        waiting = self.server.connect()
        waiting.post("/message")
        self.clock.advance(POLL_LIMIT)
        self.assertEqual(self.seen(), [("POLL", 500), ("POLL", 400), ("POLL", 500)])

    def test_a_client_that_goes_away_before_its_answer_counts_as_400(self) -> None:
        self.world.store.is_holding = True
        connection = self.server.connect()
        connection.post("/message")
        connection.lose()
        self.world.store.release()
        self.assertEqual(self.seen(), [("POLL", 400)])

    def test_what_is_refused_whoever_sends_it_is_told_too(self) -> None:
        self.server.connect().post("/message", method="GET")
        self.server.connect().post("/streaming-message", method="GET")
        Connection(self.server.site, None).post("/message")
        self.server.site.is_ready = False
        self.server.poll(wrapped())
        self.assertEqual(self.seen(), [("POLL", 400), ("STREAM_START", 400), ("POLL", 400), ("POLL", 500)])
        self.assertEqual({poll.client_id for poll in self.polls()}, {None})

    def test_each_message_of_the_reply_is_sent_with_what_is_known_of_the_client(self) -> None:
        waiting = [for_client(ALICE.client_id, number) for number in (1, 2)]
        self.world.insert(*waiting)
        self.server.poll(wrapped())
        told = [(message.message_id, client) for message, client in self.heard.calls("message_sent")]
        self.assertEqual(told, [(message.message_id, KNOWN) for message in waiting])

    def test_server_core_9_1_what_clients_send_is_saved_without_its_payload_if_it_was_processed(self) -> None:
        self.world.ingestor.verdict = lambda message: None if message.data.value == b"payload 2" else self.success()
        told: list[tuple[bytes, bool, ClientData | None]] = []
        self.heard.message_saved = lambda m, for_client, client: told.append((m.data.value, for_client, client))  # type: ignore[method-assign]
        self.server.poll(wrapped(from_client(1), from_client(2)))
        self.assertEqual(told, [(b"", False, KNOWN), (b"payload 2", False, KNOWN)])

    @staticmethod
    def success() -> common.MessageResult:
        result = common.MessageResult()
        result.processed_time.seconds = 1
        return result

    def test_a_request_to_rekey_is_saved_for_its_client_and_sent(self) -> None:
        self.world.cache.put(ALICE.client_id, ClientData(ALICE.key, blacklisted=True))
        self.server.poll(wrapped())
        ((message, for_client, _),) = self.heard.calls("message_saved")
        self.assertEqual((message.message_type, for_client), ("RekeyRequest", True))
        self.assertEqual(len(self.heard.calls("message_sent")), 1)


class StreamTests(CountingCase):
    def test_server_https_4_3_the_start_is_told_with_sizes_and_cache_hit(self) -> None:
        first = wrapped(from_client())
        self.world.insert(for_client(ALICE.client_id))
        connection = self.start(first)
        (poll,) = self.polls()
        self.assertEqual((poll.type, poll.status, poll.cache_hit), ("STREAM_START", 200, False))
        self.assertEqual(poll.read_bytes, first.ByteSize())
        self.assertEqual(poll.write_bytes, len(connection.response().body))
        self.assertEqual(len(self.heard.calls("message_sent")), 1)

    def test_server_https_4_3_each_failed_start_is_told(self) -> None:
        self.gatekeeper.refuse = {"contact"}
        self.start()
        self.gatekeeper.refuse = set()
        self.world.store.errors = [StoreError("full")]
        self.start()
        connection = self.server.connect()
        connection.begin_stream()
        connection.chunk(b"no magic")
        gone = self.server.connect()
        gone.begin_stream()
        gone.lose()
        self.assertEqual(self.seen(), [("STREAM_START", status) for status in (503, 500, 400, 400)])

    def test_server_https_4_4_a_further_record_is_told_as_200_with_a_cache_hit(self) -> None:
        connection = self.start()
        further = wrapped(from_client())
        connection.chunk(record(further))
        poll = self.polls()[-1]
        self.assertEqual((poll.type, poll.status, poll.cache_hit), ("STREAM_FROM_CLIENT", 200, True))
        self.assertEqual(poll.read_bytes, further.ByteSize())

    def test_server_https_4_4_one_that_cannot_be_read_is_400_and_one_that_is_refused_503(self) -> None:
        self.start().chunk(record(common.WrappedContactData(contact_data=b"\xff")))
        self.start().chunk(b"\xff" * 11)
        connection = self.start()
        self.gatekeeper.refuse = {"signatures"}
        connection.chunk(record(wrapped()))
        told = [poll for poll in self.seen() if poll[0] == "STREAM_FROM_CLIENT"]
        self.assertEqual(told, [("STREAM_FROM_CLIENT", status) for status in (400, 400, 503)])
        self.assertEqual(self.heard.calls("contact_refused"), [("signatures",)])

    def test_one_that_cannot_be_stored_is_500_where_upstream_says_200(self) -> None:
        connection = self.start()
        self.world.store.errors = [StoreError("full")]
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(self.seen()[-1], ("STREAM_FROM_CLIENT", 500))

    def test_server_https_4_5_only_records_with_messages_are_told_as_to_the_client(self) -> None:
        connection = self.start()
        connection.chunk(record(wrapped(from_client())))  # is acknowledged
        before = len(connection.response().body)
        self.world.insert(for_client(ALICE.client_id))
        (poll,) = [poll for poll in self.polls() if poll.type == "STREAM_TO_CLIENT"]
        self.assertEqual((poll.status, poll.write_bytes), (200, len(connection.response().body) - before))
        ((message, client),) = self.heard.calls("message_sent")
        self.assertEqual((message.message_type, client), ("Hello", KNOWN))


class OpenTests(CountingCase):
    def test_connections_and_streams_are_told_when_they_come_and_go(self) -> None:
        first, second = self.start(), self.server.connect("bob")
        second.lose()
        first.lose()
        self.assertEqual(self.heard.calls("connections_changed"), [(1,), (2,), (1,), (0,)])
        self.assertEqual(self.heard.calls("streams_changed"), [(1,), (0,)])

    def test_a_connection_that_is_not_admitted_is_a_refusal(self) -> None:
        self.gatekeeper.refuse = {"connection"}
        factory = AdmittingTls.__new__(AdmittingTls)  # without a certificate
        factory._authorizer, factory._stats = self.gatekeeper, self.world.stats
        self.assertIsNone(factory.buildProtocol(PEER))
        self.assertEqual(self.heard.calls("contact_refused"), [("connection",)])


class NobodyTests(SynchronousTestCase):
    def test_nobody_who_listens_costs_no_clock_and_no_meter(self) -> None:
        server = Server()
        self.assertIsNone(server.context.meter("POLL", ALICE.client_id))
        self.assertEqual(server.poll(wrapped(from_client())).status, 200)
