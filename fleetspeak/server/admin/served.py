"""Which objects carry out the RPCs of which gRPC service."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor


@dataclass(frozen=True, slots=True)
class Served:
    """A gRPC service, and the objects whose methods are its operations.

    All operations run in the reactor's thread.  By the kind of the RPC, an operation is

    - unary: a coroutine function of the request, which gives the reply; also of the `Caller`, if it has an argument
      that is called `caller`;
    - with a streamed reply: an asynchronous generator, of the request, of lists of replies;
    - with streamed requests: a coroutine function without arguments, which gives a `Receiver`.
    """

    descriptor: ServiceDescriptor
    operations: Sequence[object]

    def operation(self, method: MethodDescriptor) -> Callable[..., Any] | None:
        """What carries an RPC out, of the first object that has it.  None: nothing does."""
        name = operation_name(method.name)
        found = (getattr(one, name, None) for one in self.operations)
        return next((one for one in found if one is not None), None)


class Receiver(Protocol):
    """Takes the requests of one call, one after the other."""

    def take(self, request: Any) -> Awaitable[None]:
        """Take the next one; the one behind it is read when this is done."""

    def finish(self) -> Awaitable[Any]:
        """All requests were taken.  Gives the reply."""

    def close(self) -> None:
        """The call has ended; without `finish`, or while that was under way, it was given up."""


def operation_name(rpc: str) -> str:
    """``ListClients`` is carried out by ``list_clients``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower()
