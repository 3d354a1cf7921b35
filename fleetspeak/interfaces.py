"""Every interface that an installation may implement itself: the plug-in points, and the store.

Plug-ins are found by `twisted.plugin.getPlugins(interface, fleetspeak.plugins)`, and therefore provide
`twisted.plugin.IPlugin` as well; the built-in ones are registered the same way, in `fleetspeak/plugins/`, so that
they are the documentation.

Unless a method says otherwise it is called in the reactor's thread and must not block.  *Awaitable* below
means a Deferred or a coroutine; where "or None" is added, None means that the work is done already, which
saves the hot path a Deferred.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message as ProtobufMessage
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.web.iweb import IResponse

    from fleetspeak.client.comms.servers import Server
    from fleetspeak.client.link import Link
    from fleetspeak.config.client import ClientSettings
    from fleetspeak.core.authorization import CheckedSignature, Claimed
    from fleetspeak.errors import StoreError
    from fleetspeak.ids import ClientId, MessageId
    from fleetspeak.pb import admin, broadcasts, client, common, monitoring, resource
    from fleetspeak.records import (
        Ack,
        ActiveBroadcast,
        Allocation,
        BroadcastSend,
        Claim,
        ClientData,
        Contact,
        ContactEntry,
        Exchange,
        Exchanged,
        FetchedFile,
        FileStat,
        Label,
        ResultUpdate,
        StoredFile,
    )


class IFactory(IPlugin):
    """What all factories of plug-ins have in common."""

    name = Attribute("str: by which configuration files select it.")
    help = Attribute("str: one line for people.")
    config_type = Attribute("The protobuf message class of its configuration, or None if it takes none.")


# ---- server side ----------------------------------------------------------------------------------------------


class IServerServiceFactory(IFactory):
    """Builds server services of one kind, for the `factory` of a `fleetspeak.server.ServiceConfig`."""

    def make(config: ProtobufMessage | None, context: IServerServiceContext) -> IServerService:
        """Build a service.

        @param config: a message of `config_type`, or None if the file gave none.
        @param context: an `IServerServiceContext`.
        @return: an `IServerService`.
        @raise fleetspeak.errors.ConfigError: the configuration cannot work; the server then does not start.
        """


class IServerService(Interface):
    """One named endpoint on the server."""

    def start() -> Awaitable[None] | None:
        """Get ready.  @return: Awaitable or None; a failure stops the server's start."""

    def stop() -> Awaitable[None] | None:
        """Finish.  Called after the last `process` has ended.  @return: Awaitable or None."""

    def process(message: common.Message) -> Awaitable[None] | None:
        """Process one `fleetspeak.Message`; the same message may come again (at least once).

        Several calls run at a time, up to the service's max_parallelism; each is cancelled after 30 s.

        @return: Awaitable or None; success makes the message processed.
        @raise fleetspeak.errors.TemporaryError: not now; the message is kept and tried again later.
        @raise fleetspeak.errors.PermanentError: never; the text becomes its failed_reason.
            Any other exception is logged with its traceback and counts as temporary.
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
    """Decides who may connect, in four stages of growing knowledge.  Each returns a bool (at once).

    `address` is the peer as ``ip:port``; `claim` a `fleetspeak.core.authorization.Claimed`.
    """

    def allow_connection(address: str) -> bool:
        """After accept; a refused connection is closed without a byte."""

    def allow_contact(address: str, claim: Claimed) -> bool:
        """The key is known: client id, size of the contact, claimed labels."""

    def allow_client(address: str, claim: Claimed, client: ClientData | None) -> bool:
        """`client` is the `fleetspeak.records.ClientData` of the store, or None for a new client."""

    def validate(
        address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """All extra signatures are checked.

        @param signatures: a list of `fleetspeak.core.authorization.CheckedSignature`.
        @return: a dict of str to str to attach to the messages as validation_info, or None to refuse.
        """


class INotifier(Interface):
    """Tells the server that holds a client's stream that there is something for the client."""

    address = Attribute("str: what other servers must know to reach this one; ``local`` without any.")

    def notify(address: str, client_id: ClientId) -> Awaitable[None] | None:
        """Best effort.  @return: Awaitable or None; never fails, only logs."""


class IFileStoreFactory(IPlugin):
    """Makes stores of files, for ``--file-store SERVICE=NAME:ARGUMENT``; `directory` is built in."""

    name = Attribute("str: by which the option selects it.")
    help = Attribute("str: one line for people.")

    def make(argument: str, reactor: Any) -> IFileStore:
        """@raise fleetspeak.errors.ConfigError: the argument cannot work; says what was expected."""


class IFileStore(Interface):
    """Where the files of one service are, in place of the `IStore`."""

    def open(name: str) -> Deferred[IOpenFile]:
        """Open a file for one request.  `name` is any text a client asks for, a hostile one too.

        @return: Deferred of an `IOpenFile`; cancelling it closes what was opened.
        @raise NotFound: there is no such file.  @raise NotReady: not now.
        """


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


class IStore(Interface):
    """Durable messages, clients and contacts.

    Every method returns a Deferred and may be called at any time between `open` and `close`, any number at a
    time; each call is atomic, and committed before its Deferred fires.  Calls that are made while another one
    is being written are gathered and written together (group commit), so callers need not batch by
    themselves; one caller's bad record fails only that caller.

    Methods that take a sequence of requests give a list of outcomes of equal length, in the same order, in
    which a request that failed has its `fleetspeak.errors.StoreError` instead of a result
    (`fleetspeak.store.outcome.only` unpacks a list of one).  All others fail as a whole, with a StoreError.
    """

    def open() -> Deferred[None]:
        """Open, create what is missing.  @raise ConfigError: it cannot be used; says what to do."""

    def close() -> Deferred[None]:
        """Finish what was accepted, then close."""

    # -- the hot path

    def exchange(exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        """Carry out `fleetspeak.records.Exchange`s.  @return: list of `Exchanged` or StoreError."""

    def acknowledge(acks: Sequence[Ack]) -> Deferred[list[StoreError | None]]:
        """Carry out `fleetspeak.records.Ack`s, with now as time.  @return: list of None or StoreError."""

    def client_data(client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientData]]:
        """@return: dict of `ClientData` by client id; unknown ids are left out."""

    def message_results(message_ids: Sequence[MessageId]) -> Deferred[dict[MessageId, common.MessageResult]]:
        """@return: dict of `fleetspeak.MessageResult` by message id; unknown and pending ones are left out."""

    # -- messages

    def store_messages(messages: Sequence[common.Message], contact_id: str = "") -> Deferred[None]:
        """Store new messages and merge results of known ones (idempotent), linked to a contact if given.

        @raise InvalidRecord: no creation time, over-long name, or a contact id that is none.
        """

    def set_message_results(updates: Sequence[ResultUpdate]) -> Deferred[None]:
        """Carry out `fleetspeak.records.ResultUpdate`s; unknown ids are passed over.  @return: None."""

    def get_messages(message_ids: Sequence[MessageId], want_data: bool) -> Deferred[list[common.Message]]:
        """@return: list of messages in the order asked.  @raise NotFound: if any of them is unknown."""

    def client_messages_for_processing(
        claims: Sequence[Claim],
    ) -> Deferred[list[list[common.Message] | StoreError]]:
        """Carry out `fleetspeak.records.Claim`s.  @return: list of lists of messages, or StoreError."""

    def pending_messages(
        client_ids: Sequence[ClientId], offset: int = 0, limit: int = 0, want_data: bool = False
    ) -> Deferred[list[common.Message]]:
        """@return: list of pending messages by ascending message id; limit 0 means all.

        @raise InvalidRecord: offset without limit.
        """

    def pending_message_count(client_ids: Sequence[ClientId]) -> Deferred[int]:
        """@return: int, over all these clients."""

    def delete_pending_messages(client_ids: Sequence[ClientId]) -> Deferred[None]:
        """Give each pending message the failed result ``Removed by admin action.``  @return: None."""

    def overdue_messages(limit: int) -> Deferred[list[common.Message]]:
        """Claim messages for server services whose time has come, and put off their next time.

        @return: list of messages with payloads, oldest first.
        """

    def next_overdue() -> Deferred[int | None]:
        """@return: int, when (ns) the next message for a server service is due, or None."""

    # -- clients

    def add_client(client_id: ClientId, data: ClientData) -> Deferred[None]:
        """@raise AlreadyExists: there is one."""

    def update_client_labels(client_id: ClientId, add: Sequence[Label], remove: Sequence[Label]) -> Deferred[None]:
        """Add and remove `fleetspeak.records.Label`s, idempotently."""

    def blacklist_client(client_id: ClientId) -> Deferred[None]:
        """Set the flag; an unknown id is no error."""

    def list_clients(client_ids: Sequence[ClientId]) -> Deferred[list[admin.Client]]:
        """@return: list of `fleetspeak.server.Client` for these ids, or for all if there are none."""

    def client_ids(
        include_blacklisted: bool, contact_after_ns: int | None, after: ClientId, limit: int
    ) -> Deferred[list[ClientId]]:
        """One page of ids by ascending id, beginning behind `after` (``b""``: at the start).

        @param contact_after_ns: only clients whose last contact is strictly later.
        @return: list of at most `limit` client ids; fewer mean the end.
        """

    def record_contacts(contacts: Sequence[Contact]) -> Deferred[list[str | StoreError]]:
        """Record `fleetspeak.records.Contact`s.  @return: list of contact ids (str) or StoreError."""

    def link_messages_to_contact(contact_id: str, message_ids: Sequence[MessageId]) -> Deferred[None]:
        """Note that these messages travelled in that contact; idempotent."""

    def client_contacts(client_id: ClientId, after: int, limit: int) -> Deferred[list[ContactEntry]]:
        """@return: list of at most `limit` `ContactEntry`s whose row is greater than `after`, ascending."""

    def record_resource_usage(client_id: ClientId, data: monitoring.ResourceUsageData) -> Deferred[None]:
        """Store a `fleetspeak.monitoring.ResourceUsageData`.  @raise InvalidRecord: a time is missing."""

    def resource_usage(
        client_id: ClientId, start_ns: int, end_ns: int
    ) -> Deferred[list[resource.ClientResourceUsageRecord]]:
        """@return: list of `fleetspeak.server.ClientResourceUsageRecord`, start <= server time < end.

        @raise InvalidRecord: start is after end.
        """

    # -- broadcasts

    def create_broadcast(broadcast: broadcasts.Broadcast, limit: int, max_errors: int = 0) -> Deferred[None]:
        """Store a `fleetspeak.server.Broadcast`, to be sent to at most `limit` clients.

        One with a group name disables those active ones that have the same group, source, destination and labels.

        @param limit: `fleetspeak.records.UNLIMITED` for no limit, 0 for a disabled one.
        @param max_errors: for `broadcast_errors`; 0 for any number.
        @raise AlreadyExists: there is one of that id.
        """

    def active_broadcasts() -> Deferred[list[ActiveBroadcast]]:
        """@return: list of the `ActiveBroadcast`s that have not reached their limit and not expired, by id."""

    def active_broadcast_ids() -> Deferred[list[bytes]]:
        """@return: list of their ids only: cheap enough to ask often."""

    def sent_broadcasts(client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, list[bytes]]]:
        """@return: dict of the ids of the broadcasts each client was sent; clients without any are left out."""

    def allocate_broadcast(broadcast_id: bytes, fraction: float, expiry_ns: int) -> Deferred[Allocation | None]:
        """Take a fraction of what is left of a broadcast's limit.

        @return: `Allocation`, or None if nothing is left.  @raise NotFound: there is no such broadcast.
        """

    def save_broadcast_messages(sends: Sequence[BroadcastSend]) -> Deferred[list[StoreError | None]]:
        """Carry out `BroadcastSend`s.  The messages are due again after the retry time of clients.

        @return: list of None or StoreError: NotSent; AlreadyExists, for a client that has had this broadcast.
        """

    def clean_up_allocation(broadcast_id: bytes, allocation_id: bytes, sent: int) -> Deferred[None]:
        """Give a share back, of which so much was sent; with an empty id, account for an unlimited broadcast.

        What was saved counts in any case.  A share or a broadcast that is gone is passed over.
        """

    def sweep_allocations(expired_ns: int) -> Deferred[int]:
        """Give back the shares that expired before then, whose servers are gone.  @return: how many there were."""

    def disable_broadcasts(broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """Send no more of these, for ever; unknown ids are passed over."""

    def pause_broadcasts(broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """Send no more of these until `resume_broadcasts`; unknown and disabled ones are passed over."""

    def resume_broadcasts(broadcast_ids: Sequence[bytes]) -> Deferred[None]:
        """Give those that are paused their limits back; all others are passed over."""

    def broadcast_errors(broadcast_ids: Sequence[bytes]) -> Deferred[dict[bytes, int]]:
        """@return: dict of how many clients failed with each; those without failures are left out."""

    # -- files

    def store_file(service: str, name: str, data: bytes) -> Deferred[None]:
        """Store a file for the clients of a service, in place of an earlier one of this name.

        Its time is now, and at least in a later second than that of the one it replaces: HTTP tells them apart by
        their seconds.

        @raise InvalidRecord: a name or the file is too long.
        """

    def delete_file(service: str, name: str) -> Deferred[None]:
        """Delete a file; a missing one is no error."""

    def stat_file(service: str, name: str) -> Deferred[FileStat]:
        """@return: a `fleetspeak.records.FileStat`.  @raise NotFound"""

    def read_file(service: str, name: str) -> Deferred[StoredFile]:
        """@return: a `fleetspeak.records.StoredFile`.  @raise NotFound"""


# ---- client side ----------------------------------------------------------------------------------------------


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
