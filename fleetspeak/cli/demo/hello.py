"""A daemon service, as anybody would write one: the client starts this program and talks to it through pipes.

Its whole job is to answer a name with a greeting.
"""

from __future__ import annotations

import struct

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.pb import common


def greet(request: common.Message) -> common.Message:
    """The answer to one request, addressed to the service that asked."""
    name = StringValue()
    request.data.Unpack(name)
    answer = common.Message(message_type="Greeting")
    answer.destination.service_name = request.source.service_name
    answer.data.Pack(StringValue(value=f"Hello {name.value}!"))
    return answer


def main() -> None:
    """Greet for as long as the client is there."""
    connection = FleetspeakConnection(version="1.0")
    while True:
        try:
            request, _ = connection.Recv()
        except struct.error:  # the client closed the pipe: time to go
            return
        connection.Send(greet(request))


if __name__ == "__main__":
    main()
