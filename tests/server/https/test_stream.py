"""A stream from its first record to its acknowledgements: framing, statuses, order, back pressure."""

from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from fleetspeak.errors import NotReady, StoreError
from fleetspeak.pb import common
from fleetspeak.records import ClientData
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.https.stream import (
    MAX_PARALLEL,
    RECORD_LIMIT,
    START_LIMIT,
    TURN,
)
from fleetspeak.wire import streamframes
from tests.server.contact.world import for_client, from_client, id_of, identity, wrapped
from tests.server.https.streamcase import StreamTestCase
from tests.server.https.wire import Connection, Server, acks, record, stream_start

ALICE = identity("alice")


class StartTests(StreamTestCase):
    def test_head_and_first_record_come_together(self) -> None:
        """server-https.md 4.2: 100 Continue, then the head together with the first record, while the body is open."""
        connection = self.server.connect()
        connection.begin_stream()
        self.assertTrue(connection.said_continue)
        self.assertEqual(connection.output, b"")
        connection.chunk(stream_start(wrapped(sequencing_nonce=9)))
        response = connection.response()
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers, {"Connection": "close", "Transfer-Encoding": "chunked"})
        self.assertFalse(response.complete)
        self.assertEqual(connection.records(), [common.ContactData(sequencing_nonce=1001)])

    def test_without_expect_and_close(self) -> None:
        """We are always full duplex, whatever the client's headers say."""
        connection = self.server.connect()
        connection.send(b"POST /streaming-message HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.chunk(stream_start(wrapped()))
        self.assertEqual(len(connection.records()), 1)
        self.assertEqual(connection.response().headers["Connection"], "close")

    def test_waiting_messages_come_with_the_first_answer(self) -> None:
        self.start().lose()
        self.world.insert(for_client(ALICE.client_id))
        self.assertEqual(self.messages(self.start()), ["Hello"])

    def test_exactly_100_waiting_messages_make_for_another_look(self) -> None:
        self.start().lose()
        self.world.insert(*(for_client(ALICE.client_id, number) for number in range(150)))
        answers = self.start().records()
        self.assertEqual([len(one.messages) for one in answers], [100, 50])
        self.assertEqual({one.sequencing_nonce for one in answers}, {answers[0].sequencing_nonce})

    def test_a_body_that_ends_at_once(self) -> None:
        connection = self.server.connect()
        body = stream_start(wrapped(from_client()))
        connection.begin_stream()
        connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        self.assertEqual(len(connection.records()), 1)
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)

    def test_with_a_length(self) -> None:
        connection = self.server.connect()
        connection.post("/streaming-message", stream_start(wrapped(), wrapped(from_client())))
        self.assertEqual(acks(connection.records()), [1])

    def test_registered_from_the_start_to_the_end(self) -> None:
        connection = self.start()
        self.assertEqual(len(self.world.dispatcher), 1)
        connection.lose()
        self.assertEqual(len(self.world.dispatcher), 0)

    def test_a_newer_stream_takes_over(self) -> None:
        """server-https.md 4.3: the older one gets no more messages but still reads and acknowledges."""
        old = self.start()
        new = self.start()
        self.world.insert(for_client(ALICE.client_id))
        self.assertEqual((self.messages(old), self.messages(new)), ([], ["Hello"]))
        old.chunk(record(wrapped(from_client())))
        self.assertEqual(acks(old.records()), [1])
        old.lose()
        self.world.insert(for_client(ALICE.client_id, 2))
        self.assertEqual(self.messages(new), ["Hello", "Hello"])


class StartStatusTests(StreamTestCase):
    """Every status of the table in server-https.md 4.3; a refused stream never gets an empty 200 (issue, 5)."""

    def check(self, connection: Connection, status: int, text: str) -> None:
        response = connection.response()
        self.assertEqual(response.status, status)
        self.assertIn(text, response.body.decode())
        self.assertTrue(response.complete)
        self.assertEqual(response.headers["Connection"], "close")
        self.assertTrue(connection.is_closed)
        self.assertEqual(len(self.world.dispatcher), 0)

    def refused(self, body: bytes, **headers: str) -> Connection:
        connection = self.server.connect()
        connection.begin_stream(**headers)
        with capturedLogs():
            connection.chunk(body)
        return connection

    def test_not_ready(self) -> None:
        self.server.site.is_ready = False
        connection = self.server.connect()
        connection.begin_stream()
        self.check(connection, 500, "Server not ready.")
        self.assertFalse(connection.said_continue)

    def test_services_stopped(self) -> None:
        self.world.ingestor.error = NotReady("stopping")
        self.check(self.refused(stream_start(wrapped(from_client()))), 500, "Server not ready.")

    def test_wrong_method(self) -> None:
        connection = self.server.connect()
        connection.send(b"PUT /streaming-message HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.check(connection, 400, "PUT not supported")

    def test_not_tls(self) -> None:
        connection = Connection(self.server.site, None)
        connection.begin_stream()
        self.check(connection, 400, "TLS information not found")

    def test_unknown_encoding(self) -> None:
        connection = self.server.connect()
        connection.begin_stream(Content_Encoding="br")
        self.check(connection, 415, "unsupported content encoding: br")

    def test_bad_magic(self) -> None:
        self.check(self.refused(b"\x01\x10\xee\xf2"), 400, "wrong magic number")

    def test_missing_magic(self) -> None:
        connection = self.refused(b"\x01\x10")
        with capturedLogs():
            connection.chunk(b"")
        self.check(connection, 400, "magic")

    def test_bad_varint(self) -> None:
        self.check(self.refused(streamframes.MAGIC + b"\xff" * 11), 400, "error reading body")

    def test_20_mib_and_1(self) -> None:
        too_large = streamframes.MAGIC + b"\x81\x80\x80\x0a"
        self.check(self.refused(too_large), 400, "20971520")

    def test_zip_bomb(self) -> None:
        bomb = streamframes.MAGIC + b"\x80\x80\x80\x0b" + bytes(23 * 1024 * 1024)
        self.check(self.refused(zlib.compress(bomb, 9), Content_Encoding="deflate"), 400, "20971520")

    def test_not_deflated(self) -> None:
        body = stream_start(wrapped())
        self.check(self.refused(body, Content_Encoding="deflate"), 400, "failed to create zlib reader")

    def test_unparsable_record(self) -> None:
        self.check(self.refused(streamframes.MAGIC + b"\x03\xff\xff\xff"), 400, "error parsing body")

    def test_no_record(self) -> None:
        connection = self.refused(streamframes.MAGIC)
        with capturedLogs():
            connection.chunk(b"")
        self.check(connection, 400, "there is no record in it")

    def test_malformed_chunk(self) -> None:
        connection = self.server.connect()
        connection.begin_stream()
        with capturedLogs():
            connection.send(b"zzz\r\n")
        self.check(connection, 400, "malformed chunk")

    def test_refused_by_the_authorizer(self) -> None:
        for stage in ("contact", "client", "signatures"):
            self.gatekeeper.refuse = {stage}
            self.check(self.refused(stream_start(wrapped())), 503, "not authorized")

    def test_another_key_for_a_known_client(self) -> None:
        self.world.now(self.world.store.add_client(ALICE.client_id, ClientData(ALICE.key)))
        connection = Connection(self.server.site, Identity(b"forged", ALICE.client_id))
        connection.begin_stream()
        with capturedLogs():
            connection.chunk(stream_start(wrapped()))
        self.check(connection, 503, "not authorized")

    def test_contact_data_that_is_none(self) -> None:
        body = stream_start(common.WrappedContactData(contact_data=b"\xff"))
        self.check(self.refused(body), 500, "unable to parse contact_data")

    def test_101_messages(self) -> None:
        body = stream_start(wrapped(*map(from_client, range(101))))
        self.check(self.refused(body), 500, "only 100 allowed")

    def test_the_store_fails(self) -> None:
        self.world.store.errors = [StoreError("the disk is full")]
        self.check(self.refused(stream_start(wrapped())), 500, "it cannot be stored now")

    def test_an_error_of_ours(self) -> None:
        self.world.ingestor.error = ZeroDivisionError("a mistake")
        connection = self.refused(stream_start(wrapped(from_client())))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.check(connection, 500, "internal error")

    def test_it_takes_too_long(self) -> None:
        self.world.ingestor.waiting_for = Deferred()
        connection = self.refused(stream_start(wrapped(from_client())))
        with capturedLogs():
            self.clock.advance(START_LIMIT)
        self.check(connection, 500, "it took too long")
        self.assertEqual(len(self.server.context.running), 0)

    def test_no_first_record_in_time(self) -> None:
        connection = self.refused(streamframes.MAGIC)
        with capturedLogs():
            self.clock.advance(START_LIMIT)
        self.check(connection, 500, "it took too long")

    def test_disabled(self) -> None:
        connection = Server(streaming=False).connect()
        connection.begin_stream()
        self.check(connection, 404, "404 page not found")

    def test_what_follows_a_refusal_is_thrown_away(self) -> None:
        connection = self.refused(b"garbage!")
        before = connection.output
        connection.chunk(stream_start(wrapped(from_client())))
        connection.chunk(b"")
        self.assertEqual(connection.output, before)
        self.assertEqual(self.world.ingestor.seen, [])


class RecordTests(StreamTestCase):
    def test_acks_1_to_9(self) -> None:
        """server-core.md 13: acks for records 1..9 arrive as ack_index 1..9, first reply has ack_index 0."""
        connection = self.start()
        for number in range(1, 10):
            connection.chunk(record(wrapped(from_client(number))))
        answers = connection.records()
        self.assertEqual([one.ack_index for one in answers], list(range(10)))
        self.assertEqual(answers[1], common.ContactData(ack_index=1))
        self.assertEqual(len(self.world.ingestor.seen), 9)

    def test_acks_1_to_9_with_deflate(self) -> None:
        """server-core.md 13; each record is decoded as it arrives."""
        connection = self.server.connect()
        connection.begin_stream(Content_Encoding="deflate")
        deflate = zlib.compressobj()
        for number in range(10):
            plain = record(wrapped(from_client(number))) if number else stream_start(wrapped())
            connection.chunk(deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH))
            self.assertEqual([one.ack_index for one in connection.records()], list(range(number + 1)))

    def test_an_empty_record_is_a_record(self) -> None:
        """server-https.md 4.1, improve: treat a length of 0 as an empty record."""
        connection = self.start()
        connection.chunk(b"\x00")
        self.assertEqual(acks(connection.records()), [1])

    def test_acknowledged_only_after_the_commit(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(acks(connection.records()), [])
        self.world.store.release()
        self.assertEqual(acks(connection.records()), [1])
        self.assertEqual(len(self.world.stored(id_of(from_client(), ALICE.client_id))), 1)

    def test_acks_keep_the_order_of_the_records(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        for number in range(4):
            connection.chunk(record(wrapped(from_client(number))))
        self.world.store.release(2)
        self.world.store.release(1)
        self.assertEqual(acks(connection.records()), [])
        self.world.store.release(0)
        self.assertEqual(acks(connection.records()), [1, 2, 3])
        self.world.store.release(0)
        self.assertEqual(acks(connection.records()), [1, 2, 3, 4])

    def test_the_first_record_that_fails_ends_the_stream(self) -> None:
        """server-https.md 4.4, improve: no later record may be acknowledged in its place."""
        connection = self.start()
        self.world.store.is_holding = True
        for number in range(3):
            connection.chunk(record(wrapped(from_client(number))))
        self.world.store.is_holding = False
        self.world.store.release(2)
        self.fail_held(0)
        self.assertFalse(connection.is_closed)
        self.world.store.release(0)
        self.assertEqual(acks(connection.records()), [])
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)
        self.assertEqual(len(self.world.dispatcher), 0)

    def fail_held(self, index: int) -> None:
        gate, _ = self.world.store.held.pop(index)
        with capturedLogs():
            gate.errback(StoreError("the disk is full"))

    def test_records_before_the_failing_one_are_acknowledged(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        for number in range(2):
            connection.chunk(record(wrapped(from_client(number))))
        self.fail_held(1)
        self.assertFalse(connection.is_closed)
        self.world.store.release()
        self.assertEqual(acks(connection.records()), [1])
        self.assertTrue(connection.is_closed)

    def test_bad_records_end_the_stream(self) -> None:
        bad: dict[str, bytes] = {
            "varint": b"\xff" * 11,
            "20 MiB + 1": b"\x81\x80\x80\x0a",
            "not a WrappedContactData": b"\x03\xff\xff\xff",
            "not a ContactData": record(common.WrappedContactData(contact_data=b"\xff")),
            "101 messages": record(wrapped(*map(from_client, range(101)))),
        }
        for what, data in bad.items():
            connection = self.start()
            connection.chunk(record(wrapped(from_client(1))))
            with capturedLogs() as events:
                connection.chunk(data)
                self.clock.advance(1)
            self.assertEqual(len(events), 1, what)
            self.assertEqual(acks(connection.records()), [1], what)
            self.assertTrue(connection.response().complete, what)
            self.assertTrue(connection.is_closed, what)
            self.assertEqual(len(self.world.dispatcher), 0, what)

    def test_a_record_that_is_not_validated_ends_the_stream(self) -> None:
        connection = self.start()
        self.gatekeeper.refuse = {"signatures"}
        with capturedLogs():
            connection.chunk(record(wrapped(from_client())))
        self.assertEqual(acks(connection.records()), [])
        self.assertTrue(connection.is_closed)

    def test_odd_messages_are_acknowledged(self) -> None:
        connection = self.start()
        with capturedLogs():
            connection.chunk(record(wrapped(common.Message())))
        self.assertEqual(acks(connection.records()), [1])

    def test_a_zip_bomb_behind_the_start(self) -> None:
        connection = self.server.connect()
        connection.begin_stream(Content_Encoding="deflate")
        deflate = zlib.compressobj(9)
        connection.chunk(deflate.compress(stream_start(wrapped())) + deflate.flush(zlib.Z_SYNC_FLUSH))
        bomb = deflate.compress(b"\x80\x80\x80\x0b" + bytes(23 * 1024 * 1024)) + deflate.flush()
        with capturedLogs():
            connection.chunk(bomb)
        self.assertTrue(connection.is_closed)

    def test_a_stream_cut_inside_a_record(self) -> None:
        connection = self.start()
        with capturedLogs() as events:
            connection.chunk(record(wrapped(from_client()))[:-1])
            connection.chunk(b"")
        self.assertEqual(len(events), 1)
        self.assertTrue(connection.is_closed)
        self.assertEqual(self.world.ingestor.seen, [])

    def test_a_record_that_takes_too_long_ends_the_stream(self) -> None:
        connection = self.start()
        self.world.ingestor.waiting_for = Deferred()
        connection.chunk(record(wrapped(from_client())))
        with capturedLogs():
            self.clock.advance(RECORD_LIMIT)
        self.assertTrue(connection.is_closed)

    def test_an_error_of_ours_ends_the_stream(self) -> None:
        connection = self.start()
        self.world.ingestor.error = ZeroDivisionError("a mistake")
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(connection.is_closed)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, 400), max_size=12), st.booleans())
    def test_a_whole_request_survives_any_split(self, cuts: list[int], deflated: bool) -> None:
        server = Server()
        body = stream_start(wrapped(), *(wrapped(from_client(number)) for number in range(3)))
        head = b"POST /streaming-message HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        if deflated:
            body, head = zlib.compress(body), head + b"Content-Encoding: deflate\r\n"
        half = len(body) // 2
        request = (
            head
            + b"\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:half], body[half:], b""))
        )
        connection = server.connect()
        start = 0
        for cut in [*cuts, len(request)]:
            connection.send(request[start : start + cut])
            start += cut
        self.assertEqual(acks(connection.records()), [1, 2, 3])
        self.assertTrue(connection.response().complete)
        self.assertEqual(len(server.world.ingestor.seen), 3)


class BackPressureTests(StreamTestCase):
    def hold_records(self, count: int) -> Connection:
        connection = self.start()
        self.world.store.is_holding = True
        connection.chunk(b"".join(record(wrapped(from_client(number))) for number in range(count)))
        return connection

    def test_so_many_records_at_a_time(self) -> None:
        connection = self.hold_records(MAX_PARALLEL + 5)
        self.assertEqual(len(self.world.store.held), MAX_PARALLEL)
        self.assertTrue(connection.is_paused)

    def test_reads_on_when_it_has_caught_up(self) -> None:
        connection = self.hold_records(MAX_PARALLEL + 5)
        while self.world.store.held:
            self.world.store.release()
        self.assertFalse(connection.is_paused)
        self.assertEqual(acks(connection.records()), list(range(1, MAX_PARALLEL + 6)))

    def test_large_records_one_at_a_time(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        large = from_client()
        large.data.value = bytes(2 * 1024 * 1024)
        connection.chunk(record(wrapped(large)) + record(wrapped(from_client(2))))
        self.assertEqual(len(self.world.store.held), 1)
        self.assertTrue(connection.is_paused)
        self.world.store.release()
        self.world.store.release()
        self.assertEqual(acks(connection.records()), [1, 2])

    def test_many_records_at_once_leave_others_their_turn(self) -> None:
        connection = self.start()
        connection.chunk(b"\x00" * 10_000)
        self.assertLessEqual(len(acks(connection.records())), TURN)
        self.assertTrue(connection.is_paused)
        for _ in range(10_000 // TURN + 1):
            self.clock.advance(0)
        self.assertEqual(acks(connection.records()), list(range(1, 10_001)))
        self.assertFalse(connection.is_paused)

    def test_a_draining_write_does_not_undo_the_pause(self) -> None:
        connection = self.hold_records(MAX_PARALLEL + 5)
        connection.channel.pauseProducing()
        connection.channel.resumeProducing()
        self.assertTrue(connection.is_paused)

    def test_nothing_is_pushed_to_a_client_that_does_not_read(self) -> None:
        connection = self.start()
        connection.channel.pauseProducing()
        self.world.insert(for_client(ALICE.client_id, 1))
        self.world.insert(for_client(ALICE.client_id, 2))
        self.assertEqual(self.messages(connection), [])
        connection.channel.resumeProducing()
        self.assertEqual([len(one.messages) for one in connection.records()], [0, 2])
