"""An operator: server services of either connector, in a process of their own, driven by the test."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from tests.programs import PATIENCE, NotInTime, Program

M = TypeVar("M", bound=ProtobufMessage)

SCRIPT = Path(__file__).with_name("scripts") / "operator_side.py"


class Operator:
    """Receives what clients send to its services, and sends to them."""

    def __init__(self, name: str, python: Path, admin_address: str, services: Mapping[str, str]) -> None:
        """Start it.

        @param services: where each of its services listens, by name.
        """
        self.received: list[common.Message] = []
        self._changed = threading.Condition()
        self._answer: dict[str, object] | None = None
        self._ready = False
        arguments = [f"{service}={address}" for service, address in services.items()]
        self._program = Program(name, [python, SCRIPT, admin_address, *arguments], watch_output=False)
        threading.Thread(target=self._read, daemon=True, name=f"read {name}").start()
        self._wait(lambda: self._ready, "the operator's services listen")

    def send(self, service: str, client_id: ClientId, to: str, data: ProtobufMessage, message_type: str = "") -> None:
        """Insert a message from `service` to the service `to` of a client."""
        message = common.Message(message_type=message_type)
        message.source.service_name = service
        message.destination.service_name = to
        message.destination.client_id = client_id
        message.data.Pack(data)
        self._ask(do="insert", service=service, message=_encode(message.SerializeToString()))

    def pending(self, client_ids: Iterable[ClientId]) -> int:
        """How many messages wait for these clients."""
        count = self._ask(do="pending", clients=[_encode(client_id) for client_id in client_ids])["count"]
        assert isinstance(count, int)
        return count

    def clients(self, client_ids: Iterable[ClientId] = ()) -> set[ClientId]:
        """Which of these (of all, if none is given) the server knows."""
        found = self._ask(do="clients", clients=[_encode(client_id) for client_id in client_ids])["clients"]
        assert isinstance(found, list)
        return {ClientId(base64.b64decode(client_id)) for client_id in found}

    def wait_for(self, wanted: Callable[[common.Message], bool], timeout: float = PATIENCE) -> common.Message:
        """Wait for a message; it may have come already.  Returns the first one that is `wanted`."""
        found: list[common.Message] = []

        def look() -> bool:
            found.extend(message for message in self.received[len(seen) :] if wanted(message))
            seen.extend(self.received[len(seen) :])
            return bool(found)

        seen: list[common.Message] = []
        self._wait(look, "the message that was waited for", timeout)
        return found[0]

    def wait_for_text(self, text: str, timeout: float = PATIENCE) -> common.Message:
        """Wait for a message whose payload is a StringValue with exactly this text."""
        return self.wait_for(lambda message: unpack(message, StringValue).value == text, timeout)

    def wait_until(self, true: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Wait until something about `received` is true."""
        self._wait(true, what, timeout)

    def stop(self) -> None:
        self._program.make_sure_it_ended()

    def _ask(self, **command: object) -> dict[str, object]:
        assert self._program.input is not None
        with self._changed:
            self._answer = None
        self._program.input.write(json.dumps(command) + "\n")
        self._program.input.flush()
        self._wait(lambda: self._answer is not None, f"answer to {command['do']}")
        assert self._answer is not None
        if "error" in self._answer:
            raise AssertionError(f"{command['do']} failed: {self._answer['error']}")
        return self._answer

    def _wait(self, true: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not true():
                left = deadline - time.monotonic()
                if left <= 0 or not self._program.running:
                    raise NotInTime(f"{self._program.name}: {what}: not within {timeout} s")
                self._changed.wait(left)

    def _read(self) -> None:
        for line in self._program.output:
            said = json.loads(line)
            with self._changed:
                if "received" in said:
                    self.received.append(common.Message.FromString(base64.b64decode(said["received"])))
                elif "done" in said:
                    self._answer = said
                else:
                    self._ready = True
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def unpack(message: common.Message, message_class: type[M]) -> M:
    """The payload as a message of that class; empty if it is of another one."""
    value = message_class()
    message.data.Unpack(value)
    return value


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
