"""The service that is the client itself: rekeys, restarts services, dies, and says who it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed
from twisted.logger import Logger

from fleetspeak.client.addressing import SYSTEM
from fleetspeak.client.flow import Flow
from fleetspeak.client.reports import Reports
from fleetspeak.client.state import StateKeeper
from fleetspeak.pb import common, system
from fleetspeak.program.ending import DIED, Ending

CAPACITY = 100
"""Requests that may run at a time; what the server is granted."""

_Data = TypeVar("_Data", bound=ProtobufMessage)


class Services(Protocol):
    """What the system service asks of the manager of all others."""

    def installed(self) -> Sequence[system.ClientInfoData.ServiceID]:
        """The services that are installed now."""

    async def restart(self, name: str) -> None:
        """Stop a service and start it anew.  Raises FleetspeakError: it is not there, or did not come back."""


class SystemService:
    """Carries out each request as it comes, beside all others.

    So nothing that one request waits for, such as a service that refuses to stop, keeps a later one from being
    heard.
    """

    _log = Logger()

    def __init__(
        self,
        state: StateKeeper,
        services: Services,
        flow: Flow,
        reports: Reports,
        labels: Sequence[str],
        ending: Ending,
    ) -> None:
        self._state = state
        self._services = services
        self._flow = flow
        self._reports = reports
        self._labels = labels
        self._ending = ending
        self._running: set[Deferred[None]] = set()
        self._actions: dict[str, Callable[[common.Message], Awaitable[None]]] = {
            "RekeyRequest": self._rekey,
            "RestartService": self._restart,
        }
        flow.add_service(SYSTEM)

    # ---- as an endpoint of the router

    def deliver(self, message: common.Message) -> bool:
        """Carry out a request of the server.  False: too many are running."""
        if message.message_type == "Die":
            # Neither acked nor counted: the server took it for done when it sent it.
            self._die(message)
            return True
        if len(self._running) >= CAPACITY:
            return False
        self._flow.accepted(SYSTEM)
        self._begin(self._serve(message))
        return True

    def deliver_local(self, message: common.Message) -> Deferred[None]:
        """Carry out a request of a service on this client."""
        if message.message_type == "Die":
            self._die(message)
        elif len(self._running) >= CAPACITY:
            return fail(ValueError("too many requests are running"))
        else:
            self._begin(self._carry_out(message))
        return succeed(None)

    # ---- for the client

    def announce(self) -> None:
        """Send the ClientInfo: who we are and what is installed."""
        data = system.ClientInfoData(
            labels=[common.Label(service_name="client", label=label) for label in self._labels],
            services=self._services.installed(),
        )
        self._reports.send("ClientInfo", data).addErrback(self._ended_early)

    async def finished(self) -> None:
        """Wait for what runs.  Nothing is cancelled: a key that is being written must not be left half used."""
        await DeferredList(list(self._running))

    # ---- requests

    def _begin(self, request: Coroutine[Any, Any, None]) -> None:
        running = Deferred.fromCoroutine(request)
        running.addErrback(self._ended_early)
        if not running.called:
            self._running.add(running)
            running.addCallback(lambda _: self._running.discard(running))

    async def _serve(self, message: common.Message) -> None:
        """Carry out a request of the server, and report how it went."""
        try:
            await self._carry_out(message)
        except CancelledError:
            raise  # the client is stopping: the server asks again
        except Exception as error:
            self._log.warn("request {type!r} of the server failed: {error}", type=message.message_type, error=error)
            self._reports.error(message.message_id, str(error) or type(error).__name__)
        else:
            self._reports.ack(message.message_id)
        finally:
            self._flow.processed(SYSTEM)

    async def _carry_out(self, message: common.Message) -> None:
        action = self._actions.get(message.message_type)
        if action is None:
            raise ValueError(f"unable to process message of type: {message.message_type}")
        await action(message)

    async def _rekey(self, _: common.Message) -> None:
        await self._state.rekey()
        self.announce()

    async def _restart(self, message: common.Message) -> None:
        name = _unpack(message, system.RestartServiceRequest()).name
        before = self._services.installed()
        try:
            await self._services.restart(name)
        finally:
            if self._services.installed() != before:
                self.announce()

    def _die(self, message: common.Message) -> None:
        try:
            force = _unpack(message, system.DieRequest()).force
        except ValueError as error:
            self._log.warn("not dying: {error}", error=error)
            return
        self._log.warn("dying as the server demands, {how}", how="at once" if force else "after a clean stop")
        if force:
            self._ending.abort(DIED)
        else:
            self._ending.end(DIED)

    def _ended_early(self, failure: object) -> None:
        self._log.debug("a request or announcement ended early: {failure}", failure=failure)


def _unpack(message: common.Message, data: _Data) -> _Data:
    """The payload as that type.  Raises ValueError."""
    try:
        if message.data.Unpack(data):
            return data
    except DecodeError:
        raise ValueError(f"the data of {message.message_type} cannot be parsed") from None
    raise ValueError(
        f"the data of {message.message_type} is of type {message.data.TypeName()!r}, "
        f"expected {data.DESCRIPTOR.full_name!r}"
    )
