"""The service, and its factory."""

from __future__ import annotations

import os
import platform
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common


@implementer(IClientService)
class Facts:
    """Takes a question, a google.protobuf.StringValue, and sends the answer, a google.protobuf.Struct, to who asked."""

    def __init__(self, context: IClientServiceContext) -> None:
        self._context = context

    def start(self) -> None:
        """Nothing to get ready.  What it raises skips this service only; the client goes on without it."""

    def stop(self) -> None:
        """Nothing to end: the `process` that ran was cancelled before."""

    async def process(self, message: common.Message) -> None:
        """Called one at a time, in order.  The message is acknowledged when this returns.

        What it raises goes to the server, as the error of this message.  It waits for the answer to be accepted, so
        that a client that cannot reach its server takes no more questions than it has room for answers.
        """
        question = StringValue()
        if not message.data.Unpack(question):
            raise ValueError(f"a question is a google.protobuf.StringValue, not {message.data.TypeName() or 'nothing'}")
        reactor = self._context.reactor
        # What may block, such as a look at a file system of a server that is away, is for a thread.
        found = await deferToThreadPool(reactor, reactor.getThreadPool(), answer, question.value)
        reply = common.Message(message_type="Answer")
        reply.destination.service_name = message.source.service_name
        reply.data.Pack(as_struct({"question": question.value, **found}))
        await self._context.send(reply)


def answer(question: str) -> dict[str, Any]:
    """In a thread.  Raises ValueError for a question that is not known, and OSError."""
    word, _, argument = question.partition(" ")
    if word == "system":
        return {"hostname": platform.node(), "system": platform.system(), "release": platform.release()}
    if word == "load":
        return {"load": os.getloadavg()[0]}
    if word == "disk" and argument:
        status = os.statvfs(argument)
        return {"size": status.f_blocks * status.f_frsize, "free": status.f_bavail * status.f_frsize}
    raise ValueError(f'"{question}" is not known; ask "system", "load", or "disk PATH"')


def as_struct(values: dict[str, Any]) -> Struct:
    """As a message that every protobuf library knows."""
    struct = Struct()
    struct.update(values)
    return struct


@implementer(IClientServiceFactory)
class FactsFactory:
    """Makes a `Facts` for each service that has ``factory: "Facts"``."""

    name = "Facts"
    help = "Answers questions about its machine: system, load, disk PATH. No config."
    config_type = None

    def make(self, config: Message | None, context: IClientServiceContext) -> Facts:
        """Called when the client starts, and again when the service is restarted."""
        return Facts(context)
