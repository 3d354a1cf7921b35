"""One process at a time on one state: an advisory lock that the kernel takes back when the process ends."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from twisted.logger import Logger

from fleetspeak.errors import ConfigError

_NOT_POSSIBLE_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""File systems that know no locks."""


class ProcessLock:
    """A lock on the file `path`, which holds the process id of whoever has it.

    The file stays when the lock is released: were it removed, two processes could each lock one of that name.
    Children do not inherit the lock, as its descriptor is closed when they are executed.
    """

    _log = Logger()

    def __init__(self, path: Path, what: str, advice: str) -> None:
        """@param what: what must not be there twice, such as ``client runs on this state``.
        @param advice: what to do about a second one."""
        self._path = path
        self._what = what
        self._advice = advice
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.  Blocks for no longer than opening a file does.

        @raise ConfigError: another process has it, whose id the text says; or the file cannot be made.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open the lock file {self._path}: {error.strerror}") from error
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back, if we have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another {self._what}: process {_holder(descriptor)} has locked {self._path}; {self._advice}"
            ) from None
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE_HERE:
                raise ConfigError(f"cannot lock {self._path}: {error.strerror}") from error
            self._log.warn(
                "cannot lock {path}: {error}; see to it that no second {what}",
                what=self._what,
                path=self._path,
                error=error.strerror,
            )
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _holder(descriptor: int) -> str:
    """The process id in the file, as far as it is one."""
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return text if text.isdecimal() else "of unknown id"
