"""Dialers: how a client gets a connection to its server, before TLS.  Others can be plugged in."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from zope.interface import implementer

from fleetspeak.client.comms.handshake import HandshakenEndpoint
from fleetspeak.client.comms.tunnel import TunnelEndpoint
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.proxies import Proxy, environment_proxy, parse_proxy
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IDialer
from fleetspeak.lookup import PLUG_INS
from fleetspeak.security.tls import proxy_tls

DEFAULT_DIALER = "proxy"
"""What is used when no dialer is named."""

CONNECT_TIMEOUT = 30.0
"""Seconds for TCP; upstream's."""

KEEP_ALIVE = 30
"""Seconds of silence until the kernel probes a connection, and between its probes; upstream's."""

_PROBES = 4
"""Unanswered probes after which a connection is dead; with `KEEP_ALIVE` that is noticed within about 2.5 minutes."""


def dialer_named(name: str) -> IDialer:
    """The dialer of this name, built in or plugged in; the default one if it is empty.

    @raise ConfigError: there is none; names those that there are.
    """
    dialers: dict[str, IDialer] = PLUG_INS.by_name(IDialer)
    wanted = name or DEFAULT_DIALER
    if wanted not in dialers:
        raise ConfigError(f'no dialer is called "{wanted}"; {PLUG_INS.instead(list(dialers))}')
    return dialers[wanted]


def route(settings: ClientSettings, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to this server: the configured one, otherwise the environment's; None for none.

    @raise ConfigError: a proxy is named that cannot be one.
    """
    try:
        return parse_proxy(settings.proxy) if settings.proxy else environment_proxy(environment, host, port)
    except ValueError as error:
        raise ConfigError(f"proxy: {error}") from None


def tcp(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    """TCP to a host, by each of its addresses until one takes it, kept alive."""
    return KeptAliveEndpoint(HostnameEndpoint(reactor, host, port, CONNECT_TIMEOUT))


def to_proxy(proxy: Proxy, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
    """A connection to the proxy itself; through TLS if it wants that."""
    endpoint = tcp(reactor, proxy.host, proxy.port)
    if proxy.scheme == "https":
        creator = proxy_tls(settings.trusted_certs, proxy.host)
        return HandshakenEndpoint(wrapClientTLS(creator, endpoint), reactor)
    return endpoint


@implementer(IDialer)
class ProxyDialer:
    """Through the proxy that the configuration or the environment names, and without one if neither does."""

    name = "proxy"
    help = "Through the configured proxy, or that of HTTPS_PROXY and NO_PROXY; directly if there is none."

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.environment = environment

    def endpoint(self, host: str, port: int, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
        proxy = route(settings, host, port, self.environment)
        if proxy is None:
            return tcp(reactor, host, port)
        return TunnelEndpoint(to_proxy(proxy, settings, reactor), proxy, host, port, reactor)


@implementer(IDialer)
class DirectDialer:
    """Never through a proxy."""

    name = "direct"
    help = "Directly, whatever proxy the configuration or the environment names."

    def endpoint(self, host: str, port: int, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
        return tcp(reactor, host, port)


@implementer(IStreamClientEndpoint)
class KeptAliveEndpoint:
    """An endpoint whose TCP connections are probed by the kernel, so that a silently dead path is found."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        return self._endpoint.connect(protocolFactory).addCallback(_keep_alive)


def _keep_alive(protocol: Any) -> Any:
    tcp = protocol.transport
    handle = tcp.getHandle() if ITCPTransport.providedBy(tcp) and hasattr(tcp, "getHandle") else None
    if isinstance(handle, socket.socket) and handle.family in (socket.AF_INET, socket.AF_INET6):
        tcp.setTcpNoDelay(True)
        tcp.setTcpKeepAlive(True)
        for option, value in (("TCP_KEEPIDLE", KEEP_ALIVE), ("TCP_KEEPINTVL", KEEP_ALIVE), ("TCP_KEEPCNT", _PROBES)):
            if hasattr(socket, option):
                handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return protocol
