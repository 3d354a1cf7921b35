"""Tells the statistics plug-ins what the client does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IClientStats
from fleetspeak.pb import common


@implementer(IClientStats)
class Stats:
    """Passes everything on to each collector; one that fails does no harm."""

    _log = Logger()

    def __init__(self, collectors: Sequence[IClientStats] = ()) -> None:
        self._collectors = collectors

    def message_pending(self, message: common.Message, size: int) -> None:
        self._each(lambda to: to.message_pending(message, size))

    def message_acknowledged(self, message: common.Message, size: int) -> None:
        self._each(lambda to: to.message_acknowledged(message, size))

    def message_retried(self, message: common.Message) -> None:
        self._each(lambda to: to.message_retried(message))

    def message_processed(self, message: common.Message, local: bool, error: Exception | None) -> None:
        self._each(lambda to: to.message_processed(message, local, error))

    def state_written(self, error: Exception | None) -> None:
        self._each(lambda to: to.state_written(error))

    def key_loaded(self, client_id: ClientId, new: bool, error: Exception | None) -> None:
        self._each(lambda to: to.key_loaded(client_id, new, error))

    def contact_created(self, contact: common.WrappedContactData, error: Exception | None) -> None:
        self._each(lambda to: to.contact_created(contact, error))

    def contact_processed(self, contact: common.ContactData, streaming: bool, error: Exception | None) -> None:
        self._each(lambda to: to.contact_processed(contact, streaming, error))

    def contact_sent(self, server: str, size: int, error: Exception | None) -> None:
        self._each(lambda to: to.contact_sent(server, size, error))

    def contact_received(self, server: str, size: int, error: Exception | None) -> None:
        self._each(lambda to: to.contact_received(server, size, error))

    def file_fetched(self, server: str, service: str, name: str, fetched: bool, error: Exception | None) -> None:
        self._each(lambda to: to.file_fetched(server, service, name, fetched, error))

    def daemon_finished(self, service: str, error: Exception | None) -> None:
        self._each(lambda to: to.daemon_finished(service, error))

    def socket_closed(self, service: str, error: Exception | None) -> None:
        self._each(lambda to: to.socket_closed(service, error))

    def _each(self, tell: Callable[[IClientStats], None]) -> None:
        for collector in self._collectors:
            try:
                tell(collector)
            except Exception:
                self._log.failure("the statistics plug-in {collector} failed", collector=collector)
