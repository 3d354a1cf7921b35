"""Secrets that are read from files, since command lines and environments are seen by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fleetspeak.errors import ConfigError

MAX_BYTES = 4096


def read_secret(path: Path, at_least: int = 1) -> bytes:
    """The content of a file without the line's end, which blocks for as long as a small file takes.

    @param at_least: bytes that it must have.
    @raise ConfigError: it cannot be read, is too short or too long, or may be read or written by everybody.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the secret in {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is not a regular file")
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(
            f"others may read or write the secret in {path} (mode {stat.S_IMODE(mode):04o}): chmod 0640 {path}, or 0600"
        )
    secret = content.rstrip(b"\r\n")
    if not at_least <= len(secret) <= MAX_BYTES:
        raise ConfigError(f"the secret in {path} must have {at_least} to {MAX_BYTES} bytes; it has {len(secret)}")
    return secret
