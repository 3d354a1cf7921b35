"""The connector for service programs that use asyncio: for daemons, and for what connects to a Socket service.

::

    connection = await connect(version="1.0")
    async for request in connection:
        await connection.send(answer_to(request))

`connect` without a path is for a daemon, which the client has started; with a path it connects to a Socket service.
Nothing blocks the event loop.  Every call can be cancelled.  Linux and macOS only.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import TracebackType
from typing import Protocol, Self

from fleetspeak.client_connector import inherited
from fleetspeak.client_connector.aio.daemon import DaemonConnection
from fleetspeak.client_connector.aio.socket import SocketConnection
from fleetspeak.client_connector.socketfile import ConnectionClosed, NotRunning, UnsafeSocket
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

__all__ = ["Connection", "ConnectionClosed", "NotRunning", "ProtocolError", "UnsafeSocket", "connect"]


class Connection(Protocol):
    """A connection to the client, of either kind.  An async iterator over the messages that come."""

    async def send(self, message: common.Message, *, wait: bool = True) -> int:
        """Send a message; the client fills in its source.

        Done when the message is safe: for a daemon, when it is in the client's spool, or in the pipe if the client has
        none; over a socket, when the client has acknowledged it, which takes about 0.1 s and for a client without spool
        means that the server has it.  Several that are sent at a time wait together.

        If it is cancelled before the message's turn to be written, the message is not sent; later, it still is.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @param wait: False: do not wait for the message to be safe.
        @return: the size of the serialized message in bytes.
        @raise ValueError: no `fleetspeak.Message`, over 2 MiB, or addressed to the client itself.
        @raise ConnectionClosed: the message may not have arrived.
        @raise BufferError: likewise; 64 MiB of messages wait to be received, and the acknowledgement is behind them.
        """

    async def receive(self) -> common.Message:
        """The next message.  If it is cancelled, none is lost.

        @raise ConnectionClosed: there will be none any more.
        @raise ProtocolError: what came is not the protocol.
        """

    async def heartbeat(self) -> None:
        """Tell the client that this process is alive; over a socket it does nothing, because nobody watches that."""

    async def flush(self) -> None:
        """Done when everything that was sent so far is safe.  Raises ConnectionClosed."""

    async def close(self) -> None:
        """End the connection; whoever waits gets ConnectionClosed.  What is not safe then may be lost."""

    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> common.Message: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """`flush`, unless there was an exception, and `close`."""


async def connect(
    path: str | None = None,
    *,
    version: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  # it limits the attempts; asyncio.timeout limits the whole call
) -> Connection:
    """Connect to the client, tell it who we are, and wait until it has answered.

    @param path: of the socket of a Socket service; None: this process is a daemon.
    @param version: of this program, for the reports on its use of resources.
    @param timeout: seconds to wait for somebody at the socket; None: for ever; 0: make one attempt.
    @raise NotRunning: nobody listens there (in time): the client is not running, or lacks the service.
    @raise UnsafeSocket: the socket is not as the client makes it (in time).
    @raise TimeoutError: the client did not answer in time; it may be busy with another process.
    @raise ValueError: no socket can have this path; without a path: this is no daemon.
    @raise ConnectionClosed: the client that had started this daemon is gone.
    """
    if path is None:
        daemon = DaemonConnection(*inherited.channel_descriptors(), inherited.ack_descriptor(), version)
        return await _begun(daemon, daemon.begin())
    connection = SocketConnection(path, version)
    return await _begun(connection, connection.begin(timeout))


async def _begun(connection: Connection, beginning: Awaitable[None]) -> Connection:
    try:
        await beginning
    except BaseException:
        await connection.close()
        raise
    return connection
