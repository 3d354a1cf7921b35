"""Completion of command lines in shells: scripts that ask this program, and the answers.

The scripts call ``fleetspeak-admin __complete WORD...``, whose last word is the one to complete.  Each line of the
answer is a candidate, a tab, and what it is; no answer lets the shell complete names of files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from fleetspeak.cli.admin import settings
from fleetspeak.cli.admin.command import GROUPS, Arguments, Command
from fleetspeak.cli.admin.output import Script

_BASH = """\
_fleetspeak_admin() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\\t'*}")
    done < <(fleetspeak-admin __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _fleetspeak_admin fleetspeak-admin
"""

_ZSH = """\
#compdef fleetspeak-admin
_fleetspeak_admin() {
    local line
    local -a found
    for line in "${(@f)$(fleetspeak-admin __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( ${#found} )); then
        _describe 'fleetspeak-admin' found
    else
        _files
    fi
}
compdef _fleetspeak_admin fleetspeak-admin
"""

_FISH = """\
function __fleetspeak_admin_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (fleetspeak-admin __complete $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c fleetspeak-admin -f -a '(__fleetspeak_admin_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def answer(words: Sequence[str]) -> str:
    """Lines for the last word, an empty one included."""
    current = words[-1] if words else ""
    lines = [f"{name}\t{help}\n" for name, help in _candidates(words[:-1], current) if name.startswith(current)]
    return "".join(lines)


def _candidates(before: Sequence[str], current: str) -> Iterator[tuple[str, str]]:
    flags = settings.flags("")
    takes_value = {flag.name for flag in flags.known() if flag.takes_value}
    rest = list(before)
    while rest and rest[0].startswith("-"):
        name, equals, _ = rest.pop(0).lstrip("-").partition("=")
        if name.replace("-", "_") in takes_value and not equals:
            if not rest:
                return  # a value
            rest.pop(0)
    if not rest:
        yield from _own_flags() if current.startswith("-") else ((name, group.help) for name, group in GROUPS.items())
        return
    name, *rest = rest
    if name not in GROUPS:
        return
    commands = GROUPS[name].commands()
    if not GROUPS[name].by_itself:
        if not rest:
            yield from ((command.name, command.help) for command in commands.values())
            return
        name, *rest = rest
    if name in commands:
        yield from _arguments(commands[name], rest, current, takes_value)


def _arguments(
    command: Command, before: Sequence[str], current: str, takes_value: set[str]
) -> Iterator[tuple[str, str]]:
    parser = argparse.ArgumentParser(add_help=False)
    command.declare(parser)
    last = before[-1] if before else ""
    for action in parser._actions:
        if last in action.option_strings and action.nargs != 0:
            yield from ((str(value), "") for value in action.choices or ())
            return
    if last.startswith("--") and last[2:].replace("-", "_") in takes_value:
        return
    if current.startswith("-"):
        for action in parser._actions:
            yield from ((name, action.help or "") for name in action.option_strings)
        yield from _own_flags()
        return
    for action in parser._actions:
        if not action.option_strings and action.choices:
            yield from ((str(value), action.help or "") for value in action.choices)


def _own_flags() -> Iterator[tuple[str, str]]:
    yield "--config", "file with settings"
    for option in settings.OPTIONS:
        yield "--" + option.name.replace("_", "-"), option.help


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=list(_SCRIPTS), help="the shell that is to complete")


def _print(link: object, arguments: Arguments) -> Script:
    return Script(_SCRIPTS[arguments.shell])


COMMANDS = (Command("completion", "print a script that lets a shell complete command lines", _print, _declare),)
