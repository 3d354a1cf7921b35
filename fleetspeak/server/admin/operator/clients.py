"""Clients: looked for by pages, and let in again."""

from __future__ import annotations

from collections.abc import Callable

from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import NO_CLIENT, ClientId
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.listings import ClientFilter, Flag
from fleetspeak.pb import common, operator
from fleetspeak.records import Label
from fleetspeak.server.admin.operations import contact_of
from fleetspeak.server.admin.operator.paging import Page, choice, client_id, client_ids, span

MAX_LABELS = 16
"""Labels that can be asked for at a time: each is looked for in every client."""


class ClientOperations:
    """The operations on clients."""

    def __init__(self, store: IOperatorStore, client_changed: Callable[[ClientId], object]) -> None:
        """`client_changed` drops what this server remembers of a client."""
        self._store = store
        self._client_changed = client_changed

    async def list_clients(self, request: operator.ListClientsRequest) -> operator.ListClientsResponse:
        """A page of clients by ascending id."""
        page = Page(request, bytes)
        if len(request.labels) > MAX_LABELS:
            raise InvalidRecord(f"{len(request.labels)} labels, only {MAX_LABELS} allowed", "labels")
        wanted = ClientFilter(
            tuple(Label(label.service_name, label.label) for label in request.labels),
            span("last_contact", request.last_contact),
            choice("blacklisted", request.blacklisted, Flag),
        )
        [after] = page.key or [NO_CLIENT]
        found = await self._store.client_page(wanted, ClientId(after), page.look)
        clients, token = page.cut(found, lambda client: [client.client_id])
        return operator.ListClientsResponse(clients=clients, next_page_token=token)

    async def list_contacts(self, request: operator.ListContactsRequest) -> operator.ListContactsResponse:
        """A page of a client's contacts, the newest first; none for an unknown one."""
        page = Page(request, int)
        [before] = page.key or [None]
        found = await self._store.contact_page(client_id("client_id", request.client_id), before, page.look)
        entries, token = page.cut(found, lambda entry: [entry.row])
        return operator.ListContactsResponse(contacts=map(contact_of, entries), next_page_token=token)

    async def unblacklist_clients(self, request: operator.UnblacklistClientsRequest) -> common.EmptyMessage:
        """Clear the flag.  Takes effect on this server at once, and on others as soon as their caches are old."""
        wanted = client_ids(request.client_ids)
        if wanted:
            await self._store.unblacklist_clients(wanted)
        for one in wanted:
            self._client_changed(one)
        return common.EmptyMessage()
