"""HTTP over mutual TLS to the servers, with the client's current identity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse

from fleetspeak.client.comms.dialing import dialer_named
from fleetspeak.client.comms.endpoints import Endpoints
from fleetspeak.client.comms.httpstream import HttpStream
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.pb import common
from fleetspeak.security.certificates import to_pem
from fleetspeak.security.tls import ClientTlsPolicy
from fleetspeak.wire import certheader

IDLE_TIMEOUT = 25
"""Seconds that an unused connection is kept; the server closes its side after 30."""

SUCCESS = 200

MAX_REFUSAL = 4096
"""Bytes of a refusal's text that people get to see."""


def reason_of(error: BaseException) -> str:
    """Why a request failed, in one line: of the errors that Twisted gathers, each one's own words."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(reason_of(failure.value) for failure in reasons)
    return str(error) or type(error).__name__


class Transport:
    """Makes requests as the identity that the client has when the first of them is made.

    After a rekey `is_stale` says so; the owner then closes it and makes another one.
    """

    def __init__(self, link: Link, settings: ClientSettings, reactor: Any) -> None:
        """@raise ConfigError: the settings ask for something that there is not."""
        identity = link.identity
        policy = ClientTlsPolicy(
            settings.trusted_certs, identity.key, identity.certificate, settings.server_name, link.is_revoked
        )
        self._link = link
        self._reactor = reactor
        self._client_id = identity.client_id
        self._headers = _headers(settings, to_pem(identity.certificate))
        self._endpoints = Endpoints(settings, reactor, policy, dialer_named(settings.dialer))
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.cachedConnectionTimeout = IDLE_TIMEOUT
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, self._pool)  # type: ignore[no-untyped-call]

    @property
    def is_stale(self) -> bool:
        """Has the client another identity by now?"""
        return self._link.identity.client_id != self._client_id

    def post(self, server: Server, path: str, body: IBodyProducer) -> Deferred[IResponse]:
        """Send a request; fires with the head of the response, of whatever status.  Cancelling ends the connection."""
        url = f"https://{server}{path}".encode("ascii")
        response: Deferred[IResponse] = self._agent.request(b"POST", url, self._headers, body)
        return response

    def get(self, server: Server, path: str, headers: Iterable[tuple[str, str]]) -> Deferred[IResponse]:
        """The same for a request without a body."""
        asked = self._headers.copy()
        asked.removeHeader("Content-Encoding")
        for name, value in headers:
            asked.addRawHeader(name, value)
        url = f"https://{server}{path}".encode("ascii")
        response: Deferred[IResponse] = self._agent.request(b"GET", url, asked)
        return response

    def open_stream(self, server: Server, path: str, on_drained: Callable[[], None]) -> Deferred[HttpStream]:
        """Connect, and begin a request whose body is written bit by bit; fires with it."""
        stream = HttpStream(str(server), path, self._headers.getAllRawHeaders(), on_drained, self._reactor)
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        connected = self._endpoints.to(server.host, server.port).connect(factory)
        return connected.addCallback(lambda _: stream)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        return closed


def _headers(settings: ClientSettings, certificate_pem: str) -> Headers:
    headers = Headers({"User-Agent": ["fleetspeak-client"]})
    if settings.communicator.compression == common.COMPRESSION_DEFLATE:
        headers.addRawHeader("Content-Encoding", "deflate")
    if settings.client_certificate_header:
        headers.addRawHeader(settings.client_certificate_header, certheader.encode(certificate_pem))
    return headers
