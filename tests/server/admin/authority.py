"""An authority for tests: server certificates, and certificates of callers."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetspeak.security import certificates


class Authority:
    """Issues certificates, and writes them into a folder."""

    def __init__(self, folder: Path, name: str = "operators") -> None:
        self.folder = folder
        self.name = name
        self.certificate, self._key = certificates.make_authority(name, time.time())
        self.pem = certificates.to_pem(self.certificate).encode()
        self.path = folder / f"{name}-ca.pem"
        self.path.write_bytes(self.pem)

    def write_server(
        self, name: str = "server", hosts: Sequence[str] = ("localhost", "127.0.0.1")
    ) -> tuple[Path, Path]:
        """A certificate for these hosts, and its key."""
        made, key = certificates.issue_server(self.certificate, self._key, name, hosts, time.time())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        paths[1].touch(0o600)
        paths[1].write_text(certificates.key_to_pem(key))
        paths[0].write_text(certificates.to_pem(made))
        return paths

    def client(self, common_name: str, *alternative: x509.GeneralName, days: float = 1) -> tuple[bytes, bytes]:
        """Key and certificate of a caller, PEM; `days` from now it ends."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return certificates.key_to_pem(key).encode(), certificates.to_pem(made).encode()
