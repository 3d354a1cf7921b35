"""The factory `CPS` of upstream, Cloud Pub/Sub: known by name so that its refusal says what it is."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import cpsservice


@implementer(IPlugin, IServerServiceFactory)
class CpsFactory:
    """Refuses to make anything."""

    name = "CPS"
    help = "Cloud Pub/Sub; not supported."
    config_type = cpsservice.Config

    def make(self, config: ProtobufMessage | None, context: IServerServiceContext) -> IServerService:
        """Raises ConfigError, always."""
        raise ConfigError(
            f'service "{context.service_name}": factory [CPS] (Cloud Pub/Sub) is not supported by this server; '
            "use factory [GRPC] and let the program it calls publish the messages"
        )
