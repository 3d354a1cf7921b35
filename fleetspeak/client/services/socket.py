"""The factory ``Socket``: known by name, so that a configuration that asks for it is told what is the matter."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import socket_config


@implementer(IPlugin, IClientServiceFactory)
class SocketFactory:
    """Refuses: this client cannot serve a Unix socket yet."""

    name = "Socket"
    help = "exchanges messages with a process that connects to a Unix socket (not yet supported by this client)"
    config_type = socket_config.Config

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Raises ConfigError."""
        raise ConfigError("factory Socket is not supported by this client yet; use Daemon, or the Go client")
