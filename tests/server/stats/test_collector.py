"""What is counted, and under which names: server-core 9.2, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.core.series import MAX_CELLS, MAX_VALUES, OTHER, Distribution, Reading
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IServerStats
from fleetspeak.pb import common, monitoring
from fleetspeak.records import ClientData, ClientPoll, Label
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.server.stats.collector import MetricsCollector
from fleetspeak.server.stats.gauges import watch_server
from fleetspeak.server.stats.names import MAX_LABELS, MAX_LINES, STAGES, UPSTREAM_BOUNDS
from fleetspeak.store.memory import MemoryStore

C1 = ClientId(b"\0\0\0\0\0\0\0\1")
LABELS = frozenset({Label("client", "linux"), Label("admin", "prod")})
KNOWN = ClientData(b"k", LABELS)
BLACKLISTED = ClientData(b"k", LABELS, blacklisted=True)

TABLE_9_2 = """
fleetspeak_messages_ingested_total counter backlogged source_service destination_service message_type client_labels
fleetspeak_messages_ingested_payload_bytes_size counter backlogged source_service destination_service message_type client_labels
fleetspeak_messages_sent_total counter source_service destination_service message_type client_labels
fleetspeak_messages_sent_payload_bytes_size counter source_service destination_service message_type client_labels
fleetspeak_messages_saved_total counter service message_type for_client client_labels
fleetspeak_messages_saved_payload_bytes_size counter service message_type for_client client_labels
fleetspeak_server_messages_processed_latency histogram message_type service is_first_try client_labels
fleetspeak_server_messages_errored_latency histogram message_type is_temp is_first_try client_labels
fleetspeak_server_messages_dropped_total counter service message_type is_first_try client_labels
fleetspeak_server_client_polls_total counter http_status_code poll_type cache_hit
fleetspeak_server_client_polls_operation_time_latency histogram http_status_code poll_type cache_hit
fleetspeak_server_client_polls_read_time_latency histogram http_status_code poll_type cache_hit
fleetspeak_server_client_polls_write_time_latency histogram http_status_code poll_type cache_hit
fleetspeak_server_client_polls_read_megabytes_size_distribution histogram http_status_code poll_type cache_hit
fleetspeak_server_client_polls_write_megabytes_size_distribution histogram http_status_code poll_type cache_hit
fleetspeak_server_datastore_operations_completed_latency histogram operation errored
fleetspeak_server_resource_usage_data_received_total counter client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_mean_user_cpu_rate_distribution histogram client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_max_user_cpu_rate_distribution histogram client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_mean_system_cpu_rate_distribution histogram client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_max_system_cpu_rate histogram client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_mean_resident_memory_bytes_distribution histogram client_data_labels blacklisted scope version
fleetspeak_server_resource_usage_data_received_max_resident_memory_bytes_distribution histogram client_data_labels blacklisted scope version
fleetspeak_server_kill_notifications_received_total counter client_data_labels blacklisted service reason
"""  # noqa: E501


def message(data: bytes | None = b"payload", **fields: Any) -> common.Message:
    made = common.Message(message_type="Greeting", **fields)
    made.source.service_name, made.destination.service_name = "from", "to"
    if data is not None:
        made.data.type_url, made.data.value = "type/é", data
    return made


class CollectorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = MetricsCollector(["greeter"])

    def rows(self, name: str) -> dict[tuple[str, ...], Any]:
        """The values of a metric by label values; of histograms number and sum."""
        return rows_of(self.collector.read(), name)


def rows_of(readings: list[Reading], name: str) -> dict[tuple[str, ...], Any]:
    for reading in readings:
        for index, metric in enumerate(reading.metrics):
            if metric.name == name:
                return {tuple(values): _plain(cell[index]) for values, cell in reading.rows}
    raise AssertionError(f"there is no {name}")


def _plain(value: Any) -> Any:
    return (sum(value.counts), value.total) if isinstance(value, Distribution) else value


class NamesTests(CollectorCase):
    def test_server_core_9_2_every_name_type_and_label_of_the_table(self) -> None:
        ours = {
            metric.name: (metric.type, sorted(reading.labels))
            for reading in self.collector.read()
            for metric in reading.metrics
        }
        for line in TABLE_9_2.strip().splitlines():
            name, kind, *labels = line.split()
            self.assertEqual(ours.get(name), (kind, sorted(labels)), msg=name)

    def test_whatever_is_ours_has_a_name_of_its_own_below_fleetspeak(self) -> None:
        upstreams = {line.split()[0] for line in TABLE_9_2.strip().splitlines()}
        names = [metric.name for reading in self.collector.read() for metric in reading.metrics]
        self.assertEqual(len(names), len(set(names)))
        for name in set(names) - upstreams:
            self.assertRegex(name, "^fleetspeak_(?!server_|messages_)")

    def test_server_core_9_2_upstreams_buckets_are_among_ours_in_every_histogram_of_upstream(self) -> None:
        for reading in self.collector.read():
            for metric in reading.metrics:
                if metric.type == "histogram":
                    self.assertEqual(list(metric.bounds), sorted(set(metric.bounds)), msg=metric.name)
                if metric.name.startswith("fleetspeak_server_") and metric.type == "histogram":
                    self.assertEqual(set(UPSTREAM_BOUNDS) - set(metric.bounds), set(), msg=metric.name)

    def test_it_keeps_the_interface(self) -> None:
        verifyObject(IServerStats, self.collector)


class MessageTests(CollectorCase):
    def test_ingested_with_the_size_of_type_url_and_value_and_the_clients_labels_in_pairs(self) -> None:
        self.collector.message_ingested(message(), False, KNOWN)
        self.collector.message_ingested(message(b"12"), False, KNOWN)
        self.collector.message_ingested(message(None), True, None)
        pairs = ("false", "from", "to", "Greeting", "admin:prod,client:linux")
        alone = ("true", "from", "to", "Greeting", "")
        self.assertEqual(self.rows("fleetspeak_messages_ingested_total"), {pairs: 2, alone: 1})
        url = len("type/é".encode())
        self.assertEqual(
            self.rows("fleetspeak_messages_ingested_payload_bytes_size"), {pairs: 2 * url + 7 + 2, alone: 0}
        )

    def test_sent_has_four_labels_with_four_values(self) -> None:
        self.collector.message_sent(message(), KNOWN)
        key = ("from", "to", "Greeting", "admin:prod,client:linux")
        self.assertEqual(self.rows("fleetspeak_messages_sent_total"), {key: 1})
        self.assertEqual(self.rows("fleetspeak_messages_sent_payload_bytes_size"), {key: 14})

    def test_saved_names_the_destination(self) -> None:
        self.collector.message_saved(message(None), False, None)
        self.assertEqual(self.rows("fleetspeak_messages_saved_total"), {("to", "Greeting", "false", ""): 1})
        self.assertEqual(
            self.rows("fleetspeak_messages_saved_payload_bytes_size"), {("to", "Greeting", "false", ""): 0}
        )

    def test_processed_errored_and_dropped(self) -> None:
        self.collector.message_processed(message(), "to", 0.25, True, KNOWN)
        self.collector.message_errored(message(), "to", 0.5, True, False, None)
        self.collector.message_dropped(message(), "to", False, None)
        self.assertEqual(
            self.rows("fleetspeak_server_messages_processed_latency"),
            {("Greeting", "to", "true", "admin:prod,client:linux"): (1, 0.25)},
        )
        self.assertEqual(
            self.rows("fleetspeak_server_messages_errored_latency"), {("Greeting", "true", "false", ""): (1, 0.5)}
        )
        self.assertEqual(self.rows("fleetspeak_server_messages_dropped_total"), {("to", "Greeting", "false", ""): 1})


class ClientTests(CollectorCase):
    def test_polls_in_seconds_and_in_millions_of_bytes(self) -> None:
        self.collector.client_poll(ClientPoll("STREAM_START", 503, C1, 4.0, 1.0, 2_500_000, 2.0, 500_000, True))
        key = ("503", "STREAM_START", "true")
        for name, value in (
            ("total", 1),
            ("operation_time_latency", (1, 4)),
            ("read_time_latency", (1, 1)),
            ("write_time_latency", (1, 2)),
            ("read_megabytes_size_distribution", (1, 2.5)),
            ("write_megabytes_size_distribution", (1, 0.5)),
        ):
            self.assertEqual(self.rows(f"fleetspeak_server_client_polls_{name}"), {key: value}, msg=name)

    def test_resource_usage_with_the_bare_labels(self) -> None:
        usage = monitoring.ResourceUsageData(scope="greeter", version="1.0")
        used = usage.resource_usage
        used.mean_user_cpu_rate, used.max_user_cpu_rate = 1, 2
        used.mean_system_cpu_rate, used.max_system_cpu_rate = 3, 4
        used.mean_resident_memory, used.max_resident_memory = 5e6, 6_000_000
        self.collector.resource_usage_received(C1, usage, BLACKLISTED)
        key = ("linux,prod", "true", "greeter", "1.0")
        for name, value in (
            ("total", 1),
            ("mean_user_cpu_rate_distribution", (1, 1)),
            ("max_user_cpu_rate_distribution", (1, 2)),
            ("mean_system_cpu_rate_distribution", (1, 3)),
            ("max_system_cpu_rate", (1, 4)),
            ("mean_resident_memory_bytes_distribution", (1, 5e6)),
            ("max_resident_memory_bytes_distribution", (1, 6e6)),
        ):
            name = f"fleetspeak_server_resource_usage_data_received_{name}"
            self.assertEqual(self.rows(name), {key: value}, msg=name)

    def test_kills_with_the_name_of_the_reason(self) -> None:
        for reason in (monitoring.KillNotification.HEARTBEAT_FAILURE, 77):
            kill = monitoring.KillNotification(service="greeter", reason=reason)  # type: ignore[arg-type]
            self.collector.kill_notification_received(C1, kill, None)
        self.assertEqual(
            self.rows("fleetspeak_server_kill_notifications_received_total"),
            {("", "false", "greeter", "HEARTBEAT_FAILURE"): 1, ("", "false", "greeter", "77"): 1},
        )


class OursTests(CollectorCase):
    def test_what_upstream_does_not_tell(self) -> None:
        refused = "fleetspeak_contacts_refused_total"
        latency = "fleetspeak_server_datastore_operations_completed_latency"
        for hook, arguments, name, expected in (
            ("broadcast_sent", (b"1",), "fleetspeak_broadcast_messages_sent_total", {(): 1}),
            ("contact_refused", ("client",), refused, {**dict.fromkeys(((one,) for one in STAGES), 0), ("client",): 1}),
            ("connections_changed", (7,), "fleetspeak_connections_open", {(): 7}),
            ("streams_changed", (3,), "fleetspeak_streams_open", {(): 3}),
            ("store_batch", ("writer", 4, 9, 0.5), "fleetspeak_store_batch_seconds", {("writer",): (1, 0.5)}),
            ("store_batch", ("writer", 4, 9, 0.5), "fleetspeak_store_batch_calls", {("writer",): (2, 8)}),
            ("store_batch", ("writer", 4, 9, 0.5), "fleetspeak_store_batch_requests", {("writer",): (3, 27)}),
            ("notified", ("ok", 0.5), "fleetspeak_notifications_seconds", {("ok",): (1, 0.5)}),
            ("admin_called", ("Admin/X", "OK", 1), "fleetspeak_admin_calls_seconds", {("Admin/X", "OK"): (1, 1)}),
            ("rows_pruned", ("messages", 50), "fleetspeak_rows_pruned_total", {("messages",): 50}),
            ("store_operation", ("StoreMessages", 1, None), latency, {("StoreMessages", "false"): (1, 1)}),
        ):
            getattr(self.collector, hook)(*arguments)
            self.assertEqual(self.rows(name), expected, msg=name)

    def test_what_is_looked_at_is_read_when_it_is_asked_for(self) -> None:
        level = [1]
        self.collector.watch("fleetspeak_level", "", lambda: level[0])
        self.collector.watch("fleetspeak_levels", "", lambda: {("a",): level[0]}, ("of",))
        level[0] = 5
        self.assertEqual(self.rows("fleetspeak_level"), {(): 5})
        self.assertEqual(self.rows("fleetspeak_levels"), {("a",): 5})

    def test_what_cannot_be_looked_at_is_left_out_and_logged(self) -> None:
        def broken() -> float:
            raise RuntimeError("gone")

        self.collector.watch("fleetspeak_broken", "", broken)
        self.assertNotIn("fleetspeak_broken", [m.name for r in self.collector.read() for m in r.metrics])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class HostileTests(CollectorCase):
    """Whatever clients send, there are only so many series."""

    def series(self) -> Mapping[str, int]:
        return {reading.metrics[0].name: len(reading.rows) for reading in self.collector.read()}

    def test_a_client_that_makes_up_types_services_labels_scopes_and_versions(self) -> None:
        for number in range(5000):
            made_up = common.Message(message_type=f"type {number}")
            made_up.source.service_name = f"from {number}"
            made_up.destination.service_name = f"to {number}"
            client = ClientData(b"k", frozenset({Label("client", f"label {number}")}))
            usage = monitoring.ResourceUsageData(scope=f"scope {number}", version=f"version {number}")
            kill = monitoring.KillNotification(service=f"service {number}", reason=number)  # type: ignore[arg-type]
            self.collector.message_ingested(made_up, False, client)
            self.collector.message_saved(made_up, False, client)
            self.collector.message_sent(made_up, client)
            self.collector.message_processed(made_up, f"to {number}", 0.1, True, client)
            self.collector.message_errored(made_up, f"to {number}", 0.1, True, True, client)
            self.collector.message_dropped(made_up, f"to {number}", True, client)
            self.collector.resource_usage_received(C1, usage, client)
            self.collector.kill_notification_received(C1, kill, client)
        for name, count in self.series().items():
            self.assertLessEqual(count, MAX_VALUES + 2, msg=name)  # they come together here; see below
        ingested = self.rows("fleetspeak_messages_ingested_total")
        self.assertEqual(sum(ingested.values()), 5000)
        self.assertEqual(ingested["false", OTHER, OTHER, OTHER, OTHER], 5000 - MAX_VALUES)
        capped = self.rows("fleetspeak_metrics_values_capped_total")
        self.assertGreaterEqual(capped["message_type",], 5000 - MAX_VALUES)

    def test_combinations_of_few_values_are_bounded_too(self) -> None:
        for one in range(60):
            for other in range(60):
                made_up = common.Message(message_type=f"type {one}")
                made_up.source.service_name = f"from {other}"
                made_up.destination.service_name = "greeter"
                self.collector.message_ingested(made_up, False, None)
        ingested = self.rows("fleetspeak_messages_ingested_total")
        self.assertLessEqual(len(ingested), MAX_CELLS + 2)
        self.assertEqual(sum(ingested.values()), 3600)
        self.assertEqual(self.rows("fleetspeak_metrics_values_capped_total")["combination",], 3600 - MAX_CELLS)

    def test_a_page_full_of_made_up_names_has_a_bounded_size(self) -> None:
        for one in range(120):
            for other in range(120):
                usage = monitoring.ResourceUsageData(scope=f"{one:0128}", version=f"{other:0128}")
                self.collector.resource_usage_received(C1, usage, None)
                made_up = common.Message(message_type=f"{one:0128}")
                self.collector.message_processed(made_up, f"{other:0128}", 0.1, True, None)
        lines = sum(
            len(reading.rows) * sum(len(metric.bounds) + 3 for metric in reading.metrics)
            for reading in self.collector.read()
        )
        self.assertLess(lines, 2 * MAX_LINES)

    def test_configured_services_and_types_of_the_system_keep_their_names_whoever_came_first(self) -> None:
        for number in range(2 * MAX_VALUES):
            self.collector.message_processed(
                common.Message(message_type=f"type {number}"), f"to {number}", 0, True, None
            )
        self.collector.message_processed(common.Message(message_type="MessageAck"), "greeter", 0, True, None)
        self.assertIn(("MessageAck", "greeter", "true", ""), self.rows("fleetspeak_server_messages_processed_latency"))

    def test_a_client_with_any_number_of_labels_is_other(self) -> None:
        many = ClientData(b"k", frozenset(Label("client", f"label {n}") for n in range(MAX_LABELS + 1)))
        self.collector.message_sent(message(), many)
        self.collector.resource_usage_received(C1, monitoring.ResourceUsageData(), many)
        self.assertEqual(list(self.rows("fleetspeak_messages_sent_total")), [("from", "to", "Greeting", OTHER)])
        (key,) = self.rows("fleetspeak_server_resource_usage_data_received_total")
        self.assertEqual(key[0], OTHER)

    def test_usage_that_is_no_number_spoils_no_sum(self) -> None:
        for value in (float("nan"), float("inf"), -1.0, 2.0):
            usage = monitoring.ResourceUsageData()
            usage.resource_usage.mean_user_cpu_rate = value
            usage.resource_usage.max_resident_memory = -5
            self.collector.resource_usage_received(C1, usage, None)
        name = "fleetspeak_server_resource_usage_data_received_mean_user_cpu_rate_distribution"
        ((number, total),) = self.rows(name).values()
        self.assertEqual((number, total), (2, 1e15 + 2))


class DocumentationTests(CollectorCase):
    def test_every_metric_is_in_the_guide(self) -> None:
        guide = (Path(__file__).parents[3] / "doc" / "operating.md").read_text("utf-8")
        watch_server(
            self.collector, MemoryStore(), ServiceManager(Clock()), ClientCache(lambda ids: succeed({}), float)
        )
        names = {metric.name for reading in self.collector.read() for metric in reading.metrics}
        self.assertEqual({name for name in names if f"`{name}`" not in guide}, set())
