"""The connector of server-side services (client-tests.md M 121 to 123 and 125, client-services.md section 7)."""

from __future__ import annotations

import datetime
import inspect
import threading
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import grpc
from absl import flags

from fleetspeak import rpc
from fleetspeak.pb import admin, common
from fleetspeak.server_connector import connector
from fleetspeak.server_connector.testing.loopback import Loopback

flags.FLAGS.mark_as_parsed()


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


START = datetime.datetime(2026, 1, 1)


class FakeTime:
    """Time that passes only while somebody sleeps or calls."""

    def __init__(self, case: unittest.TestCase) -> None:
        self.sleeps: list[float] = []
        self.time = START
        for patch in (
            mock.patch("time.sleep", self.sleep),
            mock.patch("datetime.datetime", mock.Mock(now=lambda: self.time)),
        ):
            patch.start()
            case.addCleanup(patch.stop)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += datetime.timedelta(seconds=seconds)


class RetryLoopTests(unittest.TestCase):
    """M 121."""

    def setUp(self) -> None:
        self.fake = FakeTime(self)
        self.limits: list[float] = []

    def fail(self, limit: datetime.timedelta) -> None:  # type: ignore[override]
        self.limits.append(limit.total_seconds())
        self.fake.time += limit
        raise Failed

    def test_item_121_success_at_the_first_call(self) -> None:
        self.assertEqual(connector.RetryLoop(lambda limit: limit.total_seconds()), 30.0)
        self.assertEqual(self.fake.sleeps, [])

    def test_item_121_always_failing(self) -> None:
        second = datetime.timedelta(seconds=1)
        with self.assertRaises(grpc.RpcError):
            connector.RetryLoop(self.fail, 10.5 * second, second)
        self.assertEqual(self.limits, [1, 1, 1, 0.5])
        self.assertEqual(self.fake.sleeps, [1, 2, 4])

    def test_item_121_without_a_limit_for_a_single_try(self) -> None:
        with self.assertRaises(grpc.RpcError):
            connector.RetryLoop(self.fail, datetime.timedelta(seconds=10))
        self.assertEqual(self.limits, [10])

    def test_other_exceptions_pass_at_once(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            connector.RetryLoop(lambda limit: 1 / 0)
        self.assertEqual(self.fake.sleeps, [])

    def test_only_chosen_codes_are_retried_if_asked(self) -> None:
        def refuse(limit: datetime.timedelta) -> None:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT)

        with self.assertRaises(grpc.RpcError):
            connector.RetryLoop(refuse, codes=connector.TRANSIENT_CODES)
        self.assertEqual(self.fake.sleeps, [])


class OutgoingTests(unittest.TestCase):
    """M 122 and 123."""

    def connect(self, **methods: Any) -> tuple[connector.OutgoingConnection, mock.Mock]:
        stub = mock.Mock(**methods)
        outgoing = connector.OutgoingConnection(mock.Mock(), "test", stub)
        self.addCleanup(outgoing.Shutdown)
        return outgoing, stub

    def test_item_122_keep_alive_is_called_soon_and_shutdown_returns(self) -> None:
        called = threading.Event()
        with mock.patch.object(connector, "KEEP_ALIVE_INTERVAL", 0.01):
            outgoing, stub = self.connect()
            stub.KeepAlive.side_effect = lambda *args, **kwargs: called.set()
            self.assertTrue(called.wait(10))
        outgoing.Shutdown()
        self.assertFalse(outgoing._keep_alive.is_alive())
        stub.KeepAlive.assert_called_with(common.EmptyMessage(), timeout=1.0)
        self.assertLess(connector.KEEP_ALIVE_INTERVAL, 10)

    def check_retried(self, name: str, request: Any) -> None:
        FakeTime(self)
        for failures in (0, 1):
            outgoing, stub = self.connect()
            method = getattr(stub, name)
            method.side_effect = [Failed()] * failures + [mock.sentinel.reply]
            getattr(outgoing, name)(request)
            self.assertEqual(method.call_count, 1 + failures)
            for call in method.call_args_list:
                self.assertEqual(call.args, (request,))
                self.assertIsInstance(call.kwargs["timeout"], float)

    def test_item_123_insert_message(self) -> None:
        message = common.Message()
        sent: list[bytes] = []

        def insert(request: common.Message, timeout: float) -> None:
            sent.append(request.message_id)
            if len(sent) == 1:
                raise Failed

        FakeTime(self)
        outgoing, stub = self.connect()
        stub.InsertMessage.side_effect = insert
        self.assertIsNone(outgoing.InsertMessage(message))
        self.assertEqual(message.source.service_name, "test")
        self.assertEqual(len(message.message_id), 32)
        self.assertEqual(sent, [message.message_id] * 2, "retries are idempotent")

    def test_what_is_set_already_stays(self) -> None:
        outgoing, _ = self.connect()
        message = common.Message(message_id=b"m" * 32, source=common.Address(service_name="mine"))
        outgoing.InsertMessage(message)
        self.assertEqual((message.message_id, message.source.service_name), (b"m" * 32, "mine"))

    def test_item_123_the_other_methods(self) -> None:
        self.check_retried("DeletePendingMessages", admin.DeletePendingMessagesRequest())
        self.check_retried("GetPendingMessages", admin.GetPendingMessagesRequest())
        self.check_retried("GetPendingMessageCount", admin.GetPendingMessageCountRequest())
        self.check_retried("ListClients", admin.ListClientsRequest())
        self.check_retried("FetchClientResourceUsageRecords", admin.FetchClientResourceUsageRecordsRequest())

    def test_wrong_types(self) -> None:
        outgoing, _ = self.connect()
        with self.assertRaises(connector.InvalidArgument):
            outgoing.InsertMessage(object())  # type: ignore[arg-type]
        with self.assertRaises(TypeError):
            outgoing.DeletePendingMessages(object())  # type: ignore[arg-type]


class ServicerTests(unittest.TestCase):
    def process(self, request: Any) -> tuple[mock.Mock, mock.Mock]:
        callback, context = mock.Mock(), mock.Mock()
        reply = connector.Servicer(callback, "test").Process(request, context)
        self.assertEqual(reply, common.EmptyMessage())
        return callback, context

    def test_a_message_for_the_service(self) -> None:
        message = common.Message(destination=common.Address(service_name="test"))
        callback, context = self.process(message)
        callback.assert_called_once_with(message, context)
        context.set_code.assert_not_called()

    def test_what_is_not_for_the_service(self) -> None:
        to_client = common.Message(destination=common.Address(service_name="test", client_id=b"12345678"))
        to_other = common.Message(destination=common.Address(service_name="other"))
        for request, code in (
            (object(), grpc.StatusCode.UNKNOWN),
            (to_client, grpc.StatusCode.INVALID_ARGUMENT),
            (to_other, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            callback, context = self.process(request)
            callback.assert_not_called()
            context.set_code.assert_called_once_with(code)

    def test_an_exception_passes(self) -> None:
        servicer = connector.Servicer(mock.Mock(side_effect=ZeroDivisionError), "test")
        with self.assertRaises(ZeroDivisionError):
            servicer.Process(common.Message(destination=common.Address(service_name="test")), mock.Mock())


class ClientTests(unittest.TestCase):
    def test_no_address_at_all(self) -> None:
        with self.assertRaisesRegex(connector.NotConfigured, "fleetspeak_message_listen_address.*fleetspeak_server"):
            connector.InsecureGRPCServiceClient("test")

    def test_one_address_is_missing(self) -> None:
        sender = connector.InsecureGRPCServiceClient("test", fleetspeak_server="localhost:1")
        self.addCleanup(sender.Stop)
        with self.assertRaisesRegex(connector.NotConfigured, "Listen address not provided."):
            sender.Listen(mock.Mock())
        listener = connector.InsecureGRPCServiceClient("test", fleetspeak_message_listen_address="localhost:1")
        self.assertIsNone(listener.outgoing)
        with self.assertRaisesRegex(connector.NotConfigured, "Send address not provided."):
            listener.Send(common.Message())

    def test_an_address_comes_from_its_flag(self) -> None:
        with mock.patch.object(flags.FLAGS["fleetspeak_message_listen_address"], "_value", "localhost:1"):
            self.assertIsNone(connector.InsecureGRPCServiceClient("test").outgoing)

    def test_tls_needs_credentials(self) -> None:
        with self.assertRaises(connector.NotConfigured):
            connector.SecureGRPCServiceClient("test", fleetspeak_server="localhost:1")
        listener = connector.SecureGRPCServiceClient("test", fleetspeak_message_listen_address="localhost:0")
        with self.assertRaises(connector.NotConfigured):
            listener.Listen(mock.Mock())
        listener.Stop()

    def listen(self, callback: Callable[..., object]) -> Callable[[common.Message], object]:
        client = connector.InsecureGRPCServiceClient("test", "127.0.0.1:0", threadpool_size=2)
        client.Listen(callback)
        self.addCleanup(client.Stop)
        channel = grpc.insecure_channel(f"127.0.0.1:{client.listen_port}")
        self.addCleanup(channel.close)
        process = rpc.grpcservice.ProcessorStub(channel).Process
        return lambda message: process(message, timeout=5)

    def test_listening_for_real(self) -> None:
        seen: list[common.Message] = []
        message = common.Message(destination=common.Address(service_name="test"), message_type="Hi")
        self.listen(lambda request, context: seen.append(request))(message)
        self.assertEqual(seen, [message])

    def test_the_public_names_and_signatures(self) -> None:
        """M 125."""
        for name in (
            "RetryLoop",
            "Servicer",
            "InvalidArgument",
            "NotConfigured",
            "OutgoingConnection",
            "ServiceClient",
            "InsecureGRPCServiceClient",
            "DEFAULT_TIMEOUT",
            "FLAGS",
        ):
            self.assertTrue(hasattr(connector, name), name)
        self.assertEqual(connector.DEFAULT_TIMEOUT, datetime.timedelta(seconds=30))
        parameters = list(inspect.signature(connector.InsecureGRPCServiceClient).parameters)
        self.assertEqual(
            parameters,
            ["service_name", "fleetspeak_message_listen_address", "fleetspeak_server", "threadpool_size", "options"],
        )
        for method in ("InsertMessage", "ListClients", "GetPendingMessages"):
            signature = inspect.signature(getattr(connector.OutgoingConnection, method))
            self.assertEqual(list(signature.parameters)[2:], ["timeout", "single_try_timeout"])


class LoopbackTests(unittest.TestCase):
    def test_each_message_is_answered_once(self) -> None:
        client = mock.Mock()
        loopback = Loopback(client)
        message = common.Message(message_id=b"m" * 32, source_message_id=b"s", message_type="T")
        message.source.client_id, message.source.service_name = b"12345678", "hello"
        client.Send.side_effect = [Failed(), None]
        with self.assertRaises(grpc.RpcError):
            loopback(message, None)
        loopback(message, None)
        loopback(message, None)
        self.assertEqual(client.Send.call_count, 2)
        answer = client.Send.call_args.args[0]
        self.assertEqual(answer.destination, message.source)
        self.assertEqual((answer.message_id, answer.source_message_id, answer.HasField("source")), (b"", b"", False))
