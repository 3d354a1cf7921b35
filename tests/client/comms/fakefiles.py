"""A fake server that has files, knows ranges, and breaks off where the test says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from tests.client.comms.fakeserver import Connection, FakeServer, Request

NEW_YEAR = 1704067200
"""2024-01-01T00:00:00Z."""


@dataclass
class File:
    """What is served under one path."""

    content: bytes
    modified: int = NEW_YEAR
    etag: str = ""


class FileServer(FakeServer):
    """Serves `files` as server-https.md, section 5, says."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, File] = {}
        self.breaks: list[int] = []
        """After so many bytes of the body the connections of the next answers break."""
        self.knows_ranges = True
        self.refused_label = ""
        self.answer_file: Callable[[Connection, Request], None] | None = None
        """Answers instead."""

    def serve_file(self, connection: Connection, request: Request) -> None:
        path = request.line.split(" ")[1]
        labels = [value for name, value in request.all_headers if name == "x-fleetspeak-labels"]
        file = self.files.get(path)
        if self.answer_file is not None:
            self.answer_file(connection, request)
        elif self.refused_label in labels:
            connection.respond(401, b"unauthorized\n")
        elif file is None:
            super().serve_file(connection, request)
        else:
            self._serve(connection, request, file)

    def _serve(self, connection: Connection, request: Request, file: File) -> None:
        since = request.headers.get("if-modified-since")
        if since is not None and parsedate_to_datetime(since).timestamp() >= file.modified:
            connection.respond(304, b"")
            return
        modified = formatdate(file.modified, usegmt=True)
        headers = f"Last-Modified: {modified}\r\nDate: {formatdate(usegmt=True)}\r\n"
        if file.etag:
            headers += f"ETag: {file.etag}\r\n"
        cut = self.breaks.pop(0) if self.breaks else None
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if wanted and self.knows_ranges and request.headers.get("if-range", modified) in (modified, file.etag):
            first, total = int(wanted[1]), len(file.content)
            if first >= total:
                connection.respond(416, b"no\n", f"Content-Range: bytes */{total}\r\n")
                return
            headers += f"Content-Range: bytes {first}-{total - 1}/{total}\r\n"
            connection.respond(206, file.content[first:], headers, cut=cut)
        else:
            connection.respond(200, file.content, headers, cut=cut)
