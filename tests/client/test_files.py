"""Files from fake servers, over real TLS, to the real disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThreadPool
from twisted.trial.unittest import TestCase

from fleetspeak.client.comms.http import Transport
from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.servers import ServerList
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.client.files import Files
from fleetspeak.client.filewalk import PROGRESS
from fleetspeak.client.stats import Stats
from fleetspeak.errors import FileUnavailable, FleetspeakError
from fleetspeak.records import FetchedFile
from fleetspeak.security.certificates import to_pem
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.client.comms.fakefiles import NEW_YEAR, File, FileServer
from tests.client.comms.fakeserver import Connection, Listening, Request

PATH = "/files/FRR/file"
HOUR = 3600
LARGE = bytes(range(256)) * 1024
"""256 KiB, of which no piece looks like another one of its length."""


def in_thread(call: Callable[..., Any], /, *args: Any) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), call, *args)  # type: ignore[attr-defined]


class Source:
    """A transport and an order of servers, without a communicator."""

    def __init__(self, transport: Transport, servers: ServerList) -> None:
        self.servers = servers.order
        self.get = transport.get


class Counted(Stats):
    """Notes how requests for files went."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, bool]] = []

    def file_fetched(self, server: str, service: str, name: str, fetched: bool, error: Exception | None) -> None:
        self.requests.append((f"{service}/{name}", fetched))


class FilesTestCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.target = self.folder / "target"
        self.listening = Listening(reactor)
        self.server, self.other = FileServer(), FileServer()
        self.server.files[PATH] = self.other.files[PATH] = File(b"test")
        self.link = FakeLink()
        self.stats = Counted()
        self.transports: list[Transport] = []

    async def tearDown(self) -> None:
        for transport in self.transports:
            await transport.close()
        await self.listening.close()

    def files(self, *addresses: tuple[str, int], limit: float = 20.0, **settings: Any) -> Files:
        """What fetches from these, by default from `server`."""
        servers = addresses or (self.listening.listen(self.server),)
        changed = client_settings(servers=servers, trusted_certs=(self.listening.authority,), **settings)
        transport = Transport(self.link, changed, reactor)
        self.transports.append(transport)
        files = Files(("label0", "label1"), self.stats, reactor, in_thread, limit)  # type: ignore[arg-type]
        files.start(Source(transport, ServerList(servers)))
        return files

    def fetch(self, files: Files, **options: Any) -> Deferred[FetchedFile | None]:
        return files.fetch("FRR", "file", self.target, **options)

    async def failure(self, fetching: Deferred[Any]) -> BaseException:
        try:
            given = await fetching
        except Exception as error:
            return error
        raise AssertionError(f"no error but {given}")

    def left(self) -> list[str]:
        return sorted(os.listdir(self.folder))


class FetchingTests(FilesTestCase):
    async def test_item_61_a_newer_file_is_fetched(self) -> None:
        fetched = await self.fetch(self.files(), since=NEW_YEAR - HOUR)
        self.assertEqual(fetched, FetchedFile(4, NEW_YEAR))
        self.assertEqual(self.target.read_bytes(), b"test")
        self.assertEqual(self.target.stat().st_mtime, NEW_YEAR)
        self.assertEqual(self.target.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.stats.requests, [("FRR/file", True)])
        [request] = self.server.requests
        self.assertEqual(request.line, f"GET {PATH} HTTP/1.1")
        self.assertEqual(request.headers["if-modified-since"], "Sun, 31 Dec 2023 23:00:00 GMT")
        self.assertEqual(request.client_id, self.link.identity.client_id)
        self.assertEqual(self.left(), ["target"])

    async def test_item_62_an_unchanged_file_is_neither_fetched_nor_an_error(self) -> None:
        self.assertIsNone(await self.fetch(self.files(), since=NEW_YEAR))
        self.assertEqual(self.stats.requests, [("FRR/file", False)])
        self.assertEqual(self.left(), [])

    async def test_item_63_an_unreachable_host_is_passed_over_and_stays_first(self) -> None:
        first, second = self.listening.dead_end(), self.listening.listen(self.server)
        files = self.files(first, second)
        for _ in range(2):
            await self.fetch(files)
        self.assertEqual(self.target.read_bytes(), b"test")
        self.assertEqual([fetched for _, fetched in self.stats.requests], [False, True, False, True])

    async def test_item_64_a_server_may_refuse_a_label(self) -> None:
        self.server.refused_label = "label1"
        error = await self.failure(self.fetch(self.files()))
        self.assertIsInstance(error, FileUnavailable)
        self.assertEqual(
            str(error), "unable to retrieve file, last attempt failed with: failed with http response code: 401"
        )
        labels = [value for name, value in self.server.requests[0].all_headers if name == "x-fleetspeak-labels"]
        self.assertEqual(labels, ["label0", "label1"])
        self.assertEqual(self.left(), [])

    async def test_item_66_a_space_is_escaped_twice_on_the_wire(self) -> None:
        self.server.files["/files/FRR/a%2520b%252Fc"] = File(b"spaced")
        await self.files().fetch("FRR", "a b/c", self.target)
        self.assertEqual(self.target.read_bytes(), b"spaced")

    async def test_the_certificate_header_goes_along_and_no_content_encoding(self) -> None:
        await self.fetch(self.files(client_certificate_header="X-Client-Cert"))
        [request] = self.server.requests
        self.assertIn("x-client-cert", request.headers)
        self.assertNotIn("content-encoding", request.headers)
        self.assertTrue(to_pem(self.link.identity.certificate))

    async def test_an_empty_file(self) -> None:
        self.server.files[PATH] = File(b"")
        self.assertEqual(await self.fetch(self.files()), FetchedFile(0, NEW_YEAR))
        self.assertEqual(self.target.read_bytes(), b"")

    async def test_what_is_there_is_replaced_only_by_a_whole_file(self) -> None:
        self.target.write_bytes(b"old")
        self.server.breaks = [2, 2, 2]
        await self.failure(self.fetch(self.files()))
        self.assertEqual(self.target.read_bytes(), b"old")
        await self.fetch(self.files())

    async def test_in_memory(self) -> None:
        self.assertEqual(await self.files().read("FRR", "file", max_bytes=4), b"test")
        self.assertIsInstance(await self.failure(self.files().read("FRR", "file", max_bytes=3)), FileUnavailable)

    async def test_two_at_a_time_to_one_place_are_refused(self) -> None:
        files = self.files()
        first = self.fetch(files)
        self.assertIn("already", str(await self.failure(self.fetch(files))))
        await first
        await self.fetch(files)

    async def test_a_place_that_cannot_be_written_is_not_blamed_on_the_server(self) -> None:
        files = self.files(self.listening.listen(self.server), self.listening.listen(self.other))
        error = await self.failure(files.fetch("FRR", "file", self.folder / "none" / "target"))
        self.assertIsInstance(error, FleetspeakError)
        self.assertIn("No such file or directory", str(error))
        self.assertEqual(self.other.requests, [])


class BreakTests(FilesTestCase):
    """Issue 3, point 5: resume by Range after a break."""

    def setUp(self) -> None:
        super().setUp()
        self.server.files[PATH] = self.other.files[PATH] = File(LARGE)

    def ranges(self, server: FileServer) -> list[str | None]:
        return [request.headers.get("range") for request in server.requests]

    async def test_the_same_server_is_asked_for_the_rest(self) -> None:
        self.server.breaks = [100_000, 80_000]
        self.assertEqual(await self.fetch(self.files()), FetchedFile(len(LARGE), NEW_YEAR))
        self.assertEqual(self.target.read_bytes(), LARGE)
        self.assertEqual(self.ranges(self.server), [None, "bytes=100000-", "bytes=180000-"])
        self.assertEqual(self.server.requests[1].headers["if-range"], "Mon, 01 Jan 2024 00:00:00 GMT")
        self.assertEqual(self.left(), ["target"])

    async def test_the_next_server_goes_on(self) -> None:
        self.server.breaks = [PROGRESS - 1] * 3
        await self.fetch(self.files(self.listening.listen(self.server), self.listening.listen(self.other)))
        self.assertEqual(self.target.read_bytes(), LARGE)
        self.assertEqual(self.ranges(self.other), [f"bytes={PROGRESS - 1}-"])

    async def test_an_etag_is_better_than_a_date(self) -> None:
        self.server.files[PATH] = File(LARGE, etag='"v1"')
        self.server.breaks = [100_000]
        await self.fetch(self.files())
        self.assertEqual(self.server.requests[1].headers["if-range"], '"v1"')
        self.assertEqual(self.target.read_bytes(), LARGE)

    async def test_a_server_that_knows_no_ranges_begins_anew(self) -> None:
        self.server.breaks, self.server.knows_ranges = [100_000], False
        await self.fetch(self.files())
        self.assertEqual(self.target.read_bytes(), LARGE)

    async def test_another_version_begins_anew(self) -> None:
        self.server.breaks = [PROGRESS - 1]
        newer = self.other.files[PATH] = File(LARGE[::-1], NEW_YEAR + HOUR)
        fetched = await self.fetch(self.files(self.listening.listen(self.server), self.listening.listen(self.other)))
        self.assertEqual(fetched, FetchedFile(len(LARGE), NEW_YEAR + HOUR))
        self.assertEqual(self.target.read_bytes(), newer.content)

    async def test_a_file_that_became_shorter_than_what_there_is(self) -> None:
        def unsatisfiable(connection: Connection, request: Request) -> None:
            if "range" in request.headers:
                connection.respond(416, b"no\n", "Content-Range: bytes */5\r\n")
            else:
                connection.respond(200, b"short")

        self.server.breaks, self.other.answer_file = [1000], unsatisfiable
        await self.fetch(self.files(self.listening.listen(self.server), self.listening.listen(self.other)))
        self.assertEqual(self.target.read_bytes(), b"short")

    async def test_the_wrong_part_is_refused(self) -> None:
        def lie(connection: Connection, request: Request) -> None:
            connection.respond(206, b"x" * 10, f"Content-Range: bytes 0-9/{len(LARGE)}\r\n")

        self.server.breaks, self.other.answer_file = [1000], lie
        files = self.files(self.listening.listen(self.server), self.listening.listen(self.other))
        error = await self.failure(self.fetch(files))
        self.assertIn("bytes 0 to 9", str(error))
        self.other.answer_file = None
        await self.fetch(files)
        self.assertEqual(self.target.read_bytes(), LARGE)

    async def test_a_body_that_is_longer_or_shorter_than_announced(self) -> None:
        def chunked(connection: Connection, request: Request) -> None:
            connection.respond(200, b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n")

        self.server.answer_file = chunked
        self.assertEqual(await self.fetch(self.files()), FetchedFile(5, None))
        error = await self.failure(self.fetch(self.files(), max_bytes=4))
        self.assertIn("more bytes", str(error))
        self.assertEqual(self.target.read_bytes(), b"hello")

    async def test_what_there_is_survives_a_restart_of_the_client(self) -> None:
        self.server.breaks = [PROGRESS - 1]
        files = self.files(self.listening.listen(self.server))
        await self.failure(self.fetch(files))
        await files.stop()
        self.assertEqual(self.left(), [".target.part", ".target.part.json"])
        await self.fetch(self.files())
        self.assertEqual(self.ranges(self.server)[-1], f"bytes={PROGRESS - 1}-")
        self.assertEqual(self.target.read_bytes(), LARGE)
        self.assertEqual(self.left(), ["target"])

    async def test_what_was_left_by_a_crash_is_trusted_no_further_than_the_disk(self) -> None:
        self.server.breaks = [PROGRESS - 1]
        await self.failure(self.fetch(self.files()))
        part = self.folder / ".target.part"
        part.write_bytes(part.read_bytes() + b"what never was made durable")
        await self.fetch(self.files())
        self.assertEqual(self.target.read_bytes(), LARGE)

    async def test_a_note_that_cannot_be_read_or_is_of_another_file(self) -> None:
        note = self.folder / ".target.part.json"
        sound = {
            "source": PATH,
            "size": 10,
            "version": {"total": len(LARGE), "modified": 1, "validator": "Mon, 01 Jan 2024 00:00:00 GMT"},
        }
        for text in (
            "",
            "{}",
            "[" * 5000,
            json.dumps(sound | {"source": "/files/FRR/another"}),
            json.dumps(sound | {"size": -1}),
            json.dumps(sound | {"size": 10**6}),
            json.dumps(sound | {"size": "10"}),
            json.dumps(sound | {"version": {"total": 1, "modified": None, "validator": "x\r\ny"}}),
        ):
            (self.folder / ".target.part").write_bytes(b"x" * 100)
            note.write_text(text)
            await self.fetch(self.files())
            self.assertEqual(self.target.read_bytes(), LARGE)
        self.assertEqual(set(self.ranges(self.server)), {None})

    async def test_a_link_in_the_place_of_the_part_is_not_followed(self) -> None:
        victim = self.folder / "victim"
        victim.write_bytes(b"precious")
        (self.folder / ".target.part").symlink_to(victim)
        await self.failure(self.fetch(self.files()))
        self.assertEqual(victim.read_bytes(), b"precious")


class LimitTests(FilesTestCase):
    async def test_a_file_that_is_too_large_takes_no_room(self) -> None:
        error = await self.failure(self.fetch(self.files(), max_bytes=3))
        self.assertIn("4 bytes, more than the limit of 3", str(error))
        self.assertEqual(self.left(), [])

    async def test_a_silent_server_leaves_time_for_the_others(self) -> None:
        silent = Factory.forProtocol(Protocol)
        files = self.files(self.listening.listen_plain(silent), self.listening.listen(self.server))
        await self.fetch(files, timeout=2)
        self.assertEqual(self.target.read_bytes(), b"test")

    async def test_the_callers_deadline_ends_it(self) -> None:
        self.server.answer_file = lambda connection, request: None
        error = await self.failure(self.fetch(self.files(), timeout=0.3))
        self.assertIsInstance(error, FileUnavailable)
        self.assertIn("not complete within", str(error))

    async def test_a_server_that_stalls_in_the_body_is_left_and_what_it_gave_kept(self) -> None:
        stalled: list[Connection] = []

        def stall(connection: Connection, request: Request) -> None:
            stalled.append(connection)
            connection.transport.write(  # type: ignore[union-attr]
                b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
                b"Date: Tue, 02 Jan 2024 00:00:00 GMT\r\n\r\nabc"
            )

        self.server.answer_file = stall
        self.other.files[PATH] = File(b"abcdefghij")
        files = self.files(self.listening.listen(self.server), self.listening.listen(self.other), limit=0.5)
        await self.fetch(files)
        self.assertEqual(self.target.read_bytes(), b"abcdefghij")
        self.assertEqual(self.other.requests[0].headers["range"], "bytes=3-")

    async def test_cancelling_ends_it_at_once(self) -> None:
        files = self.files(self.listening.listen(self.server), self.listening.listen(self.other))
        self.server.answer_file = lambda connection, request: None
        fetching = self.fetch(files)
        await self.server.until(lambda: bool(self.server.requests))
        fetching.cancel()
        self.assertIsInstance(await self.failure(fetching), CancelledError)
        await files.stop()
        self.assertEqual(self.other.requests, [])
        self.assertEqual(self.left(), [])

    async def test_a_stop_cancels_and_nothing_begins_after_it(self) -> None:
        files = self.files()
        self.server.answer_file = lambda connection, request: None
        fetching = self.failure(self.fetch(files))
        await self.server.until(lambda: bool(self.server.requests))
        await files.stop()
        self.assertIsInstance(await fetching, CancelledError)
        self.assertIsInstance(await self.failure(self.fetch(files)), CancelledError)

    async def test_whoever_asks_before_there_is_a_communicator_waits_for_it(self) -> None:
        files = Files((), self.stats, reactor, in_thread, 1)  # type: ignore[arg-type]
        fetching = self.fetch(files)
        transport = Transport(
            self.link,
            client_settings(servers=(), trusted_certs=(self.listening.authority,)),
            reactor,
        )
        self.transports.append(transport)
        files.start(Source(transport, ServerList([self.listening.listen(self.server)])))
        self.assertEqual(await fetching, FetchedFile(4, NEW_YEAR))


class CommunicatorTests(FilesTestCase):
    """Both communicators do the requests, with the order of servers that they have."""

    async def test_files_come_over_the_communicators_transport(self) -> None:
        up, down = self.listening.listen(self.server), self.listening.dead_end()
        settings = client_settings(servers=(down, up), trusted_certs=(self.listening.authority,))
        for kind in (PollingCommunicator, StreamingCommunicator):
            communicator = kind(self.link, settings, reactor, uniform=lambda: 0.0)
            self.assertEqual([server.port for server in communicator.servers()], [down[1], up[1]])
            files = Files((), self.stats, reactor, in_thread, 5)  # type: ignore[arg-type]
            files.start(communicator)
            self.assertEqual(await self.fetch(files), FetchedFile(4, NEW_YEAR))
            self.assertEqual([server.port for server in communicator.servers()], [down[1], up[1]])
            await communicator.stop()
