import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.wire import contact
from tests import vectors


class ContactTests(SynchronousTestCase):
    def test_the_go_clients_contacts_are_read(self) -> None:
        for captured in vectors.load("contact_data")["captured"]:
            wrapped = contact.unwrap(bytes.fromhex(captured["wrapped_hex"]))
            self.assertEqual(list(wrapped.client_labels), captured["client_labels"])
            self.assertEqual(len(wrapped.signatures), captured["signatures"])
            data = contact.parse(wrapped.contact_data)
            told = captured["contact_data"]
            self.assertEqual(data.sequencing_nonce, told.get("sequencing_nonce", 0))
            self.assertEqual(dict(data.AllowedMessages), told["AllowedMessages"])
            self.assertEqual(
                [message.source_message_id.hex() for message in data.messages],
                [message["source_message_id"] for message in told.get("messages", [])],
            )

    def test_the_servers_contacts_are_read(self) -> None:
        for made in vectors.load("contact_data")["made"]:
            raw = bytes.fromhex(made["contact_data_hex"])
            data = contact.parse(raw)
            told = made["contact_data"]
            self.assertEqual(data.sequencing_nonce, told.get("sequencing_nonce", 0))
            self.assertEqual(data.ack_index, told.get("ack_index", 0))
            self.assertEqual(data.done_sending, told.get("done_sending", False))
            if "wrapped_hex" in made:
                wrapped = contact.unwrap(bytes.fromhex(made["wrapped_hex"]))
                self.assertEqual(
                    (contact.parse(wrapped.contact_data), list(wrapped.client_labels)), (data, made["client_labels"])
                )

    def test_small_messages_are_as_upstream_has_them(self) -> None:
        self.assertEqual(
            common.ContactData(ack_index=300).SerializeToString().hex(),
            vectors.load("streaming_frames")["server_frames"][2]["frame_hex"][2:],
        )

    def test_what_is_wrapped_is_unwrapped(self) -> None:
        data = common.ContactData(sequencing_nonce=2**64 - 1, messages=[common.Message(message_type="t")])
        signature = common.Signature(algorithm=4, signature=b"s")
        wrapped = contact.unwrap(contact.wrap(data, ["a", "b"], [signature]))
        self.assertEqual(contact.parse(wrapped.contact_data), data)
        self.assertEqual((list(wrapped.client_labels), list(wrapped.signatures)), (["a", "b"], [signature]))

    def test_nothing_is_a_contact_with_nothing_in_it(self) -> None:
        self.assertEqual(contact.parse(contact.unwrap(b"").contact_data), common.ContactData())

    @settings(max_examples=200)
    @given(st.binary(max_size=60))
    def test_any_bytes_give_a_contact_or_one_clear_error(self, garbage: bytes) -> None:
        for read in (contact.unwrap, contact.parse):
            with contextlib.suppress(ProtocolError):
                read(garbage)
