"""The messages of a contact are given to the services, unless that has been done before."""

from __future__ import annotations

from collections.abc import Sequence

from fleetspeak.ids import MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import ClientData
from fleetspeak.server.contact.seams import Ingestor


async def process(
    store: IStore, ingestor: Ingestor, messages: Sequence[common.Message], client: ClientData, is_new: bool
) -> None:
    """Process `messages`; each that is done then has its result.

    A repeat of a message that was processed successfully is not processed again: it gets the stored result.  A new
    client has sent nothing before, which saves the look.
    """
    fresh = messages if is_new else await _without_known(store, messages)
    if fresh:
        await ingestor.process(fresh, client, True)


async def _without_known(store: IStore, messages: Sequence[common.Message]) -> Sequence[common.Message]:
    results = await store.message_results([MessageId(message.message_id) for message in messages])
    if not results:
        return messages
    fresh = []
    for message in messages:
        result = results.get(MessageId(message.message_id))
        if result is None or result.failed:
            fresh.append(message)
        else:
            message.result.CopyFrom(result)
            message.ClearField("data")
    return fresh
