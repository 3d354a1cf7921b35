"""HTTP over mutual TLS to the servers, with the client's current identity."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse

from fleetspeak.client.comms.dialing import dialer_named
from fleetspeak.client.comms.endpoints import Endpoints
from fleetspeak.client.comms.httpstream import HttpStream
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import NotProcessed
from fleetspeak.pb import common
from fleetspeak.security.certificates import to_pem
from fleetspeak.security.tls import ClientTlsPolicy
from fleetspeak.wire import certheader

if TYPE_CHECKING:
    from fleetspeak.client.comms.h2connection import H2Connection
    from fleetspeak.client.comms.h2pool import Http2

IDLE_TIMEOUT = 25
"""Seconds that an unused connection is kept; the server closes its side after 30."""

SUCCESS = 200

MAX_REFUSAL = 4096
"""Bytes of a refusal's text that people get to see."""

_log = Logger()
_T = TypeVar("_T")
_RawHeaders = Iterable[tuple[bytes, Sequence[bytes]]]


def reason_of(error: BaseException) -> str:
    """Why a request failed, in one line: of the errors that Twisted gathers, each one's own words."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(reason_of(failure.value) for failure in reasons)
    return str(error) or type(error).__name__


class RequestStream(Protocol):
    """One request whose answer begins before its body ends, over whatever version of HTTP."""

    response: Deferred[IResponse]
    """Fires with the head of the response."""
    full: bool
    """More is to be sent than could be; writing now only fills memory."""

    def write(self, data: bytes) -> None:
        """Send more of the request's body."""

    def end(self) -> None:
        """The request is complete; it is over soon, whatever the server does."""

    def abort(self) -> None:
        """End it without waiting for what was not sent."""


class Transport:
    """Makes requests as the identity that the client has when the first of them is made.

    After a rekey `is_stale` says so; the owner then closes it and makes another one.
    """

    def __init__(self, link: Link, settings: ClientSettings, reactor: Any) -> None:
        """@raise ConfigError: the settings ask for something that there is not."""
        identity = link.identity

        def endpoints(*, offer_http2: bool) -> Endpoints:
            policy = ClientTlsPolicy(
                settings.trusted_certs,
                identity.key,
                identity.certificate,
                settings.server_name,
                link.is_revoked,
                offer_http2=offer_http2,
            )
            return Endpoints(settings, reactor, policy, dialer_named(settings.dialer))

        self._link = link
        self._reactor = reactor
        self._client_id = identity.client_id
        self._headers = _headers(settings, to_pem(identity.certificate))
        self._endpoints = endpoints(offer_http2=False)
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.cachedConnectionTimeout = IDLE_TIMEOUT
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, self._pool)  # type: ignore[no-untyped-call]
        self._http2: Http2 | None = None
        if settings.communicator.prefer_http2:
            self._http2 = _http2(endpoints(offer_http2=True), reactor)

    @property
    def is_stale(self) -> bool:
        """Has the client another identity by now?"""
        return self._link.identity.client_id != self._client_id

    def post(self, server: Server, path: str, body: IBodyProducer) -> Deferred[IResponse]:
        """Send a request; fires with the head of the response, of whatever status.  Cancelling ends the request."""
        return self._request("POST", server, path, self._headers, body)

    def get(self, server: Server, path: str, headers: Iterable[tuple[str, str]]) -> Deferred[IResponse]:
        """The same for a request without a body."""
        asked = self._headers.copy()
        asked.removeHeader("Content-Encoding")
        for name, value in headers:
            asked.addRawHeader(name, value)
        return self._request("GET", server, path, asked, None)

    def open_stream(self, server: Server, path: str, on_drained: Callable[[], None]) -> Deferred[RequestStream]:
        """Connect, and begin a request whose body is written bit by bit; fires with it."""
        return Deferred.fromCoroutine(self._open_stream(server, path, on_drained))

    async def close(self) -> None:
        """Close the connections that are kept."""
        if self._http2 is not None:
            await self._http2.close()
        closed: Deferred[None] = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        await closed

    def _request(
        self, method: str, server: Server, path: str, headers: Headers, body: IBodyProducer | None
    ) -> Deferred[IResponse]:
        if self._http2 is None:
            return self._http1_request(method, server, path, headers, body)
        return Deferred.fromCoroutine(self._http2_request(self._http2, method, server, path, headers, body))

    def _http1_request(
        self, method: str, server: Server, path: str, headers: Headers, body: IBodyProducer | None
    ) -> Deferred[IResponse]:
        url = f"https://{server}{path}".encode("ascii")
        response: Deferred[IResponse] = self._agent.request(method.encode("ascii"), url, headers, body)
        return response

    async def _http2_request(
        self, http2: Http2, method: str, server: Server, path: str, headers: Headers, body: IBodyProducer | None
    ) -> IResponse:
        async def over(connection: H2Connection | None) -> IResponse:
            if connection is None:
                return await self._http1_request(method, server, path, headers, body)
            return await connection.request(method, str(server), path, headers.getAllRawHeaders(), body)

        return await _twice(http2, server, over)

    async def _open_stream(self, server: Server, path: str, on_drained: Callable[[], None]) -> RequestStream:
        headers = list(self._headers.getAllRawHeaders())

        async def over(connection: H2Connection | None) -> RequestStream:
            if connection is None:
                return await self._http1_stream(server, path, headers, on_drained)
            return connection.begin("POST", str(server), path, headers, on_drained)

        if self._http2 is None:
            return await over(None)
        return await _twice(self._http2, server, over)

    def _http1_stream(
        self, server: Server, path: str, headers: _RawHeaders, on_drained: Callable[[], None]
    ) -> Deferred[HttpStream]:
        stream = HttpStream(str(server), path, headers, on_drained, self._reactor)
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        connected = self._endpoints.to(server.host, server.port).connect(factory)
        return connected.addCallback(lambda _: stream)


def _http2(endpoints: Endpoints, reactor: Any) -> Http2 | None:
    try:
        from fleetspeak.client.comms.h2pool import Http2
    except ImportError:
        _log.warn(
            "prefer_http2 needs a package that is not installed, HTTP/1.1 is used; "
            "install it with: pip install 'fleetspeak-twisted[http2]'"
        )
        return None
    return Http2(endpoints, reactor)


async def _twice(http2: Http2, server: Server, over: Callable[[H2Connection | None], Coroutine[Any, Any, _T]]) -> _T:
    """Do it over a connection; over another one, if the server closed the first before it began with it."""
    try:
        return await over(await http2.connection(server))
    except NotProcessed:
        return await over(await http2.connection(server))


def _headers(settings: ClientSettings, certificate_pem: str) -> Headers:
    headers = Headers({"User-Agent": ["fleetspeak-client"]})
    if settings.communicator.compression == common.COMPRESSION_DEFLATE:
        headers.addRawHeader("Content-Encoding", "deflate")
    if settings.client_certificate_header:
        headers.addRawHeader(settings.client_certificate_header, certheader.encode(certificate_pem))
    return headers
