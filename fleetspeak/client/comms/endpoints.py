"""Connections to servers: what the dialer gives, in limited time and kept alive, and TLS on it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from fleetspeak.client.comms.dialing import KeptAliveEndpoint
from fleetspeak.client.comms.handshake import HandshakenEndpoint
from fleetspeak.config.client import ClientSettings
from fleetspeak.interfaces import IDialer
from fleetspeak.security.tls import ClientTlsPolicy

DIAL_TIMEOUT = 75.0
"""Seconds that any dialer has; more than TCP to a proxy, TLS with it and its tunnel may take (30 s, 10 s, 30 s)."""


class DialTimeout(Exception):
    """A dialer did not come to an end in time."""


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Where connections come from, for one identity."""

    def __init__(self, settings: ClientSettings, reactor: Any, policy: ClientTlsPolicy, dialer: IDialer) -> None:
        self._settings = settings
        self._reactor = reactor
        self._policy = policy
        self._dialer = dialer

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        return self.to(uri.host.decode("ascii").strip("[]"), uri.port)

    def to(self, host: str, port: int) -> IStreamClientEndpoint:
        """The endpoint of one server.

        @raise ConfigError: the way there is named in a way that cannot be used.
        """
        creator = self._policy.creatorForNetloc(host.encode("ascii"), port)
        dialed = self._dialer.endpoint(host, port, self._settings, self._reactor)
        connected = KeptAliveEndpoint(_InTime(dialed, self._dialer.name, self._reactor))
        return HandshakenEndpoint(wrapClientTLS(creator, connected), self._reactor)


@implementer(IStreamClientEndpoint)
class _InTime:
    """An endpoint that is given up after `DIAL_TIMEOUT`, whatever it does."""

    def __init__(self, endpoint: IStreamClientEndpoint, dialer: str, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._dialer = dialer
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        connected: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connected.addTimeout(DIAL_TIMEOUT, self._clock, self._timed_out)

    def _timed_out(self, result: object, seconds: float) -> None:
        raise DialTimeout(f'the dialer "{self._dialer}" made no connection within {seconds:.0f} s')
