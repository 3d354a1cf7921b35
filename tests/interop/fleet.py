"""A fleet of real processes: a server, clients and operators, each upstream's or ours, on one deployment.

A deployment is what an administrator makes with either ``fleetspeak-config``: certificates, the server's
components file and the clients' configuration.  The programs take it as it was written; only the folders
that it fixes to /etc and /var are replaced.
"""

from __future__ import annotations

import enum
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives import serialization
from google.protobuf import text_format

from fleetspeak import ids
from fleetspeak.pb import client as client_pb
from fleetspeak.pb import components as components_pb
from tests import mariadb
from tests.programs import Program, eventually, free_port

from . import peer
from .operators import Operator

Kept = TypeVar("Kept", bound="Server | Client")

SCRIPTS = Path(__file__).with_name("scripts")


class Kind(enum.Enum):
    """Whose program it is."""

    UPSTREAM = "upstream"
    OURS = "ours"

    def program(self, name: str) -> Path:
        return peer.go_program(name) if self is Kind.UPSTREAM else peer.our_program(name)

    def python(self) -> Path:
        """The interpreter that has this one's connectors."""
        return peer.upstream_python() if self is Kind.UPSTREAM else peer.our_python()


UPSTREAM, OURS = Kind.UPSTREAM, Kind.OURS


@dataclass(frozen=True)
class Transport:
    """How a client keeps contact."""

    streaming: bool
    deflate: bool = False
    http2: bool = False

    def __str__(self) -> str:
        kind = "streaming" if self.streaming else "polling"
        return kind + (" with deflate" if self.deflate else "") + (" over HTTP2" if self.http2 else "")


POLLING, POLLING_DEFLATE = Transport(False), Transport(False, True)
STREAMING, STREAMING_DEFLATE = Transport(True), Transport(True, True)
POLLING_HTTP2, STREAMING_HTTP2 = Transport(False, http2=True), Transport(True, http2=True)
STREAMING_DEFLATE_HTTP2 = Transport(True, True, True)


class Deployment:
    """Certificates, addresses and configuration files of one fleet, in a folder."""

    def __init__(self, folder: Path, configurator: Kind) -> None:
        """Let the configurator of that kind write everything into `folder`."""
        self.folder = folder
        self.https_port, self.admin_port = free_port(), free_port()
        folder.mkdir()
        self.components = folder / "components.textproto"
        self.client_configuration = folder / "client.textproto"
        request = folder / "config.textproto"
        request.write_text(self._request())
        subprocess.run([configurator.program("fleetspeak-config"), "-config", request, "-logtostderr"], check=True)

    @property
    def admin_address(self) -> str:
        return f"127.0.0.1:{self.admin_port}"

    @property
    def https_address(self) -> tuple[str, int]:
        return "localhost", self.https_port

    @property
    def trusted_pem(self) -> str:
        """The authority that clients trust."""
        return (self.folder / "ca.pem").read_text()

    def _request(self) -> str:
        return f"""
            configuration_name: "Interop"
            components_config {{
              https_config {{ listen_address: "127.0.0.1:{self.https_port}" }}
              admin_config {{ listen_address: "{self.admin_address}" }}
            }}
            public_host_port: "localhost:{self.https_port}"
            trusted_cert_file: "{self.folder}/ca.pem"
            trusted_cert_key_file: "{self.folder}/ca-key.pem"
            server_cert_file: "{self.folder}/server.pem"
            server_cert_key_file: "{self.folder}/server-key.pem"
            server_component_configuration_file: "{self.components}"
            linux_client_configuration_file: "{self.client_configuration}"
        """


class Server:
    """A server of either kind with a database of its own; stopping and starting it keeps the data."""

    def __init__(
        self,
        kind: Kind,
        deployment: Deployment,
        name: str,
        services: Mapping[str, str],
        extra: str = "",
        database: mariadb.Database | None = None,
    ) -> None:
        """
        @param database: on MariaDB; if None, upstream's has one of its own there, ours one of SQLite.
        @param services: GRPC services by name, each with the address its operator listens on.
        @param extra: more text for the services file.
        """
        self.kind = kind
        self.name = name
        self.options: list[str | Path] = []
        """More of the command line; for the next start."""
        self._folder = deployment.folder.with_name(name)
        self._folder.mkdir()
        self._services = self._folder / "services.textproto"
        self._services.write_text("".join(map(_grpc_service, services, services.values())) + extra)
        self._components = self._folder / "components.textproto"
        self._sqlite = self._folder / "fleetspeak.sqlite"
        components = deployment.components.read_text()
        self._owned = database is None and kind is UPSTREAM
        self.database = mariadb.the_server().new_database() if self._owned else database
        if self.database is not None:
            components = f'mysql_data_source_name: "{self.database.dsn}"\n{components}'
        self._components.write_text(components)

    @property
    def components(self) -> Path:
        """Its components file."""
        return self._components

    def reconfigure(self, change: Callable[[components_pb.Config], None]) -> None:
        """Let `change` change its components file; before it starts."""
        config = components_pb.Config()
        text_format.Parse(self._components.read_text(), config)
        change(config)
        self._components.write_text(text_format.MessageToString(config))

    def start(self) -> Program:
        """Start it and wait until it serves."""
        argv = [
            self.kind.program("fleetspeak-server"),
            f"-components_config={self._components}",
            "-services_config",
            self._services,
            "-logtostderr",
        ]
        if self.database is None:
            argv += ["--database-path", self._sqlite]
        argv += self.options
        self.program = Program(f"{self.kind.value} {self.name}", argv, folder=self._folder)
        self.program.wait_for_line("[Ss]erver started")
        return self.program

    def stop(self) -> None:
        """End it; ours gently.  Upstream's would wait for its streams to end by themselves, for up to 20 minutes."""
        if self.kind is UPSTREAM:
            self.program.kill()
            return
        status = self.program.terminate()
        assert status == 0, f"{self.program.name} ended with {status}"

    def pending(self, client_id: ids.ClientId) -> int:
        """How many messages from and to this client its database holds as not processed."""
        literal = f"x'{client_id.hex()}'"
        return self._count(
            "SELECT COUNT(*) FROM pending_messages JOIN messages USING (message_id)"
            f" WHERE source_client_id = {literal} OR destination_client_id = {literal}"
        )

    def messages_to(self, client_id: ids.ClientId, service: str) -> int:
        """How many messages for this service of the client its database holds."""
        return self._count(
            "SELECT COUNT(*) FROM messages"
            f" WHERE destination_client_id = x'{client_id.hex()}' AND destination_service_name = '{service}'"
        )

    def _count(self, query: str) -> int:
        if self.database is not None:
            count = self.database.query(query)[0][0]
        else:
            with closing(sqlite3.connect(f"file:{self._sqlite}?mode=ro", uri=True)) as connection:
                count = connection.execute(query).fetchone()[0]
        assert isinstance(count, int)
        return count

    def clean_up(self) -> None:
        if hasattr(self, "program"):
            self.program.make_sure_it_ended()
        if self._owned and self.database is not None:
            self.database.drop()


class Client:
    """One machine: a configuration directory, a state file, and the program of either kind that runs on them."""

    def __init__(
        self, kind: Kind, deployment: Deployment, name: str, transport: Transport, connectors: Sequence[Kind]
    ) -> None:
        """@param connectors: it gets one hello daemon by each of them."""
        self.kind = kind
        self.name = name
        folder = deployment.folder.with_name(f"client-{name}")
        self._state = folder / "state"
        self._configuration = folder / "client.textproto"
        services = folder / "etc" / "textservices"
        services.mkdir(parents=True)
        (folder / "etc" / "services").mkdir()
        (folder / "etc" / "communicator.txt").write_text(
            "max_poll_delay_seconds: 2 max_buffer_delay_seconds: 1 min_failure_delay_seconds: 1"
            + (" compression: COMPRESSION_DEFLATE" if transport.deflate else "")
            + (" prefer_http2: true" if transport.http2 else "")
        )
        for connector in connectors:
            (services / hello(connector)).write_text(_daemon(hello(connector), connector, "hello.py"))
        (services / "counter").write_text(_daemon("counter", connectors[0], "counter.py"))
        (services / "ls").write_text(_STDIN_SERVICE)
        text = deployment.client_configuration.read_text()
        text = _set(text, "configuration_directory", f'"{folder / "etc"}"')
        text = _set(text, "state_file", f'"{self._state}"')
        self._configuration.write_text(_set(text, "streaming", "true" if transport.streaming else "false"))
        self.folder = folder

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self._configuration

    def configure(self, field: str, value: str) -> None:
        """Set a field of the configuration file; `value` is text-format."""
        self._configuration.write_text(_set(self._configuration.read_text(), field, value))

    def start(self, environment: Mapping[str, str] | None = None) -> Program:
        """Start the program of the client's kind on the configuration and state that are there."""
        self.program = Program(
            f"{self.kind.value} client {self.name}",
            [self.kind.program("fleetspeak-client"), "-config", self._configuration, "-logtostderr", "-v=1"],
            folder=self.folder,
            environment=environment,
        )
        return self.program

    def stop(self) -> None:
        """End it gently; it must take that as a success."""
        status = self.program.terminate()
        assert status == 0, f"{self.program.name} ended with {status}"

    @property
    def client_id(self) -> ids.ClientId:
        """The id of the key in its state file, which is written before its first contact."""

        def stored_key() -> bytes:
            if not self._state.exists():
                return b""
            return client_pb.ClientState.FromString(self._state.read_bytes()).client_key

        key = serialization.load_der_private_key(eventually(stored_key, f"{self.name} has a key"), None)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return ids.client_id_of_key(public)

    def revoked(self) -> list[bytes]:
        """The serial numbers of revoked certificates in its state file."""
        state = self._state.read_bytes() if self._state.exists() else b""
        return list(client_pb.ClientState.FromString(state).revoked_cert_serials)

    def clean_up(self) -> None:
        if hasattr(self, "program"):
            self.program.make_sure_it_ended()


class Fleet:
    """One deployment with servers, clients and operators, and the cleaning up."""

    def __init__(self, configurator: Kind, connectors: Sequence[Kind]) -> None:
        """@param connectors: there is one operator, and on each client one hello daemon, by each of them."""
        self.connectors = connectors
        self._scratch = Path(tempfile.mkdtemp(prefix="fleetspeak-fleet-"))
        self._started: list[Server | Client] = []
        self.deployment = Deployment(self._scratch / "deployment", configurator)
        self._addresses = {kind: {greeter(kind): _free_address()} for kind in connectors}
        # The Stdin service answers to its own name, which only one operator can hold.
        self._addresses[connectors[0]]["ls"] = _free_address()
        self.operators: dict[Kind, Operator] = {}

    def start_operators(self) -> None:
        """To be done before the server starts: if nobody listens, a Go server waits long before it tries again."""
        for kind, services in self._addresses.items():
            name = f"operator by {kind.value} connector"
            self.operators[kind] = Operator(name, kind.python(), self.deployment.admin_address, services)

    @property
    def operator(self) -> Operator:
        """The one that asks the server about itself, and holds the service ``ls``."""
        return self.operators[self.connectors[0]]

    def server(self, kind: Kind, name: str = "server", database: mariadb.Database | None = None) -> Server:
        """Prepare a server; it is not started yet."""
        everything = {name: address for services in self._addresses.values() for name, address in services.items()}
        return self._keep(Server(kind, self.deployment, name, everything, database=database))

    def client(self, kind: Kind, name: str, transport: Transport) -> Client:
        """Prepare a client; it is not started yet."""
        return self._keep(Client(kind, self.deployment, name, transport, self.connectors))

    def clean_up(self) -> None:
        for started in reversed(self._started):
            started.clean_up()
        for operator in self.operators.values():
            operator.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _keep(self, one: Kept) -> Kept:
        self._started.append(one)
        return one


def greeter(kind: Kind) -> str:
    """The name of the server service that the operator with this connector holds."""
    return f"greeter-{kind.value}"


def hello(kind: Kind) -> str:
    """The name of the hello daemon that is written with this connector."""
    return f"hello-{kind.value}"


def _free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def _grpc_service(name: str, address: str) -> str:
    return f"""services {{
        name: "{name}"
        factory: "GRPC"
        config: {{ [type.googleapis.com/fleetspeak.grpcservice.Config] {{ target: "{address}" insecure: true }} }}
    }}
    """


def _daemon(name: str, connector: Kind, script: str) -> str:
    return f"""
        name: "{name}"
        factory: "Daemon"
        config: {{
          [type.googleapis.com/fleetspeak.daemonservice.Config]: {{
            argv: "{connector.python()}" argv: "{SCRIPTS / script}" disable_resource_monitoring: true
          }}
        }}
    """


_STDIN_SERVICE = """
    name: "ls"
    factory: "Stdin"
    config: { [type.googleapis.com/fleetspeak.stdinservice.Config]: { cmd: "ls" } }
"""


def _set(text: str, field: str, value: str) -> str:
    """Replace the value of a field that the text has, or append it."""
    replaced, count = re.subn(rf'\b{field}:\s*("[^"]*"|\w+)', lambda _: f"{field}: {value}", text)
    if count:
        return replaced
    return f"{text} {field}: {value}"
