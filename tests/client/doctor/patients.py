"""A client to examine: its files in a folder, and servers of one authority on 127.0.0.1."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.x509 import Certificate
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from fleetspeak.client.doctor.configuration import Patient
from fleetspeak.client.doctor.examination import examine
from fleetspeak.client.doctor.findings import Finding, Report, Status
from fleetspeak.client.identity import new_identity
from fleetspeak.pb import client
from fleetspeak.security import certificates, keys
from fleetspeak.security.tls import server_options
from fleetspeak.wire.filerequest import format_date
from tests.client.comms.fakeserver import Listening

DAY = 86400.0


class Answering(Factory):
    """Answers every request with the same bytes; notes the requests."""

    noisy = False

    def __init__(self, status: str = "404 Not Found", body: bytes = b"file not found\n", skew: float = 0.0) -> None:
        self.answer: bytes | None = (
            f"HTTP/1.1 {status}\r\nDate: {format_date(time.time() + skew)}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body
        self.requests: list[bytes] = []
        self.client_ids: list[str] = []
        """Subjects of the certificates it was shown."""
        self.open = 0
        self._idle: list[Deferred[None]] = []

    def when_idle(self) -> Deferred[None]:
        """Fires when there is no connection."""
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self.changed(0)
        return idle

    def changed(self, by: int) -> None:
        """So many connections more."""
        self.open += by
        while not self.open and self._idle:
            self._idle.pop().callback(None)

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Answering(self)


class _Answering(Protocol):
    def __init__(self, factory: Answering) -> None:
        self._factory = factory
        self._head = b""
        self._answered = False

    def connectionMade(self) -> None:
        self._factory.changed(1)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.changed(-1)

    def dataReceived(self, data: bytes) -> None:
        if self._answered:
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._answered = True
            self._factory.requests.append(self._head)
            transport: Any = self.transport
            self._factory.client_ids.append(transport.getPeerCertificate().to_cryptography().subject.rfc4514_string())
            if self._factory.answer is not None:
                transport.write(self._factory.answer)
                transport.loseConnection()


class DoctorTestCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        for name in ("services", "textservices"):
            (self.folder / name).mkdir()
        self.listening = Listening(reactor)
        self.addCleanup(self.listening.close)
        self.identity = new_identity(time.time())
        self.state = self.folder / "state"
        self.write_state(client.ClientState(client_key=keys.dump_sec1(self.identity.key)))

    def write_state(self, state: client.ClientState) -> None:
        self.state.write_bytes(state.SerializeToString())
        self.state.chmod(0o600)

    def configure(self, *servers: tuple[str, int], **fields: str) -> Path:
        """Write the configuration file; a field of `fields` is text-format, and empty to leave it out."""
        pem = certificates.to_pem(self.listening.authority).replace("\n", "\\n")
        handler = f'{{ configuration_directory: "{self.folder}" state_file: "{self.state}" }}'
        values = {"trusted_certs": f'"{pem}"', "filesystem_handler": handler} | fields
        lines = [f"{name}: {value}" for name, value in values.items() if value]
        lines += [f'server: "{host}:{port}"' for host, port in servers]
        path = self.folder / "client.config"
        path.write_text("\n".join([*lines, ""]))
        return path

    async def examine(self, *servers: tuple[str, int], dialer: str = "", **fields: str) -> Report:
        return await examine(Patient(self.configure(*servers, **fields), dialer=dialer), reactor)

    def listen(
        self, factory: Factory | None = None, *, hosts: tuple[str, ...] = ("127.0.0.1",), issued: float = 0.0
    ) -> tuple[str, int]:
        """A server with a certificate for these names, issued so many seconds from now."""
        certificate, key = certificates.issue_server(
            self.listening.authority, self.listening._authority_key, "Server", hosts, time.time() + issued
        )
        self.certificate: Certificate = certificate
        factory = factory or Answering()
        if isinstance(factory, Answering):
            self.addCleanup(factory.when_idle)
        tls = server_options(certificates.to_pem(certificate), certificates.key_to_pem(key))
        return self.listening.listen_plain(TLSMemoryBIOFactory(tls, False, factory))

    def failures(self, report: Report) -> list[tuple[str, str, str]]:
        """Check, what was found and what is next, of each that failed."""
        return [
            (finding.check, finding.found, finding.next_step)
            for finding in report.findings
            if finding.status is Status.FAILED
        ]

    def only_failure(self, report: Report) -> tuple[str, str, str]:
        failures = self.failures(report)
        self.assertEqual(len(failures), 1, report.as_text())
        self.assertTrue(failures[0][2], "what to do next")
        self.assertFalse(report.holds)
        return failures[0]

    def found(self, report: Report, check: str) -> Finding:
        return next(finding for finding in report.findings if finding.check == check)
