"""What an installation may implement for its clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from fleetspeak.interfaces.factory import IFactory

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message as ProtobufMessage
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.web.iweb import IResponse

    from fleetspeak.client.comms.servers import Server
    from fleetspeak.client.link import Link
    from fleetspeak.config.client import ClientSettings
    from fleetspeak.ids import ClientId
    from fleetspeak.pb import client, common
    from fleetspeak.records import FetchedFile


class IClientServiceFactory(IFactory):
    """Builds client services of one kind, for the `factory` of a `fleetspeak.ClientServiceConfig`."""

    def make(config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Build a service.

        @param config: a message of `config_type`, or None if there is none.
        @param context: an `IClientServiceContext`.
        @return: an `IClientService`.
        @raise fleetspeak.errors.ConfigError: this service is not installed; the others are.
        """


class IClientService(Interface):
    """One named endpoint on the client."""

    def start() -> Awaitable[None] | None:
        """Get ready.  @return: Awaitable or None; a failure skips this service only."""

    def process(message: common.Message) -> Awaitable[None] | None:
        """Take one message; called one at a time, in order.

        @return: Awaitable or None; success acknowledges the message, an exception's text goes to the server as
            MessageError.  It is cancelled when the service is stopped, and the message comes again.
        """

    def stop() -> Awaitable[None] | None:
        """End; whatever it started ends with it.  @return: Awaitable or None."""


class IClientServiceContext(Interface):
    """What a client service may use."""

    service_name = Attribute("str: the name it is installed under.")
    reactor = Attribute("The reactor; tests pass a clock.")
    client_id = Attribute("ClientId: the current one; a rekey changes it.")
    labels = Attribute("tuple of str: this client's labels; a reload of its configuration may change them.")
    stats = Attribute("IClientStats: whom to tell of what the service does.")
    spooled = Attribute("bool: an accepted message is on the disk, and survives the client.")
    std_forward = Attribute("bool: attach child processes to the client's own standard input and output, for testing.")
    left_over = Attribute("LeftOver: messages that an earlier process of this service has not dealt with.")
    child_variables = Attribute("Mapping of str to str: what the environment of each child process has to have.")

    def service_names() -> list[str]:
        """@return: list of str, the installed services without ``system``."""

    def send(message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        """Send a `fleetspeak.Message` from this service; source and source_message_id are filled in.

        @param on_ack: called without arguments when the server has confirmed the message.
        @return: a Deferred that fires when the message is accepted, which takes as long as the queue of its
            priority is full; cancelling it takes the message back if it was not accepted yet.
        @raise ValueError: (in the Deferred) the destination is missing or is another client.
        """

    def get_file(
        name: str, path: Path, *, since: float | None = None, max_bytes: int = ..., timeout: float = ...
    ) -> Deferred[FetchedFile | None]:
        """Bring a file that the servers have for this service to the disk, whole or not at all.

        It is written beside `path` and renamed at the end.  What there is of it when the connection breaks, this is
        cancelled or the client stops is kept, and gone on with by the next call for the same file and path.

        Fires once the client has a communicator, which is after all services have started: do not wait for it in
        `start`.

        @param path: where the file shall be; its folder must exist.  The file is readable by its owner alone.
        @param since: seconds since the Unix epoch; only a file that was modified later is fetched.
        @param max_bytes: a larger file is refused before it takes room; 1 GiB by default.
        @param timeout: seconds for all of it; an hour by default.
        @return: Deferred of a `fleetspeak.records.FetchedFile`, or of None: the file is not newer.  Cancellable.
        @raise fleetspeak.errors.FileUnavailable: (in the Deferred) no server gave it.
        @raise fleetspeak.errors.FleetspeakError: it cannot be written there, or is being fetched to there already.
        """


class ICommunicatorFactory(IFactory):
    """Builds the transport of a client; `polling` and `streaming` are built in."""

    def make(link: Link, settings: ClientSettings, reactor: Any) -> ICommunicator:
        """@param link: the `fleetspeak.client.link.Link`.
        @param settings: a `fleetspeak.config.client.ClientSettings`.
        @return: an `ICommunicator`.
        """


class ICommunicator(Interface):
    """The transport of one side."""

    def start() -> None:
        """Begin to keep contact."""

    def stop() -> Awaitable[None]:
        """Deliver what is held if that is possible within a few seconds, then end.  @return: Awaitable."""

    def reset() -> None:
        """Drop connections and make contact anew, with the current identity."""

    def servers() -> Sequence[Server]:
        """@return: the `fleetspeak.client.comms.servers.Server`s in the order in which they are tried now."""

    def get(server: Server, path: str, headers: Sequence[tuple[str, str]]) -> Deferred[IResponse]:
        """Ask one of them for a file, over the transport that there is.

        @param path: percent-escaped.
        @param headers: names and values, besides those of every request.
        @return: Deferred of the head of the answer, a `twisted.web.iweb.IResponse` of whatever status; cancelling
            it ends the request.
        """

    def flush() -> Deferred[None]:
        """Wait until what was to be sent has had its chance.

        @return: fires, without an error, at the end of the next poll, or when a live stream has everything
            acknowledged; also when the communicator stops.  Cancellable.
        """


class IDialer(IPlugin):
    """How a client gets a connection to its server: directly, through a proxy, or by a tunnel of your own.

    Chosen by ``--dialer NAME``; `proxy` (the default) and `direct` are built in.  TLS, its verification, time limits
    and TCP keep-alive are put on top of what it gives.
    """

    name = Attribute("str: by which it is chosen.")
    help = Attribute("str: one line for people.")

    def endpoint(host: str, port: int, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
        """Called for each connection.

        @param host: name or address of the server, as configured.
        @param settings: the `fleetspeak.config.client.ClientSettings`.
        @return: an `IStreamClientEndpoint`; its connections may be of any kind that carries bytes both ways.
        @raise fleetspeak.errors.ConfigError: there is no way; the text says why and what to do.
        """


class IPersistence(Interface):
    """Where a client keeps its state.  Calls block for as long as a small file takes."""

    def claim() -> None:
        """Keep every other client on this machine from this state, until `release` or the end of the process.

        @raise ConfigError: another one has it; says which process.
        """

    def release() -> None:
        """Let others have it."""

    def load() -> client.ClientState:
        """@return: a `fleetspeak.client.ClientState`, empty if there is none yet.

        @raise ConfigError: it cannot be kept here; says what to do.
        """

    def save(state: client.ClientState) -> None:
        """Keep it, durably, before returning.  @raise OSError"""


class IContactSigner(IPlugin):
    """Adds a signature of its own to each contact, by a key that the machine has anyway, such as a TPM's.

    What it is worth is for the server's `IAuthorizer.validate` to say.
    """

    name = Attribute("str: for people.")

    def sign(contact_data: bytes) -> common.Signature:
        """Sign these bytes.  Called for each poll and each record of a stream, so it must be quick.

        @return: a `fleetspeak.Signature`: the chain of certificates as DER, that of the signing key first; the number
            of the algorithm in Go's crypto/x509 (4 is SHA256-RSA, 10 is ECDSA-SHA256); and the signature.
        @raise Exception: the contact goes out without it.
        """


class IClientStats(Interface):
    """Hears of what a client does, to count it; a plug-in that provides it (and `IPlugin`) hears of everything.

    Called in the reactor's thread; must be quick.  What it raises is logged and otherwise ignored.  `error` is the
    exception, or None for success; sizes are in bytes.
    """

    def message_pending(message: common.Message, size: int) -> None:
        """The outbox accepted it."""

    def message_acknowledged(message: common.Message, size: int) -> None:
        """The server has it."""

    def message_retried(message: common.Message) -> None:
        """The server may not have it: it is sent again."""

    def message_processed(message: common.Message, local: bool, error: Exception | None) -> None:
        """It was routed: to a service of this client (`local`), or towards the server."""

    def state_written(error: Exception | None) -> None:
        """The client's state was written, or could not be."""

    def key_loaded(client_id: ClientId, new: bool, error: Exception | None) -> None:
        """The client has this identity from now on."""

    def contact_created(contact: common.WrappedContactData, error: Exception | None) -> None:
        """Contact data was put together for the server."""

    def contact_processed(contact: common.ContactData, streaming: bool, error: Exception | None) -> None:
        """Contact data of the server was dealt with."""

    def contact_sent(server: str, size: int, error: Exception | None) -> None:
        """An attempt to bring contact data to ``host:port``."""

    def contact_received(server: str, size: int, error: Exception | None) -> None:
        """Contact data came from ``host:port``."""

    def file_fetched(server: str, service: str, name: str, fetched: bool, error: Exception | None) -> None:
        """A server was asked for a file; `fetched` if it gave one, and not only said that it is unchanged."""

    def daemon_finished(service: str, error: Exception | None) -> None:
        """A process of a Daemon service is gone."""

    def socket_closed(service: str, error: Exception | None) -> None:
        """A connection to a Socket service is closed; no error if the service was stopped."""
