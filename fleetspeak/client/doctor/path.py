"""The way to a server before TLS: names, TCP, proxies; by the client's own endpoints."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThreadPool

from fleetspeak.client.comms.dialing import DirectDialer, ProxyDialer, dialer_named, route, tcp, to_proxy
from fleetspeak.client.comms.http import reason_of
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.comms.tunnel import TunnelEndpoint
from fleetspeak.client.doctor.findings import Finding, failed, ok, skipped
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.proxies import Proxy
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IDialer

LIMIT = 75.0
"""Seconds for one step; each has shorter limits of its own, as in the client."""

NAME_LIMIT = 20.0
"""Seconds for the system to resolve a name."""


class Holder(Protocol):
    """A connection that is made to see that it can be made."""


async def connect(endpoint: IStreamClientEndpoint, reactor: Any) -> Any:
    """A connection with a `Holder` on it; the caller closes it.  Raises what the endpoint raises."""
    connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Holder))
    return await connecting.addTimeout(LIMIT, reactor)


class Way:
    """One server's way, step by step; each step is taken only if those before it held."""

    def __init__(self, server: Server, settings: ClientSettings, reactor: Any) -> None:
        self._server = server
        self._settings = settings
        self._reactor = reactor
        self.findings: list[Finding] = []

    async def examine(self) -> bool:
        """Go it.  True: what carries TLS can be had."""
        dialer = dialer_named(self._settings.dialer)
        if isinstance(dialer, DirectDialer):
            return await self._directly()
        if not isinstance(dialer, ProxyDialer):
            return await self._by_plug_in(dialer)
        try:
            proxy = route(self._settings, self._server.host, self._server.port, dialer.environment)
        except ConfigError as error:
            return self._failed("proxy", str(error), "correct it")
        return await (self._directly() if proxy is None else self._through(proxy))

    async def _by_plug_in(self, dialer: IDialer) -> bool:
        name = dialer.name
        try:
            endpoint = dialer.endpoint(self._server.host, self._server.port, self._settings, self._reactor)
            await self._try(endpoint)
        except Exception as error:
            return self._failed("dialer", f'"{name}" makes no connection: {reason_of(error)}', "see its documentation")
        return self._ok("dialer", f'"{name}" makes a connection')

    async def _directly(self) -> bool:
        host, port = self._server.host, self._server.port
        if not await self._resolves("name", host):
            return False
        self.findings.append(skipped("proxy", "none configured, and none in the environment", str(self._server)))
        try:
            await self._try(tcp(self._reactor, host, port))
        except Exception as error:
            return self._failed("tcp", f"no connection: {reason_of(error)}", _what_to_do(error))
        return self._ok("tcp", "a connection is accepted")

    async def _through(self, proxy: Proxy) -> bool:
        self.findings.append(skipped("name", f"{self._server.host} is resolved by the proxy", str(self._server)))
        if not await self._resolves("proxy name", proxy.host):
            return False
        try:
            await self._try(to_proxy(proxy, self._settings, self._reactor))
        except Exception as error:
            found = f"no connection to the proxy {proxy}: {reason_of(error)}"
            return self._failed("proxy tcp", found, "check its host and port in the configuration, or in HTTPS_PROXY")
        self._ok("proxy tcp", f"{proxy} accepts a connection")
        host, port = self._server.host, self._server.port
        leading = to_proxy(proxy, self._settings, self._reactor)
        try:
            await self._try(TunnelEndpoint(leading, proxy, host, port, self._reactor))
        except Exception as error:
            return self._failed("proxy", reason_of(error), "see what the proxy said; its administrator can tell more")
        return self._ok("proxy", f"{proxy} makes a connection to the server")

    async def _resolves(self, check: str, host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return self._ok(check, f"{host} is an address")
        pool = self._reactor.getThreadPool()
        looking: Deferred[list[Any]] = deferToThreadPool(
            self._reactor, pool, socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM
        )
        try:
            found = await looking.addTimeout(NAME_LIMIT, self._reactor)
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else reason_of(error)
            step = "check its spelling in the configuration, and this machine's name servers"
            return self._failed(check, f"{host} cannot be resolved: {reason}", step)
        return self._ok(check, f"{host} is {', '.join(sorted({str(info[4][0]) for info in found}))}")

    async def _try(self, endpoint: IStreamClientEndpoint) -> None:
        holder = await connect(endpoint, self._reactor)
        holder.transport.abortConnection()

    def _ok(self, check: str, found: str) -> bool:
        self.findings.append(ok(check, found, str(self._server)))
        return True

    def _failed(self, check: str, found: str, next_step: str) -> bool:
        self.findings.append(failed(check, found, next_step, str(self._server)))
        return False


def _what_to_do(error: Exception) -> str:
    if "refused" in reason_of(error).lower():
        return "check the port, and that the server runs there"
    return "check the address, and the firewalls on the way: from here nothing comes back"
