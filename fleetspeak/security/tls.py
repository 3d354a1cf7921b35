"""TLS on both sides: who shows a certificate to whom, and who checks what.

The client checks the server: a chain of its ends in a trusted certificate and has no revoked one in it, and its name is
right.  The server checks nothing but that the client holds the key of the certificate it shows: the key is its
identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.security.certificates import SigningKey, belong_together, load_certificates, load_key
from fleetspeak.security.chains import ways_up

_TLS_1_2_SUITES = b":".join(
    [
        b"ECDHE-ECDSA-AES256-GCM-SHA384",
        b"ECDHE-RSA-AES256-GCM-SHA384",
        b"ECDHE-ECDSA-AES128-GCM-SHA256",
        b"ECDHE-RSA-AES128-GCM-SHA256",
    ]
)
"""Those of the Go programs, in their order.  TLS 1.3 has suites of its own, which are all good."""

_HTTP_1 = b"http/1.1"
_HTTP_2 = b"h2"


class VerificationFailed(Exception):
    """A certificate of the server is not acceptable; why the connection was lost.  The text says more."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """What the frontend's listener passes to Twisted's TLS wrapper; made by `server_options`."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        return SSL.Connection(self._context)


def server_options(chain_pem: str, key_pem: str, *, offer_http2: bool = False) -> ServerTls:
    """TLS for the frontend: asks every client for a certificate, accepts any and also none.

    Without one the handshake completes and the request is refused by HTTP, where the client sees why.

    @param chain_pem: the server's certificate and then those up to the authority.
    @param key_pem: the private key of the first of them.
    @return: to be given to `TLSMemoryBIOFactory(..., isClient=False, ...)`.
    @raise ConfigError: one of them cannot be read, or they do not belong together.
    """
    chain, key = _check_pair(chain_pem, key_pem)
    context = _context()
    _show(context, chain, key, "the server's certificate or key")
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(SSL.VERIFY_PEER, _accept_any)
    offered = (_HTTP_2, _HTTP_1) if offer_http2 else (_HTTP_1,)
    context.set_alpn_select_callback(lambda connection, asked: _choose_protocol(offered, asked))
    return ServerTls(context)


@implementer(IPolicyForHTTPS)
class ClientTlsPolicy:
    """TLS for the client's HTTP agent.

    @param trusted: the only certificates a server's chain may end in; the system's own are not used.
    @param key: the client's key.
    @param certificate: the client's certificate; shown whenever a server asks.
    @param server_name: what to ask for and to find in the server's certificate, instead of the host of the address.
    @param is_revoked: called with the serial numbers of the server's chain at every handshake.  If one above the
        server's own is revoked, another chain to a trusted certificate will do.
    @param offer_http2: offer HTTP/2 besides HTTP/1.1; the server chooses.
    """

    def __init__(
        self,
        trusted: Sequence[Certificate],
        key: EllipticCurvePrivateKey,
        certificate: Certificate,
        server_name: str = "",
        is_revoked: Callable[[int], bool] = lambda serial: False,
        *,
        offer_http2: bool = False,
    ) -> None:
        self._protocols = [_HTTP_2, _HTTP_1] if offer_http2 else [_HTTP_1]
        self._server_name = server_name
        self._trusted = trusted
        self._is_revoked = is_revoked
        self._context = _context()
        self._context.set_info_callback(self._on_progress)
        self._context.use_certificate(certificate)
        self._context.use_privatekey(key)
        _trust(self._context, trusted)

    def creatorForNetloc(self, hostname: bytes, port: int) -> ClientConnectionCreator:  # noqa: N802
        name = self._server_name or hostname.decode("ascii")
        return ClientConnectionCreator(self._context, name, self._is_revoked, protocols=self._protocols)

    def _on_progress(self, connection: SSL.Connection, where: int, code: int) -> None:
        """OpenSSL tells of each step; at the last one, when all of the chain is there, look for revoked ones in it."""
        if where & SSL.SSL_CB_HANDSHAKE_DONE:
            try:
                self._check_chain(connection)
            except Exception as refusal:  # as in `ClientConnectionCreator._check`
                connection.get_app_data().failVerification(Failure(_as_refusal(refusal)))  # type: ignore[no-untyped-call]

    def _check_chain(self, connection: SSL.Connection) -> None:
        verified = connection.get_verified_chain(as_cryptography=True) or []
        revoked = [certificate.serial_number for certificate in verified if self._is_revoked(certificate.serial_number)]
        if not revoked:
            return
        sent = connection.get_peer_cert_chain(as_cryptography=True) or []
        if self._is_revoked(verified[0].serial_number) or not self._has_other_chain(verified[0], sent[1:]):
            raise _revoked(revoked[0])

    def _has_other_chain(self, leaf: Certificate, sent: Sequence[Certificate]) -> bool:
        """Does the server's certificate lead to a trusted one without any that is revoked?"""
        between, trusted = self._without_revoked(sent), self._without_revoked(self._trusted)
        return any(_verifies(way) for way in ways_up(leaf, between, trusted))

    def _without_revoked(self, certificates: Sequence[Certificate]) -> list[Certificate]:
        return [certificate for certificate in certificates if not self._is_revoked(certificate.serial_number)]


def proxy_tls(trusted: Sequence[Certificate], host: str) -> ClientConnectionCreator:
    """TLS with a proxy, which is not yet that with the server: it tells the proxy nothing of the client.

    @param trusted: certificates that the proxy's may end in; those that the system trusts are good, too.
    @param host: what to find in the proxy's certificate.
    """
    context = _context()
    context.set_default_verify_paths()
    _trust(context, trusted)
    return ClientConnectionCreator(context, host, lambda serial: False, "proxy")


def target_tls(
    trusted: Sequence[Certificate], host: str, chain: Sequence[Certificate] = (), key: SigningKey | None = None
) -> ClientConnectionCreator:
    """TLS with a program that messages are forwarded to; HTTP/2 only.

    @param trusted: the only certificates that the program's may end in.
    @param host: what to find in its certificate.
    @param chain: the certificate to show, and then those up to its authority; empty for none.
    @param key: the private key of the first of them.
    @raise ConfigError: certificate or key are of a kind that OpenSSL does not take.
    @raise ValueError: `host` can be neither a host name nor an IP address.
    """
    context = _context()
    _trust(context, trusted)
    if key is not None:
        _show(context, chain, key, f"the certificate or key for {host}")
    return ClientConnectionCreator(context, host, lambda serial: False, "target", protocols=[_HTTP_2])


def _verifies(way: Sequence[Certificate]) -> bool:
    """Does OpenSSL find this way good, from the server's certificate to a trusted one?"""
    leaf, *between = map(crypto.X509.from_cryptography, way)
    store = crypto.X509Store()
    _trust_in(store, way[-1:])
    try:
        crypto.X509StoreContext(store, leaf, between).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


def _trust(context: SSL.Context, trusted: Sequence[Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None  # every context has one
    _trust_in(store, trusted)


def _trust_in(store: crypto.X509Store, trusted: Sequence[Certificate]) -> None:
    """Whatever is listed is trusted as it is, even if it is the server's own or an intermediate certificate."""
    for authority in trusted:
        store.add_cert(crypto.X509.from_cryptography(authority))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)


@implementer(IOpenSSLClientConnectionCreator)
class ClientConnectionCreator:
    """Makes the client's side of TLS connections to one server; from `ClientTlsPolicy.creatorForNetloc`.

    Raises ValueError if `name` can be neither a host name nor an IP address.
    """

    def __init__(
        self,
        context: SSL.Context,
        name: str,
        is_revoked: Callable[[int], bool],
        peer: str = "server",
        protocols: Sequence[bytes] = (_HTTP_1,),
    ) -> None:
        """@param peer: what it is called in errors.

        @param protocols: what to offer by ALPN, the best first.
        """
        self._protocols = list(protocols)
        self._context = context
        self._name = name
        self._is_revoked = is_revoked
        self._peer = peer
        self._wanted: ServiceID
        if isIPAddress(name) or isIPv6Address(name):
            self._wanted, self._sni = IPAddress_ID(name), None
        else:
            self._sni = name.encode("idna")
            self._wanted = DNS_ID(self._sni.decode("ascii"))

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        connection = SSL.Connection(self._context)
        if self._sni is not None:
            connection.set_tlsext_host_name(self._sni)
        connection.set_alpn_protos(self._protocols)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._check)
        return connection

    def _check(self, connection: SSL.Connection, raw: crypto.X509, error: int, depth: int, trusted: int) -> bool:
        """OpenSSL asks for each certificate of the chain, from the authority's (greatest depth) to the server's."""
        try:
            self._check_certificate(raw.to_cryptography(), error, depth)
        except Exception as refusal:  # an exception of any kind would be lost inside OpenSSL
            connection.get_app_data().failVerification(Failure(_as_refusal(refusal)))  # type: ignore[no-untyped-call]
            return False
        return True

    def _check_certificate(self, certificate: Certificate, error: int, depth: int) -> None:
        if error != SSL.X509VerificationCodes.OK:
            reason = _REASONS.get(error, error)
            raise VerificationFailed(f"the {self._peer}'s certificate is not acceptable: {reason}")
        if depth == 0:
            if self._is_revoked(certificate.serial_number):
                raise _revoked(certificate.serial_number)
            try:
                verify_service_identity(extract_patterns(certificate), [self._wanted], [])
            except VerificationError:
                raise VerificationFailed(f"the {self._peer}'s certificate is not for {self._name}") from None


def _revoked(serial: int) -> VerificationFailed:
    return VerificationFailed(f"certificate revoked: serial number {serial:x}")


def _as_refusal(error: Exception) -> VerificationFailed:
    if isinstance(error, VerificationFailed):
        return error
    return VerificationFailed(f"the server's certificate cannot be checked: {error}")


def _show(context: SSL.Context, chain: Sequence[Certificate], key: SigningKey, what: str) -> None:
    """Have connections show a certificate, and those that lead to its authority.  Raises ConfigError."""
    try:
        context.use_certificate(chain[0])
        context.use_privatekey(key)
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise ConfigError(f"{what} is not usable for TLS: {error}") from None


def _check_pair(chain_pem: str, key_pem: str) -> tuple[list[Certificate], SigningKey]:
    try:
        chain = load_certificates(chain_pem)
    except ValueError as error:
        raise ConfigError(f"the server's certificate chain: {error}") from None
    try:
        key = load_key(key_pem)
    except ValueError as error:
        raise ConfigError(f"the server's key: {error}") from None
    if not belong_together(chain[0], key):
        raise ConfigError("the server's certificate and key do not belong together; the leaf must come first")
    return chain, key


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS_1_2_SUITES)
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _accept_any(connection: SSL.Connection, raw: crypto.X509, error: int, depth: int, trusted: int) -> bool:
    """Whatever the certificate of a client says, having its key is all that counts."""
    return True


def _choose_protocol(offered: Sequence[bytes], asked: Sequence[bytes]) -> Any:
    """ALPN: the first of ours that the client knows; a client that knows none of them gets HTTP/1.1 all the same."""
    return next((protocol for protocol in offered if protocol in asked), SSL.NO_OVERLAPPING_PROTOCOLS)


_REASONS = {
    code: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, code in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}
"""What OpenSSL's verification errors are called."""
