"""Upstream's way for servers to notify each other, the side that tells: ``POST /client/<client id>``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.config.addresses import parse_host_port
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import INotifier
from fleetspeak.program.awaiting import when_done
from fleetspeak.server.notify.local import LOCAL, LOG_INTERVAL
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.wire.notification import AUTHORIZATION, path_of, proof

CONNECT_TIMEOUT = 3.0
TIMEOUT = 5.0
"""Seconds for a connection, and for a notification in all."""

IDLE = 25
"""Seconds that a connection is kept for the next notification; our listener closes its side after 60."""

MAX_IN_FLIGHT = 8
"""Notifications under way to one server."""

MAX_WAITING = 10_000
"""Notifications that wait, for whichever server."""

MAX_ANSWER = 1024
"""Bytes of an answer that are read."""

log = Logger()


class _Answer(Protocol):
    """Takes in the body of an answer, up to a limit."""

    def __init__(self) -> None:
        self.text = b""
        self.done: Deferred[bytes] = Deferred(lambda _: self._end())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.text += data[: MAX_ANSWER - len(self.text)]
        if len(self.text) >= MAX_ANSWER:
            self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self.done.called:
            self.done.callback(self.text)

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class _Peer:
    """What is to be told to one server."""

    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[ClientId, None] = {}
        """In order.  Whoever waits already need not wait twice: what is told later covers both."""
        self.in_flight = 0


@implementer(INotifier)
class HttpNotifier:
    """Notifies servers by their addresses.  All in the reactor's thread.

    A few requests are under way to each server, on connections that are kept; others wait.  When one fails, what waits
    for that server is dropped: it would fail alike, and the streams there look by themselves before long.
    """

    reaches_others = True

    def __init__(
        self,
        dispatch: Callable[[ClientId], object],
        own_address: Callable[[], str],
        reactor: Any,
        secret: bytes | None = None,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """
        @param dispatch: wakes a stream that is here.
        @param own_address: the listener's.
        @param secret: proves to listeners that require it who we are; it is not sent.
        """
        self._dispatch = dispatch
        self._own_address = own_address
        self._reactor = reactor
        self._secret = secret
        self._stats = stats
        self._pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = MAX_IN_FLIGHT
        self._pool.cachedConnectionTimeout = IDLE
        self._agent = Agent(reactor, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)  # type: ignore[no-untyped-call]
        self._peers: dict[str, _Peer] = {}
        self._waiting = 0
        self._under_way: set[Deferred[None]] = set()
        self._sparse = SparseLog(reactor, LOG_INTERVAL)
        self._stopped = False

    def notify(self, address: str, client_id: ClientId) -> None:
        """Let it wait for its turn, which is now unless much is under way."""
        if address == self._own_address():
            self._dispatch(client_id)
            return
        if self._stopped:
            return
        if (reason := _unusable(address)) or self._waiting >= MAX_WAITING:
            self._complain(address, client_id, reason or f"{self._waiting} notifications wait already")
            return
        peer = self._peers.setdefault(address, _Peer())
        if client_id not in peer.waiting:
            peer.waiting[client_id] = None
            self._waiting += 1
            self._go_on(address, peer)

    def broadcasts_changed(self) -> None:
        """Upstream's protocol has no word for it, and no list of servers: they see it when they next look."""

    async def stop(self) -> None:
        """Give up what is under way, and close connections."""
        self._stopped = True
        for peer in self._peers.values():
            self._drop_waiting(peer)
        for work in list(self._under_way):
            work.cancel()
        while self._under_way:
            await when_done(next(iter(self._under_way)))
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    def _go_on(self, address: str, peer: _Peer) -> None:
        while peer.waiting and peer.in_flight < MAX_IN_FLIGHT:
            client_id = next(iter(peer.waiting))
            del peer.waiting[client_id]
            self._waiting -= 1
            peer.in_flight += 1
            work = Deferred.fromCoroutine(self._tell(address, client_id)).addTimeout(TIMEOUT, self._reactor)
            self._under_way.add(work)
            work.addErrback(self._failed, address, peer, client_id)
            work.addBoth(self._done, work, address, peer)

    def _failed(self, failure: Failure, address: str, peer: _Peer, client_id: ClientId) -> None:
        if self._stopped:
            return
        dropped = self._drop_waiting(peer)
        self._complain(address, client_id, f"{_reason(failure.value)}; {dropped} others were not tried")

    def _done(self, _: object, work: Deferred[None], address: str, peer: _Peer) -> None:
        self._under_way.discard(work)
        peer.in_flight -= 1
        self._go_on(address, peer)
        if not peer.in_flight:
            self._peers.pop(address, None)

    def _drop_waiting(self, peer: _Peer) -> int:
        dropped = len(peer.waiting)
        self._waiting -= dropped
        peer.waiting.clear()
        return dropped

    async def _tell(self, address: str, client_id: ClientId) -> None:
        began, outcome = self._reactor.seconds(), "failed"
        try:
            outcome = "ok" if await self._is_heard(address, client_id) else "refused"
        finally:
            seconds = self._reactor.seconds() - began
            if not self._stopped:
                self._stats.notified("timeout" if outcome == "failed" and seconds >= TIMEOUT else outcome, seconds)

    async def _is_heard(self, address: str, client_id: ClientId) -> bool:
        try:
            response = await self._post(address, client_id)
        except (ResponseNeverReceived, ResponseFailed) as error:
            if any(failure.check(CancelledError) for failure in error.reasons):
                raise
            response = await self._post(address, client_id)  # a kept connection that the other side had closed
        answer = _Answer()
        response.deliverBody(answer)  # type: ignore[no-untyped-call]
        text = await answer.done
        if response.code != 200:
            said = text.decode("utf-8", "replace").strip()
            self._complain(address, client_id, f"it answered with status {response.code}: {said}")
        return bool(response.code == 200)

    def _post(self, address: str, client_id: ClientId) -> Deferred[IResponse]:
        headers = Headers()
        if self._secret is not None:
            headers.addRawHeader(AUTHORIZATION, proof(self._secret, client_id))
        uri = b"http://" + address.encode("ascii") + path_of(client_id)
        return self._agent.request(b"POST", uri, headers)

    def _complain(self, address: str, client_id: ClientId, reason: str) -> None:
        if self._sparse.due():
            log.warn(
                "cannot tell the server at {address} that there is something for client {client_id}, which waits until "
                "that server looks by itself: {reason} ({held_back} more such lines were held back)",
                address=address,
                client_id=ids.show(client_id),
                reason=reason,
                held_back=self._sparse.take_held_back(),
            )


def _unusable(address: str) -> str:
    """Why nobody can be reached there; empty if somebody may be."""
    if address == LOCAL:
        return "that server has no notification_listen_address"
    try:
        parse_host_port(address)
        address.encode("ascii")
    except (ConfigError, UnicodeError) as error:
        return f"that is no address: {error}"
    return ""


def _reason(error: BaseException | None) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(_reason(failure.value) for failure in reasons)
    if isinstance(error, CancelledError | TimeoutError):
        return "there was no answer in time"
    return str(error) or type(error).__name__
