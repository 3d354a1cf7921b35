"""Fleetspeak's own test service, FRR: clients are asked for traffic, and every answer is accounted for."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import grpc

from fleetspeak import ids, rpc
from fleetspeak.pb import admin, common, frr
from tests import mariadb
from tests.programs import PATIENCE, eventually, free_port

from .fleet import OURS, SCRIPTS, UPSTREAM, Client, Deployment, Kind, Server, Transport
from .operators import Operator, unpack

SERVICE = "FRR"

PARALLELISM = 20
"""Of our server's side: ten times as many may wait in line, which all answers at once are.  What is beyond that comes
back after a minute or more, so that upstream's 5, which it has with a service inside its server, would make for a long
test."""

UPSTREAM_PARALLELISM = 1000
"""Of the Go server's side, which has no line."""


class FrrFleet:
    """A server with its side of FRR, and clients with theirs."""

    def __init__(self, server_kind: Kind, database: mariadb.Database | None = None) -> None:
        """@param database: see `Server`."""
        self._scratch = Path(tempfile.mkdtemp(prefix="fleetspeak-frr-"))
        self.deployment = Deployment(self._scratch / "deployment", OURS)
        address = f"127.0.0.1:{free_port()}"
        self.master = Operator("FRR master", OURS.python(), self.deployment.admin_address, {SERVICE: address})
        parallelism = UPSTREAM_PARALLELISM if server_kind is UPSTREAM else PARALLELISM
        self.services = f"""
            services {{
              name: "{SERVICE}" factory: "GRPC" max_parallelism: {parallelism}
              config: {{
                [type.googleapis.com/fleetspeak.grpcservice.Config] {{ target: "{address}" insecure: true }}
              }}
            }}
            broadcast_poll_time {{ seconds: 1 }}
        """
        self.server = Server(server_kind, self.deployment, "server", {}, self.services, database)
        self.clients: list[Client] = []
        self._channel = grpc.insecure_channel(self.deployment.admin_address)
        self.admin = rpc.admin.AdminStub(self._channel)

    def add_clients(self, kind: Kind, transport: Transport, count: int) -> None:
        """Prepare clients; ours have the service as a plug-in, upstream's as a daemon."""
        for _ in range(count):
            client = Client(kind, self.deployment, f"{len(self.clients)}", transport, (OURS,))
            services = client.folder / "etc" / "textservices"
            shutil.rmtree(services)
            services.mkdir()
            if kind is OURS:
                (services / "frr").write_text(f'name: "{SERVICE}" factory: "FRR"')
                plugins = client.folder / "python" / "fleetspeak" / "plugins"
                plugins.mkdir(parents=True)
                shutil.copy(SCRIPTS / "frr_plugin.py", plugins / "frr.py")
            else:
                (services / "frr").write_text(frr_daemon())
            self.clients.append(client)

    def start_clients(self) -> None:
        for client in self.clients:
            self.start(client)

    def start(self, client: Client) -> None:
        client.start({"PYTHONPATH": str(client.folder / "python")} if client.kind is OURS else None)

    def await_enrolment(self) -> set[ids.ClientId]:
        expected = {client.client_id for client in self.clients}
        eventually(lambda: self.master.clients() >= expected, "all clients enrol")
        return expected

    # ---- what is asked for

    def broadcast(self, message_type: str, data: frr.TrafficRequestData | frr.FileRequestData, limit: int) -> None:
        message = admin.CreateBroadcastRequest(limit=limit)
        message.broadcast.source.service_name = SERVICE
        message.broadcast.message_type = message_type
        message.broadcast.data.Pack(data)
        self.admin.CreateBroadcast(message, timeout=PATIENCE)

    def unicast(self, message_type: str, data: frr.TrafficRequestData, client_id: ids.ClientId) -> None:
        self.master.send(SERVICE, client_id, SERVICE, data, message_type)

    def store_file(self, name: str, data: bytes) -> None:
        """Put a file where clients' FRR services can fetch it."""
        request = admin.StoreFileRequest(service_name=SERVICE, file_name=name, data=data)
        self.admin.StoreFile(request, timeout=PATIENCE)

    # ---- what came

    def responses(self, request_id: int) -> Counter[tuple[bytes, int]]:
        """How often each answer came, by client and index."""
        return Counter(
            (message.source.client_id, response.response_index) for message, response in self._answers(request_id)
        )

    def completed(self, request_id: int) -> set[bytes]:
        """The clients of which every answer up to the last is here."""
        responses = self.responses(request_id)
        lasts = {
            message.source.client_id: response.response_index
            for message, response in self._answers(request_id)
            if response.fin
        }
        return {
            client_id
            for client_id, last in lasts.items()
            if all((client_id, index) in responses for index in range(last))
        }

    def await_completion(self, request_id: int, count: int, timeout: float = PATIENCE) -> None:
        self.master.wait_until(
            lambda: len(self.completed(request_id)) >= count, f"{count} clients complete {request_id}", timeout
        )

    def fetched(self) -> dict[bytes, int]:
        """The sizes that clients report of what they fetched."""
        return {
            message.source.client_id: unpack(message, frr.FileResponseData).size
            for message in list(self.master.received)
            if message.message_type == "FileResponse"
        }

    def _answers(self, request_id: int) -> list[tuple[common.Message, frr.TrafficResponseData]]:
        answers = [
            (message, unpack(message, frr.TrafficResponseData))
            for message in list(self.master.received)
            if message.message_type == "TrafficResponse"
        ]
        return [(message, response) for message, response in answers if response.request_id == request_id]

    def contacts(self, client_id: ids.ClientId) -> int:
        """How often a client made contact."""
        request = admin.ListClientContactsRequest(client_id=client_id)
        return len(self.admin.ListClientContacts(request, timeout=PATIENCE).contacts)

    def addresses(self, client_id: ids.ClientId) -> list[str]:
        """Where a client's contacts came from, as the server saw it."""
        request = admin.ListClientContactsRequest(client_id=client_id)
        contacts = self.admin.ListClientContacts(request, timeout=PATIENCE).contacts
        return [contact.observed_address for contact in contacts]

    def clean_up(self) -> None:
        for client in self.clients:
            if hasattr(client, "program"):
                client.program.ask_to_end()
        for client in self.clients:
            client.clean_up()
        self.server.clean_up()
        self.master.stop()
        self._channel.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def frr_daemon() -> str:
    """The configuration of the service as a daemon."""
    return f"""
        name: "{SERVICE}" factory: "Daemon"
        config: {{
          [type.googleapis.com/fleetspeak.daemonservice.Config]: {{
            argv: "{OURS.python()}" argv: "{SCRIPTS / "frr_daemon.py"}" disable_resource_monitoring: true
          }}
        }}
    """
