"""The smaller steps of the pipeline, each with plain values."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotAuthorized, ProtocolError, StoreError, TooLarge
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Exchange
from fleetspeak.server.contact import authorize, outgoing
from fleetspeak.server.contact.intake import take_in_all
from fleetspeak.server.contact.parse import clock_of, parse
from fleetspeak.server.contact.process import process
from fleetspeak.server.contact.session import Session
from fleetspeak.server.contact.signatures import MAX_SIGNATURES, check_signatures
from fleetspeak.server.contact.write import write
from tests.server.contact.world import (
    ADDRESS,
    START_NS,
    Gatekeeper,
    World,
    for_client,
    from_client,
    id_of,
    identity,
    success,
    wrapped,
)

ALICE = identity("alice")


class AuthorizeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.wrapped = wrapped(labels=["linux", "corp"])
        self.claim = authorize.claim_of(ALICE.client_id, self.wrapped)

    def test_what_is_claimed(self) -> None:
        self.assertEqual(self.claim.client_id, ALICE.client_id)
        self.assertEqual(self.claim.contact_size, len(self.wrapped.contact_data))
        self.assertEqual(self.claim.labels, ("linux", "corp"))

    def test_each_stage_can_refuse(self) -> None:
        """server-core 2.1 steps 2, 4 and 7."""
        stages = {
            "contact": lambda: authorize.allow_contact(self.gatekeeper, ADDRESS, self.claim),
            "client": lambda: authorize.allow_client(self.gatekeeper, ADDRESS, self.claim, None),
            "signatures": lambda: authorize.validate(self.gatekeeper, ADDRESS, self.claim, None, ()),
        }
        for name, stage in stages.items():
            stage()
            self.gatekeeper.refuse = {name}
            self.assertRaises(NotAuthorized, stage)
            self.gatekeeper.refuse.clear()

    def test_the_last_stage_gives_tags(self) -> None:
        """server-core 2.1 step 7."""
        self.gatekeeper.tags = {"seen": "yes"}
        self.assertEqual(authorize.validate(self.gatekeeper, ADDRESS, self.claim, None, ()), {"seen": "yes"})


class SignatureTests(SynchronousTestCase):
    def test_none(self) -> None:
        """server-core 2.2."""
        self.assertEqual(check_signatures(wrapped()), ())

    def test_a_signature_without_a_certificate_is_invalid(self) -> None:
        """server-https.md 8: this input ends the whole upstream process on a stream."""
        (checked,) = check_signatures(wrapped(signatures=[common.Signature(algorithm=4, signature=b"x")]))
        self.assertFalse(checked.valid)
        self.assertEqual(list(checked.certificates), [])

    def test_a_certificate_that_is_none(self) -> None:
        """server-core 2.1 step 6."""
        with self.assertRaises(ProtocolError):
            check_signatures(wrapped(signatures=[common.Signature(certificate=[b"garbage"], algorithm=4)]))

    def test_too_many(self) -> None:
        with self.assertRaises(TooLarge):
            check_signatures(wrapped(signatures=[common.Signature()] * (MAX_SIGNATURES + 1)))


class ParseTests(SynchronousTestCase):
    def test_empty(self) -> None:
        self.assertEqual(parse(common.WrappedContactData()), common.ContactData())

    def test_garbage(self) -> None:
        """server-core 2.1 step 8."""
        with self.assertRaisesRegex(ProtocolError, "unable to parse contact_data"):
            parse(common.WrappedContactData(contact_data=b"\xff\xff\xff"))

    def test_100_messages(self) -> None:
        """server-core 2.1 step 9."""
        self.assertEqual(len(parse(wrapped(*[from_client()] * 100)).messages), 100)

    def test_101_messages(self) -> None:
        """server-core 2.1 step 9."""
        with self.assertRaisesRegex(TooLarge, "contact_data contains 101 messages, only 100 allowed"):
            parse(wrapped(*[from_client()] * 101))

    def test_clock(self) -> None:
        self.assertIsNone(clock_of(common.ContactData()))
        now = Timestamp(seconds=1_700_000_000, nanos=5)
        self.assertEqual(clock_of(common.ContactData(client_clock=now)), now)

    def test_clocks_that_cannot_be_stored_are_left_out(self) -> None:
        for seconds, nanos in ((-1, 0), (2**62, 0), (1, -1), (1, 10**9)):
            odd = common.ContactData(client_clock=Timestamp(seconds=seconds, nanos=nanos))
            self.assertIsNone(clock_of(odd))


class IntakeTests(SynchronousTestCase):
    def take_in(self, *messages: common.Message) -> list[common.Message]:
        return take_in_all(messages, ALICE.client_id, {"tag": "value"}, START_NS)

    def test_what_the_server_knows_replaces_what_the_client_says(self) -> None:
        """server-core 2.3."""
        lying = from_client(is_blocklisted_source=True, result=success(), message_id=b"mine")
        lying.source.client_id = b"somebody"
        (taken,) = self.take_in(lying)
        self.assertEqual(taken.source.client_id, ALICE.client_id)
        self.assertEqual(taken.message_id, id_of(from_client(), ALICE.client_id))
        self.assertEqual(taken.creation_time.ToNanoseconds(), START_NS)
        self.assertEqual(dict(taken.validation_info.tags), {"tag": "value"})
        self.assertFalse(taken.HasField("result"))
        self.assertFalse(taken.is_blocklisted_source)

    def test_odd_messages_are_dropped_with_one_log_line(self) -> None:
        """server-core.md 2.3: dropped, the rest continues, nothing is reported to the client."""
        to_client = from_client()
        to_client.destination.client_id = b"12345678"
        odd = [
            to_client,
            common.Message(source=common.Address(service_name="a"), source_message_id=b"1"),
            common.Message(destination=common.Address(service_name="a"), source_message_id=b"1"),
            common.Message(source=common.Address(service_name="a"), destination=common.Address(service_name="a")),
            from_client(service="s" * 129),
        ]
        odd[4].source.service_name = "s"
        with capturedLogs() as events:
            taken = self.take_in(*odd, from_client(7))
        self.assertEqual([one.source_message_id for one in taken], [b"source message 7"])
        self.assertEqual(len(events), 1)
        self.assertEqual(events[0]["count"], 5)

    def test_names_longer_than_128_characters_are_odd(self) -> None:
        fits, long_type, long_source = from_client(1), from_client(2), from_client(3)
        fits.message_type = fits.source.service_name = fits.destination.service_name = "\u00fc" * 128
        long_type.message_type = "x" * 129
        long_source.source.service_name = "x" * 129
        with capturedLogs():
            self.assertEqual(len(self.take_in(fits, long_type, long_source)), 1)

    def test_a_message_that_is_there_twice_counts_once(self) -> None:
        self.assertEqual(len(self.take_in(from_client(1), from_client(2), from_client(1))), 2)


class ProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client = ClientData(ALICE.key)

    def process(self, *messages: common.Message, is_new: bool = False) -> list[common.Message]:
        taken = take_in_all(messages, ALICE.client_id, {}, START_NS)
        work = process(self.world.store, self.world.ingestor, taken, self.client, is_new)
        self.successResultOf(Deferred.fromCoroutine(work))
        return taken

    def test_given_to_the_services(self) -> None:
        """server-core 2.3."""
        (message,) = self.process(from_client())
        self.assertEqual(message.result, success())
        self.assertFalse(message.HasField("data"))
        self.assertEqual(self.world.ingestor.calls, [(1, self.client, True)])

    def test_known_successes_are_not_processed_again(self) -> None:
        """server-core.md 2.3, improve: for ids already stored with a successful result skip processing."""
        done = self.process(from_client(1))
        self.world.now(self.world.store.store_messages(done))
        again, fresh = self.process(from_client(1), from_client(2))
        self.assertEqual([one.source_message_id for one in self.world.ingestor.seen[1:]], [fresh.source_message_id])
        self.assertEqual(again.result, done[0].result)
        self.assertFalse(again.HasField("data"))

    def test_known_failures_and_pending_ones_are(self) -> None:
        failed, pending = take_in_all([from_client(1), from_client(2)], ALICE.client_id, {}, START_NS)
        failed.result.CopyFrom(success())
        failed.result.failed = True
        self.world.now(self.world.store.store_messages([failed, pending]))
        self.process(from_client(1), from_client(2))
        self.assertEqual(len(self.world.ingestor.seen), 2)

    def test_a_new_client_is_not_looked_up(self) -> None:
        self.world.store.close()
        self.process(from_client(), is_new=True)
        self.assertEqual(len(self.world.ingestor.seen), 1)


class OutgoingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = Session(ADDRESS, ALICE, ClientData(ALICE.key), 1)

    def test_without_accounting_everything_may_be_claimed(self) -> None:
        """server-core 2.4 step 2."""
        self.assertIsNone(outgoing.claim_for(self.session).tokens)
        outgoing.spend(self.session, [for_client(ALICE.client_id)])
        self.assertIsNone(outgoing.claim_for(self.session).tokens)

    def test_die_costs_no_token(self) -> None:
        """server-core 2.4 step 3 and 13: Die + another with tokens {foo: 20, system: 20}: afterwards 19 and 20."""
        self.session.tokens.start({"foo": 20, "system": 20})
        die = for_client(ALICE.client_id, 1, "system", "Die")
        outgoing.spend(self.session, [die, for_client(ALICE.client_id, 2, "foo")])
        self.assertEqual(outgoing.claim_for(self.session).tokens, {"foo": 19, "system": 20})

    def test_rekey_request(self) -> None:
        """server-core 2.4 step 1."""
        request = outgoing.rekey_request(ALICE.client_id, START_NS)
        self.assertEqual(len(request.message_id), 32)
        self.assertEqual(request.source, common.Address(service_name="system"))
        self.assertEqual(request.destination, common.Address(client_id=ALICE.client_id, service_name="system"))
        self.assertEqual(request.message_type, "RekeyRequest")
        self.assertEqual(request.creation_time.ToNanoseconds(), START_NS)
        self.assertFalse(request.HasField("data"))

    def test_more_is_at_least_100_or_many_bytes(self) -> None:
        """server-core 2.1 step 16."""
        small = for_client(ALICE.client_id)
        self.assertFalse(outgoing.may_be_more([small] * 99))
        self.assertTrue(outgoing.may_be_more([small] * 100))
        self.assertTrue(outgoing.may_be_more([small] * 101))
        large = for_client(ALICE.client_id)
        large.data.value = bytes(2 * 1024 * 1024)
        self.assertFalse(outgoing.may_be_more([large] * 3))
        self.assertTrue(outgoing.may_be_more([large] * 4))


class WriteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_a_message_that_can_never_be_stored_is_dropped(self) -> None:
        good, bad = take_in_all([from_client(1), from_client(2)], ALICE.client_id, {}, START_NS)
        bad.ClearField("creation_time")
        with capturedLogs() as events:
            writing = write(self.world.store, Exchange([bad, good]))
            self.successResultOf(Deferred.fromCoroutine(writing))
        self.assertEqual(len(self.world.stored(good.message_id)), 1)
        self.assertEqual(len(events), 1)

    def test_other_errors_are_the_callers(self) -> None:
        (good,) = take_in_all([from_client(1)], ALICE.client_id, {}, START_NS)
        self.world.store.errors = [StoreError("the disk is full")]
        self.failureResultOf(Deferred.fromCoroutine(write(self.world.store, Exchange([good]))), StoreError)
