"""Reads the service configurations in a client's configuration directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from google.protobuf.message import DecodeError
from twisted.logger import Logger

from fleetspeak.config import textproto
from fleetspeak.config.hardcoded import MODULE
from fleetspeak.config.trust import Trust
from fleetspeak.errors import ConfigError
from fleetspeak.pb import system
from fleetspeak.security import signing

SIGNED = "services"
TEXT = "textservices"

MAX_FILE = 4 * 1024 * 1024
"""Bytes in a service configuration that we are willing to read."""

_log = Logger()


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """One service configuration, and where it came from."""

    config: system.ClientServiceConfig
    path: Path
    signature: bytes = b""
    """What came with it, if it is from ``services/``."""
    text: str = ""
    """The text it was parsed from, if it is from ``textservices/``."""

    @property
    def fingerprint(self) -> bytes:
        """Differs when the service must be made anew: not for a new signature, nor for another time of it."""
        config = system.ClientServiceConfig()
        config.CopyFrom(self.config)
        config.ClearField("signed_time")
        return config.SerializeToString(deterministic=True)

    def where(self, field: str) -> str:
        """Where that field is: ``path:line``, or only the path if there is no line."""
        match = re.search(rf"^[^#\n]*\b{re.escape(field)}\s*[:{{]", self.text, re.MULTILINE)
        return f"{self.path}:{self.text.count(chr(10), 0, match.start()) + 1}" if match else str(self.path)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a configuration directory says, and what of it cannot be used."""

    files: tuple[ServiceFile, ...] = ()
    """In the order of installation."""
    unusable: frozenset[Path] = frozenset()
    """Files, and folders, of which nobody knows what they say."""

    def is_unusable(self, path: Path) -> bool:
        """Is it one of those, or in one?"""
        return path in self.unusable or path.parent in self.unusable


def load_services(
    directory: Path | None,
    deployment_keys: Sequence[RSAPublicKey] = (),
    trust: Trust | None = None,
    fixed: Sequence[system.ClientServiceConfig] = (),
) -> Loaded:
    """Read what is in ``services/``, then what is in ``textservices/``, each by file name.  Blocks.

    A file that cannot be used is logged and skipped.

    @param directory: the configuration directory; None if there is none.
    @param deployment_keys: when there are any, one of them must have signed each file in ``services/``.
    @param trust: opens the files; by default only those of root and of who runs this.
    @param fixed: hardcoded services, which come first.
    """
    trust = trust or Trust()
    files = [ServiceFile(config, Path(f"{MODULE}.SERVICES[{number}]")) for number, config in enumerate(fixed)]
    unusable: set[Path] = set()

    def load(folder: Path, read: Callable[[Path], ServiceFile]) -> None:
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            _log.warn("no services from {directory}: {error}", directory=folder, error=error.strerror)
            if not isinstance(error, FileNotFoundError):
                unusable.add(folder)
            return
        for path in paths:
            try:
                files.append(read(path))
            except ConfigError as error:
                unusable.add(path)
                _log.error("service not installed: {error}", error=error)

    if directory is not None:
        load(directory / SIGNED, lambda path: _read_signed(path, trust, deployment_keys))
        load(directory / TEXT, lambda path: _read_text(path, trust))
    for complaint in trust.complaints():
        _log.warn("{complaint}", complaint=complaint)
    return Loaded(tuple(files), frozenset(unusable))


def _read_signed(path: Path, trust: Trust, deployment_keys: Sequence[RSAPublicKey]) -> ServiceFile:
    try:
        signed = system.SignedClientServiceConfig.FromString(_read(path, trust))
    except DecodeError:
        raise ConfigError(f"{path}: expected a binary fleetspeak.SignedClientServiceConfig") from None
    if deployment_keys and not signing.verify(signed, deployment_keys):
        raise ConfigError(
            f"{path}: {'wrong signature' if signed.signature else 'no signature'}, expected one by "
            "a deployment key of this client; sign it with: fleetspeak sign-service"
        )
    try:
        config = system.ClientServiceConfig.FromString(signed.service_config)
    except DecodeError:
        raise ConfigError(f"{path}: its service_config is no fleetspeak.ClientServiceConfig") from None
    return ServiceFile(config, path, signature=signed.signature)


def _read_text(path: Path, trust: Trust) -> ServiceFile:
    try:
        text = _read(path, trust).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a text fleetspeak.ClientServiceConfig, but {error}") from None
    config = textproto.parse(text, str(path), system.ClientServiceConfig, ignore_unknown=True)
    return ServiceFile(config, path, text=text)


def _read(path: Path, trust: Trust) -> bytes:
    try:
        data = trust.read(path, MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE} bytes, expected one service configuration")
    return data
