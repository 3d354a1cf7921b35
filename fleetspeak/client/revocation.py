"""Keeps the list of revoked certificates up to date."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from fleetspeak.client.addressing import SYSTEM
from fleetspeak.client.comms.http import reason_of
from fleetspeak.client.files import Files
from fleetspeak.client.state import StateKeeper
from fleetspeak.errors import FileUnavailable
from fleetspeak.pb import system

FILE = "RevokedCertificates"
"""Its name, among the files of the service ``system``."""

INTERVAL = 3600.0
"""Seconds between looks; upstream's."""

LIMIT = 30.0
"""Seconds that a look may take; upstream's."""

MAX_LIST = 1024 * 1024
"""Bytes of a list; a serial number takes about 22."""

MAX_SERIAL = 64
"""Bytes of a serial number; RFC 5280 allows 20, and not everybody keeps to it."""

_NOT_FOUND = 404


class RevocationUpdates:
    """Asks for the list at start and then every hour, beside everything else; what goes wrong is logged."""

    _log = Logger()

    def __init__(self, files: Files, state: StateKeeper, clock: IReactorTime) -> None:
        self._files = files
        self._state = state
        self._asking: Deferred[None] | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self) -> None:
        """Ask for the first time."""
        self._looking.start(INTERVAL, now=True)

    def stop(self) -> None:
        """Ask no more."""
        if self._looking.running:
            self._looking.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _look(self) -> Deferred[None]:
        # Never waited for with an error in it, so the next look comes in any case.
        self._asking = Deferred.fromCoroutine(self._update())
        return self._asking.addErrback(self._failed)

    async def _update(self) -> None:
        data = await self._files.read(SYSTEM, FILE, max_bytes=MAX_LIST, timeout=LIMIT)
        added = await self._state.revoke(_serials(data))
        if added:
            self._log.info("{count} more certificates are revoked", count=added)

    def _failed(self, failure: object) -> None:
        error: BaseException = failure.value  # type: ignore[attr-defined]
        if isinstance(error, CancelledError):
            return
        if isinstance(error, FileUnavailable) and error.status == _NOT_FOUND:
            self._log.info("the servers have no list of revoked certificates")
        else:
            self._log.error("the list of revoked certificates was not updated: {reason}", reason=reason_of(error))


def _serials(data: bytes) -> list[bytes]:
    """Those of a serialized RevokedCertificateList.  Raises ValueError."""
    try:
        listed = system.RevokedCertificateList.FromString(data).serials
    except DecodeError:
        raise ValueError("it cannot be parsed") from None
    if any(len(serial) > MAX_SERIAL for serial in listed):
        raise ValueError(f"it holds a serial number of more than {MAX_SERIAL} bytes")
    return list(listed)
