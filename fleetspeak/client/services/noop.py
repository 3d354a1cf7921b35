"""The factory ``NOOP``: a service that takes every message and does nothing with it."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common


@implementer(IPlugin, IClientServiceFactory)
class NoopFactory:
    """Makes `NoopService`s."""

    name = "NOOP"
    help = "takes every message and does nothing with it"
    config_type = None

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Never fails; whatever the configuration says does not matter."""
        return NoopService()


@implementer(IClientService)
class NoopService:
    """Every message is processed as soon as it comes."""

    def start(self) -> None:
        """There is nothing to get ready."""

    def process(self, message: common.Message) -> None:
        """Done."""

    def stop(self) -> None:
        """There is nothing to end."""
