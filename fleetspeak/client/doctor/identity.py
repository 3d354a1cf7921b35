"""The client's state: who it is, as far as the file says.  Nothing is written, moved or locked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from fleetspeak.client.doctor.findings import Finding, failed, ok, warning
from fleetspeak.client.identity import KeyedIdentity, load_identity, new_identity
from fleetspeak.client.persistence.filesystem import MAX_STATE
from fleetspeak.config.client import ClientSettings
from fleetspeak.ids import show
from fleetspeak.pb import client


@dataclass(frozen=True, slots=True)
class Known:
    """Who makes the requests of the examination; the part of a `fleetspeak.client.link.Link` that they need."""

    identity: KeyedIdentity
    revoked: frozenset[int] = frozenset()
    nonce: int = 0
    """What the server said at the last contact."""
    is_temporary: bool = False
    """The client has no identity yet; this one is made for the examination and thrown away."""

    def is_revoked(self, serial: int) -> bool:
        """Is it on the client's list?"""
        return serial in self.revoked


def examine_state(settings: ClientSettings, now: float) -> tuple[list[Finding], Known]:
    """Read the state file."""
    path = settings.state_file
    nobody = Known(new_identity(now), _numbers(settings.revoked_serials), is_temporary=True)
    if path is None:
        found = "no state_file is configured: the client is somebody else after each start"
        return [warning("state", found, "set state_file in filesystem_handler")], nobody
    try:
        with path.open("rb") as file:
            info, data = os.fstat(file.fileno()), file.read(MAX_STATE + 1)
    except FileNotFoundError:
        found = f"{path} does not exist: this client has no identity yet, and gets one at its first start"
        return [warning("state", found, "start the client; examined is what does not need an identity")], nobody
    except OSError as error:
        return [failed("state", f"{path} cannot be read: {error.strerror}", "examine as the client's user")], nobody
    findings = list(_permissions(path, info))
    try:
        state = client.ClientState.FromString(data)
        if not state.client_key:
            found = f"{path} holds no key: this client has no identity yet, and gets one at its first start"
            return [*findings, warning("state", found, "start the client")], nobody
        identity = load_identity(state.client_key, now)
    except (DecodeError, ValueError):
        found = f"{path} holds no usable state"
        step = "put a good copy in its place; without one, move it away: the client then gets a new identity"
        return [*findings, failed("state", found, step)], nobody
    findings.append(ok("state", f"{path}: client {show(identity.client_id)}"))
    revoked = _numbers([*settings.revoked_serials, *state.revoked_cert_serials])
    return findings, Known(identity, revoked, state.sequencing_nonce)


def _numbers(serials: Iterable[bytes]) -> frozenset[int]:
    return frozenset(int.from_bytes(serial, "big") for serial in serials)


def _permissions(path: Path, info: os.stat_result) -> list[Finding]:
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        found = f"{path} holds the client's key, and others than its owner can get at it (mode {mode:04o})"
        return [failed("state", found, f"chmod 600 {path}; if somebody may have copied it, rekey the client")]
    return []
