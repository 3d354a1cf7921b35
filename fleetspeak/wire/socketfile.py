"""What both ends of a Unix socket demand of its file, which is how they know each other.  No I/O: others look."""

from __future__ import annotations

import os
import stat
import sys

MAX_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of a path that a socket can be bound to, without the null byte behind it."""

TEMPORARY = ".tmp"
"""Appended to the path while the socket is not ready yet."""


def problem_with_path(path: str) -> str:
    """What is wrong with the path as a text, before anything is looked at; empty if nothing is."""
    temporary = path + TEMPORARY
    size = len(os.fsencode(temporary))
    if size > MAX_PATH:
        return f"socket path is too long ({size} chars) - max allowed length is {MAX_PATH}: {temporary}"
    if not path.startswith("/"):
        return f"socket path must be absolute, got {path!r}"
    return ""


def problem_with_parent(path: str, status: os.stat_result, uid: int, gid: int) -> str:
    """What is wrong with the directory of a socket, of which links were not followed; empty if nothing is."""
    return _problem(f"the directory {os.path.dirname(path)}", status, stat.S_IFDIR | 0o700, uid, {gid})


def problem_with_socket(path: str, status: os.stat_result, uid: int, gid: int) -> str:
    """What is wrong with the socket itself, of which links were not followed; empty if nothing is."""
    # On macOS a file gets the group of its directory, wherever that comes from.
    groups = {gid, 0, 1} if sys.platform == "darwin" else {gid}
    return _problem(f"the socket {path}", status, stat.S_IFSOCK | 0o600, uid, groups)


def _problem(what: str, status: os.stat_result, mode: int, uid: int, groups: set[int]) -> str:
    if status.st_mode != mode:
        return f"{what} is {stat.filemode(status.st_mode)}, expected {stat.filemode(mode)}"
    if status.st_uid != uid or status.st_gid not in groups:
        return (
            f"{what} belongs to user {status.st_uid} and group {status.st_gid}, "
            f"expected {uid} and {' or '.join(map(str, sorted(groups)))}"
        )
    return ""
