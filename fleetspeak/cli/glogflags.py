"""The flags of glog; without Twisted, for programs that have to start quickly."""

from __future__ import annotations

from fleetspeak.cli.goflags import FlagSet

SEVERITIES = ("INFO", "WARNING", "ERROR", "FATAL")
INFO, WARNING, ERROR, FATAL = range(4)


def declare(flags: FlagSet) -> None:
    """Add glog's flags.  Those that have no meaning here are accepted all the same."""
    flags.boolean("logtostderr", "log to stderr instead of files")
    flags.boolean("alsologtostderr", "log to stderr as well as to files")
    flags.value(
        "stderrthreshold", ERROR, _severity, "what is this severe goes to stderr too: INFO, WARNING, ERROR, FATAL"
    )
    flags.integer("v", 0, "log debugging messages too, if 1 or more")
    flags.string("log_dir", "", "folder of the log files; the temporary folder if empty")
    flags.string("log_link", "", "folder for additional links to the log files")
    for name in ("vmodule", "log_backtrace_at", "logbuflevel"):
        flags.string(name, "", "accepted for compatibility, without effect")


def _severity(text: str) -> int:
    if text in SEVERITIES:
        return SEVERITIES.index(text)
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < len(SEVERITIES):
        raise ValueError(f"expected one of {', '.join(SEVERITIES)}")
    return number
