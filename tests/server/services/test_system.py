"""What clients tell the server itself (server-core.md section 4), against the memory store."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import PermanentError, StoreError, TemporaryError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common, monitoring, system
from fleetspeak.records import ClientData, Label
from fleetspeak.server.services.system import ERROR_LIMIT, KILL_LOG_INTERVAL, SystemService
from fleetspeak.store.memory import MemoryStore

NOW = 100_000 * 10**9
C1, C2 = ClientId(b"\0\0\0\0\0\0\0\1"), ClientId(b"\0\0\0\0\0\0\0\2")
M1, M2, UNKNOWN = MessageId(b"1" * 32), MessageId(b"2" * 32), MessageId(b"?" * 32)


class SystemCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=lambda: NOW, uniform=lambda: 0.0)
        self.successResultOf(self.store.open())
        for client_id in (C1, C2):
            self.successResultOf(self.store.add_client(client_id, ClientData(key=b"k")))
        self.forgotten: list[ClientId] = []
        self.service = SystemService(self.store, self.forgotten.append, lambda: NOW, self.clock)

    def tell(self, kind: str, data: ProtobufMessage | None, source: bytes = C1) -> Deferred[None]:
        message = common.Message(message_type=kind)
        message.source.client_id, message.source.service_name = source, "system"
        message.destination.service_name = "system"
        if data is not None:
            message.data.Pack(data)

        async def process() -> None:
            outcome = self.service.process(message)
            if outcome is not None:
                await outcome

        return Deferred.fromCoroutine(process())

    def send_to(self, client_id: ClientId, message_id: MessageId, **fields: str) -> None:
        message = common.Message(message_id=message_id, message_type=fields.get("kind", "Greeting"))
        message.source.service_name = fields.get("source", "hello")
        message.destination.client_id, message.destination.service_name = client_id, "hello"
        message.creation_time.seconds = 42
        self.successResultOf(self.store.store_messages([message]))

    def result(self, message_id: MessageId) -> common.MessageResult | None:
        return self.successResultOf(self.store.message_results([message_id])).get(message_id)


class CommonTests(SystemCase):
    def test_interface(self) -> None:
        verifyObject(IServerService, self.service)

    def test_what_is_no_system_message_fails_for_good(self) -> None:
        usage = monitoring.ResourceUsageData()
        for kind, data, source, words in (
            ("Surprise", usage, C1, "unknown system message type: Surprise"),
            ("MessageAck", None, C1, "no Data present"),
            ("MessageAck", usage, C1, "must carry a fleetspeak.MessageAckData"),
            ("MessageAck", system.MessageAckData(), b"", "invalid source client id[nil]"),
            ("MessageAck", system.MessageAckData(), b"123", "invalid source client id[313233]"),
            ("RemoveService", system.RemoveServiceData(), C1, "unknown system message type"),
        ):
            failure = self.failureResultOf(self.tell(kind, data, source), PermanentError)
            self.assertIn(words, str(failure.value))
        failure = self.assertRaises(PermanentError, self.service.process, common.Message())
        self.assertEqual(str(failure), "source is nil")

    @given(
        st.sampled_from(["MessageAck", "MessageError", "ClientInfo", "ResourceUsage", "KillNotification"]),
        st.sampled_from(["MessageAckData", "MessageErrorData", "ClientInfoData", "monitoring.ResourceUsageData"]),
        st.binary(max_size=60),
    )
    def test_any_bytes_end_in_one_clear_error_or_none(self, kind: str, type_name: str, value: bytes) -> None:
        message = common.Message(message_type=kind)
        message.source.client_id = C1
        message.data.type_url, message.data.value = f"any.prefix/fleetspeak.{type_name}", value

        async def process() -> None:
            outcome = self.service.process(message)
            if outcome is not None:
                await outcome

        try:
            self.successResultOf(Deferred.fromCoroutine(process()).addErrback(lambda f: f.trap(PermanentError)))
        finally:
            self.clock.advance(KILL_LOG_INTERVAL)

    def test_a_store_that_fails_makes_it_temporary(self) -> None:
        self.store.acknowledge = lambda acks: fail(StoreError("disk full"))  # type: ignore[method-assign]
        self.failureResultOf(self.tell("MessageAck", system.MessageAckData(message_ids=[M1])), TemporaryError)


class AckTests(SystemCase):
    def test_acknowledged_messages_are_processed(self) -> None:
        self.send_to(C1, M1)
        self.successResultOf(self.tell("MessageAck", system.MessageAckData(message_ids=[M1])))
        result = self.result(M1)
        assert result is not None
        self.assertEqual((result.failed, result.processed_time.ToNanoseconds()), (False, NOW))

    def test_an_unknown_id_is_ignored_and_the_others_count(self) -> None:
        """server-core.md 4.1 [improve]."""
        self.send_to(C1, M1)
        self.successResultOf(self.tell("MessageAck", system.MessageAckData(message_ids=[UNKNOWN, M1])))
        self.assertIsNotNone(self.result(M1))

    def test_nobody_acknowledges_for_another(self) -> None:
        self.send_to(C2, M1)
        self.successResultOf(self.tell("MessageAck", system.MessageAckData(message_ids=[M1])))
        self.assertIsNone(self.result(M1))

    def test_a_rekey_request_may_be_acknowledged_under_the_new_id(self) -> None:
        self.send_to(C2, M1, kind="RekeyRequest", source="system")
        self.successResultOf(self.tell("MessageAck", system.MessageAckData(message_ids=[M1])))
        self.assertIsNotNone(self.result(M1))

    def test_an_id_of_another_length_fails_for_good(self) -> None:
        failure = self.failureResultOf(
            self.tell("MessageAck", system.MessageAckData(message_ids=[b"short"])), PermanentError
        )
        self.assertEqual(str(failure.value), "MessageID must be 32 bytes")


class ErrorTests(SystemCase):
    def tell_error(self, message_id: bytes, text: str = "oh", source: bytes = C1) -> Deferred[None]:
        return self.tell("MessageError", system.MessageErrorData(message_id=message_id, error=text), source)

    def test_the_message_has_failed_with_the_clients_reason(self) -> None:
        self.send_to(C1, M1)
        self.successResultOf(self.tell_error(M1))
        result = self.result(M1)
        assert result is not None
        self.assertEqual((result.failed, result.failed_reason), (True, "oh"))
        self.assertEqual(self.successResultOf(self.store.pending_message_count([C1])), 0)

    def test_a_long_reason_is_cut_to_what_the_column_holds(self) -> None:
        self.send_to(C1, M1)
        self.successResultOf(self.tell_error(M1, "ä" * 100_000))
        result = self.result(M1)
        assert result is not None
        self.assertLessEqual(len(result.failed_reason.encode()), ERROR_LIMIT)
        self.assertTrue(result.failed_reason.endswith("ää..."))

    def test_an_unknown_message_fails_for_good(self) -> None:
        self.failureResultOf(self.tell_error(UNKNOWN), PermanentError)
        self.failureResultOf(self.tell_error(b""), PermanentError)

    def test_nobody_fails_messages_of_another(self) -> None:
        self.send_to(C2, M1)
        self.failureResultOf(self.tell_error(M1), PermanentError)
        self.assertIsNone(self.result(M1))


class LabelTests(SystemCase):
    def state(self, *labels: str, service: str = "client") -> None:
        info = system.ClientInfoData(labels=[common.Label(service_name=service, label=label) for label in labels])
        self.successResultOf(self.tell("ClientInfo", info))

    def labels(self) -> set[Label]:
        return set(self.successResultOf(self.store.client_data([C1]))[C1].labels)

    def test_two_labels_then_one(self) -> None:
        """server-core.md 13: {linux, corp} gives 2 labels, then {linux} gives 1."""
        self.state("linux", "corp")
        self.assertEqual(self.labels(), {Label("client", "linux"), Label("client", "corp")})
        self.state("linux")
        self.assertEqual(self.labels(), {Label("client", "linux")})
        self.assertEqual(self.forgotten, [C1, C1])

    def test_the_same_label_twice(self) -> None:
        self.state("linux", "linux")
        self.assertEqual(self.labels(), {Label("client", "linux")})

    def test_labels_of_other_services_are_neither_taken_nor_touched(self) -> None:
        self.successResultOf(self.store.update_client_labels(C1, [Label("inventory", "x")], []))
        with capturedLogs() as lines:
            self.state("rack", service="inventory")
            self.state("rack", service="inventory")
        self.assertEqual(self.labels(), {Label("inventory", "x")})
        self.assertEqual(len([line for line in lines if "other services" in line["log_format"]]), 1)

    def test_a_client_that_is_not_stored_yet_comes_again(self) -> None:
        self.failureResultOf(self.tell("ClientInfo", system.ClientInfoData(), b"newcomer"), TemporaryError)

    def test_a_label_that_can_never_be_stored_fails_for_good(self) -> None:
        info = system.ClientInfoData(labels=[common.Label(service_name="client", label="x" * 5000)])
        self.failureResultOf(self.tell("ClientInfo", info), PermanentError)


class MonitoringTests(SystemCase):
    def usage(self) -> monitoring.ResourceUsageData:
        usage = monitoring.ResourceUsageData(scope="hello", pid=7)
        usage.process_start_time.seconds, usage.data_timestamp.seconds = 10, 20
        return usage

    def test_usage_is_recorded(self) -> None:
        usage = self.usage()
        usage.resource_usage.mean_user_cpu_rate = 50.0
        self.successResultOf(self.tell("ResourceUsage", usage))
        [record] = self.successResultOf(self.store.resource_usage(C1, 0, NOW + 1))
        self.assertEqual((record.scope, record.pid, record.mean_user_cpu_rate), ("hello", 7, 50.0))

    def test_a_report_without_resource_usage_harms_nobody(self) -> None:
        """server-https.md 8: one of the inputs that end the upstream process."""
        self.successResultOf(self.tell("ResourceUsage", self.usage()))
        [record] = self.successResultOf(self.store.resource_usage(C1, 0, NOW + 1))
        self.assertEqual(record.max_num_fds, 0)

    def test_a_report_without_its_times_fails_for_good(self) -> None:
        self.failureResultOf(self.tell("ResourceUsage", monitoring.ResourceUsageData()), PermanentError)

    def test_kills_are_logged_at_most_every_15_minutes(self) -> None:
        kill = monitoring.KillNotification(service="hello", pid=7)
        with capturedLogs() as lines:
            for _ in range(5):
                self.successResultOf(self.tell("KillNotification", kill))
            self.clock.advance(KILL_LOG_INTERVAL)
            self.successResultOf(self.tell("KillNotification", kill))
        self.assertEqual([line["more"] for line in lines], [0, 4])
