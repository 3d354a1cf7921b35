"""The TLS handshake with a server, by the client's own rules; if it fails, why, from the certificates themselves."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from cryptography import x509
from cryptography.x509 import Certificate
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from fleetspeak.client.comms.dialing import dialer_named
from fleetspeak.client.comms.endpoints import Endpoints
from fleetspeak.client.comms.handshake import HandshakenEndpoint, HandshakeTimeout
from fleetspeak.client.comms.http import reason_of
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.doctor.configuration import EXPIRY_WARNING
from fleetspeak.client.doctor.findings import Finding, failed, ok, warning
from fleetspeak.client.doctor.identity import Known
from fleetspeak.client.doctor.path import connect
from fleetspeak.config.client import ClientSettings
from fleetspeak.security.tls import ClientTlsPolicy, VerificationFailed

CHECK = "tls"

_RENEW = "give the server a new certificate by the same authority"


class Handshake:
    """The handshake with one server."""

    def __init__(self, server: Server, settings: ClientSettings, known: Known, reactor: Any) -> None:
        self._server = server
        self._settings = settings
        self._known = known
        self._reactor = reactor
        self._name = settings.server_name or server.host

    async def examine(self, now: datetime.datetime) -> list[Finding]:
        """Make it.  What is found is either one success and what there is to say of certificates, or failures."""
        identity, settings = self._known.identity, self._settings
        policy = ClientTlsPolicy(
            settings.trusted_certs,
            identity.key,
            identity.certificate,
            settings.server_name,
            self._known.is_revoked,
            offer_http2=settings.communicator.prefer_http2,
        )
        try:
            endpoint = Endpoints(settings, self._reactor, policy, dialer_named(settings.dialer))
            holder = await connect(endpoint.to(self._server.host, self._server.port), self._reactor)
        except VerificationFailed as error:
            return list(self._why(error, await self._shown(), now))
        except Exception as error:
            return [self._no_handshake(error)]
        connection = holder.transport.getHandle()
        chain = connection.get_verified_chain(as_cryptography=True)
        version = connection.get_protocol_version_name()
        if connection.get_alpn_proto_negotiated() == b"h2":
            version += " and HTTP/2"
        holder.transport.abortConnection()
        server = str(self._server)
        return [
            ok(CHECK, f"{version}, the certificate is for {self._name} and by a trusted authority", server),
            *(_expiry(certificate, now, server) for certificate in chain[:-1] or chain),
        ]

    def _no_handshake(self, error: Exception) -> Finding:
        reason = reason_of(error)
        if isinstance(error, HandshakeTimeout):
            step = "see whether the server hangs, and whether this is its port for clients: it should begin with TLS"
        elif isinstance(error, SSL.Error):
            reason = f"this is no TLS as the client wants it ({reason})"
            step = "check the port: it should be the server's for clients; the client wants TLS 1.2 or 1.3"
        else:
            step = "see the server's log: it ended the connection during the handshake"
        return failed(CHECK, reason, step, str(self._server))

    async def _shown(self) -> list[Certificate]:
        """The certificates that the server shows to anybody, unverified, to explain them; nothing else is said."""
        settings = self._settings
        try:
            dialed = dialer_named(settings.dialer).endpoint(
                self._server.host, self._server.port, settings, self._reactor
            )
            holder = await connect(
                HandshakenEndpoint(wrapClientTLS(_Looking(self._name), dialed), self._reactor), self._reactor
            )
        except Exception:
            return []
        shown = holder.transport.getHandle().get_peer_cert_chain(as_cryptography=True) or []
        holder.transport.abortConnection()
        return list(shown)

    def _why(self, error: Exception, chain: Sequence[Certificate], now: datetime.datetime) -> Iterator[Finding]:
        """What is wrong with these certificates, in plain words; at least what the handshake said."""
        found = [(text, step) for text, step in self._faults(chain, now)]
        if not found or ("revoked" in str(error) and not any("revoked" in text for text, _ in found)):
            found.append((str(error), "compare the server's certificate with what the client trusts"))
        for text, step in found:
            yield failed(CHECK, text, step, str(self._server))

    def _faults(self, chain: Sequence[Certificate], now: datetime.datetime) -> Iterator[tuple[str, str]]:
        for certificate in chain:
            name = _name_of(certificate)
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if end < now:
                yield f"{name} expired at {end:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here", _RENEW
            if start > now:
                found = f"{name} is not valid before {start:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here"
                yield found, "check this machine's clock first, then the certificate"
            if self._known.is_revoked(certificate.serial_number):
                found = f"{name} is revoked (serial number {certificate.serial_number:x})"
                yield found, "give the server a certificate that is not on the list of revoked ones"
        if chain and not self._is_named(chain[0]):
            yield self._wrong_name(chain[0])
        if chain and not self._is_by_trusted(chain):
            issuer = chain[-1].issuer.rfc4514_string()
            trusted = "; ".join(one.subject.rfc4514_string() for one in self._settings.trusted_certs)
            found = f"unknown authority: the server's certificate is by {issuer}, and the client trusts {trusted}"
            step = (
                "put the certificate of the server's authority into trusted_certs; if it is not yours at all, "
                "something on the way opens TLS, and must be told not to for this server"
            )
            yield found, step

    def _wrong_name(self, leaf: Certificate) -> tuple[str, str]:
        names = _names_in(leaf)
        what_for = f"is for {', '.join(names)}" if names else "has no alternative names (others do not count)"
        step = f"have a certificate made for {self._name}"
        if names:
            step = f"reach the server by one of these names, set server_name to one, or {step}"
        return f"wrong name: the server's certificate {what_for}, and the client wants {self._name}", step

    def _is_named(self, leaf: Certificate) -> bool:
        wanted = self._name.lower().rstrip(".")
        return any(_fits(name.lower(), wanted) for name in _names_in(leaf))

    def _is_by_trusted(self, chain: Sequence[Certificate]) -> bool:
        trusted = self._settings.trusted_certs
        return any(shown in trusted or any(_issued(authority, shown) for authority in trusted) for shown in chain)


@implementer(IOpenSSLClientConnectionCreator)
class _Looking:
    """TLS that takes any certificate, and shows none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        if not isIPAddress(self._name) and not isIPv6Address(self._name):
            connection.set_tlsext_host_name(self._name.encode("idna"))
        return connection


def _expiry(certificate: Certificate, now: datetime.datetime, server: str) -> Finding:
    name, end = _name_of(certificate), certificate.not_valid_after_utc
    if end - now < EXPIRY_WARNING:
        left = max((end - now).days, 0)
        return warning("certificate", f"{name} expires at {end:%Y-%m-%d %H:%M} UTC, in {left} days", _RENEW, server)
    return ok("certificate", f"{name}, until {end:%Y-%m-%d}", server)


def _name_of(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"


def _names_in(certificate: Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _fits(name: str, wanted: str) -> bool:
    if name.startswith("*."):
        return wanted.partition(".")[2] == name[2:]
    return name == wanted


def _issued(authority: Certificate, certificate: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # of many kinds: it did not
        return False
    return True
