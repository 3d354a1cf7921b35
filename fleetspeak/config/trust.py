"""Whose files the client believes: what others could have written is not read.

A client commonly runs as root, and its files say which programs it runs and whom it obeys.  So a file counts only if
nobody but root and the user the client runs as can have written it; and a folder only if nobody else can put files
into it, or another folder in its place.  What is looked at is the opened file itself, so that nothing can change
between the look and the use.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from fleetspeak.errors import ConfigError

T = TypeVar("T")

ROOT = 0

_MAX_LINKS = 40
"""Symbolic links in a path that are followed; the kernel's figure."""

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class Unsafe(ConfigError):
    """Others could have written a file; the text says who, and how to mend it."""


class Trust:
    """Opens files, and looks at folders, of root and of one user.

    With `insecure` everything is let through, and what is wrong is kept until `complaints` gives it out.
    """

    def __init__(
        self, uid: int | None = None, *, insecure: bool = False, or_else: str = ", or give --insecure-config"
    ) -> None:
        """@param uid: the user that the client runs as; by default who runs this.
        @param or_else: what complaints end with: what one can do instead of mending it."""
        self._or_else = or_else
        self._uid = os.geteuid() if uid is None else uid
        self._insecure = insecure
        self._complaints: list[str] = []

    def complaints(self) -> list[str]:
        """What was let through since this was last asked; to be logged."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def check_folder(self, path: Path) -> None:
        """Make sure that nobody else can change what is in this folder, or put another one in its place.

        @raise Unsafe: somebody can.
        @raise OSError: it is not there, or not readable.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._judge(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)
        self.check_way_to(path)

    def check_way_to(self, path: Path) -> None:
        """Make sure that nobody else can put another file in the place of this one.  Raises as `check_folder`."""
        for place, found in _way_to(path):
            if stat.S_ISLNK(found.st_mode):
                self._judge_owner(place, found)
            else:
                self._judge(place, found, is_on_the_way=True)

    def open(self, path: Path) -> BinaryIO:
        """Open a file to read it, without ever waiting, as a named pipe would make us do.

        @raise Unsafe: somebody else can have written it.
        @raise ConfigError: it is no file.
        @raise OSError: it cannot be opened.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{path}: expected a file")
            self._judge(path, found)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def read(self, path: Path, limit: int) -> bytes:
        """At most `limit` bytes of a file, and one more if it has more.  Raises as `open`."""
        with self.open(path) as file:
            return file.read(limit + 1)

    # ----

    def _judge(self, path: Path, found: os.stat_result, *, is_on_the_way: bool = False) -> None:
        self._judge_owner(path, found)
        if not found.st_mode & _WRITABLE:
            return
        if is_on_the_way and (found.st_mode & stat.S_ISVTX or self._is_of_one_user(found)):
            # In a sticky folder, such as /tmp, nobody can rename what belongs to us or root.
            return
        who = "everybody" if found.st_mode & stat.S_IWOTH else "its group"
        is_shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        remedy = "give it a folder of its own" if is_shared else f"mend it with: chmod go-w {path}"
        self._complain(path, found, f"{who} may write to it", remedy)

    def _judge_owner(self, path: Path, found: os.stat_result) -> None:
        if found.st_uid in (ROOT, self._uid):
            return
        owners = "root" if self._uid == ROOT else f"root or {_name(self._uid)}"
        option = "-h " if stat.S_ISLNK(found.st_mode) else ""
        self._complain(
            path, found, f"it does not belong to {owners}", f"mend it with: chown {option}{_name(self._uid)} {path}"
        )

    def _is_of_one_user(self, found: os.stat_result) -> bool:
        """Is only its group allowed to write, and is that the group of our user alone, as many systems give each?"""
        if found.st_mode & stat.S_IWOTH or found.st_uid == ROOT:
            return False
        owner, group = _entry(pwd.getpwuid, found.st_uid), _entry(grp.getgrgid, found.st_gid)
        if owner is None or group is None:  # in a container, commonly neither has a name
            return owner is None and group is None and found.st_uid == found.st_gid
        return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}

    def _complain(self, path: Path, found: os.stat_result, problem: str, remedy: str) -> None:
        mode, owner = stat.S_IMODE(found.st_mode), _name(found.st_uid)
        text = f"{path} is not safe to use: {problem} (mode {mode:04o}, owner {owner})"
        if not self._insecure:
            raise Unsafe(f"{text}; {remedy}{self._or_else}")
        if text not in self._complaints:
            self._complaints.append(text)


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder and each symbolic link that is passed on the way to `path`, the last part excepted unless a link.

    @raise OSError: one is not there, or there are too many links.
    """
    links = 0
    place, rest = Path("/"), list(path.absolute().parts[1:])
    yield place, os.lstat(place)
    while rest:
        part = rest.pop(0)
        if part == "..":
            place = place.parent
            continue
        found = os.lstat(place / part)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            yield place / part, found
            target = Path(os.readlink(place / part))
            if target.is_absolute():
                place = Path("/")
            rest = [*(one for one in target.parts if one != "/"), *rest]
            continue
        place = place / part
        if rest:
            yield place, found


def _entry(look_up: Callable[[int], T], number: int) -> T | None:
    try:
        return look_up(number)
    except KeyError:
        return None


def _name(uid: int) -> str:
    user = _entry(pwd.getpwuid, uid)
    return str(uid) if user is None else user.pw_name
