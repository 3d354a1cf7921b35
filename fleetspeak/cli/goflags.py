"""Command lines in the manner of Go's flag package, so that units and scripts written for the Go programs work.

One dash or two; ``-name=value`` or ``-name value``; booleans ``-name`` or ``-name=false``.  Names may be written with
``-`` for ``_``.  Reading ends at ``--`` or at the first word that is no flag.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

USAGE_STATUS = 2
"""Exit status for a command line that cannot be read, as of Go."""

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


@dataclass(slots=True)
class Flag:
    """One flag of a program."""

    name: str
    help: str
    read: Callable[[str], Any]
    """The value for a text.  Raises ValueError."""
    default: Any
    takes_value: bool = True
    repeated: bool = False


@dataclass(slots=True)
class FlagSet:
    """The flags of a program; declare them, then `parse`."""

    program: str
    about: str
    epilog: str = ""
    """More text for ``-help``, below the flags."""
    _flags: dict[str, Flag] = field(default_factory=dict)

    def string(self, name: str, default: str | None, help: str) -> None:
        self._flags[name] = Flag(name, help, str, default)

    def strings(self, name: str, help: str) -> None:
        """May be given several times; the value is a list."""
        self._flags[name] = Flag(name, help, str, (), repeated=True)

    def integer(self, name: str, default: int, help: str) -> None:
        self._flags[name] = Flag(name, help, int, default)

    def boolean(self, name: str, help: str, default: bool | None = False) -> None:
        self._flags[name] = Flag(name, help, _boolean, default, takes_value=False)

    def value(self, name: str, default: Any, read: Callable[[str], Any], help: str) -> None:
        self._flags[name] = Flag(name, help, read, default)

    def known(self) -> Iterable[Flag]:
        """All flags."""
        return self._flags.values()

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """The values by name.  Exits with status 0 after ``-help``, with 2 if the words cannot be read."""
        values, rest = self.parse_leading(words)
        if rest:
            self._fail(f"unexpected argument: {rest[0]}")
        return values

    def parse_leading(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Likewise, and the words behind the flags, for a program that takes some."""
        values = {name: [] if flag.repeated else flag.default for name, flag in self._flags.items()}
        rest = list(words)
        while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
            self._take(rest, values)
        if rest[:1] == ["--"]:
            del rest[0]
        return values, rest

    def take_from(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of those flags of ours that are among the words with two dashes, and the other words.

        What follows ``--`` is left alone, and that word stays.
        """
        values = {name: [] if flag.repeated else flag.default for name, flag in self._flags.items()}
        rest, others = list(words), []
        while rest and rest[0] != "--":
            name = rest[0].removeprefix("--").partition("=")[0].replace("-", "_")
            if rest[0].startswith("--") and name in self._flags:
                self._take(rest, values)
            else:
                others.append(rest.pop(0))
        return values, [*others, *rest]

    def usage(self) -> str:
        """What ``-help`` prints."""
        lines = [f"Usage of {self.program}: {self.about}"]
        for name, flag in sorted(self._flags.items()):
            lines.append(f"  -{name}" + (" value" if flag.takes_value else ""))
            default = f" (default {flag.default})" if flag.default and not flag.repeated else ""
            lines.extend(
                textwrap.wrap(flag.help + default, 100, initial_indent="        ", subsequent_indent="        ")
            )
        return "\n".join([*lines, self.epilog] if self.epilog else lines)

    def _take(self, rest: list[str], values: dict[str, Any]) -> None:
        """Read the first flag in `rest`, and remove it and its value."""
        word = rest.pop(0)
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        name = name.replace("-", "_")
        if name in ("h", "help"):
            print(self.usage())
            sys.exit(0)
        flag = self._flags.get(name)
        if flag is None:
            self._fail(f"flag provided but not defined: -{name}")
        if not equals and not flag.takes_value:
            text = "true"
        elif not equals:
            if not rest:
                self._fail(f"flag needs an argument: -{name}")
            text = rest.pop(0)
        try:
            value = flag.read(text)
        except ValueError as error:
            self._fail(f'invalid value "{text}" for flag -{name}: {error}')
        if flag.repeated:
            values[name].append(value)
        else:
            values[name] = value

    def _fail(self, problem: str) -> NoReturn:
        print(problem, self.usage(), sep="\n", file=sys.stderr)
        sys.exit(USAGE_STATUS)


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("expected true or false")
