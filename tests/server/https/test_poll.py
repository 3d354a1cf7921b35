from __future__ import annotations

import zlib

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotReady, StoreError
from fleetspeak.pb import common
from fleetspeak.records import ClientData
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.https.body import MAX_BODY
from fleetspeak.server.https.poll import POLL_LIMIT
from tests.server.contact.world import Gatekeeper, for_client, from_client, identity, wrapped
from tests.server.https.wire import Connection, Server

ALICE = identity("alice")


class PollTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.server = Server(self.gatekeeper)
        self.world = self.server.world

    def test_a_contact_and_its_answer(self) -> None:
        self.world.now(self.world.store.add_client(ALICE.client_id, ClientData(ALICE.key)))
        self.world.insert(for_client(ALICE.client_id))
        response = self.server.poll(wrapped(from_client(), sequencing_nonce=5))
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["Content-Type"], "application/octet-stream")
        reply = common.ContactData.FromString(response.body)
        self.assertEqual(reply.sequencing_nonce, 1001)
        self.assertEqual([one.message_type for one in reply.messages], ["Hello"])
        self.assertEqual((reply.ack_index, reply.done_sending), (0, False))
        self.assertFalse(reply.HasField("client_clock"))
        self.assertEqual(len(self.world.ingestor.seen), 1)

    def test_an_empty_body_is_a_contact(self) -> None:
        self.assertEqual(self.server.poll(common.WrappedContactData()).status, 200)

    def test_chunked(self) -> None:
        connection = self.server.connect()
        connection.begin_stream("/message")
        self.assertTrue(connection.said_continue)
        for byte in wrapped(from_client()).SerializeToString():
            connection.chunk(bytes([byte]))
        connection.chunk(b"")
        self.assertEqual(connection.response().status, 200)
        self.assertEqual(len(self.world.ingestor.seen), 1)

    def test_several_polls_on_one_connection(self) -> None:
        connection = self.server.connect()
        for number in range(3):
            connection.post("/message", wrapped(from_client(number)).SerializeToString())
        self.assertEqual([one.status for one in connection.responses()], [200, 200, 200])
        self.assertEqual(len(self.world.ingestor.seen), 3)
        self.assertFalse(connection.is_closed)

    def test_pipelined(self) -> None:
        connection = self.server.connect()
        body = wrapped(from_client()).SerializeToString()
        request = b"POST /message HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        connection.send(request * 3)
        self.assertEqual([one.status for one in connection.responses()], [200, 200, 200])

    def test_pipelined_while_the_first_is_worked_on(self) -> None:
        self.world.store.is_holding = True
        connection = self.server.connect()
        request = b"POST /message HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        connection.send(request * 2)
        self.assertEqual(len(self.world.store.held), 1)
        self.world.store.release()
        self.world.store.release()
        self.assertEqual([one.status for one in connection.responses()], [200, 200])

    def test_deflate(self) -> None:
        """server-https.md 2: upstream fails here; read the complete decompressed body instead."""
        connection = self.server.connect()
        body = zlib.compress(wrapped(from_client(annotations={"entries": [{"key": "k" * 1000}]})).SerializeToString())
        connection.post("/message", body, headers={"Content-Encoding": "deflate"})
        self.assertEqual(connection.response().status, 200)
        self.assertEqual(len(self.world.ingestor.seen), 1)

    def test_answered_only_after_the_commit(self) -> None:
        self.world.store.is_holding = True
        connection = self.server.connect()
        connection.post("/message")
        self.assertEqual(connection.output, b"")
        self.world.store.release()
        self.assertEqual(connection.response().status, 200)

    def test_connection_close_is_honoured(self) -> None:
        connection = self.server.connect()
        connection.post("/message", headers={"Connection": "close"})
        self.assertEqual(connection.response().status, 200)
        self.assertTrue(connection.is_closed)

    def test_client_goes_away(self) -> None:
        self.world.ingestor.waiting_for = waiting = Deferred()
        connection = self.server.connect()
        connection.post("/message", wrapped(from_client()).SerializeToString())
        connection.lose()
        self.assertEqual(len(self.server.context.running), 0)
        self.assertTrue(waiting.called)
        self.assertEqual(self.clock_calls(), 0)

    def clock_calls(self) -> int:
        return len(self.server.clock.getDelayedCalls())


class PollStatusTests(SynchronousTestCase):
    """Every status of the table in server-https.md 3."""

    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.server = Server(self.gatekeeper)
        self.world = self.server.world

    def check(self, connection: Connection, status: int, text: str) -> None:
        response = connection.response()
        self.assertEqual((response.status, response.body.decode()), (status, text + "\n"))
        self.assertEqual(response.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")

    def post(self, body: bytes = b"", **headers: str) -> Connection:
        connection = self.server.connect()
        with capturedLogs():
            connection.post("/message", body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return connection

    def test_server_not_ready(self) -> None:
        self.server.site.is_ready = False
        self.check(self.post(b"x"), 500, "Server not ready.")

    def test_services_stopped(self) -> None:
        self.world.ingestor.error = NotReady("stopping")
        self.check(self.post(wrapped(from_client()).SerializeToString()), 500, "Server not ready.")

    def test_method(self) -> None:
        for method in ("GET", "PUT"):
            connection = self.server.connect()
            connection.post("/message", method=method)
            self.check(connection, 400, f"{method} not supported")

    def test_content_length_too_large(self) -> None:
        connection = self.server.connect()
        connection.send(b"POST /message HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 20971521\r\n\r\n")
        self.check(connection, 400, "content length too large: 20971521")
        self.assertFalse(connection.said_continue)
        self.assertTrue(connection.is_closed)

    def test_20_mib_are_taken(self) -> None:
        connection = self.server.connect()
        connection.send(b"POST /message HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % MAX_BODY)
        self.assertEqual(connection.output, b"")
        connection.send(b"\xff" * MAX_BODY)
        response = connection.response()
        self.assertEqual(response.status, 400)
        self.assertIn(b"error parsing body", response.body)

    def test_20_mib_and_1_in_chunks(self) -> None:
        connection = self.server.connect()
        connection.begin_stream("/message")
        for _ in range(20):
            connection.chunk(bytes(1024 * 1024))
        self.assertEqual(connection.output, b"")
        connection.chunk(b"x")
        self.check(connection, 400, "error reading body: more than 20971520 bytes")
        self.assertTrue(connection.is_closed)

    def test_zip_bomb(self) -> None:
        bomb = zlib.compress(bytes(30 * 1024 * 1024), 9)
        self.assertLess(len(bomb), 50_000)
        self.check(self.post(bomb, Content_Encoding="deflate"), 400, "error reading body: more than 20971520 bytes")

    def test_not_deflated_at_all(self) -> None:
        response = self.post(b"this is no zlib stream", Content_Encoding="deflate").response()
        self.assertEqual(response.status, 400)
        self.assertIn(b"failed to create zlib reader", response.body)

    def test_cut_zlib_stream(self) -> None:
        half = zlib.compress(bytes(range(256)) * 10)[:100]
        self.assertEqual(self.post(half, Content_Encoding="deflate").response().status, 400)

    def test_unknown_encoding(self) -> None:
        self.check(self.post(b"", Content_Encoding="gzip"), 415, "unsupported content encoding: gzip")

    def test_not_tls(self) -> None:
        connection = Connection(self.server.site, None)
        connection.post("/message")
        self.check(connection, 400, "TLS information not found")

    def test_garbage(self) -> None:
        response = self.post(b"\xff\xff\xff\xff").response()
        self.assertEqual(response.status, 400)
        self.assertIn(b"error parsing body", response.body)

    def test_refused_by_the_authorizer(self) -> None:
        for stage in ("contact", "client", "signatures"):
            self.gatekeeper.refuse = {stage}
            self.check(self.post(), 503, "not authorized")

    def test_another_key_for_a_known_client(self) -> None:
        self.world.now(self.world.store.add_client(ALICE.client_id, ClientData(ALICE.key)))
        connection = Connection(self.server.site, Identity(b"forged", ALICE.client_id))
        with capturedLogs():
            connection.post("/message")
        self.check(connection, 503, "not authorized")

    def test_contact_data_that_is_none(self) -> None:
        body = common.WrappedContactData(contact_data=b"\xff").SerializeToString()
        response = self.post(body).response()
        self.assertEqual(response.status, 500)
        self.assertIn(b"error processing contact: unable to parse contact_data", response.body)

    def test_101_messages(self) -> None:
        response = self.post(wrapped(*map(from_client, range(101))).SerializeToString()).response()
        self.assertEqual(response.status, 500)
        self.assertIn(b"contact_data contains 101 messages, only 100 allowed", response.body)

    def test_the_store_fails(self) -> None:
        """What is wrong with it is for the operator's log, not for the client."""
        self.world.store.errors = [StoreError("disk /secret/path is full")]
        self.check(self.post(), 500, "error processing contact: it cannot be stored now")

    def test_an_error_of_ours(self) -> None:
        self.world.ingestor.error = ZeroDivisionError("a mistake")
        connection = self.post(wrapped(from_client()).SerializeToString())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.check(connection, 500, "error processing contact: internal error")
        self.assertFalse(connection.is_closed)

    def test_odd_messages_get_200(self) -> None:
        with capturedLogs() as events:
            response = self.server.poll(wrapped(common.Message()))
        self.assertEqual(response.status, 200)
        self.assertEqual(len(events), 1)

    def test_it_takes_too_long(self) -> None:
        self.world.ingestor.waiting_for = Deferred()
        connection = self.post(wrapped(from_client()).SerializeToString())
        with capturedLogs():
            self.server.clock.advance(POLL_LIMIT)
        self.check(connection, 500, "error processing contact: it took too long")
        self.assertEqual(len(self.server.context.running), 0)

    def test_malformed_chunk(self) -> None:
        connection = self.server.connect()
        connection.begin_stream("/message")
        with capturedLogs():
            connection.send(b"zzz\r\n")
        self.check(connection, 400, "error reading body: malformed chunk")
        self.assertTrue(connection.is_closed)

    def test_refusals_are_logged_sparsely(self) -> None:
        self.gatekeeper.refuse = {"contact"}
        with capturedLogs() as events:
            for _ in range(50):
                self.server.connect().post("/message")
            self.server.clock.advance(1)
            self.server.connect().post("/message")
        self.assertEqual([event["more"] for event in events], [0, 49])
