"""``fleetspeak sign-service``: makes a file for the services/ folder of clients that have a deployment key."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from google.protobuf.message import DecodeError

from fleetspeak.config import certificatefiles, textproto
from fleetspeak.errors import ConfigError
from fleetspeak.pb import system
from fleetspeak.security import files, signing

_RESERVED = ("", "system", "client")
"""Names that clients refuse to install."""


def main(words: Sequence[str]) -> int:
    """Entry point.  Raises ConfigError if a file is not what it should be."""
    parser = argparse.ArgumentParser(
        prog="fleetspeak sign-service",
        description="Sign the configuration of a client service with a deployment key.",
    )
    parser.add_argument("config", type=Path, help="the service, a fleetspeak.ClientServiceConfig, text or binary")
    parser.add_argument("--key", type=Path, required=True, help="deployment key: RSA private key, PEM")
    parser.add_argument("--output", type=Path, help="file to write [default: the configuration's name and .signed]")
    arguments = parser.parse_args(words)
    config = read_service(arguments.config)
    key = certificatefiles.read_key(arguments.key)
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(f"{arguments.key}: not an RSA key; make one with: openssl genrsa -out {arguments.key} 3072")
    output = arguments.output or arguments.config.with_name(arguments.config.name + ".signed")
    signed = signing.sign(config, key, time.time())
    try:
        files.write_atomically(output, signed.SerializeToString(), files.PUBLIC)
    except OSError as error:
        raise ConfigError(f"unable to write {output}: {error.strerror}") from None
    print(f"Signed service {config.name}: {output}. Put it into services/ of the clients' configuration directory.")
    return 0


def read_service(path: Path) -> system.ClientServiceConfig:
    """A service's configuration from a text-format or a binary file.  Raises ConfigError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"unable to read {path}: {error.strerror}") from None
    config = _parse_binary(raw, path) if _is_binary(raw) else textproto.read(path, system.ClientServiceConfig)
    if config.name in _RESERVED:
        raise ConfigError(f'{path}: clients refuse services by the name "{config.name}"; expected another name')
    if not config.factory:
        raise ConfigError(f'{path}: factory is missing; expected one such as factory: "Daemon"')
    return config


def _is_binary(raw: bytes) -> bool:
    """Text has no control characters; a binary configuration has the lengths of its first fields among them."""
    return any(byte < 0x20 and byte not in b"\t\n\r" for byte in raw)


def _parse_binary(raw: bytes, path: Path) -> system.ClientServiceConfig:
    try:
        return system.ClientServiceConfig.FromString(raw)
    except DecodeError:
        raise ConfigError(f"{path}: neither text-format nor binary fleetspeak.ClientServiceConfig") from None
