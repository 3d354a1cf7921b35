"""Fleetspeak's own test service on a client, as a plug-in: it answers requests for traffic, and fetches files.

A test copies it into a folder fleetspeak/plugins on the client's path.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common, frr


@implementer(IPlugin, IClientServiceFactory)
class FrrFactory:
    name = "FRR"
    help = "answers requests for traffic, and fetches files"
    config_type = None

    def make(self, config: None, context: IClientServiceContext) -> IClientService:
        return Frr(context)


@implementer(IClientService)
class Frr:
    def __init__(self, context: IClientServiceContext) -> None:
        self.context = context

    def start(self) -> None:
        """Nothing to get ready."""

    def stop(self) -> None:
        """Nothing to end."""

    async def process(self, message: common.Message) -> None:
        if message.message_type == "TrafficRequest":
            await self.answer(message)
        elif message.message_type == "FileRequest":
            await self.fetch(message)
        else:
            raise ValueError(f"unknown message type {message.message_type!r}")

    async def answer(self, message: common.Message) -> None:
        request = frr.TrafficRequestData()
        message.data.Unpack(request)

        def scaled(value: int) -> float:
            return value * (1 + random.random() * request.jitter)

        count = int(scaled(request.num_messages or 1))
        for index in range(count):
            response = frr.TrafficResponseData(
                master_id=request.master_id,
                request_id=request.request_id,
                response_index=index,
                data=os.urandom(int(scaled(request.message_size or 1024))),
                fin=index == count - 1,
            )
            await deferLater(self.context.reactor, scaled(request.message_delay_ms) / 1000)
            await self.send("TrafficResponse", response)

    async def fetch(self, message: common.Message) -> None:
        request = frr.FileRequestData()
        message.data.Unpack(request)
        with tempfile.TemporaryDirectory() as folder:
            fetched = await self.context.get_file(request.name, Path(folder) / "file")
        response = frr.FileResponseData(master_id=request.master_id, name=request.name, size=fetched.size)
        await self.send("FileResponse", response)

    async def send(self, message_type: str, data: frr.TrafficResponseData | frr.FileResponseData) -> None:
        answer = common.Message(message_type=message_type, destination=common.Address(service_name="FRR"))
        answer.data.Pack(data)
        await self.context.send(answer)


factory = FrrFactory()
