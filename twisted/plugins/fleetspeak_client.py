"""``twistd fleetspeak-client``."""

from twisted.application.service import ServiceMaker

fleetspeak_client = ServiceMaker(
    "Fleetspeak client",
    "fleetspeak.client.tap",
    "The client of a Fleetspeak fleet: keeps contact with its server, runs services, carries their messages.",
    "fleetspeak-client",
)
