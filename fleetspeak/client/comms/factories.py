"""The factories of the built-in communicators."""

from __future__ import annotations

from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.interfaces import ICommunicator, ICommunicatorFactory


@implementer(IPlugin, ICommunicatorFactory)
class PollingFactory:
    """Makes `PollingCommunicator`s."""

    name = "polling"
    help = "Short requests, often while there is something going on, seldom otherwise."
    config_type = None

    def make(self, link: Link, settings: ClientSettings, reactor: Any) -> ICommunicator:
        return PollingCommunicator(link, settings, reactor)


@implementer(IPlugin, ICommunicatorFactory)
class StreamingFactory:
    """Makes `StreamingCommunicator`s."""

    name = "streaming"
    help = "One long connection: messages travel at once, both ways."
    config_type = None

    def make(self, link: Link, settings: ClientSettings, reactor: Any) -> ICommunicator:
        return StreamingCommunicator(link, settings, reactor)
