"""Servers notify each other through Redis: ``--notifier redis:ENDPOINT``.

Each server listens on a channel of its own, whose name is its address, and on one for all.  One connection does all of
it, by version 3 of Redis' protocol (Redis 6).  Nobody waits for anything: who cannot be told finds out by itself.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import ClientService
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.errors import ConfigError, FleetspeakError, ProtocolError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory
from fleetspeak.program.awaiting import as_deferred
from fleetspeak.server.notify.local import LOG_INTERVAL
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.wire.resp import Error, Parser, Push, command

PREFIX = "redis:"
"""Of the addresses of servers that listen by Redis; what follows is in the name of the channel."""

CHANNEL = b"fleetspeak:"
BROADCASTS = CHANNEL + b"broadcasts"
"""The channel of all servers."""

TIMEOUT = 5.0
"""Seconds for being subscribed, and for each answer."""

IDLE = 15.0
"""Seconds without a word after which the connection is tried: a subscriber would not notice that it is dead."""

MAX_UNANSWERED = 10_000
"""Notifications under way; more are dropped."""

MAX_RETRY_DELAY = 5.0

Answered = Callable[[Any], object]

log = Logger()


class RedisFailed(FleetspeakError):
    """Redis refuses, or is not Redis."""


class Connection(Protocol):
    """One connection: it introduces itself, subscribes, then publishes and hears."""

    def __init__(
        self,
        login: bytes | None,
        own_channel: bytes,
        heard: Callable[[bytes, bytes], object],
        ready: Callable[[Connection], object],
        lost: Callable[[Connection, Exception], object],
        clock: Any,
    ) -> None:
        """
        @param login: the content of the secret file: a password, or in two lines a user and a password.
        @param heard: is called with channel and text of each notification.
        @param ready: is called when it is subscribed.
        @param lost: is called when it is lost, whether it was ready or not.
        """
        self._login = login
        self._channels = (own_channel, BROADCASTS)
        self._heard = heard
        self._ready = ready
        self._lost = lost
        self._clock = clock
        self._parser = Parser()
        self._unanswered: deque[Answered] = deque()
        self._subscribed: set[bytes] = set()
        self._alarm: IDelayedCall | None = None
        self._failure: Exception | None = None

    # -- what the transport tells

    def connectionMade(self) -> None:  # noqa: N802
        words = [b"HELLO", b"3"]
        if self._login is not None:
            user, line, password = self._login.partition(b"\n")
            words += [b"AUTH", *((user.rstrip(b"\r"), password) if line else (b"default", user))]
        self._ask(self._introduced, *words)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        try:
            for value in self._parser.feed(data):
                self._received(value)
        except ProtocolError as error:
            self._fail(RedisFailed(f"that is not Redis: {error}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._set_alarm(None)
        self._unanswered.clear()
        why: Any = self._failure or reason.value
        self._lost(self, why)

    # -- what the owner asks for

    @property
    def is_ready(self) -> bool:
        """Is it subscribed to all its channels?"""
        return len(self._subscribed) == len(self._channels)

    @property
    def room(self) -> bool:
        """Is there room for one more notification?"""
        return len(self._unanswered) < MAX_UNANSWERED

    @property
    def is_idle(self) -> bool:
        """Is every notification answered?"""
        return not self._unanswered

    def publish(self, channel: bytes, text: bytes, answered: Callable[[int], object]) -> None:
        """Send a notification; `answered` is called with how many servers have it, if the answer comes."""
        self._ask(lambda value: answered(value) if isinstance(value, int) else None, b"PUBLISH", channel, text)

    # -- answers

    def _ask(self, answered: Answered, *words: bytes) -> None:
        assert self.transport is not None  # it is connected
        self.transport.write(command(*words))
        self._unanswered.append(answered)
        if len(self._unanswered) == 1:
            self._set_alarm(TIMEOUT)

    def _received(self, value: Any) -> None:
        if isinstance(value, Push):
            self._pushed(value)
        elif not self._unanswered:
            raise ProtocolError("an answer to nothing")
        else:
            self._unanswered.popleft()(value)
        if self._failure is None:
            self._set_alarm(TIMEOUT if self._unanswered or not self.is_ready else IDLE)

    def _introduced(self, value: Any) -> None:
        if isinstance(value, Error):
            text = value.text.decode("utf-8", "replace")
            self._fail(RedisFailed(f"it needs to be version 6 or later, and the secret file right: {text}"))
            return
        assert self.transport is not None  # it is connected
        self.transport.write(command(b"SUBSCRIBE", *self._channels))  # answered by pushes

    def _pushed(self, words: Push) -> None:
        kind, *rest = words or [None]
        if kind == b"message" and len(rest) == 2 and all(isinstance(word, bytes) for word in rest):
            self._heard(*rest)
        elif kind == b"subscribe" and rest and rest[0] in self._channels:
            was_ready = self.is_ready
            self._subscribed.add(rest[0])
            if self.is_ready and not was_ready:
                self._ready(self)

    # -- the end

    def _set_alarm(self, seconds: float | None) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None if seconds is None else self._clock.callLater(seconds, self._too_long)

    def _too_long(self) -> None:
        if self.is_ready and not self._unanswered:
            self._ask(lambda value: None, b"PING")
        else:
            self._fail(RedisFailed(f"there was no answer in {TIMEOUT} seconds"))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._set_alarm(None)
        transport: Any = self.transport
        transport.abortConnection()


@implementer(INotifier, IListener)
class RedisNotifier:
    """Tells and hears.  All in the reactor's thread."""

    reaches_others = True

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        reactor: Any,
        login: bytes | None = None,
        *,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """
        @param endpoint: of the Redis server.
        @param login: see `Connection`.
        @param uniform: spreads the attempts of several servers to connect.
        """
        own = secrets.token_hex(8)
        self.address = PREFIX + own
        self._channel = CHANNEL + own.encode()
        self._login = login
        self._reactor = reactor
        self._uniform = uniform
        self._connection: Connection | None = None
        self._attempts = 0
        """Connections in a row that did not become ready."""
        self._hear: Callable[[ClientId], object] = lambda client_id: None
        self._broadcasts_changed: Callable[[], object] = lambda: None
        self._sparse = SparseLog(reactor, LOG_INTERVAL)
        self._troubles = SparseLog(reactor, LOG_INTERVAL)
        self._service = ClientService(
            endpoint,
            Factory.forProtocol(self._build),
            retryPolicy=self._retry_delay,
            clock=reactor,
        )

    # -- the listener

    def start(self, hear: Callable[[ClientId], object], broadcasts_changed: Callable[[], object]) -> None:
        """Connect, and go on trying to as long as it takes."""
        self._hear = hear
        self._broadcasts_changed = broadcasts_changed
        self._service.startService()

    def stop(self) -> Awaitable[None] | None:
        """Disconnect; of the notifier and the listener, whichever is asked first."""
        if not self._service.running:
            return None
        return as_deferred(self._service.stopService())

    # -- the notifier

    def notify(self, address: str, client_id: ClientId) -> None:
        """Tell the server of this address, if Redis is there to pass it on."""
        if address == self.address:
            self._hear(client_id)
            return
        if not address.startswith(PREFIX):
            self._complain("the server at {address} does not listen by Redis", address=address)
            return
        self._publish(CHANNEL + address.removeprefix(PREFIX).encode(), client_id.hex().encode(), self._counted)

    def broadcasts_changed(self) -> None:
        """Tell all servers."""
        self._publish(BROADCASTS, b"changed", lambda count: None)

    def _publish(self, channel: bytes, text: bytes, answered: Callable[[int], object]) -> None:
        if self._connection is None:
            self._complain("Redis is not connected")
        elif not self._connection.room:
            self._complain("{count} notifications have no answer yet", count=MAX_UNANSWERED)
        else:
            self._connection.publish(channel, text, answered)

    def _counted(self, servers: int) -> None:
        if not servers:
            self._complain("the server that had the client's stream does not listen any more")

    def _complain(self, format: str, **fields: object) -> None:
        if self._sparse.due():
            log.warn(
                "a notification is lost, and found out about later: " + format + " ({held_back} more were held back)",
                held_back=self._sparse.take_held_back(),
                **fields,
            )

    # -- the connection

    def _build(self) -> Connection:
        self._attempts += 1
        return Connection(self._login, self._channel, self._heard, self._ready, self._lost, self._reactor)

    def _ready(self, connection: Connection) -> None:
        self._connection = connection
        self._attempts = 0
        log.info("notifications go through Redis; this server is {address}", address=self.address)
        self._broadcasts_changed()  # it may have missed some

    def _lost(self, connection: Connection, why: Exception) -> None:
        was_ready, self._connection = self._connection is connection, None
        if not self._service.running:
            return
        if was_ready:
            log.warn("the connection to Redis is lost: {error}", error=why)
        elif self._troubles.due():
            log.error("cannot use Redis: {error}", error=why)

    def _retry_delay(self, attempt: int) -> float:
        # A connection that is made and refused is none, although the one who counts attempts takes it for one.
        longest: float = min(0.1 * 2.0 ** min(max(attempt, self._attempts), 20), MAX_RETRY_DELAY)
        return longest * self._uniform()

    def _heard(self, channel: bytes, text: bytes) -> None:
        if channel == BROADCASTS:
            self._broadcasts_changed()
            return
        try:
            client_id = ids.parse_client_id(text.decode("ascii"))
        except ValueError:
            client_id = ids.NO_CLIENT
        if client_id:
            self._hear(client_id)
        elif self._sparse.due():
            log.warn("somebody publishes {text} on our channel", text=text[:40])


@implementer(IPlugin, INotifierFactory)
class RedisNotifierFactory:
    """``redis:unix:/run/redis/redis.sock``, ``redis:tcp:redis.example:6379``, ``redis:tls:redis.example:6380``."""

    name = "redis"
    help = (
        "Redis pub/sub; the argument is an endpoint, the secret file has a password, or in two lines user and password."
    )

    def make(self, argument: str, secret: bytes | None, reactor: Any) -> tuple[INotifier, IListener]:
        """See `INotifierFactory`."""
        try:
            endpoint = clientFromString(reactor, argument)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, LookupError) as error:
            raise ConfigError(
                f"{argument!r} is no endpoint of a Redis server, such as unix:/run/redis/redis.sock or "
                f"tcp:redis.example:6379: {error}"
            ) from None
        made = RedisNotifier(endpoint, reactor, secret)
        return made, made
