"""Who may do what: every RPC, every role, over real TLS; and how callers are known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
from cryptography import x509
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.config.adminaccess import AdminAccess, read_access
from fleetspeak.core.adminaccess import Role, rpc_of, token_hash
from fleetspeak.pb import admin
from fleetspeak.server.admin.access import LOG_INTERVAL, Denied, Guard
from fleetspeak.server.admin.operations import Refused
from fleetspeak.server.admin.served import Receiver, Served, operation_name
from fleetspeak.server.admin.server import AdminServer
from tests.server.admin.authority import Authority
from tests.server.admin.case import ADMIN, OPERATOR

METHODS = [method for service in (ADMIN, OPERATOR) for method in service.methods]
TOKENS = {"viewer": "v-token", "operator": "o-token", "admin": "a-token"}


class Everything:
    """Carries out every RPC of a service by doing nothing, and notes which."""

    def __init__(self, service: Any) -> None:
        self.done: list[str] = []
        for method in service.methods:
            setattr(self, operation_name(method.name), self._operation(method))

    def _operation(self, method: MethodDescriptor) -> Any:
        reply = GetMessageClass(method.output_type)

        async def unary(request: Any) -> Any:
            self.done.append(method.name)
            return reply()

        async def streamed(request: Any) -> Any:
            self.done.append(method.name)
            yield [reply()]

        async def receiving() -> Receiver:
            return _Receiver(self, method.name, reply())

        if method.client_streaming:
            return receiving
        return streamed if method.server_streaming else unary


class _Receiver:
    def __init__(self, everything: Everything, name: str, reply: Any) -> None:
        self._everything = everything
        self._name = name
        self._reply = reply

    async def take(self, request: Any) -> None:
        pass

    async def finish(self) -> Any:
        self._everything.done.append(self._name)
        return self._reply

    def close(self) -> None:
        pass


def access_text(more: str = "") -> str:
    callers = "".join(
        f'caller {{ name: "{role}" role: {role.upper()} certificate: "CN:{role}"'
        f' token_sha256: "{token_hash(token).hex()}" }}\n'
        for role, token in TOKENS.items()
    )
    return (
        'tls { certificate_file: "server.pem" key_file: "server-key.pem" client_ca_file: "operators-ca.pem"'
        f' token_address: "127.0.0.1:0" }}\n{callers}{more}'
    )


class AccessCase(TestCase):
    more = ""

    async def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = Authority(self.folder)
        self.authority.write_server()
        self.path = self.folder / "admin.access"
        self.path.write_text(access_text(self.more))
        self.admin, self.operator = Everything(ADMIN), Everything(OPERATOR)
        self.server = self.make_server(read_access(self.path))
        self.server.start()
        self.addCleanup(self.server.stop)

    def make_server(self, access: AdminAccess | None) -> AdminServer:
        services = [Served(ADMIN, [self.admin]), Served(OPERATOR, [self.operator])]
        return AdminServer(services, "127.0.0.1", 0, reactor, access=access)

    def channel(
        self,
        client: tuple[bytes, bytes] | None = None,
        address: str | None = None,
        trusted: bytes | None = None,
    ) -> grpc.Channel:
        """With TLS, as `client` if there is one."""
        credentials = grpc.ssl_channel_credentials(trusted or self.authority.pem, *(client or ()))
        channel = grpc.secure_channel(
            address or self.server.address, credentials, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self.addCleanup(deferToThread, channel.close)
        return channel

    def token_channel(self) -> grpc.Channel:
        return self.channel(address=self.server.addresses[1])

    def call(self, channel: grpc.Channel, method: MethodDescriptor, token: str | None = None) -> Deferred[str]:
        """The name of the status and its details, as ``CODE: details``."""
        return deferToThread(outcome, channel, method, token)

    async def keep_alive(self, channel: grpc.Channel, token: str | None = None) -> str:
        return await self.call(channel, ADMIN.methods_by_name["KeepAlive"], token)


def outcome(channel: grpc.Channel, method: MethodDescriptor, token: str | None = None) -> str:
    path = f"/{method.containing_service.full_name}/{method.name}"
    requests: Iterator[bytes] = iter([GetMessageClass(method.input_type)().SerializeToString()])
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        list(channel.stream_stream(path)(requests, timeout=30, metadata=metadata))
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
    return "OK"


class MatrixTests(AccessCase):
    """Every RPC of both services, as every role: what the table says is what happens."""

    async def check(self, channel: grpc.Channel, role: Role, token: str | None) -> None:
        for method in METHODS:
            name = f"{method.containing_service.full_name}/{method.name}"
            everything = self.admin if method.containing_service is ADMIN else self.operator
            del everything.done[:]
            found = await self.call(channel, method, token)
            needed = rpc_of(name).role
            if role >= needed:
                self.assertEqual((found, everything.done), ("OK", [method.name]))
            else:
                article = "a" if role is Role.VIEWER else "an"
                self.assertEqual(
                    (found, everything.done),
                    (f"PERMISSION_DENIED: {role} is {article} {role}; {name} needs role {needed}", []),
                )

    async def test_viewer_by_certificate(self) -> None:
        await self.check(self.channel(self.authority.client("viewer")), Role.VIEWER, None)

    async def test_operator_by_certificate(self) -> None:
        await self.check(self.channel(self.authority.client("operator")), Role.OPERATOR, None)

    async def test_admin_by_certificate(self) -> None:
        await self.check(self.channel(self.authority.client("admin")), Role.ADMIN, None)

    async def test_viewer_by_token(self) -> None:
        await self.check(self.token_channel(), Role.VIEWER, TOKENS["viewer"])

    async def test_operator_by_token(self) -> None:
        await self.check(self.token_channel(), Role.OPERATOR, TOKENS["operator"])

    async def test_admin_by_token(self) -> None:
        await self.check(self.token_channel(), Role.ADMIN, TOKENS["admin"])

    async def test_nobody(self) -> None:
        channel = self.token_channel()
        for method in METHODS:
            for token in (None, "wrong"):
                found = await self.call(channel, method, token)
                self.assertTrue(found.startswith("UNAUTHENTICATED: "), found)
        self.assertEqual((self.admin.done, self.operator.done), ([], []))


class CallersTests(AccessCase):
    """How callers are known, and not."""

    async def test_what_is_said_to_strangers(self) -> None:
        channel = self.token_channel()
        self.assertEqual(
            await self.keep_alive(channel),
            "UNAUTHENTICATED: who are you? Send metadata authorization: Bearer TOKEN, or connect with a client "
            "certificate",
        )
        self.assertEqual(
            await self.keep_alive(channel, "wrong"),
            "UNAUTHENTICATED: the token is not known here; have one made with fleetspeak admin-token, and its hash put "
            "into the server's access file",
        )
        stranger = self.channel(self.authority.client("stranger"))
        self.assertEqual(
            await self.keep_alive(stranger),
            "PERMISSION_DENIED: CN:stranger is nobody in the server's access file; have it added there: "
            'caller { name: "..." role: ... certificate: "CN:stranger" }',
        )

    async def test_a_token_counts_before_the_certificate(self) -> None:
        """Who has both says by it what he wants to be; a wrong one is never passed over."""
        viewer = self.channel(self.authority.client("viewer"))
        insert = ADMIN.methods_by_name["InsertMessage"]
        self.assertEqual(await self.call(viewer, insert, TOKENS["operator"]), "OK")
        self.assertTrue((await self.keep_alive(viewer, "wrong")).startswith("UNAUTHENTICATED"))

    async def test_a_name_of_another_kind_is_another_caller(self) -> None:
        channel = self.channel(self.authority.client("stranger", x509.DNSName("admin")))
        self.assertTrue((await self.keep_alive(channel)).startswith("PERMISSION_DENIED: CN:stranger is nobody"))

    async def test_without_a_certificate_there_is_no_connection(self) -> None:
        self.assertTrue((await self.keep_alive(self.channel())).startswith("UNAVAILABLE"))

    async def test_a_certificate_of_another_authority(self) -> None:
        forged = Authority(self.folder, "operators").client("admin")
        self.assertTrue((await self.keep_alive(self.channel(forged))).startswith("UNAVAILABLE"))

    async def test_a_certificate_that_has_expired(self) -> None:
        late = self.authority.client("admin", days=-1)
        self.assertTrue((await self.keep_alive(self.channel(late))).startswith("UNAVAILABLE"))

    async def test_plaintext_gets_nothing(self) -> None:
        for address in self.server.addresses:
            channel = grpc.insecure_channel(address)
            self.addCleanup(deferToThread, channel.close)
            self.assertTrue((await self.keep_alive(channel, TOKENS["admin"])).startswith("UNAVAILABLE"))

    async def test_odd_metadata(self) -> None:
        channel = self.token_channel()
        keep_alive: Any = channel.unary_unary("/fleetspeak.server.Admin/KeepAlive")
        good = f"Bearer {TOKENS['admin']}"
        await deferToThread(keep_alive, b"", timeout=30, metadata=[("authorization", good.replace("B", "b"))])
        for metadata in (
            [("authorization", good), ("authorization", good)],
            [("authorization", TOKENS["admin"])],
            [("authorization", f"Basic {TOKENS['admin']}")],
            [("authorization", "Bearer ")],
            [("authorization", f"Bearer {'x' * 5000}")],
            [("authorization-bin", good.encode())],
        ):
            with self.assertRaises(grpc.RpcError) as caught:
                await deferToThread(keep_alive, b"", timeout=30, metadata=metadata)
            self.assertEqual(caught.exception.code().name, "UNAUTHENTICATED")  # type: ignore[attr-defined]

    async def test_payloads_are_for_operators(self) -> None:
        channel = self.token_channel()
        pending: Any = channel.unary_unary("/fleetspeak.server.Admin/GetPendingMessages")
        request = admin.GetPendingMessagesRequest(want_data=True).SerializeToString()

        def metadata(role: str) -> list[tuple[str, str]]:
            return [("authorization", f"Bearer {TOKENS[role]}")]

        await deferToThread(pending, request, timeout=30, metadata=metadata("operator"))
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(pending, request, timeout=30, metadata=metadata("viewer"))
        self.assertEqual(
            (caught.exception.code().name, caught.exception.details()),  # type: ignore[attr-defined]
            ("PERMISSION_DENIED", "viewer is a viewer; payloads are shown to role operator"),
        )

    async def test_what_is_no_request(self) -> None:
        channel = self.token_channel()
        listing: Any = channel.unary_unary("/fleetspeak.server.Admin/ListClients")
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(listing, b"\xff", timeout=30, metadata=[("authorization", f"Bearer {TOKENS['admin']}")])
        self.assertEqual(caught.exception.code().name, "INVALID_ARGUMENT")  # type: ignore[attr-defined]


class LocalTests(AccessCase):
    """Programs on this machine that present nothing, as those of the Go server do."""

    more = 'local_plaintext { role: OPERATOR address: "localhost:0" }\n'

    async def setUp(self) -> None:
        self.socket = Path("/tmp") / f"fs-admin-{time.time_ns()}.sock"
        self.addCleanup(lambda: self.socket.unlink(missing_ok=True))
        self.more = f'{self.more}unix_socket {{ path: "{self.socket}" role: VIEWER }}\n'
        await super().setUp()

    def plaintext(self, address: str) -> grpc.Channel:
        channel = grpc.insecure_channel(address)
        self.addCleanup(deferToThread, channel.close)
        return channel

    async def test_plaintext_on_loopback(self) -> None:
        channel = self.plaintext(self.server.addresses[2])
        self.assertEqual(await self.call(channel, ADMIN.methods_by_name["InsertMessage"]), "OK")
        self.assertEqual(
            await self.call(channel, OPERATOR.methods_by_name["SetEnrolment"]),
            "PERMISSION_DENIED: anonymous is an operator; fleetspeak.operator.Operator/SetEnrolment needs role admin",
        )
        self.assertEqual(await self.call(channel, OPERATOR.methods_by_name["SetEnrolment"], TOKENS["admin"]), "OK")

    async def test_its_role_does_not_count_with_tls(self) -> None:
        self.assertTrue((await self.keep_alive(self.token_channel())).startswith("UNAUTHENTICATED"))

    async def test_a_socket(self) -> None:
        self.assertEqual(self.socket.stat().st_mode & 0o777, 0o600)
        channel = self.plaintext(f"unix:{self.socket}")
        self.assertEqual(await self.keep_alive(channel), "OK")
        self.assertIn("needs role operator", await self.call(channel, ADMIN.methods_by_name["InsertMessage"]))
        self.assertEqual(await self.call(channel, ADMIN.methods_by_name["InsertMessage"], TOKENS["admin"]), "OK")


class OpenTests(AccessCase):
    def make_server(self, access: AdminAccess | None) -> AdminServer:
        return super().make_server(None)

    async def test_without_an_access_file_everybody_may_do_everything(self) -> None:
        """As on upstream's port."""
        channel = grpc.insecure_channel(self.server.address)
        self.addCleanup(deferToThread, channel.close)
        for method in METHODS:
            self.assertEqual(await self.call(channel, method), "OK")


class FakeContext:
    def __init__(self, metadata: Any = (), peer: str = "ipv4:192.0.2.1:5") -> None:
        self._metadata = metadata
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"transport_security_type": [b"insecure"]}


class GuardTests(SynchronousTestCase):
    """Without grpc."""

    def setUp(self) -> None:
        self.now = 0.0
        self.guard = Guard(AdminAccess(local_role=Role.VIEWER), lambda: self.now)

    def denied(self, context: Any) -> Denied:
        with self.assertRaises(Denied) as caught:
            self.guard.admit("fleetspeak.server.Admin/KeepAlive", context)
        error = caught.exception
        assert isinstance(error, Refused)
        return error

    def test_addresses(self) -> None:
        for peer, address in (
            ("ipv4:192.0.2.1:5", "192.0.2.1:5"),
            ("ipv6:%5B2001:db8::1%5D:5", "[2001:db8::1]:5"),
            ("ipv6:[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("unix:", "unix"),
            ("unix:@abstract", "unix"),
        ):
            context: Any = FakeContext(peer=peer)
            if address == "unix":
                self.assertEqual(self.guard.admit("fleetspeak.server.Admin/KeepAlive", context).address, address)
            else:
                self.assertEqual(self.denied(context).caller.address, address)

    def test_only_who_is_here_is_local(self) -> None:
        for peer in ("ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5"):
            caller = self.guard.admit("fleetspeak.server.Admin/KeepAlive", FakeContext(peer=peer))  # type: ignore[arg-type]
            self.assertEqual((caller.name, caller.role), ("anonymous", Role.VIEWER))
        for peer in ("ipv4:128.0.0.1:5", "ipv6:%5B::2%5D:5", "ipv4:evil", "127.0.0.1:5", ""):
            self.denied(FakeContext(peer=peer))

    def test_the_log_is_sparse_and_says_no_token(self) -> None:
        with patch("fleetspeak.server.admin.access.log.warn") as warn:
            for _ in range(50):
                self.denied(FakeContext([("authorization", "Bearer s3cret")]))
            self.assertEqual(warn.call_count, 1)
            self.now = LOG_INTERVAL + 1
            self.denied(FakeContext([("authorization", "Bearer s3cret")]))
        self.assertEqual([call.kwargs["count"] for call in warn.call_args_list], [1, 50])
        self.assertNotIn("s3cret", str(warn.call_args_list))
