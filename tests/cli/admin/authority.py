"""An authority for tests: certificates of servers and of callers, in a folder."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetspeak.security import certificates


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path, name: str = "operators") -> None:
        self._folder = folder
        self._certificate, self._key = certificates.make_authority(name, time.time())
        self.pem = certificates.to_pem(self._certificate).encode()
        self.path = folder / f"{name}-ca.pem"
        self.path.write_bytes(self.pem)

    def write_server(self, name: str) -> tuple[Path, Path]:
        """A certificate for that host, and its key."""
        made, key = certificates.issue_server(self._certificate, self._key, name, [name], time.time())
        paths = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        paths[0].write_text(certificates.to_pem(made))
        paths[1].write_text(certificates.key_to_pem(key))
        return paths

    def client(self, common_name: str) -> tuple[bytes, bytes]:
        """Key and certificate of a caller, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        made = builder.sign(self._key, hashes.SHA256())
        return certificates.key_to_pem(key).encode(), certificates.to_pem(made).encode()
