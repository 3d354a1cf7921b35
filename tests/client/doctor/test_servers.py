"""Each way in which a server cannot be had, provoked for real."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from fleetspeak.client.comms import http
from fleetspeak.client.doctor import configuration, path, request, tls
from fleetspeak.client.doctor.findings import Status
from fleetspeak.ids import show
from fleetspeak.interfaces import IDialer
from fleetspeak.pb import client
from fleetspeak.plugins import dialers
from fleetspeak.security import certificates, keys
from tests.client.comms.proxies import Socks5Server, Tinyproxy
from tests.client.doctor.patients import DAY, Answering, DoctorTestCase


class GoodTests(DoctorTestCase):
    async def test_all_holds(self) -> None:
        server = Answering()
        report = await self.examine(self.listen(server))
        self.assertTrue(report.holds, report.as_text())
        self.assertEqual({finding.status for finding in report.findings}, {Status.OK, Status.SKIPPED})
        self.assertIn(show(self.identity.client_id), self.found(report, "state").found)
        self.assertIn("TLSv1.3", self.found(report, "tls").found)
        self.assertIn("within 1 s", self.found(report, "clock").found)

    async def test_the_one_request_is_for_the_list_of_revoked_certificates_as_this_client(self) -> None:
        server = Answering()
        await self.examine(self.listen(server), client_label='"lab"')
        [asked] = server.requests
        self.assertTrue(asked.startswith(b"GET /files/system/RevokedCertificates HTTP/1.1\r\n"))
        self.assertIn(b"X-Fleetspeak-Labels: lab\r\n", asked)
        self.assertEqual(server.client_ids, [f"O={show(self.identity.client_id)}"])

    async def test_without_a_state_nobody_is_enrolled_and_nothing_is_written(self) -> None:
        self.state.unlink()
        before = sorted(self.folder.iterdir())
        report = await self.examine(self.listen())
        self.assertTrue(report.holds)
        self.assertIs(self.found(report, "state").status, Status.WARNING)
        self.assertIn("nobody enrolled", self.found(report, "request").found)
        self.assertEqual([path for path in sorted(self.folder.iterdir()) if path.name != "client.config"], before)

    async def test_each_server_by_itself(self) -> None:
        report = await self.examine(self.listening.dead_end(), self.listen())
        self.assertEqual(self.only_failure(report)[0], "tcp")
        self.assertIs(self.found(report, "request").status, Status.OK)


class WayTests(DoctorTestCase):
    async def test_a_name_that_does_not_exist(self) -> None:
        check, found, _ = self.only_failure(await self.examine(("no-such-host.invalid", 443)))
        self.assertEqual(check, "name")
        self.assertIn("no-such-host.invalid cannot be resolved", found)

    async def test_a_closed_port(self) -> None:
        check, found, step = self.only_failure(await self.examine(self.listening.dead_end()))
        self.assertEqual(check, "tcp")
        self.assertIn("refused", found)
        self.assertIn("check the port", step)

    async def test_a_proxy_that_is_not_there(self) -> None:
        dead = self.listening.dead_end()[1]
        report = await self.examine(self.listen(), proxy=f'"http://user:sesame@127.0.0.1:{dead}"')
        check, found, _ = self.only_failure(report)
        self.assertEqual(check, "proxy tcp")
        self.assertIn(f"http://127.0.0.1:{dead}", found)
        self.assertNotIn("sesame", report.as_text() + report.as_json())

    async def test_proxies_that_refuse(self) -> None:
        for lines, url, said in (
            (["ConnectPort 443"], "http://127.0.0.1:{}", "403"),
            (["BasicAuth user sesame"], "http://127.0.0.1:{}", "407"),
            (["BasicAuth user sesame"], "http://user:wrong@127.0.0.1:{}", "401"),
        ):
            proxy = Tinyproxy(self.folder, *lines)
            self.addCleanup(proxy.stop)
            report = await self.examine(self.listen(), proxy=f'"{url.format(proxy.port)}"')
            check, found, _ = self.only_failure(report)
            self.assertEqual(check, "proxy")
            self.assertIn(f"it said {said}", found)

    async def test_a_good_proxy(self) -> None:
        """Which resolves the name."""
        socks = Socks5Server(reactor)
        socks.resolve = lambda host: "127.0.0.1"
        port = self.listening.listen_plain(socks)[1]
        target = self.listen(hosts=("fleet.example",))[1]
        report = await self.examine(("fleet.example", target), proxy=f'"socks5://127.0.0.1:{port}"')
        self.assertTrue(report.holds, report.as_text())
        self.assertEqual(set(socks.asked), {("fleet.example", target)})

    async def test_a_broken_proxy_of_the_environment(self) -> None:
        self.patch(dialers.proxy, "environment", {"HTTPS_PROXY": "ftp://sesame"})
        report = await self.examine(("fleet.example", 443))
        check, found, _ = self.only_failure(report)
        self.assertEqual(check, "proxy")
        self.assertIn("HTTPS_PROXY", found)
        self.assertNotIn("sesame", found)

    async def test_a_plugged_in_dialer(self) -> None:
        server = self.listen()

        @implementer(IDialer)
        class Tunnel:
            name = "tunnel"
            help = "For tests."

            def endpoint(self, host: str, port: int, settings: Any, reactor: Any) -> Any:
                return TCP4ClientEndpoint(reactor, "127.0.0.1", server[1] if host == "127.0.0.1" else 1)

        for module in (path, tls, http, configuration):
            self.patch(module, "dialer_named", lambda name: Tunnel())
        report = await self.examine(server, dialer="tunnel")
        self.assertTrue(report.holds, report.as_text())
        self.assertEqual(self.found(report, "dialer").found, '"tunnel" makes a connection')
        check, found, _ = self.only_failure(await self.examine(("localhost", 1), dialer="tunnel"))
        self.assertEqual(check, "dialer")
        self.assertIn('"tunnel" makes no connection', found)

    async def test_directly_past_the_proxy(self) -> None:
        dead = self.listening.dead_end()[1]
        report = await self.examine(self.listen(), dialer="direct", proxy=f'"http://127.0.0.1:{dead}"')
        self.assertTrue(report.holds, report.as_text())


class TlsTests(DoctorTestCase):
    async def examine_tls(self, server: tuple[str, int], **fields: str) -> tuple[str, str]:
        check, found, step = self.only_failure(await self.examine(server, **fields))
        self.assertEqual(check, "tls")
        return found, step

    async def test_an_unknown_authority(self) -> None:
        stranger, _ = certificates.make_authority("Stranger", 1_700_000_000.0)
        pem = certificates.to_pem(stranger).replace("\n", "\\n")
        found, step = await self.examine_tls(self.listen(), trusted_certs=f'"{pem}"')
        self.assertIn(
            "unknown authority: the server's certificate is by CN=test, and the client trusts CN=Stranger", found
        )
        self.assertIn("trusted_certs", step)

    async def test_a_wrong_name_with_those_it_has(self) -> None:
        found, step = await self.examine_tls(self.listen(hosts=("fleet.example", "192.0.2.1")))
        self.assertIn("for fleet.example, 192.0.2.1, and the client wants 127.0.0.1", found)
        self.assertIn("server_name", step)

    async def test_server_name(self) -> None:
        server = self.listen(hosts=("fleet.example",))
        report = await self.examine(server, server_name='"fleet.example"')
        self.assertTrue(report.holds, report.as_text())
        found, _ = await self.examine_tls(server, server_name='"other.example"')
        self.assertIn("the client wants other.example", found)

    async def test_an_expired_certificate(self) -> None:
        found, step = await self.examine_tls(self.listen(issued=-400 * DAY))
        self.assertIn("CN=Server expired at ", found)
        self.assertIn("new certificate", step)

    async def test_a_certificate_that_is_not_valid_yet(self) -> None:
        found, step = await self.examine_tls(self.listen(issued=2 * DAY))
        self.assertIn("CN=Server is not valid before ", found)
        self.assertIn("clock", step)

    async def test_a_revoked_certificate(self) -> None:
        server = self.listen()
        serial = self.certificate.serial_number
        key = keys.dump_sec1(self.identity.key)
        self.write_state(client.ClientState(client_key=key, revoked_cert_serials=[serial.to_bytes(20, "big")]))
        found, _ = await self.examine_tls(server)
        self.assertIn(f"CN=Server is revoked (serial number {serial:x})", found)

    async def test_a_certificate_that_expires_soon(self) -> None:
        report = await self.examine(self.listen(issued=-350 * DAY))
        self.assertTrue(report.holds)
        finding = self.found(report, "certificate")
        self.assertIs(finding.status, Status.WARNING)
        self.assertIn("in 14 days", finding.found)

    async def test_a_port_that_speaks_no_tls(self) -> None:
        found, step = await self.examine_tls(self.listening.listen_plain(Factory.forProtocol(_Greeting)))
        self.assertIn("this is no TLS", found)
        self.assertIn("check the port", step)

    async def test_a_server_that_hangs_in_the_handshake(self) -> None:
        from fleetspeak.client.comms import handshake

        self.patch(handshake, "HANDSHAKE_TIMEOUT", 0.2)
        found, step = await self.examine_tls(self.listening.listen_plain(Factory.forProtocol(Protocol)))
        self.assertIn("did not complete the TLS handshake", found)
        self.assertIn("hangs", step)

    async def test_a_server_that_closes_in_the_handshake(self) -> None:
        found, step = await self.examine_tls(self.listening.listen_plain(Factory.forProtocol(_Closing)))
        self.assertTrue(found)
        self.assertIn("ended the connection", step)


class RequestTests(DoctorTestCase):
    async def examine_request(self, server: Answering) -> tuple[str, str]:
        check, found, step = self.only_failure(await self.examine(self.listen(server)))
        self.assertEqual(check, "request")
        return found, step

    async def test_a_list_of_revoked_certificates(self) -> None:
        report = await self.examine(self.listen(Answering("200 OK", b"")))
        self.assertIn("its list of revoked certificates", self.found(report, "request").found)

    async def test_a_refusal(self) -> None:
        found, step = await self.examine_request(Answering("401 Unauthorized", b"unauthorized\n"))
        self.assertIn("401 unauthorized", found)
        self.assertIn("labels", step)

    async def test_a_server_that_is_not_ready(self) -> None:
        _, step = await self.examine_request(Answering("503 Service Unavailable", b"not authorized\n"))
        self.assertIn("not ready or refuses", step)

    async def test_a_web_server_that_is_no_fleetspeak_server(self) -> None:
        _, step = await self.examine_request(Answering("404 Not Found", b"<html>nginx</html>"))
        self.assertIn("no Fleetspeak server", step)

    async def test_a_server_that_takes_the_request_and_hangs(self) -> None:
        self.patch(request, "LIMIT", 0.3)
        server = Answering()
        server.answer = None
        found, _ = await self.examine_request(server)
        self.assertIn("did not answer within", found)

    async def test_clocks_that_differ(self) -> None:
        for skew, how in ((-7205.0, "2 hours ahead of the server's"), (400.0, "6 minutes behind the server's")):
            check, found, step = self.only_failure(await self.examine(self.listen(Answering(skew=skew))))
            self.assertEqual(check, "clock")
            self.assertEqual(found, f"this machine's clock is {how}")
            self.assertIn("NTP", step)


class _Greeting(Protocol):
    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"220 mail.example ESMTP ready, what do you want?\r\n")


class _Closing(Protocol):
    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.loseConnection()
