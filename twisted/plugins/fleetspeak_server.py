"""``twistd fleetspeak-server``."""

from twisted.application.service import ServiceMaker

fleetspeak_server = ServiceMaker(
    "Fleetspeak server",
    "fleetspeak.server.tap",
    "The server of a Fleetspeak fleet: keeps contact with clients, stores and forwards messages.",
    "fleetspeak-server",
)
