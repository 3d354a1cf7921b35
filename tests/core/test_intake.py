"""server-core 2.3: what becomes of a client's messages."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.intake import take_in
from fleetspeak.ids import ClientId, message_id_of
from fleetspeak.pb import common

CLIENT = ClientId(b"\x01" * 8)
NOW = 1_700_000_000_123_456_789


def _message() -> common.Message:
    return common.Message(
        source=common.Address(client_id=b"somebody", service_name="S"),
        destination=common.Address(service_name="D"),
        source_message_id=b"id",
    )


class TakeInTests(SynchronousTestCase):
    def test_the_server_says_who_what_and_when(self) -> None:
        message = _message()
        message.message_id = b"made up"
        message.creation_time.seconds = 1
        message.validation_info.tags["admin"] = "yes"
        self.assertIsNone(take_in(message, CLIENT, {"checked": "no"}, NOW))
        self.assertEqual(message.source, common.Address(client_id=CLIENT, service_name="S"))
        self.assertEqual(message.message_id, message_id_of(CLIENT, "S", b"id"))
        self.assertEqual(message.creation_time.ToNanoseconds(), NOW)
        self.assertEqual(dict(message.validation_info.tags), {"checked": "no"})

    def test_a_client_has_no_word_in_results(self) -> None:
        """Upstream's server dies of an empty one on a stream."""
        message = _message()
        message.result.SetInParent()
        message.is_blocklisted_source = True
        self.assertIsNone(take_in(message, CLIENT, {}, NOW))
        self.assertFalse(message.HasField("result"))
        self.assertFalse(message.is_blocklisted_source)

    def test_what_can_never_be_processed_is_dropped_and_left_as_it_is(self) -> None:
        faults: list[Callable[[common.Message], object]] = [
            lambda message: message.ClearField("destination"),
            lambda message: setattr(message.destination, "client_id", b"12345678"),
            lambda message: setattr(message.destination, "service_name", ""),
            lambda message: message.ClearField("source"),
            lambda message: setattr(message.source, "service_name", ""),
            lambda message: setattr(message, "source_message_id", b""),
        ]
        for spoil in faults:
            message = _message()
            spoil(message)
            before = message.SerializeToString()
            self.assertTrue(take_in(message, CLIENT, {}, NOW))
            self.assertEqual(message.SerializeToString(), before)

    @given(st.binary(max_size=80))
    def test_any_message_is_taken_in_or_dropped(self, garbage: bytes) -> None:
        message = _message()
        try:
            message.MergeFromString(garbage)
        except Exception:
            return
        if take_in(message, CLIENT, {}, NOW) is None:
            self.assertEqual((message.source.client_id, len(message.message_id)), (CLIENT, 32))
