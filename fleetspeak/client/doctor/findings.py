"""What an examination found, and how people and programs get to see it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

_WIDTH = 110


class Status(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It holds, but something will be wrong soon, or may be wrong."""
    FAILED = "FAILED"
    SKIPPED = "skipped"
    """Not looked at, because of what was found before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    """What was looked at, in one or two words."""
    status: Status
    found: str
    next_step: str = ""
    """What to do about it."""
    server: str = ""
    """``host:port``, if it is about one server."""


def ok(check: str, found: str, server: str = "") -> Finding:
    """It holds."""
    return Finding(check, Status.OK, found, "", server)


def warning(check: str, found: str, next_step: str, server: str = "") -> Finding:
    """It holds, but."""
    return Finding(check, Status.WARNING, found, next_step, server)


def failed(check: str, found: str, next_step: str, server: str = "") -> Finding:
    """It does not hold."""
    return Finding(check, Status.FAILED, found, next_step, server)


def skipped(check: str, found: str, server: str = "") -> Finding:
    """It was not looked at."""
    return Finding(check, Status.SKIPPED, found, "", server)


class Report:
    """All findings of one examination, in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, *findings: Finding) -> None:
        """Note them."""
        self.findings += findings

    @property
    def holds(self) -> bool:
        """Did all checks hold?  Warnings do not count against that."""
        return not any(finding.status is Status.FAILED for finding in self.findings)

    def as_json(self) -> str:
        """For programs."""
        findings = [
            {
                "check": finding.check,
                "server": finding.server,
                "status": finding.status.value.lower(),
                "found": finding.found,
                "next": finding.next_step,
            }
            for finding in self.findings
        ]
        return json.dumps({"ok": self.holds, "findings": findings}, indent=2)

    def as_text(self) -> str:
        """For people: a line for each check, what to do next below it, and a last line that sums up."""
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines: list[str] = []
        server = ""
        for finding in self.findings:
            if finding.server != server:
                server = finding.server
                lines += ["", f"server {server}"]
            lines += _lines_of(finding, width)
        return "\n".join([*lines, "", self._summary()])

    def _summary(self) -> str:
        problems = sum(finding.status is Status.FAILED for finding in self.findings)
        warnings = sum(finding.status is Status.WARNING for finding in self.findings)
        also = f", {_count(warnings, 'warning')}" if warnings else ""
        return f"{_count(problems, 'problem')}{also}." if problems else f"All checks hold{also}."


def _lines_of(finding: Finding, width: int) -> Iterable[str]:
    head = f"{finding.status.value:<8} {finding.check:<{width}}  "
    yield from _wrapped(finding.found, head, "")
    if finding.next_step:
        yield from _wrapped(finding.next_step, " " * len(head), "-> ")


def _wrapped(text: str, head: str, mark: str) -> list[str]:
    later = " " * (len(head) + len(mark))
    return textwrap.wrap(
        _printable(text),
        _WIDTH,
        initial_indent=head + mark,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _printable(text: str) -> str:
    """What servers and proxies said must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
