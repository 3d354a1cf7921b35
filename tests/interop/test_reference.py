"""Upstream with upstream: shows that the tests' own machinery is right, and how the reference behaves.

Polling with deflate is left out against the upstream server everywhere: it reads a compressed request only up
to its Content-Length in *decompressed* bytes and then answers 400, so that no client can poll it compressed.
"""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.pb import common
from fleetspeak.testing.wireclient import Connection, Identity, Stream

from .conversation import Conversation
from .fleet import POLLING, STREAMING_DEFLATE, UPSTREAM, greeter


class UpstreamWithUpstream(Conversation):
    server_kind = UPSTREAM
    configurator = UPSTREAM
    connectors = (UPSTREAM,)

    def test_polling(self) -> None:
        self.converse(UPSTREAM, POLLING)

    def test_streaming_with_deflate(self) -> None:
        self.converse(UPSTREAM, STREAMING_DEFLATE)

    def test_the_wire_client_of_our_other_tests_speaks_as_the_upstream_server_expects(self) -> None:
        identity = Identity.make()
        with self.connect(identity) as polling:
            self.assertNotEqual(polling.poll(self.contact("by poll")).sequencing_nonce, 0)
            polling.poll(common.ContactData())
        with self.connect(identity) as connection:
            stream = Stream(connection, self.contact("first of a stream"))
            self.assertNotEqual(stream.opening.sequencing_nonce, 0)
            for number in (1, 2):
                self.assertEqual(stream.send(self.contact(f"number {number}")), number)
                self.assertEqual(stream.receive().ack_index, number)
        for text in ("by poll", "first of a stream", "number 1", "number 2"):
            came = self.fleet.operator.wait_for_text(text)
            self.assertEqual(came.source.client_id, identity.client_id)

    def connect(self, identity: Identity) -> Connection:
        return Connection(self.fleet.deployment.https_address, self.fleet.deployment.trusted_pem, identity)

    def contact(self, text: str) -> common.ContactData:
        message = common.Message(source_message_id=text.encode()[:16])
        message.source.service_name = "test"
        message.destination.service_name = greeter(UPSTREAM)
        message.data.Pack(StringValue(value=text))
        return common.ContactData(messages=[message])
