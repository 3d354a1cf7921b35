"""The connector for service programs that use Twisted: for daemons, and for what connects to a Socket service.

::

    connection = await connect(reactor, version="1.0")
    async for request in connection:
        await connection.send(answer_to(request))

`connect` without a path is for a daemon, which the client has started; with a path it connects to a Socket service.
Nothing blocks the reactor.  Every Deferred can be cancelled.  For reactors that watch file descriptors, as all do on
Linux and macOS.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

from twisted.internet.defer import Deferred

from fleetspeak.client_connector import inherited
from fleetspeak.client_connector.socketfile import ConnectionClosed, NotRunning, UnsafeSocket
from fleetspeak.client_connector.tx.daemon import DaemonConnection
from fleetspeak.client_connector.tx.socket import SocketConnection
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

__all__ = ["Connection", "ConnectionClosed", "NotRunning", "ProtocolError", "UnsafeSocket", "connect"]


class Connection(Protocol):
    """A connection to the client, of either kind.  An async iterator over the messages that come."""

    def send(self, message: common.Message, *, wait: bool = True) -> Deferred[int]:
        """Send a message; the client fills in its source.

        Fires with its size in bytes when the message is safe: for a daemon, when it is in the client's spool, or in the
        pipe if the client has none; over a socket, when the client has acknowledged it, which takes about 0.1 s and for
        a client without spool means that the server has it.  Several that are sent at a time wait together.

        If it is cancelled before the message's turn to be written, the message is not sent; later, it still is.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @param wait: False: do not wait for the message to be safe.
        @raise ValueError: (all in the Deferred) no `fleetspeak.Message`, over 2 MiB, or addressed to the client itself.
        @raise ConnectionClosed: the message may not have arrived.
        @raise BufferError: likewise; 64 MiB of messages wait to be received, and the acknowledgement is behind them.
        """

    def receive(self) -> Deferred[common.Message]:
        """The next message.  If it is cancelled, none is lost.

        @raise ConnectionClosed: there will be none any more.
        @raise ProtocolError: what came is not the protocol.
        """

    def heartbeat(self) -> Deferred[None]:
        """Tell the client that this process is alive; over a socket it does nothing, because nobody watches that."""

    def flush(self) -> Deferred[None]:
        """Fires when everything that was sent so far is safe.  Fails with ConnectionClosed."""

    def close(self) -> Deferred[None]:
        """End the connection; whoever waits gets ConnectionClosed.  What is not safe then may be lost."""

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Deferred[common.Message]: ...


def connect(
    reactor: Any, path: str | None = None, *, version: str | None = None, timeout: float | None = None
) -> Deferred[Connection]:
    """Connect to the client, tell it who we are, and wait until it has answered.

    @param path: of the socket of a Socket service; None: this process is a daemon.
    @param version: of this program, for the reports on its use of resources.
    @param timeout: seconds to wait for somebody at the socket; None: for ever; 0: make one attempt.
    @return: a Deferred of the connection, which can be cancelled and fails with
        NotRunning: nobody listens at the path (in time): the client is not running, or lacks the service;
        UnsafeSocket: the socket is not as the client makes it (in time);
        TimeoutError: the client did not answer in time; it may be busy with another process;
        ValueError: no socket can have this path; without a path: this is no daemon;
        ConnectionClosed: the client that had started this daemon is gone.
    """
    return Deferred.fromCoroutine(_connect(reactor, path, version, timeout))


async def _connect(reactor: Any, path: str | None, version: str | None, patience: float | None) -> Connection:
    connection: DaemonConnection | SocketConnection
    if path is None:
        descriptors = inherited.channel_descriptors()
        connection = DaemonConnection(reactor, *descriptors, inherited.ack_descriptor(), version)
        beginning = connection.begin()
    else:
        connection = SocketConnection(reactor, path, version)
        beginning = connection.begin(patience)
    try:
        await beginning
    except BaseException:
        await connection.close()
        raise
    return connection
