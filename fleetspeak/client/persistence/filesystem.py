"""Keeps a client's state in a file: written whole or not at all, readable by its owner alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client

MAX_STATE = 16 * 1024 * 1024
"""Bytes in a state file that we are willing to read; a real one has a few hundred."""


@implementer(IPersistence)
class FilePersistence:
    """A `fleetspeak.client.ClientState` in the file `path`, in the format of the Go client."""

    _log = Logger()

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now

    def load(self) -> client.ClientState:
        """Read the state.  A file that holds none is set aside under another name, never overwritten."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_STATE + 1)
        except FileNotFoundError:
            self._log.info("no state file at {path} yet: this client starts with a new identity", path=self._path)
            return client.ClientState()
        except OSError as error:
            raise ConfigError(
                f"cannot read the state file {self._path}: {error.strerror}; "
                "give the client a file it may read and write"
            ) from error
        try:
            if len(data) > MAX_STATE:
                raise DecodeError("it is too large")
            return client.ClientState.FromString(data)
        except DecodeError:
            self._set_aside()
            return client.ClientState()

    def save(self, state: client.ClientState) -> None:
        """Write to ``.new`` and rename it over the old file; on the disk, name and all, before returning."""
        new = self._path.with_name(self._path.name + ".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(state.SerializeToString())
            file.flush()
            os.fsync(descriptor)
        new.replace(self._path)
        _sync_directory(self._path.parent)

    def __str__(self) -> str:
        return str(self._path)

    def _set_aside(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        broken = self._path.with_name(f"{self._path.name}.broken-{stamp}")
        try:
            self._path.rename(broken)
        except OSError as error:
            raise ConfigError(
                f"the state file {self._path} holds no client state and cannot be renamed: {error.strerror}; "
                "move it away, or put a good copy in its place"
            ) from error
        self._log.error(
            "the state file {path} holds no client state: moved to {broken}, starting with a new identity. "
            "To get the old one back, stop the client and put a good copy in its place",
            path=self._path,
            broken=broken,
        )


def _sync_directory(directory: Path) -> None:
    """Make a rename in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
