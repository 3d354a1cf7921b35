"""What the audit trail says of requests."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.adminaccess import rpc_of
from fleetspeak.core.auditing import MAX_LISTED, MAX_TEXT, describe
from fleetspeak.pb import admin, broadcasts, common, operator

CANARY = "the-payload"
SHOWN = {"file_name", "group_name", "label", "labels", "message_type", "reason", "service_name", "type_url"}
"""Fields of text that hold names."""


def fill(message: Message, depth: int = 0) -> None:
    """Put the canary into every field that could hold it and is no name."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE and depth < 6:
            target: Any = getattr(message, field.name)
            if field.message_type.GetOptions().map_entry:
                target[CANARY] = CANARY
            elif field.is_repeated:
                fill(target.add(), depth + 1)
            else:
                target.SetInParent()
                fill(target, depth + 1)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if field.name in SHOWN:
                value: Any = "name"
            else:
                value = CANARY if field.type == FieldDescriptor.TYPE_STRING else CANARY.encode()
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


class DescribeTests(SynchronousTestCase):
    def test_no_changing_request_shows_a_payload(self) -> None:
        """Whatever is in whichever field of whichever request."""
        seen = 0
        for service in (admin.DESCRIPTOR.services_by_name["Admin"], operator.DESCRIPTOR.services_by_name["Operator"]):
            for method in service.methods:
                if not rpc_of(f"{service.full_name}/{method.name}").changes:
                    continue
                request = GetMessageClass(method.input_type)()
                fill(request)
                text = describe(request)
                self.assertNotIn(CANARY, text, method.name)
                # Ids are shown in hexadecimal; their fields hold nothing else.
                for place in text.split(CANARY.encode().hex())[:-1]:
                    self.assertRegex(place, r"(_id|_ids|sha256)=\[?$", method.name)
                seen += 1
        self.assertGreaterEqual(seen, 16)

    def test_a_message(self) -> None:
        message = common.Message(message_id=bytes(31) + b"\1", message_type="Greeting", priority=common.Message.HIGH)
        message.source.service_name = "greeter"
        message.destination.client_id, message.destination.service_name = b"12345678", "hello"
        message.data.CopyFrom(AnyProto(type_url="type.googleapis.com/x.Y", value=b"secret"))
        self.assertEqual(
            describe(message),
            f"message_id={bytes(31).hex()}01, source.service_name='greeter', "
            "destination.client_id=3132333435363738, destination.service_name='hello', message_type='Greeting', "
            "data='type.googleapis.com/x.Y' of 6 bytes, priority=HIGH",
        )

    def test_a_broadcast(self) -> None:
        broadcast = broadcasts.Broadcast(broadcast_id=b"12345678", group_name="g")
        broadcast.required_labels.add(service_name="client", label="linux")
        broadcast.expiration_time.seconds = 10
        self.assertEqual(
            describe(admin.CreateBroadcastRequest(broadcast=broadcast, limit=7)),
            "broadcast.broadcast_id=3132333435363738, broadcast.required_labels[0].service_name='client', "
            "broadcast.required_labels[0].label='linux', broadcast.expiration_time=1970-01-01T00:00:10Z, "
            "broadcast.group_name='g', limit=7",
        )

    def test_many_ids(self) -> None:
        request = operator.CancelMessagesRequest(message_ids=[bytes([n]) * 32 for n in range(MAX_LISTED + 5)])
        text = describe(request)
        self.assertTrue(text.endswith("and 5 more]"), text)
        self.assertEqual(text.count(", "), MAX_LISTED)

    def test_what_is_no_id_is_told_by_its_size(self) -> None:
        self.assertEqual(describe(admin.BlacklistClientRequest(client_id=b"x" * 1000)), "client_id=1000 bytes")
        self.assertEqual(describe(admin.StoreFileRequest(data=b"secret")), "data=6 bytes")
        self.assertEqual(describe(operator.EnrolClientRequest(public_key=b"key")), "public_key=3 bytes")

    def test_nothing(self) -> None:
        self.assertEqual(describe(common.EmptyMessage()), "")

    @given(st.text(), st.lists(st.text(), max_size=40), st.integers(-(2**40), 2**40))
    def test_any_text_is_one_printable_line_of_bounded_length(self, name: str, labels: list[str], time: int) -> None:
        request = admin.StoreFileRequest(service_name=name, file_name=name * 50)
        broadcast = broadcasts.Broadcast(message_type=name)
        for label in labels:
            broadcast.required_labels.add(service_name=label, label=label)
        broadcast.expiration_time.seconds = time
        for text in (describe(request), describe(admin.CreateBroadcastRequest(broadcast=broadcast))):
            self.assertTrue(text.isprintable() or not text, repr(text))
            self.assertLessEqual(len(text), MAX_TEXT)
