"""The communicators that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.client.comms.factories import PollingFactory, StreamingFactory

polling = PollingFactory()
streaming = StreamingFactory()
