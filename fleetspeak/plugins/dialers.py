"""The dialers that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.client.comms.dialing import DirectDialer, ProxyDialer

proxy = ProxyDialer()
direct = DirectDialer()
