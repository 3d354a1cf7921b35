"""The factory `MessageSaver`: keeps each message as a text file of its own, named by its message id."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common
from fleetspeak.security.files import PRIVATE, write_atomically

FOLDER_MODE = 0o700
SUFFIX = ".textproto"


@implementer(IServerService)
class MessageSaver:
    """Writes ``<message id>.textproto``, a `fleetspeak.Message` in text format, for each message.

    A file is complete as soon as it has its name.  A message that comes again writes its file again.
    """

    def __init__(self, folder: Path, run_in_thread: Callable[..., Deferred[Any]]) -> None:
        self._folder = folder
        self._run_in_thread = run_in_thread

    def start(self) -> None:
        """Make the folder if there is none.  Raises ConfigError if it cannot be written to."""
        try:
            self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"cannot save messages in {self._folder}: {error.strerror}; "
                "name a folder that the server's user may write to"
            ) from error

    def stop(self) -> None:
        """Nothing to finish: what was accepted is written."""

    def process(self, message: common.Message) -> Deferred[None]:
        """Write one message.  A full or broken disk is a TemporaryError: the message stays in the store."""
        message_id = ids.message_id(message.message_id)
        if not message_id:
            raise PermanentError("a message without message_id cannot be saved")
        return self._run_in_thread(self._save, self._folder / (ids.show(message_id) + SUFFIX), message)

    def _save(self, path: Path, message: common.Message) -> None:
        """In a thread."""
        text = text_format.MessageToString(message, as_utf8=True)
        try:
            write_atomically(path, text.encode(), PRIVATE)
        except OSError as error:
            raise TemporaryError(f"cannot write {path}: {error.strerror}") from error


@implementer(IPlugin, IServerServiceFactory)
class MessageSaverFactory:
    """Makes `MessageSaver`s.  The config is the folder, as a `google.protobuf.StringValue`."""

    name = "MessageSaver"
    help = "Saves each message to a text file of its own, in the folder given as google.protobuf.StringValue."
    config_type = StringValue

    def make(self, config: ProtobufMessage | None, context: IServerServiceContext) -> MessageSaver:
        """Raises ConfigError if no folder is given."""
        if not isinstance(config, StringValue) or not config.value:
            raise ConfigError(
                f'service "{context.service_name}": factory [MessageSaver] needs the folder to save to, as '
                'config { [type.googleapis.com/google.protobuf.StringValue] { value: "/the/folder" } }'
            )
        reactor = context.reactor

        def run_in_thread(function: Callable[..., None], *args: object) -> Deferred[None]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

        return MessageSaver(Path(config.value).absolute(), run_in_thread)
