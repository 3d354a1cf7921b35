"""Doubles for those who write plug-ins for the server: everything in memory, and no thread.

With `fleetspeak.testing.clientside` and `fleetspeak.testing.storecontract` they are what tests of plug-ins need; names
and meanings stay from version to version, as those of `fleetspeak.interfaces` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.ids import ClientId, random_message_id
from fleetspeak.interfaces import IServerServiceContext, IServerStats
from fleetspeak.pb import common
from fleetspeak.records import ClientData

TEST_CLIENT_ID = ClientId(bytes.fromhex("0102030405060708"))


class ThreadlessReactor(Clock):
    """A clock that also has a pool of threads, in which every call is made at once, by whoever asks for it.

    With `hold` set, calls wait until `work` is called, as if the threads were slow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hold = False
        self._held: list[Callable[[], None]] = []

    def getThreadPool(self) -> ThreadlessReactor:  # noqa: N802
        """For `twisted.internet.threads.deferToThreadPool`."""
        return self

    def callInThreadWithCallback(  # noqa: N802
        self, on_result: Callable[[bool, Any], None] | None, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Call it, and tell the outcome as a pool does."""

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception:
                outcome: tuple[bool, Any] = (False, Failure())  # type: ignore[no-untyped-call]
            else:
                outcome = (True, result)
            if on_result is not None:
                on_result(*outcome)

        if self.hold:
            self._held.append(call)
        else:
            call()

    def callInThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Call it."""
        self.callInThreadWithCallback(None, function, *args, **kwargs)

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Call it."""
        function(*args, **kwargs)

    def work(self) -> None:
        """Make the calls that were held, but not those that come of them."""
        held, self._held = self._held, []
        for call in held:
            call()


@implementer(IServerServiceContext)
class RecordingServerContext:
    """What a server service gets; keeps in `sent` what the service sends."""

    def __init__(self, service_name: str = "TestService", reactor: Any = None) -> None:
        self.service_name = service_name
        self.reactor = ThreadlessReactor() if reactor is None else reactor
        self.clients: dict[ClientId, ClientData] = {}
        """What `client_data` knows."""
        self.sent: list[common.Message] = []
        self.error: Exception | None = None
        """Set it, to a `fleetspeak.errors.StoreError` for instance, to have `send` and `client_data` fail."""

    def send(self, message: common.Message) -> Deferred[None]:
        """Keep a copy, with its source filled in."""
        if self.error is not None:
            return fail(self.error)
        kept = common.Message()
        kept.CopyFrom(message)
        kept.source.Clear()
        kept.source.service_name = self.service_name
        self.sent.append(kept)
        return succeed(None)

    def client_data(self, client_id: ClientId) -> Deferred[ClientData | None]:
        """One of `clients`."""
        return succeed(self.clients.get(client_id)) if self.error is None else fail(self.error)


@implementer(IServerStats)
class RecordingServerStats:
    """A statistics plug-in that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        """Names of hooks, each with its arguments."""

    def __getattr__(self, hook: str) -> Callable[..., None]:
        if hook not in IServerStats:
            raise AttributeError(hook)
        return lambda *arguments: self.told.append((hook, arguments))

    def calls(self, hook: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of that hook."""
        return [arguments for told, arguments in self.told if told == hook]


def message_from_client(
    service: str = "TestService", message_type: str = "", client_id: ClientId = TEST_CLIENT_ID
) -> common.Message:
    """A message as a server service gets it; `data` is for the test to pack."""
    message = common.Message(message_id=random_message_id(), message_type=message_type)
    message.source.client_id = client_id
    message.source.service_name = message.destination.service_name = service
    message.creation_time.FromSeconds(1_700_000_000)
    return message
