"""The list of revoked certificates: asked for at start and every hour, taken over into the state."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from fleetspeak.client import state
from fleetspeak.client.assembly import build_client
from fleetspeak.client.comms import polling
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.client.revocation import INTERVAL, LIMIT, MAX_LIST, MAX_SERIAL
from fleetspeak.client.service import ClientService
from fleetspeak.config.client import default_communicator
from fleetspeak.pb import client, system
from fleetspeak.testing.clientside import RecordingEnding, client_settings
from tests.client.comms.fakefiles import File, FileServer
from tests.client.comms.fakeserver import Listening
from tests.client.wholeclient import PuppetFactory, WholeClientCase

PATH = "/files/system/RevokedCertificates"


def listing(*serials: bytes) -> bytes:
    return system.RevokedCertificateList(serials=serials).SerializeToString()


class RevocationTests(WholeClientCase):
    def kept(self) -> client.ClientState:
        return self.persistence.load()

    def started(self, content: bytes | None = None) -> ClientService:
        service = self.start()
        if content is not None:
            self.server.files[PATH] = content
        return service

    def an_hour_later(self) -> None:
        for _ in range(60):
            self.clock.advance(INTERVAL / 60)

    def test_item_65_it_is_asked_for_at_start_and_every_hour_unconditionally(self) -> None:
        self.start()
        self.assertEqual([path for path, _ in self.server.asked], [PATH])
        self.an_hour_later()
        self.assertEqual([path for path, _ in self.server.asked], [PATH] * 2)
        self.assertEqual({name for _, headers in self.server.asked for name, _ in headers}, {"X-Fleetspeak-Labels"})

    def test_item_65_a_served_serial_ends_up_in_the_state_file(self) -> None:
        self.started(listing(b"\x07"))
        self.an_hour_later()
        self.assertEqual(list(self.kept().revoked_cert_serials), [b"\x07"])
        self.assertTrue(self.server.link.is_revoked(7))
        self.assertFalse(self.server.link.is_revoked(8))

    def test_what_is_known_is_not_added_again_and_never_removed(self) -> None:
        self.persistence = MemoryPersistence(client.ClientState(revoked_cert_serials=[b"\x05"]))
        self.started(listing(b"\x05", b"\x00\x05", b"", b"\x00", b"\x01\x00"))
        self.an_hour_later()
        self.server.files[PATH] = b""
        self.an_hour_later()
        self.assertEqual(list(self.kept().revoked_cert_serials), [b"\x05", b"\x01\x00"])

    def test_no_list_is_nothing_to_worry_about(self) -> None:
        with capturedLogs() as logs:
            self.start()
        told = [event for event in logs if "list of revoked" in event["log_format"]]
        self.assertEqual([event["log_level"] for event in told], [LogLevel.info])

    def test_a_list_that_is_none_is_logged_and_the_next_look_comes(self) -> None:
        self.started()
        for content in (b"\xff", listing(b"x" * (MAX_SERIAL + 1)), b"x" * (MAX_LIST + 1)):
            self.server.files[PATH] = content
            with capturedLogs() as logs:
                self.an_hour_later()
            told = [event for event in logs if "list of revoked" in event["log_format"]]
            self.assertEqual([event["log_level"] for event in told], [LogLevel.error])
        self.server.files[PATH] = listing(b"\x09")
        self.an_hour_later()
        self.assertEqual(list(self.kept().revoked_cert_serials), [b"\x09"])

    def test_a_list_that_grows_without_end_is_refused(self) -> None:
        self.patch(state, "MAX_REVOKED", 3)
        self.started(listing(b"\x01", b"\x02"))
        self.an_hour_later()
        self.server.files[PATH] = listing(b"\x03", b"\x04")
        self.an_hour_later()
        self.assertEqual(len(self.kept().revoked_cert_serials), 2)


class HangingServerTests(WholeClientCase):
    def test_item_135_a_hanging_server_delays_no_service(self) -> None:
        self.install("Service")
        self.communicators.hangs = True
        service = self.start()
        self.assertEqual(self.puppet("Service").calls, ["start"])
        self.assertTrue(self.server.started)
        self.assertEqual(len(self.server.asked), 1)
        with capturedLogs() as logs:
            self.clock.advance(LIMIT)
        [told] = [event for event in logs if "list of revoked" in event["log_format"]]
        self.assertIn("not complete within 30 s", told["reason"])
        for _ in range(60):
            self.clock.advance(60)
        self.assertEqual(len(self.server.asked), 2)
        stopped = service.stopService()
        self.successResultOf(stopped)

    def test_a_stop_does_not_wait_for_an_answer(self) -> None:
        self.communicators.hangs = True
        service = self.start()
        with capturedLogs() as logs:
            self.successResultOf(service.stopService())
        self.assertEqual([event for event in logs if "list of revoked" in event["log_format"]], [])
        self.assertEqual(self.ending.ended, [])


class RealServerTests(TestCase):
    """Real TLS, and a state file on the disk."""

    timeout = 30

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state_file = Path(folder.name) / "state"
        (self.state_file.parent / "textservices").mkdir()
        (self.state_file.parent / "textservices" / "s").write_text('name: "Service" factory: "Puppet"')

    async def test_item_65_the_state_file_has_it_and_the_next_handshake_heeds_it(self) -> None:
        listening, server = Listening(reactor), FileServer()
        serial = listening.certificate.serial_number
        server.files[PATH] = File(listing(serial.to_bytes((serial.bit_length() + 7) // 8, "big")))
        settings = client_settings(
            servers=(listening.listen(server),),
            trusted_certs=(listening.authority,),
            state_file=self.state_file,
            communicator=default_communicator(),
        )
        service = build_client(settings, reactor, RecordingEnding(), factories={})
        service.startService()
        await server.until(lambda: any(request.line.startswith("GET") for request in server.requests))
        [request] = [request for request in server.requests if request.line.startswith("GET")]
        self.assertNotIn("if-modified-since", request.headers)
        while not self.kept():
            await deferLater(reactor, 0.01)
        self.assertEqual(self.kept()[0], serial)
        await service.stopService()
        again = build_client(settings, reactor, RecordingEnding(), factories={})
        again.startService()
        before, asked = server.connections, len(server.requests)
        while server.connections == before:
            await deferLater(reactor, 0.01)
        await again.stopService()
        self.assertEqual(len(server.requests), asked)
        await listening.close()

    async def test_item_135_a_server_that_accepts_and_never_answers_delays_no_service(self) -> None:
        self.patch(polling, "FAREWELL", 0.1)
        factory, listening = PuppetFactory(), Listening(reactor)
        for listen in (listening.listen_plain, listening.listen):  # before TLS, and after it
            settings = client_settings(
                servers=(listen(Factory.forProtocol(Protocol)),),
                trusted_certs=(listening.authority,),
                configuration_directory=self.state_file.parent,
                communicator=default_communicator(),
            )
            began = reactor.seconds()  # type: ignore[attr-defined]
            service = build_client(settings, reactor, RecordingEnding(), factories={"Puppet": factory})
            service.startService()
            while not factory.made or factory.made[-1].calls != ["start"]:
                await deferLater(reactor, 0.01)
            self.assertLess(reactor.seconds() - began, 5)  # type: ignore[attr-defined]
            await service.stopService()
        await listening.close()

    def kept(self) -> list[int]:
        state = client.ClientState.FromString(self.state_file.read_bytes())
        return [int.from_bytes(serial, "big") for serial in state.revoked_cert_serials]
