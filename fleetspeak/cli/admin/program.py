"""The program: reads the command line, runs the command, shows what it returns."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from fleetspeak.cli.admin import settings as settings_of
from fleetspeak.cli.admin.command import GROUPS, Arguments, Command, Group, upstream_usage
from fleetspeak.cli.admin.failure import CommandFailed, NotReached
from fleetspeak.cli.admin.settings import Settings

PROGRAM = "fleetspeak-admin"

COMPLETE = "__complete"
"""What completion in shells asks with."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Entry point of ``fleetspeak-admin``."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Carry out a command line.  Returns the exit status; exits with 2 if a flag is unknown."""
    try:
        return _run(words)
    except CommandFailed as error:
        return _fail(error)
    except UnicodeEncodeError:
        return _fail(CommandFailed("a name or a text on the command line is not UTF-8"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has enough, such as `head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: Sequence[str]) -> int:
    if words and words[0] == COMPLETE:
        from fleetspeak.cli.admin.completion import answer

        sys.stdout.write(answer(words[1:]))
        return 0
    flags = settings_of.flags(_epilog())
    first, rest = flags.parse_leading(words)
    if not rest:
        return _misused("A command is required.")
    name, *rest = rest
    if name not in GROUPS:
        return _misused(f"Unknown command: {name}")
    second, rest = flags.take_from(rest)
    command, arguments = _parse(name, GROUPS[name], rest)
    settings = settings_of.settle((first, second), os.environ)
    if settings.watch is None:
        _once(command, arguments, settings)
        return 0
    return _watch(command, arguments, settings)


def _once(command: Command, arguments: Arguments, settings: Settings) -> None:
    from fleetspeak.cli.admin.link import Link
    from fleetspeak.cli.admin.output import show

    with Link(settings) as link:
        show(command.run(link, arguments), as_json=settings.json, local=settings.local)


def _watch(command: Command, arguments: Arguments, settings: Settings) -> int:
    """Again and again until Ctrl-C; a server that is away for a while is waited for."""
    from fleetspeak.cli.admin.link import Link
    from fleetspeak.cli.admin.output import show
    from fleetspeak.cli.admin.tables import fetched

    assert settings.watch is not None
    begun = False
    with Link(settings) as link:
        while True:
            try:
                result = command.run(link, arguments)
                if sys.stdout.isatty() and not settings.json:
                    result = fetched(result)
                    sys.stdout.write("\033[H\033[2J\033[3J")
                elif begun and not settings.json:
                    sys.stdout.write("\n")
                show(result, as_json=settings.json, local=settings.local)
                begun = True
            except NotReached as error:
                if not begun:
                    raise
                _fail(error)
            except KeyboardInterrupt:
                return 0
            try:
                time.sleep(settings.watch)
            except KeyboardInterrupt:
                return 0


def _parse(name: str, group: Group, words: list[str]) -> tuple[Command, Arguments]:
    commands = group.commands()
    if group.by_itself:
        command, path = commands[name], name
    else:
        command, path, words = _choose(name, commands, words)
    parser = (_UpstreamParser if group.upstream else argparse.ArgumentParser)(
        prog=f"{PROGRAM} {path}",
        description=command.help[0].upper() + command.help[1:] + ".",
        epilog=f"Options of all commands: {PROGRAM} -help",
        allow_abbrev=False,
    )
    command.declare(parser)
    return command, parser.parse_args(words)


def _choose(name: str, commands: dict[str, Command], words: list[str]) -> tuple[Command, str, list[str]]:
    """The command of a group that the words begin with."""
    lines = "\n".join(f"  {PROGRAM} {name} {command.name:<14} {command.help}" for command in commands.values())
    if words[:1] and words[0] in ("-h", "-help", "--help"):
        print(f"Commands:\n{lines}")
        sys.exit(0)
    if not words or words[0] not in commands:
        problem = f"Unknown command: {name} {words[0]}" if words else f"A command of {name} is required."
        print(f"{problem}\nCommands:\n{lines}", file=sys.stderr)
        sys.exit(1)
    return commands[words[0]], f"{name} {words[0]}", words[1:]


class _UpstreamParser(argparse.ArgumentParser):
    """Tells as upstream's tool does that the number of arguments is wrong."""

    def error(self, message: str) -> NoReturn:
        print(upstream_usage(), file=sys.stderr)
        sys.exit(1)


def _misused(problem: str) -> int:
    print(f"{problem}\n{upstream_usage()}\nMore commands: {PROGRAM} -help", file=sys.stderr)
    return 1


def _epilog() -> str:
    lines = [f"  {name + ' ' + group.usage:<58} {group.help}" for name, group in GROUPS.items()]
    return "\nCommands:\n" + "\n".join(lines)


def _fail(error: CommandFailed) -> int:
    from fleetspeak.cli.admin.output import printable

    for line in (*f"{PROGRAM}: {error}".split("\n"), *(f"  {advice}" for advice in error.advice)):
        print(printable(line), file=sys.stderr)
    return 1
