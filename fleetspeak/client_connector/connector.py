"""How a service program, started by the client's Daemon service, exchanges messages with Fleetspeak.

The names, the behaviour and the texts are those of upstream's module, so that existing services run unchanged.
A service makes one `FleetspeakConnection` and then receives and sends for ever::

    connection = FleetspeakConnection(version="1.0")
    while True:
        request, _ = connection.Recv()
        connection.Send(answer_to(request))

When the client goes away, `FleetspeakConnection.Recv` raises `struct.error`, which is the way for a service to end.

Everything here is thread-safe; calls block.

A client that keeps messages in a spool offers an ack pipe, of which upstream knows nothing: then Send returns when
the message is on the client's disk.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from typing import BinaryIO

from fleetspeak.client_connector.inherited import ack_descriptor
from fleetspeak.client_connector.messages import (
    check_sendable,
    heartbeat_message,
    startup_message,
    want_acks_message,
)
from fleetspeak.pb import common

MAX_SIZE = 2 * 1024 * 1024
"""Bytes in one serialized message; exactly so many are allowed."""

_INFD = "FLEETSPEAK_COMMS_CHANNEL_INFD"
_OUTFD = "FLEETSPEAK_COMMS_CHANNEL_OUTFD"
_NUMBER = struct.Struct("<I")
_COUNT = struct.Struct("<Q")
_MAGIC = 0xF1EE1001
_MAGIC_BYTES = _NUMBER.pack(_MAGIC)


class ProtocolError(Exception):
    """The client sent something that is not the channel protocol; the connection is of no use any more."""


class FleetspeakConnection:
    """The connection of this process to the Fleetspeak client that started it."""

    def __init__(
        self,
        version: str | None = None,
        read_file: BinaryIO | None = None,
        write_file: BinaryIO | None = None,
    ) -> None:
        """Connect, and tell the client who we are.  Blocks until the client has answered.

        @param version: of this service, for the reports on its use of resources.
        @param read_file: binary; by default the file descriptor that the client has put in the environment.
        @param write_file: likewise; buffered.
        @raise ValueError: the environment lacks a file descriptor, or has something else there.
        @raise ProtocolError: whoever answered is no Fleetspeak client.
        @raise struct.error: the client is gone.
        """
        self._read_file = _open_from_environment(_INFD, "rb") if read_file is None else read_file
        self._write_file = _open_from_environment(_OUTFD, "wb") if write_file is None else write_file
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._acks = _AckReader.from_environment() if read_file is None and write_file is None else None
        self._counted = 0
        with self._write_lock:
            self._write_file.write(_MAGIC_BYTES)
            self._write_file.flush()
        self._write(startup_message(version))
        if self._acks is not None:
            self._write(want_acks_message())
        with self._read_lock:
            self._read_magic()

    def Send(self, message: common.Message) -> int:
        """Send a message; the client fills in its source.  Blocks while the pipe is full.

        With a client that has a spool it blocks until the message is there, and so survives whatever happens to
        the client; several threads that send at a time wait together.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @return: the size of the serialized message in bytes.
        @raise ValueError: no `fleetspeak.Message`, over `MAX_SIZE`, or addressed to the client itself.
        @raise BrokenPipeError: the client is gone, and may not have the message.
        """
        check_sendable(message)
        return self._write(message, counts=True)

    def Recv(self) -> tuple[common.Message, int]:
        """Receive the next message.  Blocks until there is one.

        @return: the message, and the size of its serialized form in bytes.
        @raise ProtocolError: what came is not the protocol.
        @raise struct.error: the client is gone.
        """
        with self._read_lock:
            size = self._read_number()
            if size > MAX_SIZE:
                raise ProtocolError(f"Expected size to be at most {MAX_SIZE}, got {size}")
            body = self._read(size)
            self._read_magic()
        return common.Message.FromString(body), size

    def Heartbeat(self) -> None:
        """Tell the client that this process is alive; for services whose heartbeats are watched."""
        self._write(heartbeat_message())

    def _write(self, message: common.Message, *, counts: bool = False) -> int:
        """Write a message.  If it `counts`, wait for the client's ack, where there are acks."""
        body = message.SerializeToString()
        size = len(body)
        if size > MAX_SIZE:
            raise ValueError(f"Serialized message too large, size must be at most {MAX_SIZE}, got {size}")
        frame = b"".join((_NUMBER.pack(size), body, _MAGIC_BYTES))
        with self._write_lock:
            self._write_file.write(frame)
            self._write_file.flush()
            self._counted += counts
            number = self._counted
        if counts and self._acks is not None:
            self._acks.wait_for(number)
        return size

    def _read_magic(self) -> None:
        got = self._read_number()
        if got != _MAGIC:
            raise ProtocolError(f"Expected to read magic number {_MAGIC}, got {got}.")

    def _read_number(self) -> int:
        number: int
        (number,) = _NUMBER.unpack(self._read(_NUMBER.size))
        return number

    def _read(self, size: int) -> bytes:
        """So many bytes.  Raises struct.error if the client is gone before they have come."""
        data = self._read_file.read(size)
        while 0 < len(data) < size:
            more = self._read_file.read(size - len(data))
            if not more:
                break
            data += more
        if len(data) != size:
            raise struct.error(f"unpack requires a buffer of {size} bytes")
        return data


class _AckReader:
    """Reads the ack pipe: how many messages the client has on its disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._acked = 0
        self._changed = threading.Condition()
        self._reading = False
        self._gone = False

    @classmethod
    def from_environment(cls) -> _AckReader | None:
        """The one that the client offers, if it does and it came to this process."""
        descriptor = ack_descriptor()
        return None if descriptor is None else cls(descriptor)

    def wait_for(self, number: int) -> None:
        """Return when so many messages are acked.  Raises BrokenPipeError if the client is gone before that.

        Of the threads that wait, one reads for all.
        """
        with self._changed:
            while self._acked < number:
                if self._gone:
                    raise BrokenPipeError("the client went away before it had the message")
                if self._reading:
                    self._changed.wait()
                else:
                    self._read()

    def _read(self) -> None:
        """Take what the pipe has; called with the lock, which is free while this waits."""
        self._reading = True
        self._changed.release()
        data = b""
        try:
            data = os.read(self._descriptor, 512 * _COUNT.size)
        finally:
            self._changed.acquire()
            self._reading = False
            if data:
                (self._acked,) = _COUNT.unpack(data[-_COUNT.size :])
            self._changed.notify_all()
        self._gone = not data


def _open_from_environment(variable: str, mode: str) -> BinaryIO:
    text = os.environ.get(variable)
    if text is None:
        raise ValueError(f"{variable} is not set")
    descriptor = int(text)
    if sys.platform == "win32":
        import msvcrt

        # Windows hands down handles, of which Python makes file descriptors.
        descriptor = msvcrt.open_osfhandle(descriptor, os.O_RDONLY if mode == "rb" else 0)
    # Nothing is read ahead: what this process has not asked for stays in the pipe, and should the process die,
    # the client gives it to the next one.
    return os.fdopen(descriptor, mode, buffering=0 if mode == "rb" else -1)  # type: ignore[return-value]
