"""A server that answers what a test says, over real gRPC, and the tool run in this process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TextIO
from unittest import mock

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.admin import program
from fleetspeak.pb import admin, operator

ADMIN = admin.DESCRIPTOR.services_by_name["Admin"]
OPERATOR = operator.DESCRIPTOR.services_by_name["Operator"]


WIDTH = "160"
"""Columns of the terminal."""


@dataclass
class Call:
    """One call that came."""

    method: str
    request: Any
    """A list of requests, if the client streams."""
    metadata: Mapping[str, Any]
    time_remaining: float


@dataclass
class FakeServer:
    """Answers with what is in `replies`, by the name of the method; everything else with an empty reply.

    A reply is a message, a list of them for a streamed reply, or a function of the request and the call's context.
    """

    services: tuple[ServiceDescriptor, ...] = (ADMIN, OPERATOR)
    replies: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def start(self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0") -> None:
        self.server = grpc.server(ThreadPoolExecutor(4))
        for service in self.services:
            handlers = {method.name: self._handler(method) for method in service.methods}
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        if credentials is None:
            port = self.server.add_insecure_port(address)
        else:
            port = self.server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{port}"
        self.port = port
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()

    @property
    def last(self) -> Call:
        return self.calls[-1]

    def _handler(self, method: MethodDescriptor) -> Any:
        made = GetMessageClass(method.output_type)

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            given = list(request) if method.client_streaming else request
            metadata = dict(context.invocation_metadata())
            self.calls.append(Call(method.name, given, metadata, context.time_remaining()))
            reply = self.replies.get(method.name, [] if method.server_streaming else made())
            reply = reply(given, context) if callable(reply) else reply
            return iter(reply) if method.server_streaming else reply

        kind = f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}_rpc_method_handler"
        return getattr(grpc, kind)(answer, GetMessageClass(method.input_type).FromString, made.SerializeToString)


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def refuse(code: grpc.StatusCode, details: str) -> Callable[..., Any]:
    """A reply for `FakeServer`."""

    def abort(request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(code, details)

    return abort


class Printed(io.StringIO):
    """What this thread prints; others, which follow the logs of servers, print to where they printed before."""

    def __init__(self, before: TextIO, terminal: bool) -> None:
        super().__init__()
        self._before = before
        self._terminal = terminal
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return super().write(text) if threading.get_ident() == self._thread else self._before.write(text)

    def isatty(self) -> bool:
        return self._terminal


@dataclass
class Outcome:
    """How the tool ended."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """None of ours but these, and an empty home."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FLEETSPEAK_")}
    with tempfile.TemporaryDirectory() as home:
        given = {**kept, "HOME": home, "XDG_CONFIG_HOME": f"{home}/.config", "COLUMNS": WIDTH, **variables}
        with mock.patch.dict(os.environ, given, clear=True):
            yield


def run_tool(*words: str, terminal: bool = False, **variables: str) -> Outcome:
    """Run ``fleetspeak-admin`` in this process."""
    out, err = Printed(sys.stdout, terminal), Printed(sys.stderr, terminal)
    with environment(**variables), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = program.run(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    return Outcome(status, out.getvalue(), err.getvalue())


class ToolTestCase(SynchronousTestCase):
    """With a fake server, and the tool that asks it."""

    def setUp(self) -> None:
        self.server = FakeServer()
        self.server.start()
        self.addCleanup(self.server.stop)

    def run_tool(self, *words: str, terminal: bool = False) -> Outcome:
        return run_tool(f"-admin_addr={self.server.address}", *words, terminal=terminal)

    def succeed(self, *words: str, terminal: bool = False) -> str:
        outcome = self.run_tool(*words, terminal=terminal)
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        return outcome.out

    def fail_to(self, *words: str, status: int = 1) -> str:
        outcome = self.run_tool(*words)
        self.assertEqual((outcome.status, outcome.out), (status, ""), outcome.err)
        return outcome.err
