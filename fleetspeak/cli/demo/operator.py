"""The operator's side of the demo: asks the services on the clients, and waits for their answers.

Each server service is an `InsecureGRPCServiceClient` of the server connector, as in any operator's program.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import grpc
from google.protobuf.message import Message as ProtobufMessage

from fleetspeak import rpc
from fleetspeak.errors import FleetspeakError
from fleetspeak.ids import parse_client_id
from fleetspeak.pb import admin, common
from fleetspeak.server_connector.connector import InsecureGRPCServiceClient, OutgoingConnection

SERVICES = ("hello", "ls", "cat")
"""Names at both ends: a Stdin service answers to the server service of its own name."""

ANSWER_LIMIT = 30.0
"""Seconds to wait for an answer."""


STATUS_INTERVAL = 0.5
"""Seconds after which, and then again and again, the server is asked what became of the question."""


class NoAnswer(FleetspeakError):
    """A client or the server did not answer in time, or the text says why it could not."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how long after the question was sent."""

    message: common.Message
    milliseconds: float


class Operator:
    """Use it as a context manager: leaving it closes all connections."""

    def __init__(self) -> None:
        self._answers: dict[str, queue.Queue[tuple[common.Message, float]]] = {}
        self._listeners: list[InsecureGRPCServiceClient] = []
        self._channel: grpc.Channel | None = None
        self._outgoing: OutgoingConnection | None = None

    def listen(self) -> dict[str, str]:
        """Begin to take messages for every service; returns the address for each, for the server."""
        addresses = {}
        for name in SERVICES:
            listener = InsecureGRPCServiceClient(name, fleetspeak_message_listen_address="localhost:0")
            listener.Listen(self._inbox_of(name))
            self._listeners.append(listener)
            addresses[name] = f"localhost:{listener.listen_port}"
        return addresses

    def _inbox_of(self, service: str) -> Callable[[common.Message, grpc.ServicerContext], None]:
        answers = self._answers[service] = queue.Queue()

        def take(message: common.Message, context: grpc.ServicerContext) -> None:
            answers.put((message, time.monotonic()))

        return take

    def connect(self, admin_address: str) -> None:
        """Use this server's admin API from now on."""
        self._channel = grpc.insecure_channel(admin_address)
        self._outgoing = OutgoingConnection(self._channel, SERVICES[0])

    def ask(self, client_id: str, service: str, message_type: str, data: ProtobufMessage) -> Answer:
        """Send a message to a service of a client and wait for what comes back.  Raises NoAnswer."""
        assert self._outgoing is not None
        message = common.Message(message_id=os.urandom(32), message_type=message_type)
        message.source.service_name = service
        message.destination.client_id = parse_client_id(client_id)
        message.destination.service_name = service
        message.data.Pack(data)
        answers = self._answers[service]
        while not answers.empty():
            answers.get()  # too late for an earlier question
        asked = time.monotonic()
        with _told_clearly():
            self._outgoing.InsertMessage(message)
        while (wait := asked + ANSWER_LIMIT - time.monotonic()) > 0:
            try:
                answer, came = answers.get(timeout=min(wait, STATUS_INTERVAL))
            except queue.Empty:
                self._check(message.message_id)
            else:
                if answer.source.client_id == message.destination.client_id:
                    return Answer(answer, (came - asked) * 1000)
        raise NoAnswer(f"no answer of service {service} on client {client_id} within {ANSWER_LIMIT:.0f} s")

    def _check(self, message_id: bytes) -> None:
        """Raises NoAnswer if the client reported that it could not process this message."""
        assert self._channel is not None
        request = admin.GetMessageStatusRequest(message_id=message_id)
        with _told_clearly():
            result = rpc.admin.AdminStub(self._channel).GetMessageStatus(request, timeout=ANSWER_LIMIT).result
        if result.failed:
            raise NoAnswer(result.failed_reason)

    def clients(self) -> list[admin.Client]:
        """The fleet's list, by client id.  Raises NoAnswer."""
        assert self._outgoing is not None
        with _told_clearly():
            clients = self._outgoing.ListClients(admin.ListClientsRequest()).clients
        return sorted(clients, key=lambda one: one.client_id)

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._outgoing is not None:
            self._outgoing.Shutdown()
        if self._channel is not None:
            self._channel.close()
        for listener in self._listeners:
            listener.Stop()


@contextmanager
def _told_clearly() -> Iterator[None]:
    """What fails of a call to the server, as NoAnswer."""
    try:
        yield
    except grpc.RpcError as error:
        raise NoAnswer(
            f"the server does not answer: {error.details() if isinstance(error, grpc.Call) else error}"
        ) from error
