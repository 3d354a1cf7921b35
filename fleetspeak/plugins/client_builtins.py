"""The client service factories that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.client.services.noop import NoopFactory
from fleetspeak.client.services.socket import SocketFactory

noop = NoopFactory()
socket = SocketFactory()
