"""X.509 certificates: the client's own, a small authority for a fleet, and the server certificates it issues.

Times are seconds since the Unix epoch, so that the clock of a reactor can be passed in.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetspeak.ids import ClientId, show
from fleetspeak.security import keys

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""The kinds of keys that authorities and servers may have."""

_CLIENT_SERIAL = 1
_CLIENT_BACKDATED = datetime.timedelta(days=1)
_CLIENT_LIFE = datetime.timedelta(days=3650)
_AUTHORITY_LIFE = datetime.timedelta(days=3650)
_SERVER_LIFE = datetime.timedelta(days=365)
_BACKDATED = datetime.timedelta(hours=1)
"""Machines whose clocks are a little behind can connect to a server that was set up a moment ago."""

_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def client_certificate(key: ec.EllipticCurvePrivateKey, client_id: ClientId, now: float) -> x509.Certificate:
    """The self-signed certificate that proves a client's key to the server.

    Nothing in it is looked at but the key.  Unlike the Go client's it has real dates, so that proxies which check
    them let it through.
    """
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, show(client_id))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_CLIENT_SERIAL)
        .not_valid_before(_date(now) - _CLIENT_BACKDATED)
        .not_valid_after(_date(now) + _CLIENT_LIFE)
    )
    return builder.sign(key, hashes.SHA256())


def make_authority(name: str, now: float) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new certificate authority of that common name, valid for ten years."""
    key = keys.generate()
    subject = _common_name(name)
    builder = (
        _builder(subject, subject, key, now, _AUTHORITY_LIFE)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def issue_server(
    ca_cert: x509.Certificate, ca_key: SigningKey, name: str, hosts: Iterable[str], now: float
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A server certificate valid for a year, issued by that authority.

    @param name: the common name; clients do not look at it.
    @param hosts: the names and IP addresses by which clients will know the server.  Raises ValueError for one that
        cannot be put into a certificate.
    """
    key = keys.generate()
    builder = (
        _builder(_common_name(name), ca_cert.subject, key, now, _SERVER_LIFE)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issuer_id(ca_cert, ca_key), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256()), key


def to_pem(certificate: x509.Certificate) -> str:
    """One certificate as PEM text, ending in a newline."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_to_pem(key: SigningKey) -> str:
    """A private key as unencrypted PEM text in the form the Go programs read (``EC`` or ``RSA PRIVATE KEY``)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def load_certificates(pem: str) -> list[x509.Certificate]:
    """Every certificate in a PEM text, in order.  Raises ValueError if there is none or one cannot be read."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ValueError("no readable certificate in it; expected -----BEGIN CERTIFICATE----- blocks") from None


def load_readable_certificates(pem: str) -> list[x509.Certificate]:
    """Those certificates in a PEM text that can be read, in order: how a list of trusted ones is taken."""
    found = []
    for block in _PEM_CERTIFICATE.findall(pem):
        with contextlib.suppress(ValueError):
            found.append(x509.load_pem_x509_certificate(block.encode()))
    return found


def load_key(pem: str) -> SigningKey:
    """A private key from PEM text: SEC 1, PKCS#1 or PKCS#8, RSA or elliptic curve.  Raises ValueError.

    The text of the error never holds anything of the key.
    """
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise ValueError("the private key is encrypted; expected one without a pass phrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no readable private key in it; expected a -----BEGIN ... PRIVATE KEY----- block") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the private key is neither an elliptic curve key nor an RSA key")
    return key


def belong_together(certificate: x509.Certificate, key: SigningKey) -> bool:
    """Is this the certificate of this key?"""
    return keys.public_der(certificate.public_key()) == keys.public_der(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: SigningKey, now: float, life: datetime.timedelta
) -> x509.CertificateBuilder:
    start = _date(now)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(start + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _issuer_id(ca_cert: x509.Certificate, ca_key: SigningKey) -> x509.AuthorityKeyIdentifier:
    """As the authority calls its key: there is more than one way to make these ids, and OpenSSL compares them."""
    try:
        own_id = ca_cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: Iterable[str]) -> Sequence[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _date(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(now), datetime.UTC)
