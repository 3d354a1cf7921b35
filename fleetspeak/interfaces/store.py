"""The contract of a datastore; `fleetspeak.testing.storecontract` is its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from fleetspeak.errors import StoreError
    from fleetspeak.ids import ClientId, MessageId
    from fleetspeak.pb import admin, broadcasts, common, monitoring, resource
    from fleetspeak.records import (
        Ack,
        ActiveBroadcast,
        Allocation,
        AuditCall,
        AuditEnd,
        AuditEntry,
        AuditFilter,
        BroadcastSend,
        Claim,
        ClientData,
        ClientStream,
        Contact,
        ContactEntry,
        Exchange,
        Exchanged,
        FileStat,
        Label,
        Prune,
        Pruned,
        ResultUpdate,
        RetryLimits,
        StoredFile,
    )


class IStoreFactory(IPlugin):
    """Makes stores, for ``--store NAME:ARGUMENT``; `sqlite` and `mysql` are built in."""

    name = Attribute("str: by which the option selects it.")
    help = Attribute("str: one line for people, with what the argument is.")

    def make(argument: str, reactor: Any, now_ns: Callable[[], int], uniform: Callable[[], float]) -> IStore:
        """Make a store that is not open yet.  Called before the process becomes a daemon: start no threads yet.

        @param argument: what follows the first colon of the option.  Everyone on the machine can read it while the
            server runs, so a password has to be in a file that it names.
        @param reactor: whose threads, clock and connections the store uses.
        @param now_ns: the time, in nanoseconds since the Unix epoch.
        @param uniform: a random number from 0 to less than 1, for spreading what is done again.
        @return: an `IStore`; if it provides `IOperatorStore` too, operators have all of their API.
        @raise fleetspeak.errors.ConfigError: the argument cannot work; says what was expected.
        """


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

    def client_streams(client_ids: Sequence[ClientId]) -> Deferred[dict[ClientId, ClientStream]]:
        """@return: dict of `ClientStream` by client id, of those whose last contact began a stream."""

    def clients_with_due_messages(client_ids: Sequence[ClientId]) -> Deferred[list[ClientId]]:
        """@return: list of those of these clients for which messages are due, whatever their tokens are."""

    # -- messages

    def store_messages(
        messages: Sequence[common.Message], contact_id: str = "", audit: AuditCall | None = None
    ) -> Deferred[None]:
        """Store new messages and merge results of known ones (idempotent), linked to a contact if given.

        @param audit: the call of the admin API that this is: its entry, with outcome OK, is written in the same
            transaction.
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

    def overdue_messages(
        limit: int, room: Mapping[str, int] | None = None, limits: RetryLimits = ..., since_ns: int = 0
    ) -> Deferred[list[common.Message]]:
        """Claim messages for server services whose time has come, and put off their next time.

        @param limit: most messages that are looked at; fewer may come, to bound the memory of a claim.
        @param room: most messages for each service in it; those for services without room are neither looked at nor
            put off.
        @param limits: a `fleetspeak.records.RetryLimits`.  A message that was tried for as long as they allow becomes a
            dead letter: it fails with a reason that begins with `fleetspeak.core.retrytimes.DEAD`, and its payload is
            kept for `retry_messages`.  By default messages are tried for ever.
        @param since_ns: while services have no room, only messages that became due at this time or later are looked at.
        @return: list of messages with payloads, oldest first; among them those that became dead letters now, with
            their results and without payload.
        """

    def retry_messages(message_ids: Sequence[MessageId]) -> Deferred[int]:
        """Make these dead letters pending again, due at once and as if they were never tried; others are passed over.

        One that is too old for the limits is tried once.

        @return: int, how many there were.
        """

    def dead_message_counts() -> Deferred[dict[str, int]]:
        """@return: dict of how many dead letters there are by service; services without any are left out."""

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

    # -- the audit trail of the admin API

    def begin_audit(calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
        """Write entries of calls that are about to be carried out.  Texts that are too long are cut.

        @return: list of the entries' numbers, or StoreError.
        """

    def end_audit(ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
        """Note in their entries how calls ended; entries that are gone are passed over.

        @return: list of None or StoreError.
        """

    def audit_entries(wanted: AuditFilter, limit: int) -> Deferred[list[AuditEntry]]:
        """@return: list of the first `limit` entries, by number, that fit."""

    def prune_audit(before_ns: int, limit: int) -> Deferred[int]:
        """Delete the oldest entries that were written before then, at most `limit`.  @return: how many there were."""

    # -- retention

    def prune(request: Prune) -> Deferred[Pruned]:
        """Carry out a `fleetspeak.records.Prune`: look for what is old, and delete it, in a short transaction.

        Unlike all other methods this one is not atomic: what is found is deleted if it is still old enough then.
        Other calls do not wait for it longer than the deletion of so many rows takes.  Whoever repeats it from the
        position that it gave has deleted all when there is none; one that is unknown counts as the beginning.

        @return: a `fleetspeak.records.Pruned`.
        """

    def create_time_indexes() -> Deferred[list[str]]:
        """Make the indexes that `prune` is quicker with, as far as they are missing.  That may take long.

        @return: list of the statements that were run, for people; empty where no such indexes are needed.
        """

    def lease(name: str, holder: bytes, until_ns: int, state: str | None = None) -> Deferred[str | None]:
        """Be the only one who does something, until then; or stay it; or, with a time that is over, end that.

        @param holder: 16 bytes that nobody else has.
        @param state: what the next holder shall know, at most 1000 characters; None: what was there stays.
        @return: the state; None: another one is the holder.
        """
