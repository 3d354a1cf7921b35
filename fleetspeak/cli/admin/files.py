"""Files for clients."""

from __future__ import annotations

import argparse
from pathlib import Path

from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Report
from fleetspeak.pb import admin


def _service_and_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service_name")
    parser.add_argument("file_name")


def _and_path(parser: argparse.ArgumentParser) -> None:
    _service_and_name(parser)
    parser.add_argument("file_path")


def _store(link: Link, arguments: Arguments) -> Report:
    try:
        data = Path(arguments.file_path).read_bytes()
    except OSError as error:
        raise CommandFailed(f"Failed to read file [{arguments.file_path}]: {error.strerror}") from None
    service, name = arguments.service_name, arguments.file_name
    request = admin.StoreFileRequest(service_name=service, file_name=name, data=data)
    link.call("StoreFile", link.admin.StoreFile, request)
    return Report(
        lambda times: [f"Stored file {service}/{name} to server."],
        {"service": service, "file": name, "size": len(data)},
    )


def _delete(link: Link, arguments: Arguments) -> Report:
    service, name = arguments.service_name, arguments.file_name
    request = admin.DeleteFileRequest(service_name=service, file_name=name)
    link.call("DeleteFile", link.admin.DeleteFile, request)
    return Report(lambda times: [f"Deleted file {service}/{name} from server."], {"service": service, "file": name})


COMMANDS = (
    Command("storefile", "store a file for clients, of less than 4 MiB", _store, _and_path),
    Command("deletefile", "delete a file", _delete, _service_and_name),
)
