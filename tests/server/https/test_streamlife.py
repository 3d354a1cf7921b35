"""What a server sends on a stream by itself: pushed messages, the announced end, the drain at a stop."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from fleetspeak.errors import StoreError
from fleetspeak.pb import common
from fleetspeak.server.https.stream import (
    DRAIN_LIMIT,
    LATE_LIMIT,
)
from tests.server.contact.world import for_client, from_client, id_of, identity, wrapped
from tests.server.https.streamcase import StreamTestCase
from tests.server.https.wire import Server, acks, record

ALICE = identity("alice")


class PushTests(StreamTestCase):
    def test_at_once(self) -> None:
        """Issue, 5: push on insert without the fixed wait."""
        connection = self.start()
        self.world.insert(for_client(ALICE.client_id))
        first, pushed = connection.records()
        self.assertEqual(len(pushed.messages), 1)
        self.assertEqual(pushed.sequencing_nonce, first.sequencing_nonce)
        self.assertEqual((pushed.ack_index, pushed.done_sending), (0, False))

    def test_gathered_while_a_look_is_under_way(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        self.world.insert(for_client(ALICE.client_id, 1))
        for number in range(2, 6):
            self.world.insert(for_client(ALICE.client_id, number))
        self.assertEqual(len(self.world.store.held), 1)
        self.world.store.release()
        self.world.store.release()
        self.assertEqual(self.world.store.held, [])
        self.assertEqual(len(self.messages(connection)), 5)

    def test_a_look_that_finds_nothing_sends_nothing(self) -> None:
        connection = self.start()
        self.world.dispatcher.dispatch(ALICE.client_id)
        self.assertEqual(len(connection.records()), 1)

    def test_tokens_that_were_missing_make_for_a_look(self) -> None:
        connection = self.start(wrapped(tokens={"greeter": 1}))
        self.world.insert(*(for_client(ALICE.client_id, number) for number in range(3)))
        self.assertEqual(len(self.messages(connection)), 1)
        connection.chunk(record(wrapped(tokens={"greeter": 5})))
        self.assertEqual(len(self.messages(connection)), 3)

    def test_a_failing_look_is_repeated(self) -> None:
        connection = self.start()
        self.world.store.errors = [StoreError("locked"), StoreError("locked")]
        with capturedLogs():
            self.world.insert(for_client(ALICE.client_id))
            self.clock.pump([0.1] * 20)
        self.assertEqual(self.messages(connection), ["Hello"])

    def test_a_blacklisted_client(self) -> None:
        self.start().lose()
        self.world.now(self.world.store.blacklist_client(ALICE.client_id))
        self.clock.advance(46)
        connection = self.start()
        self.world.insert(for_client(ALICE.client_id))
        self.assertEqual(self.messages(connection), ["RekeyRequest"])

    def test_a_client_that_is_blacklisted_on_its_stream_is_to_come_again(self) -> None:
        """As another one: the Go client takes its new key to its next connection."""
        connection = self.start()
        self.world.now(self.world.store.blacklist_client(ALICE.client_id))
        [client] = self.world.now(self.world.store.client_data([ALICE.client_id])).values()
        self.world.dispatcher.refresh(ALICE.client_id, client)
        self.assertEqual(self.messages(connection), ["RekeyRequest"])
        self.assertTrue(connection.records()[-1].done_sending)
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(acks(connection.records()), [1], "what it has to say is still taken")
        self.clock.advance(5)
        self.assertTrue(connection.is_closed)


class LifeTests(StreamTestCase):
    def test_done_sending_then_the_end(self) -> None:
        connection = self.start()
        self.clock.advance(569)
        self.assertEqual(len(connection.records()), 1)
        self.clock.advance(1)
        self.assertEqual(connection.records()[1:], [common.ContactData(done_sending=True)])
        self.clock.advance(29)
        self.assertFalse(connection.is_closed)
        self.clock.advance(1)
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)
        self.assertEqual(len(self.world.dispatcher), 0)

    def test_the_jitter_is_added(self) -> None:
        self.server = Server(jitter=60.0)
        self.clock = self.server.clock
        connection = self.start()
        self.clock.advance(599)
        self.assertEqual(len(connection.records()), 1)
        self.clock.advance(31)
        self.assertTrue(connection.is_closed)

    def test_after_done_sending_records_are_acknowledged_but_nothing_is_pushed(self) -> None:
        connection = self.start()
        self.clock.advance(570)
        self.world.insert(for_client(ALICE.client_id))
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(self.messages(connection), [])
        self.assertEqual(acks(connection.records()), [1])
        connection.chunk(b"")
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)

    def test_what_is_being_looked_for_is_sent_before_done_sending(self) -> None:
        connection = self.start()
        self.clock.advance(569)
        self.world.store.is_holding = True
        self.world.insert(for_client(ALICE.client_id))
        self.clock.advance(1)
        self.world.store.release()
        _, pushed, done = connection.records()
        self.assertEqual((len(pushed.messages), done.done_sending), (1, True))

    def test_the_last_records_may_be_late(self) -> None:
        connection = self.start()
        self.clock.advance(570)
        self.world.store.is_holding = True
        connection.chunk(record(wrapped(from_client())))
        self.clock.advance(30)
        self.assertFalse(connection.is_closed)
        self.world.store.release()
        self.assertEqual(acks(connection.records()), [1])
        self.assertTrue(connection.is_closed)

    def test_but_not_too_late(self) -> None:
        connection = self.start()
        self.clock.advance(570)
        self.world.ingestor.waiting_for = Deferred()
        connection.chunk(record(wrapped(from_client())))
        self.clock.advance(30)
        self.clock.advance(LATE_LIMIT)
        self.assertTrue(connection.is_closed)
        self.assertEqual(len(self.server.context.running), 0)

    def test_the_client_ends(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        connection.chunk(record(wrapped(from_client())))
        connection.chunk(b"")
        self.assertFalse(connection.is_closed)
        self.world.store.release()
        self.assertEqual(acks(connection.records()), [1])
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)

    def test_a_client_that_vanishes_loses_nothing_that_was_begun(self) -> None:
        connection = self.start()
        self.world.store.is_holding = True
        connection.chunk(record(wrapped(from_client())))
        connection.lose()
        self.world.store.release()
        self.assertEqual(len(self.world.stored(id_of(from_client(), ALICE.client_id))), 1)
        self.clock.advance(LATE_LIMIT)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_client_that_vanishes_during_the_start(self) -> None:
        self.world.ingestor.waiting_for = Deferred()
        connection = self.start(wrapped(from_client()))
        connection.lose()
        self.assertEqual(len(self.world.dispatcher), 0)
        self.assertEqual(len(self.server.context.running), 0)

    def test_nothing_is_left_behind(self) -> None:
        connection = self.start()
        connection.chunk(record(wrapped(from_client())))
        connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DrainTests(StreamTestCase):
    def drain(self) -> Deferred[Any]:
        return self.server.site.drain()

    def test_done_sending_first(self) -> None:
        """server-https.md 4.8, improve: send done_sending, keep reading and acking for a bounded time, then close."""
        connection = self.start()
        drained = self.drain()
        self.assertTrue(connection.records()[-1].done_sending)
        connection.chunk(record(wrapped(from_client())))
        self.assertEqual(acks(connection.records()), [1])
        connection.chunk(b"")
        self.assertTrue(connection.is_closed)
        self.assertNoResult(drained)
        connection.lose()
        self.successResultOf(drained)

    def test_a_client_that_goes_on_is_cut(self) -> None:
        connection = self.start()
        self.drain()
        self.clock.advance(DRAIN_LIMIT)
        self.assertTrue(connection.response().complete)
        self.assertTrue(connection.is_closed)

    def test_a_stream_that_is_just_starting(self) -> None:
        self.world.store.is_holding = True
        connection = self.start()
        self.drain()
        self.world.store.is_holding = False
        self.world.store.release()
        self.assertTrue(connection.records()[-1].done_sending)

    def test_idle_connections_are_closed_and_polls_finish(self) -> None:
        idle, polling = self.server.connect(), self.server.connect()
        self.world.store.is_holding = True
        polling.post("/message")
        drained = self.drain()
        self.assertTrue(idle.is_closed)
        self.assertFalse(polling.is_closed)
        self.world.store.release()
        self.assertEqual(polling.response().status, 200)
        self.assertTrue(polling.is_closed)
        idle.lose()
        polling.lose()
        self.successResultOf(drained)

    def test_no_new_contacts(self) -> None:
        connection = self.server.connect()
        connection.begin_stream()
        self.drain()
        late = self.server.connect("bob")
        late.post("/message")
        self.assertEqual(late.response().status, 500)

    def test_without_connections(self) -> None:
        self.successResultOf(self.drain())
