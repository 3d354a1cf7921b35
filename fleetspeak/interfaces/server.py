"""What an installation may implement for its servers, except the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from fleetspeak.interfaces.factory import IFactory

if TYPE_CHECKING:
    from google.protobuf.message import Message as ProtobufMessage
    from twisted.internet.defer import Deferred

    from fleetspeak.core.authorization import CheckedSignature, Claimed
    from fleetspeak.ids import ClientId
    from fleetspeak.pb import common
    from fleetspeak.records import ClientData, FileStat


class IServerServiceFactory(IFactory):
    """Builds server services of one kind, for the `factory` of a `fleetspeak.server.ServiceConfig`."""

    def make(config: ProtobufMessage | None, context: IServerServiceContext) -> IServerService | IBatchServerService:
        """Build a service.

        @param config: a message of `config_type`, or None if the file gave none.
        @param context: an `IServerServiceContext`.
        @return: an `IServerService`, or an `IBatchServerService`; what provides both is given lists.
        @raise fleetspeak.errors.ConfigError: the configuration cannot work; the server then does not start.
        """


class IServerEndpoint(Interface):
    """What all services of a server have in common."""

    def start() -> Awaitable[None] | None:
        """Get ready.  @return: Awaitable or None; a failure stops the server's start."""

    def stop() -> Awaitable[None] | None:
        """Finish.  Called after the last call has ended.  @return: Awaitable or None."""


class IServerService(IServerEndpoint):
    """One named endpoint on the server."""

    def process(message: common.Message) -> Awaitable[None] | None:
        """Process one `fleetspeak.Message`; the same message may come again (at least once).

        Several calls run at a time, up to the service's max_parallelism; each is cancelled after 30 s, and ends then,
        or its outcome does not count.  The message must not be changed: it is stored as it is if it has to wait.

        @return: Awaitable or None; success makes the message processed.
        @raise fleetspeak.errors.TemporaryError: not now; the message is kept and tried again, after 1 to 2 minutes and
            then ever more rarely, as the operator has it.
        @raise fleetspeak.errors.PermanentError: never; the text, up to 900 bytes of it, becomes its failed_reason.
            Any other exception is logged with its traceback and counts as temporary; not even SystemExit ends more than
            the call.
        """


class IBatchServerService(IServerEndpoint):
    """One named endpoint on the server that takes what came together as a list.

    What it does not process is kept and tried again like that of any other service.
    """

    def process_batch(
        messages: Sequence[common.Message],
    ) -> Awaitable[Sequence[Exception | None] | None] | Sequence[Exception | None] | None:
        """Process the messages for this service of one poll, of one record of a stream, or of one look at the backlog.

        All that `IServerService.process` says holds for each list; max_parallelism counts lists.

        @param messages: `fleetspeak.Message`s, at least one and at most 100, in the order of their arrival.
        @return: None, if all are processed, or a list with one outcome for each message in the same order: None, or
            the exception that `process` would have raised for it; or an Awaitable of either.
        @raise Exception: it counts for each of the messages.
        """


class IServerServiceContext(Interface):
    """What a server service may use."""

    service_name = Attribute("str: the name it is installed under.")
    reactor = Attribute("The reactor; tests pass a clock.")

    def send(message: common.Message) -> Awaitable[None]:
        """Send a `fleetspeak.Message` from this service; source, id and creation time are filled in.

        A connected client gets it at once.  @return: Awaitable, done when the message is stored.
        """

    def client_data(client_id: ClientId) -> Awaitable[ClientData | None]:
        """@return: Awaitable of a `fleetspeak.records.ClientData`, or of None for an unknown client."""


class IAuthorizer(Interface):
    """Decides who may connect, in four stages of growing knowledge; the first no ends the contact.

    All are called in the reactor's thread, for every contact, and answer at once, from memory: with True or False, and
    nothing else.  From one that is plugged in, an exception or another answer (a Deferred, say) is a no, and logged.
    Nothing is kept between the stages: contacts of many clients come interleaved.

    `address` is the peer as ``ip:port``, IPv6 in brackets; `claim` a `fleetspeak.core.authorization.Claimed`.
    """

    def allow_connection(address: str) -> bool:
        """After accept, before TLS, and for each request for a file; a refused connection is closed without a byte."""

    def allow_contact(address: str, claim: Claimed) -> bool:
        """For a poll, the first record of a stream, and a request for a file.

        The client has proved that it holds the key of `claim.client_id`.  Size and labels are what it says; for a file
        the size is 0.  A refused contact is answered with 503, a request for a file with 401.
        """

    def allow_client(address: str, claim: Claimed, client: ClientData | None) -> bool:
        """For a poll and the first record of a stream, after a look into the store.

        `client` is the `fleetspeak.records.ClientData` of the store, or None for a client that is about to enrol.
        """

    def validate(
        address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """For a poll and each record of a stream: all extra signatures are checked.

        @param signatures: a list of `fleetspeak.core.authorization.CheckedSignature`.
        @return: a dict of str to str to attach to the messages as validation_info, or None to refuse.
        """


class IAuthorizerFactory(IPlugin):
    """Makes authorizers, for ``--authorizer NAME:ARGUMENT``; `all` and `label` are built in."""

    name = Attribute("str: by which the option selects it.")
    help = Attribute("str: one line for people, with what the argument is.")

    def make(argument: str, reactor: Any) -> IAuthorizer:
        """Make one.  Called once, before the reactor runs, so that it may read a file.

        @param argument: what follows the first colon of the option; empty if there is none.
        @param reactor: for what it does later on, such as looking at that file again in a thread.
        @return: an `IAuthorizer`.
        @raise fleetspeak.errors.ConfigError: the argument cannot work; says what was expected.
        """


class INotifierFactory(IPlugin):
    """Makes a way for servers to notify each other, for ``--notifier NAME:ARGUMENT``."""

    name = Attribute("str: by which the option selects it.")
    help = Attribute("str: one line for people.")

    def make(argument: str, secret: bytes | None, reactor: Any) -> tuple[INotifier, IListener]:
        """@param argument: what follows the name in the option.
        @param secret: the content of ``--notification-secret-file``, None without one; never to be logged.
        @return: an `INotifier` and an `IListener`, which may be one object.
        @raise fleetspeak.errors.ConfigError: the argument cannot work; says what was expected.
        """


class INotifier(Interface):
    """Tells the server that holds a client's stream that there is something for the client.

    All of it is best effort: a stream looks by itself from time to time, so what gets lost is late, and no more.
    """

    reaches_others = Attribute("bool: False: there is no server beside this one, so that nobody need be looked up.")

    def notify(address: str, client_id: ClientId) -> None:
        """Notify the server of this `IListener.address`.

        Comes back at once and never fails: what takes time is bounded in time, number and memory, and only logged.
        """

    def broadcasts_changed() -> None:
        """Tell all other servers, if that is cheap, that a broadcast was created, paused, resumed or disabled."""

    def stop() -> Awaitable[None] | None:
        """Give up what is under way.  @return: Awaitable or None."""


class IListener(Interface):
    """Hears from other servers."""

    address = Attribute("str: by which they reach this one, from when it has started; ``local``: in no way.")

    def start(hear: Callable[[ClientId], object], broadcasts_changed: Callable[[], object]) -> Awaitable[None] | None:
        """Begin to listen.

        A server that has to be connected to need not be there yet: the start does not wait for it.

        @param hear: to be called for each notification; any number of times, for clients that are not here too.
        @param broadcasts_changed: to be called when another server tells of that.
        @return: Awaitable or None.  @raise fleetspeak.errors.ConfigError: it cannot listen.
        """

    def stop() -> Awaitable[None] | None:
        """Listen no more; `address` stays.  @return: Awaitable or None."""


class IFileStoreFactory(IPlugin):
    """Makes stores of files, for ``--file-store SERVICE=NAME:ARGUMENT``; `directory` is built in."""

    name = Attribute("str: by which the option selects it.")
    help = Attribute("str: one line for people.")

    def make(argument: str, reactor: Any) -> IFileStore:
        """Make one.  Called once, before the reactor runs.

        @param argument: what follows the name in the option; empty if there is nothing.
        @return: an `IFileStore`.
        @raise fleetspeak.errors.ConfigError: the argument cannot work; says what was expected.
        """


class IFileStore(Interface):
    """Where the files of one service are, in place of the `IStore`."""

    def open(name: str) -> Deferred[IOpenFile]:
        """Open a file for one request.  `name` is any text a client asks for, a hostile one too.

        @return: Deferred of an `IOpenFile`; cancelling it closes what was opened.
        @raise NotFound: there is no such file.  @raise NotReady: not now.
        """


class IManagedFileStore(IFileStore):
    """A store of files that operators change by the API."""

    def create(name: str, size: int) -> Deferred[IFileWriter]:
        """Begin to write a file of so many bytes.

        @return: Deferred of an `IFileWriter`.  @raise InvalidRecord: there cannot be such a file.
        """

    def delete(name: str) -> Deferred[None]:
        """Delete a file; a missing one is no error.  @raise StoreError: it cannot be deleted."""

    def page(after: str, limit: int) -> Deferred[list[tuple[str, FileStat]]]:
        """@return: Deferred of a list of the names, and times and sizes, of at most `limit` files behind `after`."""


class IFileWriter(Interface):
    """A file that is being written.  Methods are called one after the other, except `close`."""

    def write(data: bytes) -> Awaitable[None]:
        """Append bytes.

        @return: Awaitable, done when the next piece may come.
        @raise fleetspeak.errors.StoreError: it cannot be done.
        """

    def commit() -> Awaitable[FileStat]:
        """Put the file in its place, instead of an earlier one of its name, as a whole or not at all; once it is
        durable, and dated in a later second than that one.

        @return: Awaitable of a `fleetspeak.records.FileStat`.  @raise fleetspeak.errors.StoreError
        """

    def close() -> None:
        """The last call, also while another one is under way that was cancelled: what is not in its place goes."""


class IOpenFile(Interface):
    """A file that is being sent."""

    stat = Attribute("fleetspeak.records.FileStat: its time and size; `read` may find others, and set it.")

    def read(first: int, length: int) -> Awaitable[bytes]:
        """Called one at a time, in order.

        @param first: byte of the file, within `stat.size`.
        @return: Awaitable of exactly `length` bytes of the content that `stat` tells of, or of any if `stat` changed.
        @raise fleetspeak.errors.StoreError: it cannot be read, or is not what it was.
        """

    def close() -> None:
        """Nobody reads it any more; also while a `read` is under way that was cancelled."""
