"""``/files/``: server-https.md 5."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, StoreError
from fleetspeak.interfaces import IAuthorizer, IFileStore
from fleetspeak.records import FileStat
from fleetspeak.server.authorizers import RequiredLabel
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.directoryfiles import DirectoryFiles
from fleetspeak.server.files import Files, StoredFiles
from fleetspeak.server.https.files import PIECE, FileServer
from fleetspeak.server.https.site import identity_of
from fleetspeak.server.https.streamrequest import REQUEST_LIMIT, StreamedRequest
from tests.server.contact.world import Gatekeeper, identity
from tests.server.https.wire import Connection, Response, Server

CONTENT = bytes(range(256)) * 2000
PATH = "/files/FRR/data.json"
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


class FilesCase(SynchronousTestCase):
    authorizer: IAuthorizer | None = None

    def setUp(self) -> None:
        self.server = Server()
        self.store = self.server.world.store
        self.store.store_file("FRR", "data.json", CONTENT)
        context = self.server.context
        self.files = Files(StoredFiles(self.store), self.stores())
        files = FileServer(self.files, context.running, self.server.clock, self.authorizer, self.identify)
        self.server.site._files = files

    def stores(self) -> dict[str, IFileStore]:
        """For services that have their own."""
        return {}

    def identify(self, request: StreamedRequest) -> Identity:
        return identity_of(request)

    def request(self, path: str = PATH, method: str = "GET", **headers: str) -> Connection:
        connection = self.server.connect()
        connection.post(path, method=method, headers={name.replace("_", "-"): one for name, one in headers.items()})
        return connection

    def get(self, path: str = PATH, method: str = "GET", **headers: str) -> Response:
        return self.request(path, method, **headers).response()


class AnswerTests(FilesCase):
    def test_a_file(self) -> None:
        response = self.get()
        self.assertEqual((response.status, response.body, response.complete), (200, CONTENT, True))
        headers = response.headers
        self.assertEqual(headers["Content-Length"], str(len(CONTENT)))
        self.assertEqual(headers["Last-Modified"], DATE)
        self.assertEqual(headers["Accept-Ranges"], "bytes")
        self.assertEqual(headers["Content-Type"], "application/json")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertIn("Date", headers)

    def test_a_name_that_needs_escapes(self) -> None:
        self.store.store_file("FRR", "a b/c", b"spaced")
        response = self.get("/files/FRR/a%2520b%252Fc")
        self.assertEqual((response.status, response.body), (200, b"spaced"))
        self.assertEqual(response.headers["Content-Type"], "application/octet-stream")

    def test_an_empty_file(self) -> None:
        self.store.store_file("FRR", "empty", b"")
        response = self.get("/files/FRR/empty")
        self.assertEqual((response.status, response.body, response.headers["Content-Length"]), (200, b"", "0"))

    def test_head(self) -> None:
        connection = self.request(method="HEAD")
        head, _, body = connection.output.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "))
        self.assertIn(b"Content-Length: %d" % len(CONTENT), head)
        self.assertEqual(body, b"")

    def test_not_modified(self) -> None:
        """Without a length, and without reading it."""
        self.store.read_file = lambda *_: self.fail("it is not needed")  # type: ignore[method-assign]
        connection = self.request(If_Modified_Since=DATE)
        self.assertTrue(connection.output.startswith(b"HTTP/1.1 304 "))
        self.assertTrue(connection.output.endswith(b"\r\n\r\n"))
        self.assertNotIn(b"Content-Length", connection.output)
        self.assertFalse(connection.is_closed)

    def test_a_part(self) -> None:
        tag = self.get().headers["ETag"]
        response = self.get(Range="bytes=70000-", If_Range=tag)
        self.assertEqual((response.status, response.body), (206, CONTENT[70000:]))
        self.assertEqual(response.headers["Content-Range"], f"bytes 70000-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.store.store_file("FRR", "data.json", b"another")
        response = self.get(Range="bytes=3-", If_Range=tag)
        self.assertEqual((response.status, response.body), (200, b"another"))

    def test_a_part_that_is_not_there(self) -> None:
        response = self.get(Range=f"bytes={len(CONTENT)}-")
        self.assertEqual((response.status, response.body), (416, b""))
        self.assertEqual(response.headers["Content-Range"], f"bytes */{len(CONTENT)}")

    def test_a_missing_file(self) -> None:
        for path in ("/files/FRR/none", "/files/none/data.json", "/files/FRR/", "/files/FRR/.."):
            response = self.get(path)
            self.assertEqual((response.status, response.body), (404, b"file not found\n"), path)

    def test_what_is_no_path(self) -> None:
        for path in ("/files/", "/files/FRR", "/files/FRR/a/b", "/files/FRR/%zz"):
            response = self.get(path)
            self.assertEqual(response.status, 400, path)
            self.assertTrue(response.body.startswith(b"unable to parse"))

    def test_other_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE"):
            response = self.get(method=method)
            self.assertEqual((response.status, response.headers["Allow"]), (405, "GET, HEAD"))

    def test_a_large_body_is_not_waited_for(self) -> None:
        connection = self.server.connect()
        connection.send(b"GET /files/FRR/data.json HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n")
        self.assertEqual(connection.response().status, 413)
        self.assertTrue(connection.is_closed)

    def test_one_request_after_the_other(self) -> None:
        connection = self.server.connect()
        for path in (PATH, "/files/FRR/none", PATH):
            connection.post(path, method="GET")
        self.assertEqual([one.status for one in connection.responses()], [200, 404, 200])

    def test_while_the_server_stops(self) -> None:
        self.server.site.is_ready = False
        response = self.get()
        self.assertEqual((response.status, response.body), (500, b"Server not ready.\n"))

    def test_the_store_fails(self) -> None:
        """It says so, not why."""

        def broken(*_: object) -> Deferred[FileStat]:
            failed: Deferred[FileStat] = Deferred()
            failed.errback(StoreError("a secret of the database"))
            return failed

        self.store.stat_file = broken  # type: ignore[method-assign]
        response = self.get()
        self.assertEqual((response.status, response.body), (500, b"internal error: the file cannot be read now\n"))

    def test_a_file_replaced_between_look_and_read(self) -> None:
        """Head and body are of one content."""
        plain = self.store.stat_file

        def replaced(service: str, name: str) -> Deferred[FileStat]:
            found = plain(service, name)
            self.store.store_file(service, name, b"replaced")
            return found

        self.store.stat_file = replaced  # type: ignore[method-assign]
        response = self.get()
        self.assertEqual((response.body, response.headers["Content-Length"]), (b"replaced", "8"))
        self.assertEqual(response.headers["Last-Modified"], "Tue, 14 Nov 2023 22:13:21 GMT")


class SlowReaderTests(FilesCase):
    def begin(self) -> Connection:
        """A peer that reads nothing once a first piece has come."""
        connection = self.server.connect()
        plain = connection.transport.write

        def write(data: bytes) -> None:
            plain(data)
            if len(connection.transport.value()) > PIECE:
                connection.channel.pauseProducing()

        connection.transport.write = write  # type: ignore[method-assign]
        connection.post(PATH, method="GET")
        return connection

    def test_pieces_wait_for_the_peer(self) -> None:
        connection = self.begin()
        for pieces in range(1, 8):
            self.assertEqual(len(connection.response().body), PIECE * pieces)
            connection.channel.resumeProducing()
        response = connection.response()
        self.assertEqual((response.body, response.complete), (CONTENT, True))
        self.assertEqual(len(self.server.context.running), 0)

    def test_a_peer_that_goes_away(self) -> None:
        connection = self.begin()
        self.assertEqual(len(self.server.context.running), 1)
        connection.lose()
        self.assertEqual(len(self.server.context.running), 0)

    def test_a_peer_that_never_reads(self) -> None:
        connection = self.begin()
        self.server.clock.advance(REQUEST_LIMIT + 1)
        self.assertEqual(len(self.server.context.running), 0)
        self.assertTrue(connection.channel._closing)

    def test_a_stop_waits_for_it(self) -> None:
        connection = self.begin()
        self.server.site.drain()
        while not connection.response().complete:
            connection.channel.resumeProducing()
        connection.channel.resumeProducing()
        self.assertTrue(connection.is_closed)


class AuthorizationTests(FilesCase):
    """With enable_file_server_authorization."""

    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.authorizer = self.gatekeeper
        super().setUp()

    def assert_unauthorized(self, response: Response) -> None:
        self.assertEqual((response.status, response.body), (401, b"unauthorized\n"))

    def test_the_authorizer_is_told_what_the_client_claims(self) -> None:
        connection = self.server.connect()
        connection.send(
            f"GET {PATH} HTTP/1.1\r\nX-Fleetspeak-Labels: linux\r\nX-Fleetspeak-Labels: a b\r\n\r\n".encode()
        )
        self.assertEqual(connection.response().status, 200)
        (_, address), (_, claim) = self.gatekeeper.told
        self.assertEqual(address, "192.0.2.7:4242")
        self.assertEqual(
            (claim.client_id, claim.contact_size, claim.labels), (identity("alice").client_id, 0, ("linux", "a b"))
        )

    def test_refusals(self) -> None:
        for stage in ("connection", "contact"):
            self.gatekeeper.refuse = {stage}
            self.assert_unauthorized(self.get())
        self.gatekeeper.refuse = {"client", "signatures"}
        self.assertEqual(self.get().status, 200)

    def test_before_the_path_is_looked_at(self) -> None:
        self.gatekeeper.refuse = {"contact"}
        for path in ("/files/", "/files/FRR/none"):
            self.assert_unauthorized(self.get(path))

    def test_a_peer_without_a_certificate(self) -> None:
        def nobody(request: StreamedRequest) -> Identity:
            raise ProtocolError("expected 1 client cert, received 0")

        self.server.site._files._identity_of = nobody  # type: ignore[union-attr]
        self.assert_unauthorized(self.get())
        self.assertEqual(self.gatekeeper.told, [])

    def test_a_required_label(self) -> None:
        self.server.site._files._authorizer = RequiredLabel("linux")  # type: ignore[union-attr]
        self.assert_unauthorized(self.get())
        self.assert_unauthorized(self.get(X_Fleetspeak_Labels="windows"))
        self.assertEqual(self.get(X_Fleetspeak_Labels="linux").status, 200)


class OwnStoreTests(FilesCase):
    """A service whose files are in a folder."""

    def stores(self) -> dict[str, IFileStore]:
        self.root = Path(self.mktemp())
        self.root.mkdir()
        (self.root / "data.json").write_bytes(CONTENT[:200_000])
        return {"own": DirectoryFiles(self.root, execute, max_open=1)}

    def test_its_files(self) -> None:
        for _ in range(2):  # it was closed
            response = self.get("/files/own/data.json")
            self.assertEqual((response.status, response.body, response.complete), (200, CONTENT[:200_000], True))
        self.assertEqual(self.get().body, CONTENT)
        self.assertEqual(self.get("/files/own/%252E%252E%252Fsecret").status, 404)
        part = self.get("/files/own/data.json", Range="bytes=199990-")
        self.assertEqual((part.status, part.body), (206, CONTENT[199_990:200_000]))

    def test_a_file_that_changes_while_it_is_sent(self) -> None:
        """The peer sees that the rest is missing."""
        connection = self.server.connect()
        plain = connection.transport.write

        def write(data: bytes) -> None:
            plain(data)
            (self.root / "data.json").write_bytes(b"other")

        connection.transport.write = write  # type: ignore[method-assign]
        connection.post("/files/own/data.json", method="GET")
        self.assertFalse(connection.response().complete)
        self.assertTrue(connection.channel._closing)
        connection.lose()
        self.assertEqual(self.get("/files/own/data.json").body, b"other")
