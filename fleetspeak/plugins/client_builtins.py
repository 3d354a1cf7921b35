"""The client service factories that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.client.services.daemon import DaemonFactory
from fleetspeak.client.services.noop import NoopFactory
from fleetspeak.client.services.socket import SocketFactory
from fleetspeak.client.services.stdin import StdinFactory

daemon = DaemonFactory()
noop = NoopFactory()
socket = SocketFactory()
stdin = StdinFactory()
