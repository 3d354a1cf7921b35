"""Files for clients."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fleetspeak.cli.admin import lists, progress
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.pb import admin, operator

CHUNK = 256 * 1024
"""Bytes of a file in one request of an upload."""

TOO_OLD = "`fleetspeak-admin storefile` stores files of less than 4 MiB"

COLUMNS = (
    Column("service", "Service", 20),
    Column("file", "File", 40),
    Column("size", "Bytes", 12, right=True),
    Column("modified", "Modified", 24),
)


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


# ---- files of any size


def _upload(link: Link, arguments: Arguments) -> Report:
    path = Path(arguments.file_path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not path.is_file():
                raise CommandFailed(f"{path} is no regular file")
            head = operator.UploadFileRequest.Head(
                service_name=arguments.service_name,
                file_name=arguments.file_name,
                size=size,
                sha256=hashlib.file_digest(file, "sha256").digest(),
            )
            file.seek(0)
            with progress.bar(f"{arguments.service_name}/{arguments.file_name}", size) as advance:
                requests = _requests(head, file, advance)
                entry = link.upload("UploadFile", link.operator.UploadFile, requests, TOO_OLD)
    except OSError as error:
        raise CommandFailed(f"unable to read {path}: {error.strerror}") from None
    shown = f"{head.service_name}/{head.file_name}"
    return Report(lambda times: [f"Stored file {shown}, {size} bytes."], _row(entry))


def _requests(
    head: operator.UploadFileRequest.Head, file: BinaryIO, advance: Callable[[int], object]
) -> Iterator[operator.UploadFileRequest]:
    yield operator.UploadFileRequest(head=head)
    while data := file.read(CHUNK):
        yield operator.UploadFileRequest(data=data)
        advance(len(data))


def _row(entry: operator.FileEntry) -> Row:
    return {
        "service": entry.service_name,
        "file": entry.file_name,
        "size": entry.size,
        "modified": entry.modified_time if entry.HasField("modified_time") else None,
    }


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service_name", nargs="?", default="", help="only of this service")
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    request = operator.ListFilesRequest(service_name=arguments.service_name)
    instead = "a Go server does not tell which files it has"
    found = lists.paged(link, "ListFiles", link.operator.ListFiles, request, "files", arguments.limit, instead)
    return Listing(COLUMNS, map(_row, found), "No files found.")


COMMANDS = (
    Command("list", "list files", _list, _declare_list),
    Command("upload", "store a file of any size, with a progress bar", _upload, _and_path),
    Command("delete", "delete a file", _delete, _service_and_name),
    Command("storefile", "store a file for clients, of less than 4 MiB", _store, _and_path),
    Command("deletefile", "delete a file", _delete, _service_and_name),
)
