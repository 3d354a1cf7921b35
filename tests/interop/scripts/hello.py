"""The hello service of a machine: a StringValue with a name comes in, ``Hello <name>!`` goes back.

Written as anybody would with the client connector; the same file runs with upstream's package and with ours.
"""

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.src.common.proto.fleetspeak.common_pb2 import Message


def main():
    connection = FleetspeakConnection(version="0.0.1")
    while True:
        request, _ = connection.Recv()
        name = StringValue()
        request.data.Unpack(name)
        answer = Message()
        answer.destination.service_name = request.source.service_name
        answer.data.Pack(StringValue(value=f"Hello {name.value}!"))
        connection.Send(answer)


if __name__ == "__main__":
    main()
