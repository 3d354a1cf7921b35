"""TLS to the target of a GRPC service: whom it trusts, as whom it comes, and what happens when files change."""

from __future__ import annotations

import ssl
from pathlib import Path
from unittest import mock

import grpc
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, TemporaryError
from fleetspeak.interfaces import IServerServiceFactory
from fleetspeak.pb import grpcservice, grpctlsservice
from fleetspeak.server.services import grpcservice as service_module
from fleetspeak.server.services.grpcservice import GrpcFactory, GrpcService, GrpcTlsFactory
from tests.server.services.doubles import message
from tests.server.services.targets import Authority, TargetCase, environment

REFUSED = "UNAVAILABLE"


class TlsCase(TargetCase):
    def setUp(self) -> None:
        super().setUp()
        self.hurry(2)
        self.authority = Authority(self.folder, "Ours")
        self.foreign = Authority(self.folder, "Foreign")

    def serve_tls(self, *hosts: str, clients: Authority | None = None) -> int:
        """A target with a certificate for these hosts, perhaps for clients of an authority only."""
        pair = self.authority.server(*(hosts or ("localhost", "127.0.0.1")))
        credentials = grpc.ssl_server_credentials(
            [(pair[1], pair[0])],
            root_certificates=None if clients is None else clients.pem,
            require_client_auth=clients is not None,
        )
        _, port = self.serve(credentials)
        return port

    async def assert_refused(self, service: GrpcService) -> None:
        """No message gets there; it stays pending."""
        with self.assertRaisesRegex(TemporaryError, REFUSED):
            await service.process(message())
        self.assertEqual(self.receiver.seen, [])


class TrustTests(TlsCase):
    async def test_an_authority_of_ones_own(self) -> None:
        await self.tls(self.serve_tls(), cert_file=self.authority.path).process(message())
        self.assertEqual(self.receiver.seen, [message()])

    async def test_the_same_with_upstreams_configuration(self) -> None:
        config = grpcservice.Config(target=f"localhost:{self.serve_tls()}", cert_file=str(self.authority.path))
        service = GrpcFactory().make(config, mock.Mock(service_name="hello", reactor=reactor))
        await self.started(service).process(message())
        self.assertEqual(self.receiver.seen, [message()])

    async def test_nobody_elses(self) -> None:
        await self.assert_refused(self.tls(self.serve_tls(), cert_file=self.foreign.path))

    async def test_not_for_another_name(self) -> None:
        await self.assert_refused(self.tls(self.serve_tls("receiver.example"), cert_file=self.authority.path))

    async def test_but_for_the_name_that_is_said(self) -> None:
        port = self.serve_tls("receiver.example")
        await self.tls(port, cert_file=self.authority.path, server_name="receiver.example").process(message())
        self.assertEqual(len(self.receiver.seen), 1)

    async def test_nor_a_target_without_tls(self) -> None:
        _, port = self.serve()
        await self.assert_refused(self.tls(port, cert_file=self.authority.path))

    async def test_by_default_whom_the_system_trusts(self) -> None:
        """As OpenSSL finds them: one file, or a folder."""
        with environment(SSL_CERT_FILE=str(self.authority.path)):
            trusting = self.tls(self.serve_tls())
        with environment(SSL_CERT_FILE=str(self.foreign.path)):
            distrusting = self.tls(self.serve_tls())
        await self.assert_refused(distrusting)
        await trusting.process(message())
        (self.folder / "trusted").mkdir()
        (self.folder / "trusted" / "0123abcd.0").write_bytes(self.authority.pem)
        (self.folder / "trusted" / "README").write_bytes(b"no certificate")
        paths = mock.Mock(cafile=None, capath=str(self.folder / "trusted"))
        with mock.patch.object(ssl, "get_default_verify_paths", return_value=paths):
            await self.tls(self.serve_tls()).process(message())
        self.assertEqual(len(self.receiver.seen), 2)


class ClientCertificateTests(TlsCase):
    def mutual(self, port: int, pair: tuple[Path, Path]) -> GrpcService:
        return self.tls(port, cert_file=self.authority.path, client_cert_file=pair[0], client_key_file=pair[1])

    async def test_the_target_knows_who_calls(self) -> None:
        port = self.serve_tls(clients=self.authority)
        await self.mutual(port, self.authority.client("fleetspeak")).process(message())
        self.assertEqual(self.receiver.callers, {"fleetspeak"})

    async def test_without_a_certificate_it_is_not_let_in(self) -> None:
        await self.assert_refused(self.tls(self.serve_tls(clients=self.authority), cert_file=self.authority.path))

    async def test_nor_with_one_of_somebody_else(self) -> None:
        port = self.serve_tls(clients=self.authority)
        await self.assert_refused(self.mutual(port, self.foreign.client("fleetspeak")))

    async def test_one_that_is_renewed_is_used_without_a_restart(self) -> None:
        port = self.serve_tls(clients=self.authority)
        self.patch(service_module, "LOOK_INTERVAL", 0.0)
        pair = self.authority.client("old")
        service = self.mutual(port, pair)
        await service.process(message(number=1))
        new = self.authority.client("new")
        pair[0].write_bytes(new[0].read_bytes())
        with capturedLogs() as lines:
            await service.process(message(number=2))
            self.assertEqual(self.receiver.callers, {"old"}, "a certificate without its key is not used")
            pair[1].write_bytes(new[1].read_bytes())
            await service.process(message(number=3))
        self.assertEqual(self.receiver.callers, {"old", "new"})
        self.assertEqual(
            [line["log_level"].name for line in lines if "files of TLS" in line["log_format"]], ["error", "info"]
        )


class LookTests(SynchronousTestCase):
    """Without a target."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.authority = Authority(self.folder, "Ours")
        self.clock = Clock()
        self.patch(service_module, "_make_channel", lambda *_: mock.Mock())
        config = grpctlsservice.Config(target="localhost:1", cert_file=str(self.authority.path))
        self.service = GrpcTlsFactory().make(config, mock.Mock(service_name="hello", reactor=self.clock))
        self.service.start()
        self.addCleanup(self.service.stop)

    def call(self) -> object:
        """The channel that a call is made on."""
        self.service._call(message(), 1.0)
        return self.service._channel

    def test_files_are_looked_at_once_a_minute(self) -> None:
        first = self.call()
        Authority(self.folder, "Ours")
        self.assertIs(self.call(), first)
        self.clock.advance(service_module.LOOK_INTERVAL)
        second = self.call()
        self.assertIsNot(second, first)
        self.clock.advance(service_module.LOOK_INTERVAL)
        self.assertIs(self.call(), second)

    def test_the_old_channel_is_closed_when_no_call_can_be_on_it(self) -> None:
        self.call()
        Authority(self.folder, "Ours")
        self.clock.advance(service_module.LOOK_INTERVAL)
        self.call()
        self.assertEqual(len(self.service._retired), 1)
        self.clock.advance(service_module.DEADLINE)
        self.assertEqual(len(self.service._retired), 0)

    def test_stop_closes_all_of_them(self) -> None:
        self.call()
        Authority(self.folder, "Ours")
        self.clock.advance(service_module.LOOK_INTERVAL)
        self.call()
        self.service.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_file_that_is_away_leaves_things_as_they_are(self) -> None:
        first = self.call()
        self.authority.path.unlink()
        self.clock.advance(service_module.LOOK_INTERVAL)
        with capturedLogs() as lines:
            self.assertIs(self.call(), first)
        self.assertIn("cannot be used", lines[0]["log_format"])


class FactoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.authority = Authority(self.folder, "Ours")

    def make(self, **fields: str | Path) -> GrpcService:
        config = grpctlsservice.Config(**{name: str(one) for name, one in fields.items()})
        return GrpcTlsFactory().make(config, mock.Mock(service_name="hello"))

    def test_interface(self) -> None:
        verifyObject(IServerServiceFactory, GrpcTlsFactory())

    def test_keys_are_not_shown(self) -> None:
        certificate, key = self.authority.client("c")
        service = self.make(
            target="a:1", cert_file=self.authority.path, client_cert_file=certificate, client_key_file=key
        )
        self.assertNotIn("PRIVATE", repr(service._credentials))

    def test_what_cannot_work_is_refused_at_the_start(self) -> None:
        certificate, key = self.authority.client("c")
        _, other = self.authority.client("other")
        empty = self.folder / "empty"
        empty.write_bytes(b"")
        good: dict[str, str | Path] = {"target": "a:1", "cert_file": self.authority.path}
        wrong: list[tuple[dict[str, str | Path], str]] = [
            ({}, "must name a target"),
            ({**good, "cert_file": empty}, "no PEM certificate in cert_file"),
            ({**good, "cert_file": "/no/such"}, "cannot read cert_file /no/such: No such file"),
            ({**good, "client_cert_file": certificate}, "go together"),
            ({**good, "client_key_file": key}, "go together"),
            ({**good, "client_cert_file": certificate, "client_key_file": other}, "is not for the key in"),
            ({**good, "client_cert_file": empty, "client_key_file": key}, "no readable certificate"),
            ({**good, "client_cert_file": certificate, "client_key_file": empty}, "no readable private key"),
            ({**good, "client_cert_file": certificate, "client_key_file": "/no/such"}, "cannot read client_key_file"),
        ]
        for fields, words in wrong:
            error = self.assertRaises(ConfigError, self.make, **fields)
            self.assertIn('service "hello": ', str(error))
            self.assertIn(words, str(error))
        self.assertRaises(ConfigError, GrpcTlsFactory().make, None, mock.Mock(service_name="hello"))

    def test_a_system_that_trusts_nobody(self) -> None:
        for paths in (mock.Mock(cafile=None, capath=None), mock.Mock(cafile=None, capath=str(self.folder))):
            with mock.patch.object(ssl, "get_default_verify_paths", return_value=paths):
                error = self.assertRaises(ConfigError, self.make, target="a:1")
            self.assertIn("this system has no trusted certificates", str(error))
