"""What all requests of a frontend share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from fleetspeak.ids import ClientId
from fleetspeak.server.contact.handler import ContactHandler
from fleetspeak.server.https.refusals import Refusals
from fleetspeak.server.https.running import Running
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.server.stats.meter import PollMeter


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """How long streams last, in seconds.

    Together with the jitter it must stay below 11 minutes: whoever notifies a stream takes an older one for gone.
    """

    lifespan: float = 600.0
    jitter: float = 30.0
    """At most so much is added, at random, so that a fleet does not come back all at once."""
    close_time: float = 30.0
    """So long before the end of the lifespan the client is told that nothing more will be sent."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all requests of a frontend share."""

    contacts: ContactHandler
    clock: IReactorTime
    refusals: Refusals
    running: Running = field(default_factory=Running)
    times: StreamTimes = field(default_factory=StreamTimes)
    uniform: Callable[[], float] = random.random
    """From 0 to 1, for what must not happen everywhere at the same time."""
    stats: ServerStats = NO_STATS

    def meter(self, poll_type: str, client_id: ClientId) -> PollMeter | None:
        """For an exchange that begins now; None if nobody listens."""
        return PollMeter(self.stats, poll_type, client_id) if self.stats.active else None
