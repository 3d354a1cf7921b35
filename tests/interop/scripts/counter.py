"""A service that counts on request: an Int64Value n comes in, n messages with 0, 1, ..., n - 1 go back.

It makes one every 10 ms, so that there is time to do something to its fleet meanwhile.
"""

import time

from google.protobuf.wrappers_pb2 import Int64Value

from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.src.common.proto.fleetspeak.common_pb2 import Message


def main():
    connection = FleetspeakConnection(version="0.0.1")
    while True:
        request, _ = connection.Recv()
        count = Int64Value()
        request.data.Unpack(count)
        for number in range(count.value):
            answer = Message()
            answer.destination.service_name = request.source.service_name
            answer.data.Pack(Int64Value(value=number))
            connection.Send(answer)
            time.sleep(0.01)


if __name__ == "__main__":
    main()
