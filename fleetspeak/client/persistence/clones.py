"""Notices, as far as one can on one machine, that a state was copied, as with the image of a disk."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak.client.identity import KeyedIdentity
from fleetspeak.client.labels import Labels
from fleetspeak.config.trust import Trust
from fleetspeak.core.clones import LABEL, Note, parse, suspicion, updated
from fleetspeak.errors import ConfigError
from fleetspeak.ids import client_id_of_key, show
from fleetspeak.pb import client
from fleetspeak.security import keys
from fleetspeak.security.files import PRIVATE, write_atomically

MACHINE_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
HARDWARE_FILES = (Path("/sys/class/dmi/id/product_uuid"),)
"""Readable by root alone; where it is not, the hardware is unknown."""

_MAX = 64 * 1024
"""Bytes of any file that is read here."""


class CloneCheck:
    """Keeps a note beside the state file, in ``<file>.host``, of where the identity runs.

    While there is a suspicion the client has the label `LABEL`, and the note stays as it is: until the client is
    rekeyed or somebody removes the note.  The original, whose note fits, has no such label.
    """

    _log = Logger()

    def __init__(
        self,
        state_file: Path,
        labels: Labels,
        in_thread: Callable[..., Deferred[Any]],
        trust: Trust | None = None,
        machine_files: tuple[Path, ...] = MACHINE_FILES,
        hardware_files: tuple[Path, ...] = HARDWARE_FILES,
    ) -> None:
        self._state_file = state_file
        self._file = state_file.with_name(state_file.name + ".host")
        self._labels = labels
        self._in_thread = in_thread
        self._trust = trust or Trust()
        self._machine_files = machine_files
        self._hardware_files = hardware_files

    def check(self, identity: KeyedIdentity) -> None:
        """Compare, and say what is found: in the log, and as a label.  Blocks for as long as small files take."""
        here = self._here(identity)
        noted = self._noted()
        reason = suspicion(noted, here, is_still_there=self._is_also_at(noted.path, identity))
        if reason:
            self._labels.found((LABEL,))
            self._log.warn(
                "this client may be a copy of another one: {reason}. If both run, they take each other's messages: "
                "rekey one of them. If not, remove {file}, or start with --no-clone-check",
                reason=reason,
                file=self._file,
            )
        elif (note := updated(noted, here)) != noted:
            self._write(note)

    def rekeyed(self, identity: KeyedIdentity) -> None:
        """From now on it is nobody's copy."""
        self._labels.found(())
        noting = self._in_thread(self._write, self._here(identity))
        noting.addErrback(lambda failure: self._log.failure("cannot note where the client runs", failure))

    def _write(self, note: Note) -> None:
        try:
            write_atomically(self._file, note.dump(), PRIVATE)
        except OSError as error:
            self._log.warn("cannot write {file}: {error}", file=self._file, error=error.strerror)

    def _noted(self) -> Note:
        try:
            return parse(self._trust.read(self._file, _MAX))
        except FileNotFoundError:
            return Note()
        except (OSError, ConfigError) as error:
            self._log.warn("cannot use {file}: {error}", file=self._file, error=error)
            return Note()

    def _here(self, identity: KeyedIdentity) -> Note:
        return Note(
            client_id=show(identity.client_id),
            machine=_fingerprint(self._machine_files),
            hardware=_fingerprint(self._hardware_files),
            hostname=socket.gethostname(),
            path=str(self._state_file.absolute()),
        )

    def _is_also_at(self, path: str, identity: KeyedIdentity) -> bool:
        """Is there another state file with this identity?"""
        if not path or Path(path) == self._state_file.absolute():
            return False
        try:
            if os.path.samefile(path, self._state_file):
                return False
            state = client.ClientState.FromString(self._trust.read(Path(path), _MAX))
            return client_id_of_key(keys.public_der(keys.load_sec1(state.client_key))) == identity.client_id
        except (OSError, ConfigError, ValueError, DecodeError):
            return False


def _fingerprint(files: tuple[Path, ...]) -> str:
    """A hash of what is in the first of these files that says something; the ids themselves are confidential."""
    for path in files:
        try:
            with path.open("rb") as file:
                found = file.read(_MAX).strip()
        except OSError:
            continue
        if found and found != b"uninitialized":
            return hashlib.sha256(b"fleetspeak " + found).hexdigest()[:32]
    return ""
