"""The operator's side: server services written with the server connector, driven by lines of JSON.

The same file runs with upstream's package and with ours.  Arguments: the address of the server's admin
interface, then for each service its name and the address to listen on, as ``name=host:port``.

Standard input, one JSON object a line (bytes are base64):
    {"do": "insert", "service": ..., "message": ...}     answered {"done": "insert"}
    {"do": "pending", "clients": [...]}                  answered {"done": "pending", "count": n}
    {"do": "clients", "clients": [...]}                  answered {"done": "clients", "clients": [...]}
    whatever fails                                       answered {"done": ..., "error": ...}
Standard output has the answers, and {"received": ..., "service": ...} for every message that a service gets.
"""

import base64
import datetime
import json
import sys
import threading

from absl import app

from fleetspeak.server_connector import connector
from fleetspeak.src.common.proto.fleetspeak.common_pb2 import Message
from fleetspeak.src.server.proto.fleetspeak_server import admin_pb2

PATIENCE = datetime.timedelta(seconds=20)
_writing = threading.Lock()


def say(**fields):
    with _writing:
        print(json.dumps(fields), flush=True)


def receiver(service):
    def receive(message, context):
        say(received=base64.b64encode(message.SerializeToString()).decode(), service=service)

    return receive


def carry_out(command, clients):
    outgoing = clients[command.get("service") or next(iter(clients))].outgoing
    ids = [base64.b64decode(client_id) for client_id in command.get("clients", ())]
    if command["do"] == "insert":
        message = Message.FromString(base64.b64decode(command["message"]))
        outgoing.InsertMessage(message, timeout=PATIENCE)
        return {}
    if command["do"] == "pending":
        request = admin_pb2.GetPendingMessageCountRequest(client_ids=ids)
        return {"count": outgoing.GetPendingMessageCount(request, timeout=PATIENCE).count}
    if command["do"] == "clients":
        response = outgoing.ListClients(admin_pb2.ListClientsRequest(client_ids=ids), timeout=PATIENCE)
        return {"clients": [base64.b64encode(client.client_id).decode() for client in response.clients]}
    raise ValueError("unknown command")


def main(argv):
    clients = {}
    for argument in argv[2:]:
        service, address = argument.split("=")
        clients[service] = connector.InsecureGRPCServiceClient(service, address, argv[1])
        clients[service].Listen(receiver(service))
    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say(done=command["do"], **carry_out(command, clients))
        except Exception as failure:
            say(done=command["do"], error=repr(failure))


if __name__ == "__main__":
    app.run(main)
