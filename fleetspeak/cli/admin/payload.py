"""The payload of a message or a broadcast, from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pool, text_format, wrappers_pb2
from google.protobuf.message_factory import GetMessageClass

from fleetspeak import pb
from fleetspeak.cli.admin.command import Arguments
from fleetspeak.cli.admin.failure import CommandFailed

_PREFIX = "type.googleapis.com/"
_REGISTERED = pb, wrappers_pb2
"""Imported for their types."""


def declare(parser: argparse.ArgumentParser) -> None:
    """For `pack`."""
    group = parser.add_argument_group("payload")
    group.add_argument("--data-type", metavar="NAME", help="protobuf type, such as google.protobuf.StringValue")
    data = group.add_mutually_exclusive_group()
    data.add_argument("--data", metavar="TEXT", help="in text format, such as 'value: \"hello\"'; for types known here")
    data.add_argument("--data-file", metavar="PATH", help="serialized; - for standard input")


def pack(arguments: Arguments) -> any_pb2.Any | None:
    """None if none is given.  Raises CommandFailed."""
    if arguments.data_type is None:
        if arguments.data is not None or arguments.data_file is not None:
            raise CommandFailed("a payload needs --data-type", "such as --data-type google.protobuf.StringValue")
        return None
    url = arguments.data_type if "/" in arguments.data_type else _PREFIX + arguments.data_type
    if arguments.data_file is not None:
        return any_pb2.Any(type_url=url, value=_read(arguments.data_file))
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
    except KeyError:
        raise CommandFailed(
            f"{arguments.data_type} is not known here", "give the payload as a file, serialized: --data-file"
        ) from None
    message = GetMessageClass(found)()
    try:
        text_format.Parse(arguments.data or "", message)
    except text_format.ParseError as error:
        raise CommandFailed(f"--data is no {arguments.data_type} in text format: {error}") from None
    return any_pb2.Any(type_url=url, value=message.SerializeToString(deterministic=True))


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandFailed(f"unable to read {name}: {error.strerror}") from None
