"""Follows the access file, and the certificates it names, while the server runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fleetspeak.config.adminaccess import AdminAccess, read_access
from fleetspeak.errors import ConfigError

INTERVAL = 5.0
"""Seconds between two looks whether a file has changed."""

_FIXED = ("token_address", "local_address", "unix_socket")

log = Logger()

Signature = tuple[tuple[int, int, int] | None, ...]


class AccessFile:
    """Reads it again when it, or a certificate, has changed.

    One that cannot be used is complained of, and what was in force stays.
    """

    def __init__(self, access: AdminAccess, use: Callable[[AdminAccess], None], reactor: Any) -> None:
        """@param use: called in the reactor's thread with what is in force from then on."""
        self._in_force = access
        self._use = use
        self._reactor = reactor
        self._seen: Signature | None = None
        """Of what was read last; None: look into the files anew."""
        self._complaint = ""
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor

    def start(self) -> None:
        """Look, from now on."""
        running: Deferred[Any] = self._looks.start(INTERVAL, now=False)
        running.addErrback(lambda failure: log.failure("the access file is followed no more", failure=failure))

    def stop(self) -> None:
        """Look no more."""
        if self._looks.running:
            self._looks.stop()

    async def look(self) -> None:
        """Look now."""
        try:
            changed = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._read_if_changed)
        except ConfigError as error:
            self._complain(str(error))
            return
        if changed is None or changed == self._in_force or not self._looks.running:
            return
        for name in _FIXED:
            if getattr(changed, name) != getattr(self._in_force, name):
                log.warn("access file: a changed {name} counts from the next start on", name=name)
        if (changed.tls is None) != (self._in_force.tls is None) or _asks(changed) != _asks(self._in_force):
            log.error(
                "access file: tls is there or not, and asks for certificates or not, as it was at the start; not used"
            )
            return
        self._in_force = changed
        self._use(changed)
        log.info("the changed access file is in force, with {count} callers", count=len(changed.callers))

    def _look(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.look())

    def _complain(self, text: str) -> None:
        """Once: what is wrong may take a while to be mended, perhaps in a file that was not among ours before."""
        if text != self._complaint:
            log.error("the changed access file is not used, what was in force stays: {error}", error=text)
        self._complaint = text

    def _read_if_changed(self) -> AdminAccess | None:
        """In a thread.  Raises ConfigError."""
        now = signature(self._in_force.paths)  # before it is read, so that no later change is missed
        if now == self._seen:
            return None
        self._seen = None
        changed = read_access(self._in_force.paths[0])
        if changed.paths == self._in_force.paths:
            self._seen = now
        self._complaint = ""
        return changed


def _asks(access: AdminAccess) -> bool:
    return access.tls is not None and access.tls.client_ca is not None


def signature(paths: Sequence[Path]) -> Signature:
    """What changes when one of the files does."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
