"""The process's side of a channel over descriptors that the client handed down, for the variants that do not block.

No I/O but for looking at the environment.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from collections import deque

from google.protobuf.message import DecodeError

from fleetspeak.client_connector.messages import body_of, frame_of, startup_message, want_acks_message
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.wire import channelframes

_INFD = "FLEETSPEAK_COMMS_CHANNEL_INFD"
_OUTFD = "FLEETSPEAK_COMMS_CHANNEL_OUTFD"
_ACKFD = "FLEETSPEAK_COMMS_CHANNEL_ACKFD"
_COUNT = struct.Struct("<Q")


def channel_descriptors() -> tuple[int, int]:
    """What to read and what to write.  Raises ValueError if the client has not started this process as a daemon."""
    return _descriptor(_INFD), _descriptor(_OUTFD)


def ack_descriptor() -> int | None:
    """The ack pipe, if the client offers one and it came to this process."""
    text = os.environ.get(_ACKFD, "")
    if not text.isdecimal() or sys.platform == "win32":
        return None
    descriptor = int(text)
    try:
        import fcntl

        readable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if not readable or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        os.set_inheritable(descriptor, False)
    except (OSError, OverflowError):
        return None  # whoever started this process for the client has not handed it down
    return descriptor


class InheritedChannel:
    """Makes and takes the bytes, and knows how many messages the client has told to be safe."""

    def __init__(self, version: str | None, *, acks: bool) -> None:
        """@param acks: there is an ack pipe."""
        self.hello = channelframes.MAGIC + frame_of(startup_message(version))
        """To be written first."""
        if acks:
            self.hello += frame_of(want_acks_message())
        self._decoder = channelframes.Decoder()
        self._inbox: deque[common.Message] = deque()
        self._opened = False
        self._written = 0
        self._acked = 0
        self._ack_bytes = b""

    # ---- out

    def frame(self, message: common.Message) -> tuple[bytes, int]:
        """The bytes of a message, and its size.  Raises ValueError if it cannot be sent."""
        body = body_of(message)
        return channelframes.encode(body), len(body)

    def written(self) -> int:
        """A message is being written, behind all earlier ones.  Returns its number, for `acked`."""
        self._written += 1
        return self._written

    def acks(self, data: bytes) -> None:
        """Take what came over the ack pipe."""
        data = self._ack_bytes + data
        whole = len(data) - len(data) % _COUNT.size
        if whole:
            (acked,) = _COUNT.unpack(data[whole - _COUNT.size : whole])
            self._acked = max(self._acked, acked)
        self._ack_bytes = data[whole:]

    def acked(self, number: int) -> bool:
        """Is the message of this number safe?"""
        return self._acked >= number

    # ---- in

    @property
    def opened(self) -> bool:
        """Has the client answered?"""
        return self._opened

    @property
    def needed(self) -> int:
        """Bytes to read at most: nothing is read ahead, so that what this process has not asked for when it dies is
        still in the pipe, and the client gives it to the next one."""
        return self._decoder.needed

    def received(self, data: bytes) -> None:
        """Take what came; empty at the end.  Raises ProtocolError, for the end only inside a message."""
        if not data:
            self._decoder.finish()
            return
        for body in self._decoder.feed(data):
            try:
                self._inbox.append(common.Message.FromString(body))
            except DecodeError as error:
                raise ProtocolError(f"error parsing received message: {error}") from None
        self._opened = self._opened or self._decoder.awaiting != "magic"

    @property
    def has_message(self) -> bool:
        """Will `receive` give one?"""
        return bool(self._inbox)

    def receive(self) -> common.Message:
        """The next message."""
        return self._inbox.popleft()


def _descriptor(variable: str) -> int:
    text = os.environ.get(variable)
    if text is None:
        raise ValueError(f"{variable} is not set")
    return int(text)
