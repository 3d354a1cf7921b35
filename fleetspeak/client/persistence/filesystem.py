"""Keeps a client's state in a file: written whole or not at all, readable by its owner alone, with a backup.

The file is the Go client's, which may take it over at any time.  Beside it are, for us alone:

==================  ==================================================================================
``<file>.bak``      the same state as of the last time its key or its revoked serial numbers changed
``<file>.bak.old``  the last backup of a state file that somebody has removed
``<file>.broken-*`` files that held no state
``<file>.lock``     see `fleetspeak.client.persistence.lock`
==================  ==================================================================================

The backup is never older than the key in use.  A new key is written to the file, then to the backup, and used only
then; where the backup cannot be written it is removed.  So a kill between the two leaves a good file, whose key was
not used yet and is written to the backup before it is; and no broken file ever leads back to a key that was replaced.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.client.persistence.lock import StateLock
from fleetspeak.config.trust import Trust
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client
from fleetspeak.security import keys
from fleetspeak.security.files import sync_directory

LOCK_SUFFIX = ".lock"
"""What the name of the lock file has behind that of the state file."""

MAX_STATE = 16 * 1024 * 1024
"""Bytes in a state file that we are willing to read; a real one has a few hundred."""


class Unusable(Exception):
    """A file is there but gives no identity; the text says why, and never quotes it."""


@implementer(IPersistence)
class FilePersistence:
    """A `fleetspeak.client.ClientState` in the file `path`, in the format of the Go client."""

    _log = Logger()

    def __init__(self, path: Path, now: Callable[[], float] = time.time, trust: Trust | None = None) -> None:
        """@param trust: opens the files; by default only those of root and of who runs this."""
        self._path = path
        self._trust = trust or Trust()
        self._backup = _beside(path, ".bak")
        self._lock = StateLock(_beside(path, LOCK_SUFFIX))
        self._now = now
        self._backed_up: client.ClientState | None = None

    def claim(self) -> None:
        """See `IPersistence`.  Also refused is a folder in which others could put another file in its place."""
        try:
            self._trust.check_folder(self._path.parent)
        except OSError as error:
            raise ConfigError(f"cannot use the folder of the state file {self._path}: {error.strerror}") from error
        self._lock.acquire()

    def release(self) -> None:
        """See `IPersistence`."""
        self._lock.release()

    def load(self) -> client.ClientState:
        """Read the state, or its backup where the file gives none.

        A file that gives none is set aside under another name, never overwritten.  One that is missing is no
        reason to take the backup: whoever removes it wants a new identity.  One without a key, or of no length, is
        a new client's if there is no backup, and broken if there is one.
        """
        data = self._read(self._path)
        for complaint in self._trust.complaints():
            self._log.warn("{complaint}", complaint=complaint)
        if data is None:
            self._start_anew()
            return client.ClientState()
        try:
            state = _parse(data)
            problem = "" if state.client_key else "there is no key in it"
        except Unusable as error:
            state, problem = None, str(error)
        if state is not None and not problem:
            return state
        backup = self._usable_backup()
        if backup is not None:
            self._restore(backup, problem)
            return backup
        if state is None:
            return self._without_backup(data, problem)
        return state

    def save(self, state: client.ClientState) -> None:
        """Put it into the file, and into the backup if that is out of date; on the disk before returning."""
        _write(self._path, state)
        if not self._is_backed_up(state):
            self._back_up(state)

    def __str__(self) -> str:
        return str(self._path)

    def _read(self, path: Path) -> bytes | None:
        """Its content, up to one byte more than a state may have; None if there is no such file.

        @raise ConfigError: it cannot be read, or others could have written it.
        """
        try:
            with self._trust.open(path) as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    self._log.warn(
                        "{path} could be read by others, who then can pose as this client; think of a rekey. "
                        "From now on it is private",
                        path=path,
                    )
                return file.read(MAX_STATE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"cannot read the state file {path}: {error.strerror}; give the client a file it may read and write"
            ) from error

    # ---- the backup

    def _is_backed_up(self, state: client.ClientState) -> bool:
        return (
            self._backed_up is not None
            and self._backed_up.client_key == state.client_key
            and self._backed_up.revoked_cert_serials == state.revoked_cert_serials
        )

    def _back_up(self, state: client.ClientState) -> None:
        try:
            _write(self._backup, state)
        except OSError as error:
            # Not the end of anything, as long as it does not keep a key that is replaced.
            self._backup.unlink(missing_ok=True)
            sync_directory(self._path.parent)
            self._backed_up = None
            self._log.error(
                "cannot write the backup {backup} of the state: {error}; there is none now",
                backup=self._backup,
                error=error.strerror,
            )
        else:
            self._backed_up = client.ClientState()
            self._backed_up.CopyFrom(state)

    def _restore(self, backup: client.ClientState, problem: str) -> None:
        """Keep the broken file under another name, and put the backup in its place.

        There is a file all the time, as a missing one would be taken for one that somebody has removed.
        """
        try:
            self._set_aside(self._path, problem, leave=True)
            _write(self._path, backup)
        except OSError as error:
            raise ConfigError(
                f"the state file {self._path} cannot be used ({problem}), and its backup cannot be put in its place: "
                f"{error.strerror}; its folder must be writable for the client, and have room"
            ) from error
        self._log.error("going on with the identity of the backup {backup}", backup=self._backup)

    def _usable_backup(self) -> client.ClientState | None:
        """The state in the backup, if it has a good key."""
        try:
            data = self._read(self._backup)
            if data is None:
                return None
            state = _parse(data)
        except (ConfigError, Unusable) as error:
            self._log.error("the backup {backup} is no use either: {error}", backup=self._backup, error=error)
            return None
        return state if state.client_key else None

    # ---- when there is no state to go on with

    def _start_anew(self) -> None:
        try:
            self._backup.rename(_beside(self._backup, ".old"))
        except OSError:  # most likely there is none
            self._log.info("no state file at {path} yet: this client starts with a new identity", path=self._path)
            return
        self._log.warn(
            "the state file {path} was removed: this client starts with a new identity. "
            "To get the old one back, stop the client and rename {old} to {path}",
            path=self._path,
            old=_beside(self._backup, ".old"),
        )

    def _without_backup(self, data: bytes, problem: str) -> client.ClientState:
        """What is left to do with a file that is broken.

        @raise ConfigError: it is a state, and only its key is broken; as the Go client does, ask the operator.
        """
        if _is_state(data):
            raise ConfigError(
                f"unable to parse client key of the state in {self._path}: {problem}; put a good copy in its place, "
                "or move it away to start with a new identity"
            )
        self._set_aside(self._path, problem)
        self._log.error(
            "there is no backup: starting with a new identity. To get the old one back, stop the client and put a "
            "good copy of its state at {path}",
            path=self._path,
        )
        if self._backup.exists():
            self._set_aside(self._backup, "see above")
        return client.ClientState()

    def _set_aside(self, path: Path, problem: str, *, leave: bool = False) -> None:
        """Give the file another name; if `leave`, then in addition to the one it has, where that is possible."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        broken = _beside(path, f".broken-{stamp}")
        try:
            try:
                (os.link if leave else os.rename)(path, broken)
            except (FileExistsError, PermissionError):
                os.rename(path, broken)  # there is one of the same second, or the file system knows no links
        except OSError as error:
            raise ConfigError(
                f"the state file {path} holds no client state and cannot be renamed: {error.strerror}; "
                "move it away, or put a good copy in its place"
            ) from error
        self._log.error(
            "the state file {path} cannot be used: {problem}; moved to {broken}",
            path=path,
            problem=problem,
            broken=broken,
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _parse(data: bytes) -> client.ClientState:
    """The state with these bytes, which has a good key or none.  Raises Unusable."""
    if not _is_state(data):
        raise Unusable("it holds no client state")
    state = client.ClientState.FromString(data)
    if state.client_key:
        try:
            keys.load_sec1(state.client_key)
        except ValueError as error:
            raise Unusable(str(error)) from None
    return state


def _is_state(data: bytes) -> bool:
    try:
        client.ClientState.FromString(data)
    except DecodeError:
        return False
    return len(data) <= MAX_STATE


def _write(path: Path, state: client.ClientState) -> None:
    """Write to ``.new`` and rename it over the old file; on the disk, name and all, before returning."""
    new = _beside(path, ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(state.SerializeToString())
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    sync_directory(path.parent)
