"""Real gRPC servers for `GrpcService` to call, and certificates for them."""

from __future__ import annotations

import concurrent.futures
import datetime
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fleetspeak import rpc
from fleetspeak.pb import common, grpctlsservice
from fleetspeak.security import certificates, keys
from fleetspeak.server.services import grpcservice
from fleetspeak.server.services.grpcservice import GrpcService, GrpcTlsFactory
from fleetspeak.wire.grpccalls import Target


class Receiver(rpc.grpcservice.ProcessorServicer):
    """A service program; `answer` may abort."""

    def __init__(self) -> None:
        self.seen: list[common.Message] = []
        self.callers: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()
        self.answer: Callable[[common.Message, grpc.ServicerContext], None] = lambda *_: None
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()

    def Process(self, request: common.Message, context: grpc.ServicerContext) -> common.EmptyMessage:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self.hold.wait(20)
        with self._lock:
            self._running -= 1
            self.seen.append(request)
            self.callers.update(name.decode() for name in context.auth_context().get("x509_common_name", ()))
        self.answer(request, context)
        return common.EmptyMessage()


class Authority:
    """Issues certificates for tests."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        self.folder = folder
        self.certificate, self.key = certificates.make_authority(name, time.time())
        self.path = folder / f"{name}.pem"
        self.pem = certificates.to_pem(self.certificate).encode()
        self.path.write_bytes(self.pem)

    def server(self, *hosts: str) -> tuple[bytes, bytes]:
        """A server's certificate and key, PEM."""
        issued, key = certificates.issue_server(self.certificate, self.key, "receiver", hosts, time.time())
        return certificates.to_pem(issued).encode(), certificates.key_to_pem(key).encode()

    def client(self, name: str) -> tuple[Path, Path]:
        """Files with a client's certificate and key."""
        key = keys.generate()
        now = datetime.datetime.now(datetime.UTC)
        issued = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        paths = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        paths[0].write_text(certificates.to_pem(issued))
        paths[1].write_text(certificates.key_to_pem(key))
        return paths


class TargetCase(TestCase):
    """With a receiver, and servers for it."""

    def setUp(self) -> None:
        self.receiver = Receiver()
        self.folder = Path(self.mktemp()).absolute()

    def serve(
        self,
        credentials: grpc.ServerCredentials | None = None,
        address: str = "127.0.0.1:0",
        handlers: tuple[grpc.GenericRpcHandler, ...] | None = None,
        options: tuple[tuple[str, int], ...] = (),
    ) -> tuple[grpc.Server, int]:
        """Start a server.  Gives its port."""
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(20), options=options)
        if handlers is None:
            rpc.grpcservice.add_ProcessorServicer_to_server(self.receiver, server)
        else:
            server.add_generic_rpc_handlers(handlers)
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        return server, port

    def listen(self, greeting: bytes = b"") -> int:
        """A server that is none of gRPC: it accepts, says what it has to say, and is silent.  Gives its port."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        accepted: list[socket.socket] = []

        def greet() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])
                    accepted[-1].sendall(greeting)

        if greeting:
            thread = threading.Thread(target=greet, daemon=True)
            thread.start()
            self.addCleanup(lambda: [one.close() for one in accepted])
            self.addCleanup(listening.shutdown, socket.SHUT_RDWR)
        return int(listening.getsockname()[1])

    def started(self, service: GrpcService) -> GrpcService:
        """Start a service, and stop it in the end."""
        service.start()
        self.addCleanup(service.stop)
        return service

    def plain(self, port: int) -> GrpcService:
        return self.started(GrpcService(Target("127.0.0.1", port), None, reactor))

    def tls(self, port: int, **fields: str | Path) -> GrpcService:
        config = grpctlsservice.Config(target=f"localhost:{port}", **{name: str(one) for name, one in fields.items()})
        return self.started(GrpcTlsFactory().make(config, mock.Mock(service_name="hello", reactor=reactor)))

    def hurry(self, deadline: float, pause: float = 0.05) -> None:
        """Let time pass quicker: what is tested takes half a minute in life.  A pause beyond the deadline: no retry."""
        self.patch(grpcservice, "DEADLINE", deadline)
        self.patch(grpcservice, "FIRST_PAUSE", pause)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """With these variables."""
    with mock.patch.dict("os.environ", variables):
        yield


Handler = Callable[[bytes, Any], bytes]


def answering(handler: Handler) -> tuple[grpc.GenericRpcHandler, ...]:
    """A server of `Processor` that answers with whatever bytes."""
    method = grpc.unary_unary_rpc_method_handler(handler)
    return (grpc.method_handlers_generic_handler("fleetspeak.grpcservice.Processor", {"Process": method}),)
