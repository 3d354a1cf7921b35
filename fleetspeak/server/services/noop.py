"""The factory `NOOP`: accepts every message and does nothing with it."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common


@implementer(IServerService)
class NoopService:
    """Every message is processed."""

    def start(self) -> None:
        """Nothing to get ready."""

    def stop(self) -> None:
        """Nothing to finish."""

    def process(self, message: common.Message) -> None:
        """Take it."""


@implementer(IPlugin, IServerServiceFactory)
class NoopFactory:
    """Makes `NoopService`s."""

    name = "NOOP"
    help = "Accepts every message and does nothing with it."
    config_type = None

    def make(self, config: ProtobufMessage | None, context: IServerServiceContext) -> NoopService:
        """A configuration is ignored."""
        return NoopService()
