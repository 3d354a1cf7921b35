"""``fleetspeak admin-token``: makes a token for the admin port, and the entry for the server's access file."""

from __future__ import annotations

import argparse
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from fleetspeak.config import textproto
from fleetspeak.config.adminaccess import MAX_NAME
from fleetspeak.core.adminaccess import Role, token_hash
from fleetspeak.errors import ConfigError
from fleetspeak.pb import access
from fleetspeak.security import files

TOKEN_BYTES = 32

_ROLES = [str(role) for role in Role if role is not Role.NOBODY]


def main(words: Sequence[str]) -> int:
    """Entry point.  Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="fleetspeak admin-token",
        description="Make a token for the admin port. The token is printed once, and kept nowhere: the server's access "
        "file has its hash.",
    )
    parser.add_argument("name", help="whose it is; the audit trail calls the caller by it")
    parser.add_argument("--role", choices=_ROLES, help="what the caller may do; needed for one who is new")
    parser.add_argument("--access", type=Path, help="access file of the server, to which the entry is added")
    parser.add_argument("--token-file", type=Path, help="write the token to this new file, and do not print it")
    arguments = parser.parse_args(words)
    if not 0 < len(arguments.name) <= MAX_NAME or not arguments.name.isprintable():
        raise ConfigError(f"a name has 1 to {MAX_NAME} printable characters")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    said = _put(arguments, token)
    print(said)
    if arguments.token_file is None:
        print(f"The token, which is shown only now:\n{token}")
    else:
        print(f"The token is in {arguments.token_file}.")
    return 0


def _put(arguments: argparse.Namespace, token: str) -> str:
    """Put token and entry where they belong, or neither.  Gives what to say of it."""
    path: Path | None = arguments.token_file
    if path is not None:
        _write_token(path, token)
    try:
        if arguments.access is None:
            entry = _entry(arguments.name, arguments.role, token)
            return f"Put this into the server's access file:\n{entry}"
        _add(arguments.access, arguments.name, arguments.role, token)
    except ConfigError:
        if path is not None:
            path.unlink()
        raise
    return f"{arguments.name} is added to {arguments.access}; a running server sees it within seconds."


def _entry(name: str, role: str | None, token: str) -> str:
    if role is None:
        raise ConfigError(f"--role is missing; expected one of {', '.join(_ROLES)}")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'caller {{ name: "{quoted}" role: {role.upper()} token_sha256: "{token_hash(token).hex()}" }}\n'


def _add(path: Path, name: str, role: str | None, token: str) -> None:
    """Add an entry behind what is in the file, all of which stays as it is."""
    before: os.stat_result | None = None
    text = ""
    try:
        text, before = path.read_text("utf-8"), path.stat()
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"unable to read {path}: {error}") from None
    known = textproto.parse(text, str(path), access.AdminAccess)
    if any(caller.name == name for caller in known.caller):
        raise ConfigError(
            f'{path} has a caller "{name}" already; for one more token of this caller put this into that entry: '
            f'token_sha256: "HASH", as made without --access'
        )
    separator = "" if not text or text.endswith("\n") else "\n"
    whole = f"{text}{separator}{_entry(name, role, token)}".encode()
    try:
        files.write_atomically(path, whole, files.PRIVATE if before is None else stat.S_IMODE(before.st_mode))
        if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(path, before.st_uid, before.st_gid)  # the server must be able to read it
    except OSError as error:
        raise ConfigError(f"unable to write {path}: {error.strerror}") from None


def _write_token(path: Path, token: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
    except OSError as error:
        raise ConfigError(f"unable to write the token to {path}: {error.strerror}; nobody has it") from None
