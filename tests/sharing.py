"""Servers that share one MySQL database, each a process of its own, and a client by hand at each of them."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc

from fleetspeak import rpc
from fleetspeak.pb import common, components
from fleetspeak.testing.wireclient import Connection, Identity, Stream
from tests.interop.fleet import OURS, Deployment, Kind, Server
from tests.mariadb import Database
from tests.programs import free_port

SERVICE = "sink"


class SharingServer:
    """One of them."""

    def __init__(
        self,
        kind: Kind,
        deployment: Deployment,
        name: str,
        database: Database,
        change: Callable[[components.Config], object] = lambda config: None,
    ) -> None:
        """@param change: of its components file, besides addresses of its own."""
        self.https_port, self.admin_port, self.notification_port = free_port(), free_port(), free_port()
        self._trusted_pem = deployment.trusted_pem
        services = f'services {{ name: "{SERVICE}" factory: "NOOP" }}\nbroadcast_poll_time {{ seconds: 1 }}'
        self.process = Server(kind, deployment, name, {}, services, database)

        def configure(config: components.Config) -> None:
            config.https_config.listen_address = f"127.0.0.1:{self.https_port}"
            config.admin_config.listen_address = f"127.0.0.1:{self.admin_port}"
            config.notification_listen_address = self.notification_address
            change(config)

        self.process.reconfigure(configure)

    @property
    def notification_address(self) -> str:
        return f"127.0.0.1:{self.notification_port}"

    def connect(self, identity: Identity) -> Connection:
        return Connection(("localhost", self.https_port), self._trusted_pem, identity)

    def stream(self, identity: Identity) -> Stream:
        """Begin a stream; when this returns its place is stored."""
        first = common.ContactData()
        first.client_clock.seconds = 1  # upstream's server takes an empty record for one without end
        return Stream(self.connect(identity), first)

    def admin(self) -> rpc.admin.AdminStub:
        """Its admin API."""
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.admin_port}", options)
        return rpc.admin.AdminStub(self._channel)

    def clean_up(self) -> None:
        if hasattr(self, "_channel"):
            self._channel.close()
        self.process.clean_up()


class Sharing:
    """Some of them, and the cleaning up."""

    def __init__(self, database: Database, kinds: Iterable[Kind] = (OURS, OURS)) -> None:
        """They are not started yet."""
        self._scratch = Path(tempfile.mkdtemp(prefix="fleetspeak-sharing-"))
        deployment = Deployment(self._scratch / "deployment", OURS)
        self.servers = [
            SharingServer(kind, deployment, f"{kind.value}-{number}", database) for number, kind in enumerate(kinds)
        ]

    def secret_file(self, content: str) -> Path:
        """A file with a secret."""
        path = self._scratch / f"secret-{secrets.token_hex(4)}"
        path.write_text(content)
        path.chmod(0o600)
        return path

    def clean_up(self) -> None:
        for server in self.servers:
            server.clean_up()
        shutil.rmtree(self._scratch, ignore_errors=True)


def message_for(identity: Identity, text: str) -> common.Message:
    """What an operator inserts for a client."""
    message = common.Message(message_id=secrets.token_bytes(32), message_type=text)
    message.source.service_name = SERVICE
    message.destination.client_id, message.destination.service_name = identity.client_id, "hello"
    message.data.value = text.encode()
    return message


def next_text(stream: Stream, seconds: float) -> str | None:
    """The type of the next message that comes within so many seconds."""
    while stream.wait(seconds):
        messages = stream.receive().messages
        if messages:
            (message,) = messages
            return str(message.message_type)
    return None


def next_messages(stream: Stream, count: int, seconds: float = 15.0) -> list[str]:
    """The types of the next messages, however they come together."""
    found: list[str] = []
    while len(found) < count and stream.wait(seconds):
        found += [message.message_type for message in stream.receive().messages]
    return found
