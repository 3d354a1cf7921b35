"""What the methods of `fleetspeak.server.Admin` do.  All in the reactor's thread; none of it knows grpc.

Each coroutine is named as its RPC and takes its request; those of streamed replies are asynchronous generators
of pages of replies.  What they raise says what is wrong with the request; `fleetspeak.server.admin.hop` turns it
into a status.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak import ids
from fleetspeak.errors import FleetspeakError, InvalidRecord, NotFound, StoreError
from fleetspeak.ids import NO_CLIENT, ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import admin, broadcasts, common, operator
from fleetspeak.records import UNLIMITED, AuditCall, ContactEntry
from fleetspeak.server.admin.requestids import broadcast_ids, client_ids
from fleetspeak.server.inserts import MAX_MESSAGE, Inserter
from fleetspeak.store.checks import BROADCAST_ID_SIZE

PAGE = 1000
"""Rows fetched at a time for streamed replies and long lists."""

MAX_ROWS = 2**63 - 1
"""Largest offset and limit that a database takes."""

EMPTY = common.EmptyMessage()


class Refused(FleetspeakError):
    """A request cannot be served; `code` is the name of the gRPC status that says why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class FilePlaces(Protocol):
    """`fleetspeak.server.admin.filestorage.FileStorage`."""

    async def keep(self, service: str, name: str, data: bytes) -> None: ...

    async def delete(self, service: str, name: str) -> None: ...


class AdminOperations:
    """The operations, over the store."""

    def __init__(
        self,
        store: IStore,
        inserter: Inserter,
        forget_client: Callable[[ClientId], object],
        broadcasts_changed: Callable[[], object] = lambda: None,
        files: FilePlaces | None = None,
    ) -> None:
        """`forget_client` drops a client from the cache; `broadcasts_changed` is called when they have.

        @param files: where the files of each service are; None: in the store.
        """
        self._store = store
        self._inserter = inserter
        self._forget_client = forget_client
        self._broadcasts_changed = broadcasts_changed
        self._files = files

    # -- messages

    async def insert_message(self, request: common.Message, audit: AuditCall | None = None) -> common.EmptyMessage:
        """Store a message and set it on its way.  `audit` is written down in the same transaction."""
        await self._inserter.insert(request, audit)
        return EMPTY

    async def get_message_status(self, request: admin.GetMessageStatusRequest) -> admin.GetMessageStatusResponse:
        """Creation time and result; an unknown message gives an empty reply."""
        try:
            message_id = ids.message_id(request.message_id)
        except ValueError as error:
            raise InvalidRecord(str(error), "message_id") from None
        if not message_id:
            raise InvalidRecord("message_id is required", "message_id")
        try:
            [message] = await self._store.get_messages([message_id], want_data=False)
        except NotFound:
            return admin.GetMessageStatusResponse()
        status = admin.GetMessageStatusResponse(creation_time=message.creation_time)
        if message.HasField("result"):
            status.result.CopyFrom(message.result)
        return status

    async def delete_pending_messages(self, request: admin.DeletePendingMessagesRequest) -> common.EmptyMessage:
        """Fail all that waits for these clients."""
        try:
            await self._store.delete_pending_messages(client_ids(request.client_ids))
        except InvalidRecord as error:
            raise InvalidRecord(f"Can't delete pending messages: {error}", error.field) from error
        except StoreError as error:
            raise type(error)(f"Can't delete pending messages: {error}") from error
        return EMPTY

    async def get_pending_messages(self, request: admin.GetPendingMessagesRequest) -> admin.GetPendingMessagesResponse:
        """What waits for these clients, by ascending message id."""
        if request.offset and not request.limit:
            raise InvalidRecord("if offset is provided, a limit must be provided as well", "limit")
        if max(request.offset, request.limit) > MAX_ROWS:
            raise InvalidRecord(f"offset and limit must be at most {MAX_ROWS}", "offset")
        messages = await self._store.pending_messages(
            client_ids(request.client_ids), request.offset, request.limit, request.want_data
        )
        return admin.GetPendingMessagesResponse(messages=messages)

    async def get_pending_message_count(
        self, request: admin.GetPendingMessageCountRequest
    ) -> admin.GetPendingMessageCountResponse:
        """How much waits for all these clients together."""
        count = await self._store.pending_message_count(client_ids(request.client_ids))
        return admin.GetPendingMessageCountResponse(count=count)

    # -- clients

    async def list_clients(self, request: admin.ListClientsRequest) -> admin.ListClientsResponse:
        """These clients, as far as they are known, or all."""
        clients = await self._store.list_clients(client_ids(request.client_ids))
        return admin.ListClientsResponse(clients=clients)

    async def stream_client_ids(
        self, request: admin.StreamClientIdsRequest
    ) -> AsyncIterator[list[admin.StreamClientIdsResponse]]:
        """Ids of clients, optionally only of those with a contact after a time."""
        contact_after = None
        if request.HasField("last_contact_after"):
            contact_after = _nanoseconds("last_contact_after", request.last_contact_after)
        after = NO_CLIENT
        while True:
            page = await self._store.client_ids(request.include_blacklisted, contact_after, after, PAGE)
            yield [admin.StreamClientIdsResponse(client_id=client_id) for client_id in page]
            if len(page) < PAGE:
                return
            after = page[-1]

    async def list_client_contacts(self, request: admin.ListClientContactsRequest) -> admin.ListClientContactsResponse:
        """All recorded contacts of a client; none for an unknown one."""
        reply = admin.ListClientContactsResponse()
        async for page in self._contact_pages(request.client_id):
            reply.contacts.extend(page)
        return reply

    async def stream_client_contacts(
        self, request: admin.StreamClientContactsRequest
    ) -> AsyncIterator[list[admin.StreamClientContactsResponse]]:
        """The same, one by one."""
        async for page in self._contact_pages(request.client_id):
            yield [admin.StreamClientContactsResponse(contact=contact) for contact in page]

    async def _contact_pages(self, raw_client_id: bytes) -> AsyncIterator[list[admin.ClientContact]]:
        client_id = _client_id(raw_client_id)
        after = 0
        while True:
            entries = await self._store.client_contacts(client_id, after, PAGE)
            yield [contact_of(entry) for entry in entries]
            if len(entries) < PAGE:
                return
            after = entries[-1].row

    async def blacklist_client(self, request: admin.BlacklistClientRequest) -> common.EmptyMessage:
        """Set the flag.  The client's stream to this server hears of it at once, and of others within 45 s."""
        client_id = _client_id(request.client_id)
        await self._store.blacklist_client(client_id)
        self._forget_client(client_id)
        return EMPTY

    async def fetch_client_resource_usage_records(
        self, request: admin.FetchClientResourceUsageRecordsRequest
    ) -> admin.FetchClientResourceUsageRecordsResponse:
        """What a client reported of itself in a span of time."""
        client_id = _client_id(request.client_id)
        if not request.HasField("start_timestamp") or not request.HasField("end_timestamp"):
            raise InvalidRecord("start_timestamp and end_timestamp are required", "start_timestamp")
        start = _nanoseconds("start_timestamp", request.start_timestamp)
        end = _nanoseconds("end_timestamp", request.end_timestamp)
        if start > end:
            raise InvalidRecord("timerange is invalid: start timestamp is after end timestamp", "end_timestamp")
        records = await self._store.resource_usage(client_id, start, end)
        return admin.FetchClientResourceUsageRecordsResponse(records=records)

    async def keep_alive(self, request: common.EmptyMessage) -> common.EmptyMessage:
        """Nothing: the reply says that the server, its reactor included, is alive."""
        return EMPTY

    # -- files

    async def store_file(self, request: admin.StoreFileRequest) -> common.EmptyMessage:
        """Store a file for clients to fetch, in place of an earlier one of this name."""
        _check_file_names(request)
        if self._files is not None:
            await self._files.keep(request.service_name, request.file_name, request.data)
        else:
            await self._store.store_file(request.service_name, request.file_name, request.data)
        return EMPTY

    async def delete_file(self, request: admin.DeleteFileRequest) -> common.EmptyMessage:
        """Delete a file; a missing one is no error."""
        _check_file_names(request)
        if self._files is not None:
            await self._files.delete(request.service_name, request.file_name)
        else:
            await self._store.delete_file(request.service_name, request.file_name)
        return EMPTY

    # -- broadcasts

    async def create_broadcast(self, request: admin.CreateBroadcastRequest) -> common.EmptyMessage:
        """Store a broadcast; it begins at once here, and a moment later on other servers."""
        request.limit = min(request.limit, UNLIMITED)  # the Go server takes more, and there are programs that send it
        await self._store.create_broadcast(checked_broadcast(request), request.limit)
        self._broadcasts_changed()
        return EMPTY

    async def list_active_broadcasts(
        self, request: admin.ListActiveBroadcastsRequest
    ) -> admin.ListActiveBroadcastsResponse:
        """Those that may still be sent, of one service or all."""
        active = [one.broadcast for one in await self._store.active_broadcasts()]
        wanted = request.service_name
        return admin.ListActiveBroadcastsResponse(
            broadcasts=[one for one in active if wanted in ("", one.source.service_name)]
        )

    async def disable_broadcasts(self, request: admin.DisableBroadcastsRequest) -> common.EmptyMessage:
        """Send no more of these."""
        wanted = broadcast_ids(request.broadcast_ids)
        if wanted:
            await self._store.disable_broadcasts(wanted)
            self._broadcasts_changed()
        return EMPTY


def checked_broadcast(
    request: admin.CreateBroadcastRequest | operator.CreateBroadcastRequest,
) -> broadcasts.Broadcast:
    """The broadcast that a request asks for, with an id.  Raises InvalidRecord."""
    if not request.HasField("broadcast"):
        raise InvalidRecord("CreateBroadcast needs a broadcast", "broadcast")
    broadcast = request.broadcast
    if not broadcast.source.service_name:
        raise InvalidRecord("Broadcast must have Source", "broadcast.source.service_name")
    if len(broadcast.broadcast_id) not in (0, BROADCAST_ID_SIZE):
        size = len(broadcast.broadcast_id)
        raise InvalidRecord(f"BroadcastID must be {BROADCAST_ID_SIZE} bytes, not {size}", "broadcast.broadcast_id")
    size = broadcast.data.ByteSize()
    if size > MAX_MESSAGE:
        text = f"broadcast is of size {size}, which exceeds the {MAX_MESSAGE}-byte limit"
        raise InvalidRecord(text, "broadcast.data")
    if request.limit > UNLIMITED:
        raise InvalidRecord(f"the limit of a broadcast must be at most {UNLIMITED}", "limit")
    if not broadcast.broadcast_id:
        broadcast.broadcast_id = secrets.token_bytes(BROADCAST_ID_SIZE)
    return broadcast


def _check_file_names(request: admin.StoreFileRequest | admin.DeleteFileRequest) -> None:
    if not request.service_name or not request.file_name:
        field = "file_name" if request.service_name else "service_name"
        raise InvalidRecord("file must have service_name and file_name", field)


def _client_id(raw: bytes) -> ClientId:
    try:
        client_id = ids.client_id(raw)
    except ValueError as error:
        raise InvalidRecord(str(error), "client_id") from None
    if not client_id:
        raise InvalidRecord("client_id is required", "client_id")
    return client_id


def _nanoseconds(name: str, time: Timestamp) -> int:
    try:
        return time.ToNanoseconds()
    except ValueError as error:
        raise InvalidRecord(f"{name} is no valid time: {error}", name) from None


def contact_of(entry: ContactEntry) -> admin.ClientContact:
    """A recorded contact, as the API shows it."""
    contact = admin.ClientContact(
        sent_nonce=entry.contact.sent_nonce,
        received_nonce=entry.contact.received_nonce,
        observed_address=entry.contact.address,
    )
    contact.timestamp.FromNanoseconds(entry.time_ns)
    return contact
