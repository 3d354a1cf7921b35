"""Logging as the Go programs do it: glog's flags, its line format, and files with their names.

Without a flag, everything goes to a file in the temporary folder, and errors to stderr too.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

from fleetspeak.cli.glogflags import ERROR, FATAL, INFO, SEVERITIES, WARNING, declare

__all__ = ["Observer", "declare", "format_event", "observer"]

_SEVERITY_OF = {
    LogLevel.debug: INFO,
    LogLevel.info: INFO,
    LogLevel.warn: WARNING,
    LogLevel.error: ERROR,
    LogLevel.critical: FATAL,
}
_MAX_FILE_SIZE = 256 * 1024 * 1024
"""Bytes after which a new file is begun."""


def observer(program: str, flags: dict[str, Any]) -> Observer:
    """What writes the log as the flags say."""
    if flags["logtostderr"]:
        return Observer(None, INFO, verbose=flags["v"] > 0)
    threshold = INFO if flags["alsologtostderr"] else flags["stderrthreshold"]
    try:
        file = _LogFile(program, Path(flags["log_dir"] or tempfile.gettempdir()), flags["log_link"])
    except OSError as error:
        print(f"{program}: unable to write log files, logging to stderr instead: {error}", file=sys.stderr)
        return Observer(None, INFO, verbose=flags["v"] > 0)
    return Observer(file, threshold, verbose=flags["v"] > 0)


@implementer(ILogObserver)
class Observer:
    """Writes events as glog's lines: to the file, if there is one, and from a severity on to stderr."""

    def __init__(self, file: _LogFile | None, stderr_from: int, *, verbose: bool, stderr: TextIO | None = None) -> None:
        self._file = file
        self._stderr_from = stderr_from
        self._verbose = verbose
        self._stderr = sys.stderr if stderr is None else stderr

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        if level is LogLevel.debug and not self._verbose:
            return
        severity = _SEVERITY_OF.get(level, INFO)
        line = format_event(event, severity)
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk does not end the program
                self._file.write(line)
        if severity >= self._stderr_from:
            with contextlib.suppress(OSError, ValueError):  # nor does a closed stderr
                self._stderr.write(line)
                self._stderr.flush()


def format_event(event: LogEvent, severity: int) -> str:
    """One line of glog: severity, date, time, process, where, text.  A traceback follows on lines of its own."""
    time = datetime.datetime.fromtimestamp(event.get("log_time", 0))
    text = eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip("\n")
    where = event.get("log_namespace", "-")
    return f"{SEVERITIES[severity][0]}{time:%m%d %H:%M:%S.%f} {os.getpid():7d} {where}] {text}\n"


class _LogFile:
    """A log file with glog's name, and a link ``<program>.INFO`` to the current one."""

    def __init__(self, program: str, folder: Path, link_folder: str) -> None:
        self._program = program
        self._folder = folder
        self._links = [folder, *([Path(link_folder)] if link_folder else [])]
        self._open()

    def write(self, line: str) -> None:
        if self._size > _MAX_FILE_SIZE:
            os.close(self._descriptor)
            self._open()
        self._size += os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))

    def _open(self) -> None:
        """Begin a file.  Nobody can have put another one, or a link, in its place: the folder may be open to all."""
        name = (
            f"{self._program}.{socket.gethostname()}.{_user()}.log.INFO."
            f"{datetime.datetime.now():%Y%m%d-%H%M%S.%f}.{os.getpid()}"
        )
        path = self._folder / name
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
        self._size = 0
        for folder in self._links:
            self._link(folder / f"{self._program}.INFO", path)

    def _link(self, link: Path, target: Path) -> None:
        fresh = link.with_name(f"{link.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # somebody else's link of that name is left alone
            fresh.symlink_to(target.absolute())
            os.replace(fresh, link)
        fresh.unlink(missing_ok=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
