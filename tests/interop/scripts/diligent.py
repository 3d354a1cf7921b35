"""A service that notes every number it is sent in a file, at once and for good: its argument names the file."""

import os
import sys
import time

from google.protobuf.wrappers_pb2 import Int64Value

from fleetspeak.client_connector.connector import FleetspeakConnection


def main():
    notes = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    connection = FleetspeakConnection(version="0.0.1")
    while True:
        request, _ = connection.Recv()
        number = Int64Value()
        request.data.Unpack(number)
        time.sleep(0.002)
        os.write(notes, b"%d\n" % number.value)


if __name__ == "__main__":
    main()
