"""Doubles for those who write client services and communicators: everything in memory, on any clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from fleetspeak.client.comms.servers import Server
from fleetspeak.client.files import MAX_FILE, PATIENCE
from fleetspeak.client.flow import Flow
from fleetspeak.client.identity import KeyedIdentity, new_identity
from fleetspeak.client.link import Link
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.process.leftover import LeftOver, NoShelf
from fleetspeak.client.stats import Stats
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import FileUnavailable
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IClientServiceContext, IClientStats, ICommunicator, ICommunicatorFactory
from fleetspeak.pb import client, common
from fleetspeak.records import FetchedFile
from fleetspeak.wire import contact as wire_contact

TEST_CLIENT_ID = ClientId(bytes.fromhex("0102030405060708"))


@implementer(IClientServiceContext)
class RecordingContext:
    """What a client service gets; keeps in `sent` what the service sends.

    With `hold` set, messages are not accepted until `accept` is called, as with a full outbox.
    """

    def __init__(self, service_name: str = "TestService", reactor: Any = None, *, std_forward: bool = False) -> None:
        self.service_name = service_name
        self.reactor = Clock() if reactor is None else reactor
        self.client_id = TEST_CLIENT_ID
        self.labels = ("amd64", "linux")
        self.stats = Stats()
        self.std_forward = std_forward
        self.child_variables: dict[str, str] = {}
        self.left_over = LeftOver(service_name, NoShelf(), execute)
        self.spooled = False
        """Set it to have the service behave as if what it sends went to a disk."""
        self.hold = False
        self.files: dict[str, bytes] = {}
        """What servers have for this service."""
        self.sent: list[common.Message] = []
        self.on_acks: list[Callable[[], None] | None] = []
        self._held: list[tuple[common.Message, Callable[[], None] | None, Deferred[None]]] = []

    def service_names(self) -> list[str]:
        """The installed services: only this one."""
        return [self.service_name]

    def send(self, message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        """Keep the message."""
        if self.hold:
            accepted: Deferred[None] = Deferred(lambda _: self._held.remove(held))
            held = (message, on_ack, accepted)
            self._held.append(held)
            return accepted
        self._keep(message, on_ack)
        return succeed(None)

    def get_file(
        self,
        name: str,
        path: Path,
        *,
        since: float | None = None,
        max_bytes: int = MAX_FILE,
        timeout: float = PATIENCE,
    ) -> Deferred[FetchedFile | None]:
        """One of `files`, undated."""
        if name not in self.files:
            return fail(FileUnavailable("unable to retrieve file, last attempt failed with: it is not there", 404))
        path.write_bytes(self.files[name])
        return succeed(FetchedFile(len(self.files[name]), None))

    def accept(self) -> None:
        """Take what is held, and hold nothing from now on."""
        self.hold = False
        held, self._held = self._held, []
        for message, on_ack, accepted in held:
            self._keep(message, on_ack)
            accepted.callback(None)

    def confirm(self) -> None:
        """The server has all that was sent: call who asked to be told."""
        on_acks, self.on_acks = self.on_acks, []
        for on_ack in on_acks:
            if on_ack is not None:
                on_ack()

    def _keep(self, message: common.Message, on_ack: Callable[[], None] | None) -> None:
        kept = common.Message()
        kept.CopyFrom(message)
        self.sent.append(kept)
        self.on_acks.append(on_ack)


@implementer(IClientStats)
class RecordingStats:
    """A statistics plug-in that notes what it is told (`fleetspeak.interfaces.IClientStats`)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        """Names of hooks, each with its arguments."""

    def __getattr__(self, hook: str) -> Callable[..., None]:
        if hook not in IClientStats:
            raise AttributeError(hook)
        return lambda *arguments: self.told.append((hook, arguments))

    def calls(self, hook: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of that hook."""
        return [arguments for told, arguments in self.told if told == hook]


class RecordingEnding:
    """Notes what would end the process (`fleetspeak.program.ending.Ending`)."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.aborted: list[int] = []
        self.complaints: list[str] = []

    def begin(self) -> None:
        """Nothing to prepare."""

    def end(self, status: int) -> None:
        """Note it."""
        self.ended.append(status)

    def abort(self, status: int) -> None:
        """Note it."""
        self.aborted.append(status)

    def stuck(self, why: str) -> None:
        """Note it."""
        self.complaints.append(why)


class FakeLink:
    """What a communicator gets (`fleetspeak.client.link.Link`), with a real outbox and a real identity."""

    def __init__(self, labels: Sequence[str] = ("amd64", "linux")) -> None:
        self.outbox = ClientOutbox()
        self.identity: KeyedIdentity = new_identity(1_700_000_000.0)
        self.flow = Flow()
        self.stats = Stats()
        self.labels = labels
        self.nonce = 0
        self.revoked: set[int] = set()
        self.contacts: list[common.ContactData] = []
        """What `received` was given."""
        self.messages: list[common.Message] = []
        """The messages in them."""
        self.attempts: list[str] = []
        """What `attempting` was given."""
        self.servers: list[str] = []
        """What `contacted` was given."""
        self.gave_up: list[tuple[str, int]] = []

    def rekey(self) -> None:
        """Become somebody else."""
        self.identity = new_identity(1_700_000_000.0)

    def contact(self, messages: Sequence[common.Message], *, first: bool) -> bytes:
        """As the real one, but for the clock."""
        tokens = self.flow.tokens(first=first)
        contact = common.ContactData(sequencing_nonce=self.nonce, messages=messages, AllowedMessages=tokens)
        return wire_contact.wrap(contact, self.labels)

    def received(self, contact: common.ContactData, *, first: bool) -> None:
        """Keep it."""
        if first:
            self.nonce = contact.sequencing_nonce
        self.contacts.append(contact)
        self.messages.extend(contact.messages)

    def when_beacon(self) -> Deferred[None]:
        """As the real one; `flow.processed` leads to it."""
        return self.flow.when_beacon()

    def is_revoked(self, serial: int) -> bool:
        """Is it in `revoked`?"""
        return serial in self.revoked

    def attempting(self, server: str) -> None:
        """Note it."""
        self.attempts.append(server)

    def contacted(self, server: str) -> None:
        """Note it."""
        self.servers.append(server)

    def give_up(self, reason: str, exit_code: int) -> None:
        """Note it."""
        self.gave_up.append((reason, exit_code))


@implementer(IResponse)
class FakeResponse:
    """An answer whose body is there at once."""

    version = (b"HTTP", 1, 1)
    phrase = b"Text"
    request = None
    previousResponse = None  # noqa: N815

    def __init__(self, code: int, content: bytes, headers: Mapping[str, Sequence[str]] | None = None) -> None:
        self.code = code
        self.length = len(content)
        self.headers = Headers(headers)
        self._content = content

    def deliverBody(self, protocol: Protocol) -> None:  # noqa: N802
        """All of it."""
        protocol.dataReceived(self._content)
        protocol.connectionLost(Failure(ResponseDone()))  # type: ignore[no-untyped-call]

    def setPreviousResponse(self, previous: IResponse) -> None:  # noqa: N802
        """There is none."""


@implementer(ICommunicator)
class FakeCommunicator:
    """A transport and a server in one: a test says when there is contact, and what the server sends."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.started = False
        self.stopped = False
        self.resets = 0
        self.contacts: list[common.ContactData] = []
        """Every contact data that the client made."""
        self.files: dict[str, bytes] = {}
        """What the server has, by path."""
        self.asked: list[tuple[str, Sequence[tuple[str, str]]]] = []
        """Paths and headers of all requests for files."""
        self.hangs = False
        """Requests for files are not answered."""

    def start(self) -> None:
        """Note it."""
        self.started = True

    def stop(self) -> Deferred[None]:
        """A last contact, if there is something for it."""
        self.exchange(first=False)
        self.stopped = True
        return succeed(None)

    def reset(self) -> None:
        """Note it."""
        self.resets += 1

    def servers(self) -> Sequence[Server]:
        """There is one."""
        return [Server("memory", 0)]

    def get(self, server: Server, path: str, headers: Sequence[tuple[str, str]]) -> Deferred[IResponse]:
        """One of `files`."""
        self.asked.append((path, headers))
        if self.hangs:
            return Deferred()
        content = self.files.get(path)
        return succeed(FakeResponse(404, b"file not found\n") if content is None else FakeResponse(200, content))

    def flush(self) -> Deferred[None]:
        """A contact, for what there is."""
        self.exchange(first=False)
        return succeed(None)

    def exchange(self, *messages: common.Message, first: bool = True, nonce: int = 1) -> list[common.Message]:
        """One contact: the client sends what it has, and gets these messages.

        @return: what the client sent.
        """
        entries = self.link.outbox.take(100, 15 * 1024 * 1024)
        sent = [entry.message for entry in entries]
        contact = wire_contact.parse(wire_contact.unwrap(self.link.contact(sent, first=first)).contact_data)
        self.contacts.append(contact)
        self.link.contacted("memory:0")
        self.link.received(common.ContactData(sequencing_nonce=nonce, messages=messages), first=first)
        self.link.outbox.ack(entries)
        return list(contact.messages)


@implementer(ICommunicatorFactory)
class FakeCommunicatorFactory:
    """Makes `FakeCommunicator`s; the last one is in `made`."""

    name = "fake"
    help = "carries messages between a client and its test"
    config_type = None

    def __init__(self) -> None:
        self.made: FakeCommunicator | None = None
        self.hangs = False
        """For those it makes."""

    def make(self, link: Link, settings: ClientSettings, reactor: Any) -> ICommunicator:
        """Make one."""
        self.made = FakeCommunicator(link)
        self.made.hangs = self.hangs
        return self.made

    @property
    def communicator(self) -> FakeCommunicator:
        """The one that was made."""
        assert self.made is not None, "no communicator was made: the client has not started"
        return self.made


def client_settings(**changes: Any) -> ClientSettings:
    """Settings of a client that keeps nothing on the disk and has no server."""
    values: dict[str, Any] = {
        "trusted_certs": (),
        "servers": (("localhost", 1),),
        "labels": ("amd64", "linux"),
        "streaming": False,
        "configuration_directory": None,
        "state_file": None,
        "spool_limit": None,
        "communicator": client.CommunicatorConfig(),
    }
    return ClientSettings(**(values | changes))
