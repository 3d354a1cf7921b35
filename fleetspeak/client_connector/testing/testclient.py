"""A service program to test clients with: ``python -m fleetspeak.client_connector.testing.testclient --mode=loopback``.

One of its modes, each as a service may behave:

- ``loopback`` sends each message back, with ``Response`` appended to its type
- ``memoryhog`` takes 20 MiB of memory and sleeps
- ``freezed`` connects and does nothing any more
- ``100ms-heartbeat`` sends a heartbeat every 100 ms
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from fleetspeak.client_connector.connector import FleetspeakConnection

VERSION = "0.5"

_HOGGED = 20 * 1024 * 1024
_FOR_EVER = 3600.0


def loopback() -> None:
    """Send back what comes, until the client is gone."""
    connection = FleetspeakConnection(version=VERSION)
    while True:
        message, _ = connection.Recv()
        message.message_type += "Response"
        connection.Send(message)


def memoryhog() -> None:
    """Take a lot of memory, and use it, so that it is resident."""
    _connection = FleetspeakConnection(version=VERSION)
    _hogged = bytearray(b"\1") * _HOGGED
    time.sleep(_FOR_EVER)


def freezed() -> None:
    """Say hello and nothing more."""
    _connection = FleetspeakConnection(version=VERSION)
    time.sleep(_FOR_EVER)


def heartbeat() -> None:
    """Give a sign of life every 100 ms."""
    connection = FleetspeakConnection(version=VERSION)
    while True:
        connection.Heartbeat()
        time.sleep(0.1)


MODES: dict[str, Callable[[], None]] = {
    "loopback": loopback,
    "memoryhog": memoryhog,
    "freezed": freezed,
    "100ms-heartbeat": heartbeat,
}


def main(argv: Sequence[str]) -> None:
    """Behave as asked for, for ever."""
    parser = argparse.ArgumentParser(description="Behave as a service may, to test a client.")
    parser.add_argument("--mode", choices=MODES, default="loopback")
    MODES[parser.parse_args(argv).mode]()


if __name__ == "__main__":
    main(sys.argv[1:])
