"""How a service program that the client did not start exchanges messages with Fleetspeak, over a Socket service.

The calls are those of `fleetspeak.client_connector.connector.FleetspeakConnection`::

    with SocketConnection("/run/fleetspeak/hello/socket", version="1.0") as connection:
        while True:
            request, _ = connection.Recv()
            connection.Send(answer_to(request))

The client may come and go: the connection is made again, and what was not acknowledged is sent again, so that each
message arrives at least once.  Everything here is thread-safe; calls block.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from fleetspeak.client_connector import socketfile
from fleetspeak.client_connector.messages import startup_message
from fleetspeak.client_connector.relentless import ID_SIZE, OVERFULL, READ_SIZE, Relentless
from fleetspeak.client_connector.socketfile import (
    ANSWER_TIME,
    FIRST_DELAY,
    ConnectionClosed,
    Delays,
    NotRunning,
    UnsafeSocket,
)
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

__all__ = ["ConnectionClosed", "NotRunning", "SocketConnection", "UnsafeSocket"]

_log = logging.getLogger(__name__)

_OVER = select.POLLHUP | select.POLLERR


class SocketConnection:
    """The connection of this process to a Socket service.  A thread of its own keeps it up."""

    def __init__(self, path: str, version: str | None = None, timeout: float | None = None) -> None:
        """Connect, and tell the client who we are.  Blocks until the client has answered.

        @param path: the socket's, ``api_proxy_path`` in the service's configuration.
        @param version: of this program, for the reports on its use of resources.
        @param timeout: seconds after which to give up; None: wait for the client for ever; 0: make one attempt.
        @raise NotRunning: nobody listens there (in time): the client is not running, or lacks the service.
        @raise UnsafeSocket: the socket is not as the client makes it (in time).
        @raise TimeoutError: the client did not answer in time; it may be busy with another process.
        @raise ValueError: no socket can have this path.
        """
        self._path = path
        self._machine = Relentless(startup_message(version), lambda: os.urandom(ID_SIZE))
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        deadline = _deadline(timeout)
        connection = self._connect_until(deadline)
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(connection,), name=f"fleetspeak {path}", daemon=True)
        self._thread.start()
        if deadline is not None:
            deadline = max(deadline, time.monotonic() + ANSWER_TIME)
        try:
            with self._changed:
                problem = "the client did not answer; it may be busy with another process"
                self._wait_for(lambda: self._machine.opened, deadline, problem)
        except BaseException:
            self.Close()
            raise

    def Send(self, message: common.Message, *, wait: bool = True, timeout: float | None = None) -> int:
        """Send a message; the client fills in its source.

        Blocks until the client has acknowledged it: until it is in the client's spool, or, if that has none, until
        the server has confirmed it.  An acknowledgement takes about 0.1 s; several threads that send at a time
        wait together.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @param wait: False: return as soon as there is room for it among those that are not acknowledged yet.  It is
            lost if this process ends before `Flush` has returned.
        @param timeout: seconds; None: no limit.
        @return: the size of the serialized message in bytes.
        @raise ValueError: no `fleetspeak.Message`, too large, or addressed to the client itself.
        @raise TimeoutError: if it was not sent yet, it never will be; otherwise it still is.
        @raise BufferError: likewise; 64 MiB of messages wait for `Recv`, and the acknowledgement is behind them.
        @raise ConnectionClosed: by another thread; the message may have arrived.
        """
        deadline = _deadline(timeout)
        with self._changed:
            self._wait_for_acks(lambda: self._machine.has_room, deadline, "there was no room for the message")
            message_id, size = self._machine.send(message)
            self._wake()
            if wait:
                pending = self._machine.is_pending
                self._wait_for_acks(lambda: not pending(message_id), deadline, "the message was not acknowledged")
        return size

    def Recv(self, timeout: float | None = None) -> tuple[common.Message, int]:
        """Receive the next message.  Blocks until there is one.

        @param timeout: seconds; None: no limit.
        @return: the message, and the size of its serialized form in bytes.
        @raise TimeoutError: none came.
        @raise ConnectionClosed: by another thread.
        """
        with self._changed:
            self._wait_for(lambda: self._machine.has_message, _deadline(timeout), "no message came")
            received = self._machine.receive()
            assert received is not None
            self._wake()
            return received

    def Heartbeat(self) -> None:
        """Does nothing: nobody watches the heartbeats of a process that the client has not started."""
        with self._changed:
            self._raise_if_closed()

    def Flush(self, timeout: float | None = None) -> None:
        """Block until everything that was sent so far is acknowledged.  Raises TimeoutError or ConnectionClosed."""
        with self._changed:
            sent = self._machine.pending_ids()
            is_pending = self._machine.is_pending
            self._wait_for_acks(
                lambda: not any(map(is_pending, sent)), _deadline(timeout), "not everything was acknowledged"
            )

    def Close(self) -> None:
        """Close the connection.  What is not acknowledged then is not sent again; call `Flush` before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> SocketConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.Flush()
        finally:
            self.Close()

    # ---- waiting, with the lock

    def _wait_for_acks(self, condition: Callable[[], bool], deadline: float | None, problem: str) -> None:
        """Wait for what a LocalAck brings, which may be behind messages that nobody receives at the moment."""
        if condition():
            self._raise_if_closed()
            return
        self._waiting += 1
        self._wake()
        try:
            self._wait_for(lambda: condition() or self._machine.overfull, deadline, problem)
        finally:
            self._waiting -= 1
        if not condition():
            raise BufferError(OVERFULL)

    def _wait_for(self, condition: Callable[[], bool], deadline: float | None, problem: str) -> None:
        self._raise_if_closed()
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(problem)
            self._changed.wait(left)
            self._raise_if_closed()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ConnectionClosed("the connection was closed")

    # ---- the connection; in its own thread, but for the first attempts

    def _connect_until(self, deadline: float | None) -> socket.socket:
        """Try until it succeeds.  Raises the last problem when the next attempt would be too late."""
        delays = Delays()
        while True:
            try:
                return _connect(self._path)
            except OSError as error:
                delay = delays.next()
                if deadline is not None and time.monotonic() + delay > deadline:
                    raise
                _log.warning("cannot connect to %s, trying again in %.1f s: %s", self._path, delay, error)
                time.sleep(delay)

    def _run(self, connection: socket.socket | None) -> None:
        """Keep the connection up until `Close`."""
        delays = Delays()
        try:
            while not self._closed:
                since = time.monotonic()
                try:
                    connection = connection or _connect(self._path)
                    with connection:
                        problem = self._serve(connection)
                except OSError as error:
                    problem = str(error)
                connection = None
                with self._changed:
                    lasted = self._machine.opened and time.monotonic() - since > FIRST_DELAY
                    self._machine.disconnected()
                if lasted:
                    delays.reset()
                elif not self._closed:
                    self._sleep(delays.next(), problem)
        except Exception:
            _log.exception("the connection to %s failed", self._path)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._wake_read.close()
            self._wake_write.close()

    def _serve(self, connection: socket.socket) -> str:
        """Read and write until the connection is lost or closed.  Returns why it was."""
        connection.setblocking(False)
        output = memoryview(b"")
        reading = True
        with self._changed:
            self._machine.connected(time.monotonic())
        while True:
            with self._changed:
                if self._closed:
                    return "closed"
                output = output or memoryview(self._machine.output())
                wanted = self._machine.wants_data(waiting=self._waiting > 0)
                if wanted and not reading:
                    self._machine.resumed(time.monotonic())
                reading = wanted
                deadline = self._machine.deadline if reading else None
            ready = self._poll(connection, reading, bool(output), deadline)
            try:
                if ready & select.POLLOUT:
                    output = output[connection.send(output) :]
                if ready & (select.POLLIN | _OVER):
                    # At the end it is read in any case: there is no more than what the socket holds.
                    data = connection.recv(READ_SIZE)
                    self._take(data)
                    if not data:
                        return "the client has closed the connection"
                elif deadline is not None:
                    with self._changed:
                        self._machine.check(time.monotonic())
            except BlockingIOError:
                continue
            except ProtocolError as error:
                return str(error)

    def _take(self, data: bytes) -> None:
        with self._changed:
            try:
                self._machine.received(data, time.monotonic())
            finally:
                self._machine.acked()
                self._changed.notify_all()

    def _poll(self, connection: socket.socket, reading: bool, writing: bool, deadline: float | None) -> int:
        """Wait until something can be done with the connection, or somebody wakes us, or the deadline comes."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(connection, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = dict(poll.poll(None if left is None else left * 1000 + 1))
        if ready.get(self._wake_read.fileno()):
            self._wake_read.recv(4096)
        return ready.get(connection.fileno(), 0)

    def _sleep(self, seconds: float, problem: str) -> None:
        """Until then, or until the connection is closed."""
        _log.warning("no connection to %s, trying again in %.1f s: %s", self._path, seconds, problem)
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _wake(self) -> None:
        """Have the connection's thread look again."""
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._wake_write.send(b"!")


def _connect(path: str) -> socket.socket:
    """Raises NotRunning, UnsafeSocket, or another OSError."""
    socketfile.check(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NotRunning(f"nobody listens at {path}: the client is not running") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
