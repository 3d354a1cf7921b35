"""What operators ask a datastore for; `fleetspeak.testing.storecontract.operators` is its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from fleetspeak.ids import ClientId, MessageId
    from fleetspeak.listings import (
        BroadcastState,
        ClientCounts,
        ClientFilter,
        ListedBroadcast,
        ListedFile,
        ListedMessage,
        MessageCount,
        MessageFilter,
        MessageKey,
    )
    from fleetspeak.pb import admin
    from fleetspeak.records import ContactEntry


class IOperatorStore(Interface):
    """Lists, counts and changes that the operators' API needs beyond `fleetspeak.interfaces.IStore`.

    A store that provides only that one is complete for clients; the RPCs that need this are answered UNIMPLEMENTED.
    Methods are as those of `IStore`.  Pages are at most `limit` long, and fewer mean the end; who asks for the next
    one gives the key of the last record he has.  What would take too long fails with
    `fleetspeak.errors.TookTooLong`, and never holds up what clients wait for.
    """

    # -- clients

    def client_page(wanted: ClientFilter, after: ClientId, limit: int) -> Deferred[list[admin.Client]]:
        """@return: list of `fleetspeak.server.Client` by ascending id, behind `after` (``b""``: at the start)."""

    def client_counts(contact_since_ns: int) -> Deferred[ClientCounts]:
        """@return: `fleetspeak.listings.ClientCounts`."""

    def contact_page(client_id: ClientId, before: int | None, limit: int) -> Deferred[list[ContactEntry]]:
        """@return: list of `ContactEntry`s, the newest first, whose row is less than `before`."""

    def unblacklist_clients(client_ids: Sequence[ClientId]) -> Deferred[None]:
        """Clear the flag; unknown ids are passed over."""

    # -- messages

    def message_page(wanted: MessageFilter, before: MessageKey | None, limit: int) -> Deferred[list[ListedMessage]]:
        """What a client sent is found by its contacts, as long as these are kept.

        @return: list of `fleetspeak.listings.ListedMessage` by descending key, less than `before`.
        """

    def message_counts(wanted: MessageFilter) -> Deferred[list[MessageCount]]:
        """@return: list of `fleetspeak.listings.MessageCount`, in order.  @raise InvalidRecord: of too many kinds."""

    def cancel_messages(message_ids: Sequence[MessageId], reason: str) -> Deferred[int]:
        """Let those of these messages that are pending fail.  @return: int, how many."""

    # -- broadcasts and files

    def broadcast_page(
        state: BroadcastState, service: str, after: bytes, limit: int
    ) -> Deferred[list[ListedBroadcast]]:
        """@return: list of `fleetspeak.listings.ListedBroadcast` by ascending id, behind `after` (``b""``)."""

    def file_page(service: str, after: tuple[str, str], limit: int) -> Deferred[list[ListedFile]]:
        """@return: list of `fleetspeak.listings.ListedFile` by service and name, behind `after` (two empty texts)."""

    # -- settings that all servers share

    def settings() -> Deferred[dict[str, str]]:
        """@return: dict of all settings by name; cheap enough to ask every second."""

    def set_setting(name: str, value: str) -> Deferred[None]:
        """Keep a setting, in place of what it was.  @raise InvalidRecord: name or value is too long."""
