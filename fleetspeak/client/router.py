"""Brings every message to where it belongs: the outbox, or the inbox of a service on this client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.addressing import misaddressed, stamp
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.reports import Reports
from fleetspeak.client.stats import Stats
from fleetspeak.ids import MESSAGE_ID_SIZE, ClientId, show
from fleetspeak.pb import common


class Endpoint(Protocol):
    """Where the messages for one service go."""

    def deliver(self, message: common.Message) -> bool:
        """Take a message of the server at once.  False: there is no room."""

    def deliver_local(self, message: common.Message) -> Deferred[None]:
        """Take a message of a service on this client, as soon as there is room.  Cancellable."""


class Router:
    """Knows the endpoints by name."""

    _log = Logger()

    def __init__(
        self, outbox: ClientOutbox, reports: Reports, client_id: Callable[[], ClientId], stats: Stats | None = None
    ) -> None:
        self._outbox = outbox
        self._reports = reports
        self._client_id = client_id
        self._stats = stats or Stats()
        self._endpoints: dict[str, Endpoint] = {}
        self._closed = False

    def add(self, name: str, endpoint: Endpoint) -> None:
        """Deliver to this endpoint what is addressed to `name`."""
        self._endpoints[name] = endpoint

    def remove(self, name: str) -> None:
        """Deliver no more to it."""
        self._endpoints.pop(name, None)

    @property
    def spooled(self) -> bool:
        """Is a message of a service to the server on the disk when it is accepted?"""
        return self._outbox.spooled

    def close(self) -> None:
        """Take nothing of the server any more: it sends it again to the client's next start."""
        self._closed = True

    def send(self, service: str, message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        """Send a message from `service`; see `fleetspeak.interfaces.IClientServiceContext.send`."""
        local = bool(message.destination.client_id)
        routed = self._route(service, message, on_ack)

        def tell(outcome: Failure | None) -> Failure | None:
            error = None if outcome is None else outcome.value
            self._stats.message_processed(message, local, error if isinstance(error, Exception) else None)
            return outcome

        return routed.addBoth(tell)

    def _route(self, service: str, message: common.Message, on_ack: Callable[[], None] | None) -> Deferred[None]:
        client_id = self._client_id()
        problem = misaddressed(message, client_id)
        if problem:
            return fail(ValueError(problem))
        stamp(message, client_id, service)
        if not message.destination.client_id:
            return self._outbox.submit(message, on_ack, spool=True)
        endpoint = self._endpoints.get(message.destination.service_name)
        if endpoint is None:
            return fail(ValueError(_unknown(message)))
        # A copy, because the sender may go on with its own, and both run in one process.
        delivered = common.Message()
        delivered.CopyFrom(message)
        # Ids are the server's; without this a local message could get one of its messages acked.
        delivered.message_id = b""
        accepted = endpoint.deliver_local(delivered)
        if on_ack is not None:
            accepted.addCallback(lambda _: on_ack())
        return accepted

    def deliver(self, message: common.Message) -> None:
        """Take a message of the server: never blocks, never fails.

        What cannot be delivered is answered with a MessageError.  What there is no room for is dropped, and comes
        again.
        """
        if not self._closed:
            problem = self._deliver(message)
            self._stats.message_processed(message, True, ValueError(problem) if problem else None)

    def _deliver(self, message: common.Message) -> str:
        """@return: why it was not taken, or nothing."""
        if len(message.message_id) not in (0, MESSAGE_ID_SIZE):
            problem = f"its id has {len(message.message_id)} bytes, not {MESSAGE_ID_SIZE}"
            self._log.warn(
                "dropped a message for service {service!r}: {problem}",
                service=message.destination.service_name,
                problem=problem,
            )
            return problem
        problem = self._undeliverable(message)
        if problem:
            self._log.warn("cannot deliver message {id}: {problem}", id=show(message.message_id), problem=problem)
            self._reports.error(message.message_id, problem)
            return problem
        name = message.destination.service_name
        if not self._endpoints[name].deliver(message):
            problem = "the server sent more than it was granted"
            self._log.warn(
                "dropped message {id} for service {service}: {problem}; it will come again",
                id=show(message.message_id),
                service=name,
                problem=problem,
            )
            return problem
        return ""

    def _undeliverable(self, message: common.Message) -> str:
        problem = misaddressed(message, self._client_id())
        if problem:
            return problem
        if not message.destination.client_id:
            return "a message of the server must name the client it is for"
        if message.destination.service_name not in self._endpoints:
            return _unknown(message)
        return ""


def _unknown(message: common.Message) -> str:
    return f"no service {message.destination.service_name!r} on this client"
