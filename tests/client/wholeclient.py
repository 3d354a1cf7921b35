"""A whole client in memory: everything is real but the transport, the clock, the disk and the kinds of services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.client.assembly import build_client
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.client.process.probe import Observation
from fleetspeak.client.service import ClientService
from fleetspeak.core.usage import Sample
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common, stdin_config, system
from fleetspeak.testing.clientside import (
    FakeCommunicator,
    FakeCommunicatorFactory,
    RecordingEnding,
    client_settings,
)

_Data = TypeVar("_Data", bound=ProtobufMessage)


@implementer(IClientService)
class Puppet:
    """A service whose behaviour its message types and its name choose."""

    def __init__(self, context: IClientServiceContext) -> None:
        self.context = context
        self.calls: list[str] = []
        self.messages: list[common.Message] = []
        self.hanging: list[Deferred[None]] = []

    def start(self) -> Awaitable[None] | None:
        self.calls.append("start")
        if self.context.service_name == "Broken":
            raise RuntimeError("this one never works")
        if self.context.service_name == "Endless":
            return Deferred()
        return None

    def process(self, message: common.Message) -> Awaitable[None] | None:
        self.messages.append(message)
        if message.message_type == "bad":
            raise ValueError("a terrible test error")
        if message.message_type == "hang":
            self.hanging.append(Deferred())
            return self.hanging[-1]
        return None

    def stop(self) -> Awaitable[None] | None:
        self.calls.append("stop")
        self.context.send(common.Message(destination=common.Address(service_name="Last"), message_type="words"))
        return Deferred() if self.context.service_name == "Clinging" else None


@implementer(IClientServiceFactory)
class PuppetFactory:
    """Keeps all it made."""

    name = "Puppet"
    help = "does as it is told"
    config_type = stdin_config.Config

    def __init__(self) -> None:
        self.made: list[Puppet] = []
        self.configs: list[ProtobufMessage | None] = []
        self.broken = False

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        if self.broken or context.service_name == "Refused":
            raise ConfigError("cmd is missing, expected a program")
        self.configs.append(config)
        self.made.append(Puppet(context))
        return self.made[-1]


class WholeClientCase(SynchronousTestCase):
    """Starts clients whose text services are given as texts."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "services").mkdir()
        (self.folder / "textservices").mkdir()
        self.settings: dict[str, Any] = {"configuration_directory": self.folder}
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.persistence = MemoryPersistence()
        self.ending = RecordingEnding()
        self.factory = PuppetFactory()
        self.factories: dict[str, IClientServiceFactory] = {"Puppet": self.factory}
        self.communicators = FakeCommunicatorFactory()

    def install(self, *names: str, extra: str = "") -> None:
        for name in names:
            (self.folder / "textservices" / name).write_text(f'name: "{name}" factory: "Puppet"\n{extra}')

    def start(self, **options: Any) -> ClientService:
        service = build_client(
            client_settings(**self.settings),
            self.clock,
            self.ending,
            persistence=self.persistence,
            in_thread=options.pop("in_thread", in_thread),
            factories=self.factories,
            communicator=self.communicators,
            observe=observe,
            **options,
        )
        service.startService()
        return service

    @property
    def server(self) -> FakeCommunicator:
        return self.communicators.communicator

    @property
    def client_id(self) -> ClientId:
        return self.server.link.identity.client_id

    def puppet(self, name: str) -> Puppet:
        """The latest instance of that name."""
        return [puppet for puppet in self.factory.made if puppet.context.service_name == name][-1]

    def message(
        self, service: str, number: int, message_type: str = "", data: ProtobufMessage | None = None
    ) -> common.Message:
        destination = common.Address(service_name=service, client_id=self.client_id)
        message = common.Message(message_id=b"%032d" % number, destination=destination, message_type=message_type)
        if data is not None:
            message.data.Pack(data)
        return message

    def sent(self, *messages: common.Message) -> dict[str, list[common.Message]]:
        """Give the client these, and two seconds; what it sends, by type."""
        sent = self.server.exchange(*messages)
        self.clock.advance(1)
        self.clock.advance(1)
        by_type: dict[str, list[common.Message]] = {}
        for message in sent + self.server.exchange():
            by_type.setdefault(message.message_type, []).append(message)
        return by_type


def unpack(message: common.Message, data: _Data) -> _Data:
    assert message.data.Unpack(data), message
    return data


def info_of(message: common.Message) -> list[str]:
    return sorted(service.name for service in unpack(message, system.ClientInfoData()).services)


def acks_of(messages: list[common.Message]) -> list[bytes]:
    return [id for message in messages for id in unpack(message, system.MessageAckData()).message_ids]


def errors_of(messages: list[common.Message]) -> list[tuple[bytes, str]]:
    errors = [unpack(message, system.MessageErrorData()) for message in messages]
    return [(error.message_id, error.error) for error in errors]


def in_thread(call: Callable[..., Any], /, *args: Any) -> Deferred[Any]:
    """Do it at once."""
    return execute(call, *args)


_moments = count(1.0)


def observe(pid: int, /) -> Deferred[Observation]:
    """A process that does nothing, every time a second later."""
    return succeed(Observation(Sample(next(_moments), 0, 0, 4096, 3), "Name:\tquiet\n"))
