"""Tells systemd how the program is: the protocol of sd_notify(3), one datagram a message, for units of Type=notify."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

STATUS_INTERVAL = 10.0
"""Seconds; how old the line that ``systemctl status`` shows may be."""


class Notifier:
    """Says when the program is ready, reloads and stops, what it is doing, and that its reactor is alive.

    Where nobody has asked for that it does nothing.  Nothing here blocks or fails: systemd not listening is no reason
    for a program not to run.
    """

    _log = Logger()

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """
        @param address: path of a datagram socket; one that begins with ``@`` is in the abstract name space.
        @param watchdog: seconds after which systemd gives the program up; 0 for never.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._described = ""
        self._describe: Callable[[], str] = str
        self._loop: LoopingCall | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ, pid: int | None = None) -> Notifier:
        """As systemd set it up.  Takes the variables out of `environ`, so that no child believes they are for it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant = environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        for_us = not meant or meant == str(os.getpid() if pid is None else pid)
        return cls(address, int(microseconds) / 1e6 if for_us and microseconds.isdecimal() else 0.0)

    def start(self, clock: Any, describe: Callable[[], str]) -> None:
        """Feed the watchdog from now on, at half its time, and keep the status line up to date.

        @param describe: what the program is doing, in one line.
        """
        self._describe = describe
        if self._address and self._loop is None:
            self._loop = LoopingCall(self._tell)
            self._loop.clock = clock
            interval = min(STATUS_INTERVAL, self._watchdog / 2) if self._watchdog else STATUS_INTERVAL
            self._loop.start(interval, now=True).addErrback(lambda failure: self._log.failure("systemd", failure))

    def stop(self) -> None:
        """Feed no more."""
        if self._loop is not None:
            self._loop.stop()
            self._loop = None

    def ready(self) -> None:
        """The start, or the reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is read anew; `ready` is to follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The program is about to end."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _tell(self) -> None:
        fields = ["WATCHDOG=1"] if self._watchdog else []
        described = " ".join(self._describe().split())
        if described != self._described:
            self._described = described
            fields.append(f"STATUS={described}")
        if fields:
            self._send(*fields)

    def _send(self, *fields: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            ) as sender:
                sender.sendto("\n".join(fields).encode(), self._address)
        except OSError as error:
            self._log.warn("systemd could not be told {what!r}: {error}", what=fields[0], error=error)
