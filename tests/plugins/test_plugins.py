"""The plug-ins that come with Fleetspeak are found, are what they say, and others' are found like them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from twisted.application.service import IServiceMaker
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

import fleetspeak.plugins
from fleetspeak.interfaces import (
    IAuthorizer,
    IAuthorizerFactory,
    IClientServiceFactory,
    ICommunicatorFactory,
    IDialer,
    IFactory,
    IFileStoreFactory,
    IListener,
    INotifier,
    INotifierFactory,
    IServerServiceFactory,
    IStore,
    IStoreFactory,
)
from fleetspeak.server.authorizers import AllowAll, RequiredLabel
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.local import LocalListener, LocalNotifier
from fleetspeak.store.memory import MemoryStore
from fleetspeak.store.sqlite import SqliteStore

FACTORIES = {
    IServerServiceFactory: {"GRPC", "GRPC_TLS", "NOOP", "MessageSaver", "CPS"},
    IClientServiceFactory: {"Daemon", "Stdin", "NOOP", "Socket"},
    ICommunicatorFactory: {"polling", "streaming"},
    IDialer: {"proxy", "direct"},
    IAuthorizerFactory: {"all", "label"},
    IStoreFactory: {"sqlite", "mysql"},
    INotifierFactory: {"redis"},
    IFileStoreFactory: {"directory"},
}

FOREIGN = """
from zope.interface import implementer
from fleetspeak.interfaces import IClientServiceFactory

@implementer(IClientServiceFactory)
class Factory:
    name = "Foreign"
    help = "Comes in a package of its own."
    config_type = None
    def make(self, config, context): ...

foreign = Factory()
"""


def found(interface: Any) -> list[Any]:
    return list(getPlugins(interface, fleetspeak.plugins))


class BuiltInTests(SynchronousTestCase):
    def test_every_factory_is_found_by_its_name(self) -> None:
        for interface, names in FACTORIES.items():
            self.assertEqual(sorted(factory.name for factory in found(interface)), sorted(names))

    def test_every_factory_is_what_it_says(self) -> None:
        for interface in FACTORIES:
            for factory in found(interface):
                verifyObject(interface, factory)
                self.assertRegex(factory.help, r"\A[^\n]+\Z", factory.name)
                if interface.isOrExtends(IFactory):
                    config_type = factory.config_type
                    self.assertTrue(config_type is None or issubclass(config_type, Message), factory.name)

    def test_twistd_finds_both_programs(self) -> None:
        makers = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        for name in ("fleetspeak-server", "fleetspeak-client"):
            verifyObject(IServiceMaker, makers[name])

    def test_the_other_implementations_keep_their_interfaces(self) -> None:
        for authorizer in (AllowAll(), RequiredLabel("corp")):
            verifyObject(IAuthorizer, authorizer)
        verifyObject(INotifier, LocalNotifier(Dispatcher(), Clock()))
        verifyObject(IListener, LocalListener())
        for store in (MemoryStore, SqliteStore):
            verifyClass(IStore, store)


class ForeignTests(SynchronousTestCase):
    def test_a_package_of_somebody_else_adds_its_own(self) -> None:
        """It has a folder fleetspeak/plugins without __init__.py, anywhere on the path."""
        plugins = Path(self.mktemp()) / "fleetspeak" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "mine.py").write_text(FOREIGN)
        program = (
            "from twisted.plugin import getPlugins; import fleetspeak.plugins; "
            "from fleetspeak.interfaces import IClientServiceFactory as I; "
            "print([factory.name for factory in getPlugins(I, fleetspeak.plugins)])"
        )
        environment = {"PYTHONPATH": str(plugins.parents[1].absolute())}
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        self.assertIn("'Foreign'", ended.stdout)
        self.assertIn("'NOOP'", ended.stdout)
