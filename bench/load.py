"""The load of `figures.py`: clients in a process of their own, so that what they cost is not the server's.

    python load.py MODE HOST PORT AUTHORITY CLIENTS MESSAGES SIZE SECONDS

MODE is ``poll`` or ``stream``.  Each client is a thread with an identity and a connection of its own, and sends the
next contact when the last one is answered, or acknowledged.  The requests are ready-made; only the message ids in them
are changed.  Prints one JSON object: contacts, seconds, latencies (ms), and the CPU seconds that all this has cost.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from fleetspeak.pb import common
from fleetspeak.testing.wireclient import Connection, Identity, Stream
from fleetspeak.wire import contact as wrapping
from fleetspeak.wire import streamframes

WARM_UP = 2.0
"""Seconds of load that are not counted."""


class Contacts:
    """Contact data with new messages each time, by changing the ids in the bytes of the first one."""

    def __init__(self, client: int, messages: int, size: int) -> None:
        marks = [b"%06d%010d" % (client, number) for number in range(messages)]
        data = common.ContactData(messages=[_message(mark, size) for mark in marks])
        self._bytes = bytearray(wrapping.wrap(data, ["bench"]))
        self._places = [self._bytes.index(mark) + 6 for mark in marks]
        self._next = messages

    def next(self) -> bytes:
        """The same contact data with ids that were never used."""
        for place in self._places:
            self._bytes[place : place + 10] = b"%010d" % self._next
            self._next += 1
        return bytes(self._bytes)


class Client(threading.Thread):
    """One client in a closed loop."""

    def __init__(self, connection: Connection, contacts: Contacts, streaming: bool, begin: float, end: float) -> None:
        super().__init__(daemon=True)
        self.latencies: list[float] = []
        self._connection = connection
        self._contacts = contacts
        self._streaming = streaming
        self._begin = begin
        self._end = end

    def run(self) -> None:
        exchange = self._open_stream() if self._streaming else self._poll
        now = time.perf_counter()
        while now < self._end:
            exchange()
            before, now = now, time.perf_counter()
            if before >= self._begin:
                self.latencies.append((now - before) * 1000)

    def _poll(self) -> None:
        response = self._connection.request("POST", "/message", self._contacts.next())
        assert response.status == 200, response

    def _open_stream(self):  # type: ignore[no-untyped-def]
        stream = Stream(self._connection, common.ContactData())

        def send_record() -> None:
            stream.send_bytes(streamframes.encode(self._contacts.next()))
            assert stream.receive().ack_index

        return send_record


def main(mode: str, host: str, port: str, authority: str, clients: str, messages: str, size: str, seconds: str) -> None:
    trusted = Path(authority).read_text()
    connections = [Connection((host, int(port)), trusted, Identity.make()) for _ in range(int(clients))]
    begin = time.perf_counter() + WARM_UP
    end = begin + float(seconds)
    threads = [
        Client(connection, Contacts(number, int(messages), int(size)), mode == "stream", begin, end)
        for number, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, begin - time.perf_counter()))
    print("begin", flush=True)
    own_cpu = time.process_time()
    time.sleep(max(0.0, end - time.perf_counter()))
    print("end", flush=True)
    own_cpu = time.process_time() - own_cpu
    for thread in threads:
        thread.join(30)
    latencies = sorted(latency for thread in threads for latency in thread.latencies)
    quantiles = statistics.quantiles(latencies, n=100)
    print(
        json.dumps(
            {
                "contacts": len(latencies),
                "seconds": float(seconds),
                "p50": quantiles[49],
                "p95": quantiles[94],
                "p99": quantiles[98],
                "cpu": own_cpu,
            }
        )
    )


def _message(source_message_id: bytes, size: int) -> common.Message:
    message = common.Message(source_message_id=source_message_id)
    message.source.service_name = "bench"
    message.destination.service_name = "bench"
    message.data.Pack(BytesValue(value=b"\xa5" * size))
    return message


if __name__ == "__main__":
    main(*sys.argv[1:])
