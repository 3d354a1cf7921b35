"""The one write of a contact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import Exchange, Exchanged
from fleetspeak.store.outcome import only

log = Logger()


async def write(store: IStore, exchange: Exchange) -> Exchanged:
    """Carry out `exchange`.  Raises StoreError.

    If one of its messages can never be stored, the others are, and that one is dropped with a log line: the client
    would only send it again, for ever.
    """
    try:
        return await only(store.exchange([exchange]))
    except InvalidRecord:
        if not exchange.messages:
            raise
    exchanged = await only(store.exchange([replace(exchange, messages=())]))
    await _store_one_by_one(store, exchange.messages, exchanged.contact_id)
    return exchanged


async def _store_one_by_one(store: IStore, messages: Sequence[common.Message], contact_id: str) -> None:
    for message in messages:
        try:
            await store.store_messages([message], contact_id)
        except InvalidRecord as error:
            log.error(
                "Dropping message {message_id} from [{client_id}], which cannot be stored: {error}",
                message_id=ids.show(message.message_id),
                client_id=ids.show(message.source.client_id),
                error=error,
            )
