"""Reading text-format protobuf files, with errors for people: where, what is wrong, what was expected.

The files hold keys and certificates, so an error never quotes what it found: it names fields, types and places only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from google.protobuf import descriptor_pool, text_format
from google.protobuf.message import Message

import fleetspeak.pb  # noqa: F401  (registers the types that an Any in a file may hold)
from fleetspeak.errors import ConfigError

_MAX_SIZE = 16 * 1024 * 1024
"""Bytes; no configuration is that large, but something else given by mistake may have no end."""

M = TypeVar("M", bound=Message)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def read(
    path: Path, message_class: type[M], *, ignore_unknown: bool = False, opened: Callable[[Path], BinaryIO] = _open
) -> M:
    """Read a file, opened by `opened`.  See `parse`; also raises OSError if it cannot be read at all."""
    with opened(path) as file:
        raw = file.read(_MAX_SIZE + 1)
    if len(raw) > _MAX_SIZE:
        raise ConfigError(f"{path}: larger than {_MAX_SIZE} bytes; this is not a configuration file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; expected a text-format protobuf file") from None
    return parse(text, str(path), message_class, ignore_unknown=ignore_unknown)


def parse(text: str, where: str, message_class: type[M], *, ignore_unknown: bool = False) -> M:
    """Parse text-format protobuf.

    @param where: what errors call the text; a file's path.
    @param ignore_unknown: pass over fields that `message_class` does not have.
    @raise ConfigError: ``where:line:column: what is wrong; what was expected``.
    """
    message = message_class()
    try:
        text_format.Parse(text, message, allow_unknown_field=ignore_unknown)
    except text_format.ParseError as error:
        line, column = _place(error, text)
        raise ConfigError(f"{where}:{line}:{column}: {_explain(_bare(error, text))}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    return message


def _place(error: text_format.ParseError, text: str) -> tuple[int, int]:
    """Line and column, from 1.  An unknown type of an Any is the one error that comes without: look for it."""
    line, column = error.GetLine(), error.GetColumn()
    if line and column:
        return line, column
    unknown = _UNKNOWN_TYPE.search(str(error))
    offset = max(text.find(unknown[1]), 0) if unknown else 0
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _bare(error: text_format.ParseError, text: str) -> str:
    """The library's message without the place and the line it quotes."""
    message = str(error)
    line, column = error.GetLine(), error.GetColumn()
    message = message.removeprefix(f"{line}:{column} : ")
    if line:
        message = message.removeprefix(f"'{text.split(chr(10))[line - 1]}': ")
    return message


def _explain(message: str) -> str:
    for pattern, explain in _EXPLANATIONS:
        if match := pattern.search(message):
            return explain(match)
    return "this is not text-format protobuf; expected field: value or field { ... }"


def _no_field(match: re.Match[str]) -> str:
    type_name, field = match[1], match[2]
    descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
    names = sorted(descriptor.fields_by_name)
    expected = f"expected one of {', '.join(names)}" if names else "it has no fields"
    if not _FIELD_NAME.fullmatch(field):
        # Most likely a piece of a PEM text that is not in quotes.
        return f"here begins something that is not a field of {type_name}; {expected}; is a quote missing before it?"
    near = difflib.get_close_matches(field, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{type_name} has no field {field}; {expected}{hint}"


def _no_value(match: re.Match[str]) -> str:
    descriptor = descriptor_pool.Default().FindEnumTypeByName(match[1])
    return f"not a value of {match[1]}; expected one of {', '.join(value.name for value in descriptor.values)}"


def _unknown_type(match: re.Match[str]) -> str:
    return (
        f"the type {match[1]} is not known here; check its spelling, and that the package which brings this service "
        "is installed"
    )


_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_UNKNOWN_TYPE = re.compile(r"Type ([A-Za-z0-9_.]+) not found in descriptor pool")

_Explain = Callable[[re.Match[str]], str]
_EXPLANATIONS: list[tuple[re.Pattern[str], _Explain]] = [
    (re.compile(r'Message type "([^"]+)" has no field named "([^"]*)"'), _no_field),
    (re.compile(r'Enum type "([^"]+)" has no value'), _no_value),
    (_UNKNOWN_TYPE, _unknown_type),
    (
        re.compile(r'should not have multiple "([a-z0-9_]+)" fields'),
        lambda match: f"{match[1]} is given twice; expected once",
    ),
    (
        re.compile(r"specified along with field"),
        lambda match: "this excludes another field that is given too; expected only one of the two",
    ),
    (
        re.compile(r"String missing ending quote"),
        lambda match: (
            "the string has no closing quote on its line; put each line in quotes, or write \\n for a line break"
        ),
    ),
    (re.compile(r"Couldn't parse string|Invalid escape"), lambda match: "the string has a bad escape or is not UTF-8"),
    (re.compile(r"Expected string"), lambda match: "expected a string in quotes"),
    (re.compile(r'Expected "true" or "false"'), lambda match: "expected true or false"),
    (
        re.compile(r"[Ee]xpected (?:an )?integer|Couldn't parse integer|not an integer"),
        lambda match: "expected an integer",
    ),
    (re.compile(r"Value out of range"), lambda match: "the number is out of range for this field"),
    (re.compile(r"Couldn't parse float|Expected float"), lambda match: "expected a number"),
    (re.compile(r'Expected "(.{1,2})"\.?$'), lambda match: f"expected {match[1]}"),
    (
        re.compile(r"Expected identifier(?: or number)?, got ([}\]>;,:{\[<])\.?$"),
        lambda match: f"unexpected {match[1]}; expected a field name, or the end of the file",
    ),
    (re.compile(r"Expected identifier"), lambda match: "expected a field name"),
    (re.compile(r"is not valid for message type|extension", re.I), lambda match: "expected a field name"),
]
