"""What an installation may implement to count what its servers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from fleetspeak.ids import ClientId
    from fleetspeak.pb import common, monitoring
    from fleetspeak.records import ClientData, ClientPoll


class IServerStats(Interface):
    """Hears of what a server does, to count it; a plug-in that provides it (and `IPlugin`) hears of everything.

    Called in the reactor's thread, on the hot path; must be quick, and must neither change nor keep what it is given.
    What it raises is logged, sparsely, and otherwise ignored.  `seconds` is how long something took, by a steady
    clock, and now is its end.  `client` is what the server knows of the client that is meant, or None.

    Later versions add hooks: derive from `fleetspeak.server.stats.ServerStats`, which has them all and does nothing.
    """

    # -- messages

    def message_ingested(message: common.Message, backlogged: bool, client: ClientData | None) -> None:
        """A message is about to be processed: a new one, or one from the backlog.  Not for unknown services."""

    def message_saved(message: common.Message, for_client: bool, client: ClientData | None) -> None:
        """A new message is about to be stored; one that was processed has no payload any more."""

    def message_processed(
        message: common.Message, service: str, seconds: float, first_try: bool, client: ClientData | None
    ) -> None:
        """A service processed it."""

    def message_errored(
        message: common.Message,
        service: str,
        seconds: float,
        temporary: bool,
        first_try: bool,
        client: ClientData | None,
    ) -> None:
        """A service did not process it: it is tried again later (`temporary`), or has failed for good.

        Told as well, with `temporary`, of each message to a service that there is not, as upstream does.
        """

    def message_dropped(message: common.Message, service: str, first_try: bool, client: ClientData | None) -> None:
        """Its service has too much to do: it is tried again later."""

    def message_sent(message: common.Message, client: ClientData | None) -> None:
        """It is handed to its client."""

    def broadcast_sent(broadcast_id: bytes) -> None:
        """A broadcast is about to go to one more client; `message_sent` is told, too."""

    # -- clients

    def client_poll(poll: ClientPoll) -> None:
        """Contact data was exchanged with a client, or should have been."""

    def contact_refused(stage: str) -> None:
        """An authorizer refused a client at a stage of `fleetspeak.interfaces.IAuthorizer`.

        @param stage: ``connection``, ``contact``, ``client``, ``signatures``, ``file``; or ``key``, if another key is
            known for this client id; or ``enrolment``, if that is closed.
        """

    def connections_changed(count: int) -> None:
        """So many connections of clients are open now."""

    def streams_changed(count: int) -> None:
        """So many of them are streams now."""

    def resource_usage_received(
        client_id: ClientId, usage: monitoring.ResourceUsageData, client: ClientData | None
    ) -> None:
        """A client told what it, or a process of it, uses."""

    def kill_notification_received(
        client_id: ClientId, kill: monitoring.KillNotification, client: ClientData | None
    ) -> None:
        """A client killed a process."""

    # -- the server's own work

    def store_operation(name: str, seconds: float, error: Exception | None) -> None:
        """An operation of the store ended; `name` is upstream's, such as ``StoreMessages``.

        An `exchange` is told as the operations that it consists of, each with the time of the whole.
        """

    def store_batch(worker: str, calls: int, requests: int, seconds: float) -> None:
        """A worker of the store committed a batch of so many calls, with so many requests in all."""

    def notified(outcome: str, seconds: float) -> None:
        """Another server was to be told of a message.

        @param outcome: ``ok``, ``refused``, ``failed`` or ``timeout``; other notifiers may have other words.
        """

    def admin_called(method: str, code: str, seconds: float) -> None:
        """A call of the admin API ended.  @param method: without its package, such as ``Admin/ListClients``.
        @param code: the name of a gRPC status code."""

    def rows_pruned(table: str, rows: int) -> None:
        """Old rows of a table were deleted."""
