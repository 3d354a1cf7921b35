"""A client that twistd runs, with a transport in memory; the environment variable ENDING says what ends it."""

import os
import signal
import time
from pathlib import Path

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import Deferred

import fleetspeak.client.service
from fleetspeak.client.assembly import build_client
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.program.ending import ProcessEnd
from fleetspeak.errors import ConfigError
from fleetspeak.pb import common, system
from fleetspeak.testing.clientside import FakeCommunicatorFactory, client_settings


class Unkept(MemoryPersistence):
    """A state that cannot be read."""

    def load(self):
        raise ConfigError("there is no room for the state")


def die(force):
    server = communicators.communicator
    destination = common.Address(service_name="system", client_id=server.link.identity.client_id)
    message = common.Message(message_id=b"0" * 32, destination=destination, message_type="Die")
    message.data.Pack(system.DieRequest(force=force))
    server.exchange(message)


def hang():
    fleetspeak.client.service.STOP_LIMIT = 0.1
    communicators.communicator.stop = Deferred
    reactor.stop()


def wedge():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)


def wedge_by_abort():
    os.kill(os.getpid(), signal.SIGABRT)


def block_a_thread():
    reactor.callInThread(time.sleep, 600)
    os.kill(os.getpid(), signal.SIGTERM)


def profile():
    os.kill(os.getpid(), signal.SIGUSR1)
    reactor.callLater(0, reactor.callLater, 0, reactor.stop)


ENDINGS = {
    "die": lambda: die(force=False),
    "forced die": lambda: die(force=True),
    "lonely": lambda: communicators.communicator.link.give_up("Too Lonely!", 2),
    "hang": hang,
    "wedged": wedge,
    "abort": wedge_by_abort,
    "blocked thread": block_a_thread,
    "SIGUSR1": profile,
}
ending = os.environ["ENDING"]
if ending in ENDINGS:
    reactor.callLater(0, ENDINGS[ending])

communicators = FakeCommunicatorFactory()
application = Application("client")
build_client(
    client_settings(),
    reactor,
    ProcessEnd(reactor, limit=float(os.environ["LIMIT"]), profile_dir=Path(os.environ["PROFILE_DIR"])),
    persistence=Unkept() if ending == "no state" else None,
    communicator=communicators,
).setServiceParent(application)
