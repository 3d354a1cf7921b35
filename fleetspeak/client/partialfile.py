"""A file on its way to the disk: under another name until it is complete, and found again after a restart."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from fleetspeak.core.download import NOTHING, Kept, Version
from fleetspeak.security.files import sync_directory

CHECKPOINT = 16 * 1024 * 1024
"""Bytes that may have to be fetched again after a crash."""

_MAX_NOTE = 4096
"""Bytes of a note that we are willing to read; a real one has a few hundred."""


class PartialFile:
    """What there is of one file, beside the place where it will be.

    The bytes are in ``.<name>.part``, and in ``.<name>.part.json`` is of which version they are and how many of them
    are known to be on the disk.  All methods block for as long as the disk does, and raise OSError; they are called
    one after another, from any thread.
    """

    def __init__(self, target: Path, source: str) -> None:
        """@param source: what is fetched; what is left of another source is not used."""
        self._target = target
        self._source = source
        self._path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")
        self._file: BinaryIO | None = None
        self._version = NOTHING
        self._size = 0
        self._durable = 0

    def open(self) -> None:
        """Open what an earlier attempt left, or begin with nothing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0)
        kept = self._read_note()
        if kept is None or os.fstat(self._file.fileno()).st_size < kept.size:
            self.begin(NOTHING)
            return
        self._version, self._size = kept.version, kept.size
        self._file.truncate(kept.size)
        self._file.seek(kept.size)

    @property
    def kept(self) -> Kept | None:
        """What is there and can be gone on with."""
        return Kept(self._version, self._size) if self._size and self._version.validator else None

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self._size

    def begin(self, version: Version) -> None:
        """Forget what is there; what is written from now on is of this version."""
        assert self._file is not None
        self._note.unlink(missing_ok=True)
        self._file.seek(0)
        self._file.truncate(0)
        self._version, self._size, self._durable = version, 0, 0

    def go_on(self, version: Version) -> None:
        """More is known of the version than before, such as its size."""
        self._version = version

    def write(self, data: bytes) -> None:
        """Append."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)
        if self._size - self._durable >= CHECKPOINT:
            self._make_durable()

    def keep(self) -> None:
        """Close, so that another attempt can go on from here."""
        if self._file is None:
            return
        if self.kept is None:
            self.discard()
            return
        self._make_durable()
        self._close()

    def finish(self) -> None:
        """All is there: put it in its place, durably."""
        assert self._file is not None
        if self._version.modified is not None:
            os.utime(self._file.fileno(), (self._version.modified, self._version.modified))
        os.fsync(self._file.fileno())
        self._close()
        self._path.replace(self._target)
        self._note.unlink(missing_ok=True)
        sync_directory(self._target.parent)

    def discard(self) -> None:
        """Close, and leave nothing behind."""
        self._close()
        self._note.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _make_durable(self) -> None:
        """Only what is on the disk is written down as being there."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._durable = self._size
        if self.kept is None:
            return
        note = {"source": self._source, "size": self._size, "version": asdict(self._version)}
        new = self._note.with_name(self._note.name + ".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(note, file)
        new.replace(self._note)

    def _read_note(self) -> Kept | None:
        try:
            with self._note.open("rb") as file:
                note = json.loads(file.read(_MAX_NOTE))
            kept = Kept(Version(**note["version"]), note["size"])
            return kept if note["source"] == self._source and _is_sound(kept) else None
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):  # it was not written completely, or not by us
            return None


def _is_sound(kept: Kept) -> bool:
    version = kept.version
    numbers = [kept.size] + [number for number in (version.total, version.modified) if number is not None]
    return (
        all(type(number) is int for number in numbers)
        and kept.size > 0
        and isinstance(version.validator, str)
        and version.validator.isprintable()
        and version.validator.isascii()
        and bool(version.validator)
    )
