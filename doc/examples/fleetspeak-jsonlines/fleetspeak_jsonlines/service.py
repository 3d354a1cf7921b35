"""The service, and its factory."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from google.protobuf import json_format, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.message import Message
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.errors import ConfigError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common

KNOWN = (struct_pb2, timestamp_pb2, wrappers_pb2)
"""Only payloads of types whose modules have been imported can be read, so these are, whatever others import."""


@implementer(IServerService)
class JsonLines:
    """Appends a line for each message.  A message that comes again gets another line, with the same id.

    All lines that come while others are being written are written together, with one fsync.
    """

    def __init__(self, path: Path, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._writing = False

    def start(self) -> None:
        """Called once.  What it raises stops the server's start, so a wrong path is noticed at once."""
        try:
            with self._path.open("ab"):
                pass
        except OSError as error:
            raise ConfigError(f"cannot write to {self._path}: {error.strerror}") from error

    def stop(self) -> None:
        """Nothing to do: it is called when the last `process` has ended."""

    def process(self, message: common.Message) -> Deferred[None]:
        """The message is processed when the Deferred fires, and kept for another try when that fails.

        The server calls this many times at once, and cancels the Deferred after 30 seconds: it then fails, whatever
        comes of the line, and the message comes again.
        """
        written: Deferred[None] = Deferred()
        self._waiting.append((line(message), written))
        if not self._writing:
            self._write_what_waits()
        return written

    def _write_what_waits(self) -> None:
        batch, self._waiting = self._waiting, []
        self._writing = True
        pool = self._reactor.getThreadPool()
        writing = deferToThreadPool(self._reactor, pool, append, self._path, [text for text, _ in batch])
        writing.addBoth(self._written, batch)

    def _written(self, outcome: Failure | None, batch: list[tuple[str, Deferred[None]]]) -> None:
        self._writing = False
        if self._waiting:
            self._write_what_waits()
        for _, written in batch:
            if not written.called:  # it was cancelled
                written.callback(outcome)  # a Failure makes it fail


def append(path: Path, lines: list[str]) -> None:
    """In a thread: it may block, and must not touch anything of the reactor's."""
    try:
        with path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TemporaryError(f"cannot write to {path}: {error.strerror}") from error


def line(message: common.Message) -> str:
    """A message as a line of JSON; its payload too, if its type is known here."""
    described = {
        "message_id": ids.show(message.message_id),
        "client_id": ids.show(message.source.client_id),
        "service": message.source.service_name,
        "type": message.message_type,
        "created": message.creation_time.ToJsonString(),
        "validation": dict(message.validation_info.tags),  # what the authorizer noted
    }
    try:
        described["data"] = json_format.MessageToDict(message.data)
    except (TypeError, ValueError, json_format.Error):  # unknown here, or not what it says: clients may send anything
        described["data"] = {"@type": message.data.type_url, "base64": base64.b64encode(message.data.value).decode()}
    return json.dumps(described, sort_keys=True) + "\n"


@implementer(IServerServiceFactory)
class JsonLinesFactory:
    """Makes a `JsonLines` for each service that has ``factory: "JsonLines"``."""

    name = "JsonLines"
    help = "Writes each message to the file given as google.protobuf.StringValue, as a line of JSON."
    config_type = wrappers_pb2.StringValue

    def make(self, config: Message | None, context: IServerServiceContext) -> JsonLines:
        """Called before the reactor runs.  A ConfigError is shown to the operator as it stands."""
        if not isinstance(config, wrappers_pb2.StringValue) or not config.value:
            raise ConfigError(
                f'service "{context.service_name}": JsonLines needs the file to write to, as '
                'config { [type.googleapis.com/google.protobuf.StringValue] { value: "/the/file" } }'
            )
        return JsonLines(Path(config.value).absolute(), context.reactor)
