"""Programs that the tests start as children, and what waits for what they do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from fleetspeak.pb import common
from fleetspeak.testing.clientside import RecordingContext

TESTCLIENT = (sys.executable, "-m", "fleetspeak.client_connector.testing.testclient")
LAUNCHER = (sys.executable, "-m", "fleetspeak.client_connector.testing.testclient_launcher")


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs this code, quickly: without looking for other packages."""
    return (sys.executable, "-I", "-S", "-c", code, *arguments)


def connected_python(code: str, *arguments: str) -> tuple[str, ...]:
    """The same, with `connection` as the connection to the client, made by our connector."""
    head = "import os, signal, sys, time; from fleetspeak.client_connector.connector import FleetspeakConnection; "
    return (sys.executable, "-c", f"{head}connection = FleetspeakConnection('1.0')\n{code}", *arguments)


def context(service_name: str = "TestService") -> RecordingContext:
    """What a service gets, with the real reactor and no server."""
    return RecordingContext(service_name, reactor)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for what real processes do."""
    done: Deferred[None] = Deferred()
    reached: list[Any] = []

    def look() -> None:
        if condition() and not reached:
            reached.append(True)
            done.callback(None)

    looking = LoopingCall(look)
    looking.start(0.01)
    try:
        await done.addTimeout(seconds, reactor)  # type: ignore[arg-type]
    finally:
        looking.stop()


def message(message_type: str, **fields: Any) -> common.Message:
    """A message of the server for the service."""
    return common.Message(
        message_type=message_type,
        message_id=bytes(32),
        source=common.Address(service_name="TestService"),
        destination=common.Address(client_id=bytes.fromhex("0102030405060708"), service_name="TestService"),
        **fields,
    )


def alive(pid: int) -> bool:
    """Does this process run?  (One that nobody has waited for yet does not.)"""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or before it was read
        return False
