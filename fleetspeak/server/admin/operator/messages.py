"""Messages: looked for by pages, counted, tried again and cancelled."""

from __future__ import annotations

from collections.abc import Callable

from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.listings import ListedMessage, MessageCount, MessageFilter, MessageKey, MessageState
from fleetspeak.pb import operator
from fleetspeak.server.admin.operator.paging import Page, choice, message_ids, optional_client_id, span
from fleetspeak.store.sql.pending import REMOVED

MAX_REASON = 1000
"""Characters."""


class MessageOperations:
    """The operations on messages."""

    def __init__(self, store: IStore, operators: IOperatorStore, messages_due: Callable[[], object]) -> None:
        """`messages_due` is called when messages for services of the server have become due."""
        self._store = store
        self._operators = operators
        self._messages_due = messages_due

    async def list_messages(self, request: operator.ListMessagesRequest) -> operator.ListMessagesResponse:
        """A page of messages, the newest first."""
        page = Page(request, int, int, bytes)
        before = None if page.key is None else MessageKey(*page.key)
        found = await self._operators.message_page(_filter(request.filter), before, page.look)
        messages, token = page.cut(found, lambda one: one.key)
        return operator.ListMessagesResponse(messages=map(_entry, messages), next_page_token=token)

    async def count_messages(self, request: operator.CountMessagesRequest) -> operator.CountMessagesResponse:
        """How many there are, by service, type and state."""
        counts = await self._operators.message_counts(_filter(request.filter))
        return operator.CountMessagesResponse(counts=map(_count, counts))

    async def retry_messages(self, request: operator.RetryMessagesRequest) -> operator.RetryMessagesResponse:
        """Let dead messages be processed again, at once."""
        wanted = message_ids(request.message_ids)
        retried = await self._store.retry_messages(wanted) if wanted else 0
        if retried:
            self._messages_due()
        return operator.RetryMessagesResponse(retried=retried)

    async def cancel_messages(self, request: operator.CancelMessagesRequest) -> operator.CancelMessagesResponse:
        """Let pending messages fail."""
        wanted = message_ids(request.message_ids)
        if len(request.reason) > MAX_REASON:
            raise InvalidRecord(f"reason has more than {MAX_REASON} characters", "reason")
        cancelled = await self._operators.cancel_messages(wanted, request.reason or REMOVED) if wanted else 0
        return operator.CancelMessagesResponse(cancelled=cancelled)


def _filter(given: operator.MessageFilter) -> MessageFilter:
    return MessageFilter(
        optional_client_id("filter.client_id", given.client_id),
        given.service,
        given.message_type,
        choice("filter.state", given.state, MessageState),
        span("filter.created", given.created),
    )


def _entry(listed: ListedMessage) -> operator.MessageEntry:
    message = listed.message
    entry = operator.MessageEntry(
        message_id=message.message_id,
        source=message.source,
        destination=message.destination,
        message_type=message.message_type,
        state=operator.MessageState.ValueType(listed.state.value),
        creation_time=message.creation_time,
        attempts=listed.attempts,
        payload_size=listed.payload_size,
    )
    if message.HasField("result"):
        entry.result.CopyFrom(message.result)
    if listed.due_ns is not None:
        entry.due_time.FromNanoseconds(listed.due_ns)
    return entry


def _count(counted: MessageCount) -> operator.MessageCount:
    count = operator.MessageCount(
        service=counted.service,
        to_client=counted.to_client,
        message_type=counted.message_type,
        state=operator.MessageState.ValueType(counted.state.value),
        count=counted.count,
    )
    count.oldest.seconds = counted.oldest_seconds
    return count
