from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotAuthorized, NotReady, ProtocolError, StoreError, TooLarge
from fleetspeak.ids import MessageId
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Label
from fleetspeak.server.contact.handler import random_nonce
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.contact.session import Session
from tests.server.contact.world import (
    ADDRESS,
    START_NS,
    Gatekeeper,
    World,
    for_client,
    from_client,
    id_of,
    identity,
    wrapped,
)

ALICE = identity("alice")


class HandlerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.world = World(self.gatekeeper)
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def begin(
        self, data: common.WrappedContactData, who: Identity = ALICE, streaming: bool = False
    ) -> Deferred[tuple[Session, Sequence[common.Message]]]:
        wake = self.wake if streaming else None
        return Deferred.fromCoroutine(self.world.contacts.first(ADDRESS, who, data, wake))

    def poll(
        self, data: common.WrappedContactData, who: Identity = ALICE, streaming: bool = False
    ) -> tuple[Session, Sequence[common.Message]]:
        return self.successResultOf(self.begin(data, who, streaming))

    def enrol(self, who: Identity = ALICE) -> None:
        self.world.now(self.world.store.add_client(who.client_id, ClientData(who.key)))

    def listed(self) -> common.Message:
        (client,) = self.world.now(self.world.store.list_clients([ALICE.client_id]))
        return client

    def client_data(self) -> ClientData | None:
        return self.world.now(self.world.store.client_data([ALICE.client_id])).get(ALICE.client_id)


class FirstContactTests(HandlerTestCase):
    def test_an_entirely_empty_contact_of_a_new_client(self) -> None:
        """server-core.md 13: works, gives a contact id and a non-zero sent nonce."""
        session, messages = self.poll(common.WrappedContactData())
        self.assertNotEqual(session.contact_id, "")
        self.assertEqual(session.sent_nonce, 1001)
        self.assertEqual(list(messages), [])
        self.assertEqual(self.client_data(), ClientData(ALICE.key))

    def test_nonces_are_random(self) -> None:
        """server-core 2.1 step 10."""
        nonces = {random_nonce() for _ in range(100)}
        self.assertEqual(len(nonces), 100)
        self.assertTrue(all(0 < nonce < 2**64 for nonce in nonces))

    def test_claimed_labels_are_stored_as_the_clients_own(self) -> None:
        """server-core 2.1 step 5."""
        self.poll(wrapped(labels=["linux", "corp", "linux", "", "x" * 129]))
        data = self.client_data()
        assert data is not None
        self.assertEqual(data.labels, {Label("client", "linux"), Label("client", "corp")})

    def test_the_contact_is_recorded(self) -> None:
        """server-core 2.1 step 12."""
        contact = wrapped(sequencing_nonce=77)
        self.world.clock.advance(5)
        session, _ = self.poll(contact)
        (entry,) = self.world.now(self.world.store.client_contacts(ALICE.client_id, 0, 10))
        self.assertEqual(entry.contact.received_nonce, 77)
        self.assertEqual(entry.contact.sent_nonce, session.sent_nonce)
        self.assertEqual(entry.contact.address, ADDRESS)
        self.assertEqual(entry.time_ns, START_NS + 5 * 10**9)

    def test_a_stream_leaves_its_address_and_a_poll_clears_it(self) -> None:
        """server-core 2.1 step 12."""
        self.poll(wrapped(), streaming=True)
        self.assertEqual(self.listed().last_contact_streaming_to, "local")
        self.poll(wrapped())
        self.assertEqual(self.listed().last_contact_streaming_to, "")

    def test_two_servers_see_the_same_new_client_at_once(self) -> None:
        """server-core.md 2.1, improve: treat already exists as success."""
        self.world.store.is_holding = True
        first, second = self.begin(wrapped()), self.begin(wrapped())
        self.world.store.release()
        self.world.store.release()
        self.successResultOf(first)
        self.successResultOf(second)

    def test_a_known_client_with_another_key_is_refused(self) -> None:
        """server-core.md 2.1, improve: compare full keys for a known client and refuse on difference."""
        self.enrol()
        forged = Identity(b"another key with the same id", ALICE.client_id)
        self.failureResultOf(self.begin(wrapped(from_client()), forged), NotAuthorized)
        self.assertEqual(self.world.ingestor.seen, [])
        self.assertEqual(self.world.store.exchanges, [])

    def test_authorizer_refusals_write_nothing(self) -> None:
        """server-core 2.1 steps 2, 4 and 7."""
        for stage in ("contact", "client", "signatures"):
            self.gatekeeper.refuse = {stage}
            self.failureResultOf(self.begin(wrapped(from_client())), NotAuthorized)
        self.assertEqual(self.world.store.exchanges, [])
        self.assertIsNone(self.client_data())

    def test_while_enrolment_is_closed_only_known_clients_are_let_in(self) -> None:
        """Others are refused as an authorizer does it, and nothing is written of them."""
        self.enrol()
        written = len(self.world.store.exchanges)
        self.world.enrolment.is_open = False
        error = self.failureResultOf(self.begin(wrapped(from_client()), identity("bob")), NotAuthorized).value
        self.assertEqual(error.stage, "enrolment")
        self.assertEqual(len(self.world.store.exchanges), written)
        self.assertEqual(self.world.ingestor.seen, [])
        self.poll(wrapped())
        self.world.enrolment.is_open = True
        self.successResultOf(self.begin(wrapped(), identity("bob")))

    def test_a_client_that_was_enrolled_is_let_in_while_enrolment_is_closed(self) -> None:
        self.world.enrolment.is_open = False
        self.failureResultOf(self.begin(wrapped()), NotAuthorized)
        self.world.now(self.world.store.add_client(ALICE.client_id, ClientData(ALICE.key)))
        self.poll(wrapped())

    def test_the_authorizer_is_told_whether_the_client_is_new(self) -> None:
        """server-core 2.1 step 4."""
        self.poll(wrapped(labels=["linux"]))
        self.poll(wrapped())
        self.assertEqual(
            [told for stage, told in self.gatekeeper.told if stage == "client"],
            [None, ClientData(ALICE.key, frozenset([Label("client", "linux")]))],
        )

    def test_a_contact_that_does_not_parse(self) -> None:
        """server-core 2.1 step 8."""
        self.failureResultOf(self.begin(common.WrappedContactData(contact_data=b"\xff")), ProtocolError)

    def test_101_messages(self) -> None:
        self.failureResultOf(self.begin(wrapped(*map(from_client, range(101)))), TooLarge)
        self.assertEqual(self.world.ingestor.seen, [])

    def test_the_store_fails(self) -> None:
        """server-core 2.1 step 13."""
        self.world.store.errors = [StoreError("the disk is full")]
        self.failureResultOf(self.begin(wrapped(), streaming=True), StoreError)
        self.assertEqual(len(self.world.dispatcher), 0)

    def test_cancelled(self) -> None:
        self.world.store.is_holding = True
        running = self.begin(wrapped(), streaming=True)
        running.addErrback(lambda failure: None)
        running.cancel()
        self.assertEqual(len(self.world.dispatcher), 0)


class MessagesFromAClientTests(HandlerTestCase):
    def test_stored_once_with_their_results(self) -> None:
        """server-core 2.1 step 13."""
        self.poll(wrapped(from_client(1), from_client(2)))
        stored = self.world.stored(*(id_of(from_client(n), ALICE.client_id) for n in (1, 2)))
        self.assertTrue(all(one.HasField("result") and not one.HasField("data") for one in stored))

    def test_a_known_client_costs_one_exchange(self) -> None:
        self.enrol()
        self.poll(wrapped(from_client()))
        self.assertEqual(len(self.world.store.exchanges), 1)

    def test_a_new_client_is_there_before_its_messages_are_processed(self) -> None:
        """Services may ask for the client, or send to it, as soon as they see its first message."""
        seen: list[ClientData | None] = []
        self.world.ingestor.during = lambda: seen.append(self.client_data())
        self.poll(wrapped(from_client(), labels=["linux"]))
        self.assertEqual(seen, [ClientData(ALICE.key, frozenset([Label("client", "linux")]))])
        contacts = self.world.now(self.world.store.client_contacts(ALICE.client_id, 0, 10))
        self.assertEqual(len(contacts), 1)
        self.assertEqual(len(self.world.stored(id_of(from_client(), ALICE.client_id))), 1)

    def test_a_temporary_failure_stays_pending(self) -> None:
        self.world.ingestor.verdict = lambda message: None
        self.poll(wrapped(from_client()))
        (stored,) = self.world.stored(id_of(from_client(), ALICE.client_id))
        self.assertFalse(stored.HasField("result"))
        self.assertTrue(stored.HasField("data"))

    def test_a_message_with_an_empty_result_that_fails_temporarily(self) -> None:
        """server-https.md 8: this input ends the whole upstream process on a stream."""
        self.world.ingestor.verdict = lambda message: None
        hostile = from_client(result=common.MessageResult())
        self.poll(wrapped(hostile))
        (stored,) = self.world.stored(id_of(hostile, ALICE.client_id))
        self.assertFalse(stored.HasField("result"))

    def test_odd_messages_do_not_fail_the_contact(self) -> None:
        """Issue: a well-formed but odd message gets 200 and a log line, so that no client repeats it for ever."""
        with capturedLogs() as events:
            self.poll(wrapped(common.Message(), from_client(1)))
        self.assertEqual(len(events), 1)
        self.assertEqual(len(self.world.ingestor.seen), 1)

    def test_stopped_services_fail_the_contact(self) -> None:
        self.enrol()
        self.world.ingestor.error = NotReady("stopping")
        self.failureResultOf(self.begin(wrapped(from_client())), NotReady)
        self.assertEqual(self.world.store.exchanges, [])

    def test_validation_tags_are_attached(self) -> None:
        """server-core 2.3."""
        self.gatekeeper.tags = {"verdict": "fine"}
        self.poll(wrapped(from_client()))
        self.assertEqual(dict(self.world.ingestor.seen[0].validation_info.tags), {"verdict": "fine"})

    def test_services_are_told_of_a_blacklisted_source(self) -> None:
        """server-core 3.4 step 1."""
        self.enrol()
        self.world.now(self.world.store.blacklist_client(ALICE.client_id))
        self.poll(wrapped(from_client()))
        _, client, _ = self.world.ingestor.calls[0]
        assert client is not None
        self.assertTrue(client.blacklisted)


class MessagesForAClientTests(HandlerTestCase):
    def test_taken_along(self) -> None:
        """server-core 2.1 step 15."""
        self.enrol()
        self.world.insert(for_client(ALICE.client_id))
        _, messages = self.poll(wrapped())
        self.assertEqual([one.message_type for one in messages], ["Hello"])
        _, again = self.poll(wrapped())
        self.assertEqual(list(again), [])

    def test_tokens_limit_what_is_taken(self) -> None:
        """server-core 2.1 step 11, 2.4 step 2."""
        self.enrol()
        self.world.insert(*(for_client(ALICE.client_id, n, service) for n, service in enumerate("aaabbc")))
        _, messages = self.poll(wrapped(tokens={"a": 2, "b": 20}))
        self.assertEqual(sorted(one.destination.service_name for one in messages), ["a", "a", "b", "b"])

    def test_die_and_another(self) -> None:
        """server-core 2.4 step 6 and 13: both are delivered; Die has a success result at once, the other none."""
        self.enrol()
        die, other = for_client(ALICE.client_id, 1, "system", "Die"), for_client(ALICE.client_id, 2, "foo")
        self.world.insert(die, other)
        session, messages = self.poll(wrapped(tokens={"foo": 20, "system": 20}))
        self.assertEqual(len(messages), 2)
        self.assertEqual(session.tokens.limits(), {"foo": 19, "system": 20})
        stored_die, stored_other = self.world.stored(die.message_id, other.message_id)
        self.assertTrue(stored_die.HasField("result"))
        self.assertFalse(stored_other.HasField("result"))

    def test_a_blacklisted_client_gets_just_a_rekey_request(self) -> None:
        """server-core 2.4 step 1; server-core 13: exactly one message, RekeyRequest, and it is in the datastore."""
        self.enrol()
        self.world.insert(for_client(ALICE.client_id))
        self.world.now(self.world.store.blacklist_client(ALICE.client_id))
        session, (request,) = self.poll(wrapped(), streaming=True)
        self.assertEqual(request.message_type, "RekeyRequest")
        self.assertEqual(len(self.world.stored(request.message_id)), 1)
        look = self.successResultOf(Deferred.fromCoroutine(self.world.contacts.look(session)))
        self.assertEqual(list(look), [])

    def test_no_notification_is_lost(self) -> None:
        """server-core 2.1 step 14.

        A message that is committed while the first exchange is under way is taken by it, or wakes the stream.
        """
        self.enrol()
        self.world.store.is_holding = True
        starting = self.begin(wrapped(), streaming=True)
        self.world.insert(for_client(ALICE.client_id, 1))
        self.world.store.release()
        _, messages = self.successResultOf(starting)
        self.assertEqual((len(messages), self.woken), (1, 1))
        self.world.insert(for_client(ALICE.client_id, 2))
        self.assertEqual(self.woken, 2)

    def test_a_poll_is_not_registered(self) -> None:
        self.poll(wrapped())
        self.assertEqual(len(self.world.dispatcher), 0)


class StreamTests(HandlerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.session, _ = self.poll(wrapped(tokens={"a": 1}), streaming=True)

    def record(self, data: common.WrappedContactData) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.world.contacts.record(self.session, data))

    def look(self) -> Sequence[common.Message]:
        return self.successResultOf(Deferred.fromCoroutine(self.world.contacts.look(self.session)))

    def test_a_record_is_done_when_it_is_committed(self) -> None:
        self.world.store.is_holding = True
        done = self.record(wrapped(from_client()))
        self.assertNoResult(done)
        self.world.store.release()
        self.successResultOf(done)
        self.assertEqual(len(self.world.stored(id_of(from_client(), ALICE.client_id))), 1)

    def test_its_messages_belong_to_the_contact(self) -> None:
        self.successResultOf(self.record(wrapped(from_client())))
        self.assertEqual(self.world.store.exchanges[-1].contact_id, self.session.contact_id)
        self.assertIsNone(self.world.store.exchanges[-1].contact)

    def test_a_record_without_messages_writes_nothing(self) -> None:
        before = len(self.world.store.exchanges)
        self.successResultOf(self.record(wrapped()))
        self.assertEqual(len(self.world.store.exchanges), before)

    def test_each_record_is_validated(self) -> None:
        self.gatekeeper.refuse = {"signatures"}
        self.failureResultOf(self.record(wrapped(from_client())), NotAuthorized)
        self.assertEqual(self.world.ingestor.seen, [])

    def test_a_signature_without_any_certificate_on_a_stream(self) -> None:
        """server-https.md 8: this input ends the whole upstream process."""
        hostile = wrapped(from_client(), signatures=[common.Signature(algorithm=4, signature=b"x")])
        self.successResultOf(self.record(hostile))
        (checked,) = self.gatekeeper.told[-1][1]
        self.assertFalse(checked.valid)

    def test_looks_take_what_tokens_allow(self) -> None:
        self.world.insert(*(for_client(ALICE.client_id, n, "a") for n in range(3)))
        self.assertEqual(len(self.look()), 1)
        self.assertEqual(len(self.look()), 0)
        self.assertTrue(self.successResultOf(self.record(wrapped(tokens={"a": 2}))))
        self.assertEqual(len(self.look()), 2)

    def test_only_a_service_that_had_no_tokens_calls_for_a_look(self) -> None:
        self.assertFalse(self.successResultOf(self.record(wrapped(tokens={"a": 2}))))
        self.assertTrue(self.successResultOf(self.record(wrapped(tokens={"b": 2}))))

    def test_token_counters_that_wrap(self) -> None:
        """server-https.md 8: this input ends the whole upstream process."""
        self.successResultOf(self.record(wrapped(tokens={"a": 2**64 - 1})))
        self.world.insert(for_client(ALICE.client_id, 1, "a"))
        self.assertEqual(len(self.look()), 1)
        self.assertEqual(self.session.tokens.limits(), {"a": 2**64 - 2})

    def test_without_accounting_an_empty_map_leaves_it_off(self) -> None:
        session, _ = self.poll(wrapped(), streaming=True)
        done = Deferred.fromCoroutine(self.world.contacts.record(session, wrapped()))
        self.assertFalse(self.successResultOf(done))
        self.assertIsNone(session.tokens.limits())

    def test_the_end_takes_the_registration_back(self) -> None:
        self.session.end()
        self.session.end()
        self.assertEqual(len(self.world.dispatcher), 0)

    def test_repeats_are_stored_once(self) -> None:
        self.successResultOf(self.record(wrapped(from_client())))
        self.successResultOf(self.record(wrapped(from_client())))
        self.assertEqual(len(self.world.ingestor.seen), 1)
        self.assertEqual(
            list(self.world.now(self.world.store.message_results([id_of(from_client(), ALICE.client_id)]))),
            [MessageId(self.world.ingestor.seen[0].message_id)],
        )
