"""Fleetspeak's own test service on a client, as a daemon: it answers requests for traffic.

Written as anybody would with the client connector; the same file runs with upstream's package and with ours.
"""

import os
import random
import time

from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.src.common.proto.fleetspeak.common_pb2 import Message
from fleetspeak.src.inttesting.frr.proto.fleetspeak_frr import frr_pb2


def main():
    connection = FleetspeakConnection(version="0.5")
    while True:
        message, _ = connection.Recv()
        if message.message_type == "TrafficRequest":
            request = frr_pb2.TrafficRequestData()
            message.data.Unpack(request)
            answer(connection, request)


def answer(connection, request):
    def scaled(value):
        return value * (1 + random.random() * request.jitter)

    count = int(scaled(request.num_messages or 1))
    for index in range(count):
        time.sleep(scaled(request.message_delay_ms) / 1000)
        response = frr_pb2.TrafficResponseData(
            master_id=request.master_id,
            request_id=request.request_id,
            response_index=index,
            data=os.urandom(int(scaled(request.message_size or 1024))),
            fin=index == count - 1,
        )
        message = Message(message_type="TrafficResponse")
        message.destination.service_name = "FRR"
        message.data.Pack(response)
        connection.Send(message)


if __name__ == "__main__":
    main()
