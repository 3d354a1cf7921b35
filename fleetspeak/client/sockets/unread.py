"""What the process at the other end of a Unix socket has not read, as far as the kernel lets us know."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import termios
from dataclasses import replace

from fleetspeak.client.process.handedover import MAX_REPEATS, Frame, HandedOver

_GONE = select.POLLHUP | select.POLLERR


def hung_up(connection: socket.socket) -> bool:
    """Has the other end closed the connection?  Reads nothing."""
    look = select.poll()
    look.register(connection, 0)
    return any(event & _GONE for _, event in look.poll(0))


def unread_at_most(connection: socket.socket) -> int | None:
    """Bytes of what was written that the other end may not have read yet; None: nobody can tell.

    On Linux it is the memory that they take, which is more than their number, and 0 only if all were read.
    """
    size = array.array("i", [0])
    try:
        fcntl.ioctl(connection, termios.TIOCOUTQ, size)
    except OSError:
        return None
    # When the other end goes, what it has not read is thrown away; but it is seen to have gone before that.
    return None if hung_up(connection) else size[0]


class Unread:
    """Keeps the messages that the socket has taken until the process is known to have read them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._handed_over = HandedOver(connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), read_ahead=0)
        self._written = 0
        self._read = 0
        self._all_read = False

    def wrote(self, size: int, frame: Frame | None = None) -> None:
        """The socket has taken so many bytes more; they were this message, or none that must not be lost."""
        self._written += size
        if frame is not None:
            self._handed_over.add(frame, self._written)
        self.look()

    def look(self) -> None:
        """Find out what has been read by now."""
        unread = unread_at_most(self._connection)
        if unread is not None:
            self._read = max(self._read, self._written - unread)

    def read_everything(self) -> None:
        """The process closed the connection in order: it left nothing in it."""
        self._all_read = True

    def left_over(self) -> list[Frame]:
        """The messages for the next connection.

        The last one was not read to its end; of those before it, some may have been.  Those are repeated at most
        `MAX_REPEATS` times, because they may be what ends the process.
        """
        frames = [] if self._all_read else self._handed_over.unread(self._read)
        doubtful = [replace(frame, repeats=frame.repeats + 1) for frame in frames[:-1] if frame.repeats < MAX_REPEATS]
        return doubtful + frames[-1:]
