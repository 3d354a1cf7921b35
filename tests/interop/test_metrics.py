"""The metrics of upstream's server beside ours, after the same traffic (server-core 9.2).

Nothing is sent to a client here: with metrics on, upstream's server breaks off at the first message that it hands to
one, since it gives `messages_sent` three values for four labels.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import unittest
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from fleetspeak.pb import common, components, monitoring, system
from fleetspeak.testing.wireclient import Connection, Identity, Stream
from tests.programs import free_port

from .fleet import OURS, UPSTREAM, Deployment, Kind, Server

SERVICES = 'services { name: "sink" factory: "NOOP" }'
OTHER_LANGUAGE = re.compile("go_|promhttp_")
"""What upstream's library tells of itself."""


class Page:
    """What one server tells."""

    def __init__(self, text: str) -> None:
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        self.samples = [
            # The parser gives every counter the ending that those of bytes do not have.
            (sample.name.replace("_bytes_size_total", "_bytes_size"), sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def names(self) -> set[str]:
        """Of all metrics that were counted at least once."""
        told = {re.sub("_(bucket|sum|count)$", "", name) for name, _, _ in self.samples}
        return {name for name in self.types if name in told and not OTHER_LANGUAGE.match(name)}

    def labels(self, name: str) -> set[frozenset[str]]:
        return {frozenset(labels) for one, labels, _ in self.samples if one in (name, f"{name}_count")}

    def bounds(self, name: str) -> set[float]:
        return {float(labels["le"]) for one, labels, _ in self.samples if one == f"{name}_bucket"}

    def sums(self, name: str, but: Iterable[str] = ()) -> dict[tuple[tuple[str, str], ...], float]:
        """The values of a sample, added up over some labels."""
        found: Counter[tuple[tuple[str, str], ...]] = Counter()
        for one, labels, value in self.samples:
            if one == name:
                found[tuple(sorted((k, v) for k, v in labels.items() if k not in but))] += value  # type: ignore[assignment]
        return dict(found)


class MetricsTests(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls) -> None:
        cls.pages = {kind: cls.page_of(kind) for kind in (UPSTREAM, OURS)}

    @classmethod
    def page_of(cls, kind: Kind) -> Page:
        folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, folder)
        deployment = Deployment(folder / "deployment", UPSTREAM)
        server = Server(kind, deployment, "server", {}, SERVICES)
        address = f"127.0.0.1:{free_port()}"

        def with_metrics(config: components.Config) -> None:
            config.stats_config.address = address

        server.reconfigure(with_metrics)
        try:
            server.start()
            talk(deployment)
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                return Page(answer.read().decode())
        finally:
            server.clean_up()

    @property
    def upstream(self) -> Page:
        return self.pages[UPSTREAM]

    @property
    def ours(self) -> Page:
        return self.pages[OURS]

    def test_every_metric_of_upstream_is_there_with_its_type(self) -> None:
        self.assertGreater(len(self.upstream.names()), 20)
        missing = {name for name in self.upstream.names() if self.ours.types.get(name) != self.upstream.types[name]}
        self.assertEqual(missing, set())

    def test_labels_are_the_same(self) -> None:
        for name in self.upstream.names():
            self.assertEqual(self.ours.labels(name), self.upstream.labels(name), msg=name)

    def test_upstreams_buckets_are_among_ours(self) -> None:
        for name in self.upstream.names():
            self.assertEqual(self.upstream.bounds(name) - self.ours.bounds(name), set(), msg=name)

    def test_the_same_was_counted(self) -> None:
        """But for what depends on the server's cache, and for which operations of the store there are."""
        usage = "fleetspeak_server_resource_usage_data_received"
        polls = "fleetspeak_server_client_polls"
        for name, but in (
            ("fleetspeak_messages_ingested_total", ["client_labels"]),
            ("fleetspeak_messages_ingested_payload_bytes_size", ["client_labels"]),
            ("fleetspeak_messages_saved_total", ["client_labels"]),
            ("fleetspeak_messages_saved_payload_bytes_size", ["client_labels"]),
            ("fleetspeak_server_messages_processed_latency_count", ["client_labels"]),
            ("fleetspeak_server_messages_errored_latency_count", ["client_labels"]),
            (f"{polls}_total", ["cache_hit"]),
            (f"{polls}_operation_time_latency_count", ["cache_hit"]),
            (f"{polls}_read_megabytes_size_distribution_count", ["cache_hit"]),
            (f"{usage}_total", []),
            (f"{usage}_mean_user_cpu_rate_distribution_sum", []),
            (f"{usage}_max_system_cpu_rate_sum", []),
            (f"{usage}_max_resident_memory_bytes_distribution_sum", []),
            ("fleetspeak_server_kill_notifications_received_total", []),
        ):
            expected = self.upstream.sums(name, but)
            self.assertNotEqual(expected, {}, msg=name)
            self.assertEqual(self.ours.sums(name, but), expected, msg=name)

    def test_as_many_bytes_were_read(self) -> None:
        name = "fleetspeak_server_client_polls_read_megabytes_size_distribution_sum"
        expected = self.upstream.sums(name, ["cache_hit"])
        for labels, value in self.ours.sums(name, ["cache_hit"]).items():
            self.assertAlmostEqual(value, expected[labels], msg=str(labels))

    def test_operations_of_the_store_go_by_upstreams_names(self) -> None:
        """Ours looks for broadcasts only where there are some; and it asks for results, and for work, on its own."""
        name = "fleetspeak_server_datastore_operations_completed_latency_count"
        theirs, ours = (
            {dict(labels)["operation"] for labels in page.sums(name)} for page in (self.upstream, self.ours)
        )
        self.assertEqual(theirs - ours, {"ListSentBroadcasts"})


def talk(deployment: Deployment) -> None:
    """Everything that is counted, but for messages to the client."""
    identity = Identity.make()
    info = system.ClientInfoData(
        labels=[common.Label(service_name="client", label=label) for label in ("linux", "amd64")]
    )
    usage = monitoring.ResourceUsageData(scope="system", version="1.2", pid=5)
    usage.process_start_time.seconds, usage.data_timestamp.seconds = 1, 2
    usage.resource_usage.mean_user_cpu_rate, usage.resource_usage.max_system_cpu_rate = 3, 4.5
    usage.resource_usage.max_resident_memory = 10_000_000
    kill = monitoring.KillNotification(service="sink", pid=3, reason=monitoring.KillNotification.MEMORY_EXCEEDED)

    def connect() -> Connection:
        return Connection(deployment.https_address, deployment.trusted_pem, identity)

    with connect() as connection:
        for number, (service, kind, data) in enumerate(
            (
                ("system", "ClientInfo", info),
                ("sink", "Note", info),
                ("nowhere", "Note", info),
                ("system", "ResourceUsage", usage),
                ("system", "KillNotification", kill),
                ("system", "Nonsense", kill),
            )
        ):
            connection.poll(common.ContactData(messages=[message(service, number, kind, data)]), ["linux"])
        for method, body in (
            ("POST", common.WrappedContactData(contact_data=b"\xff\xff").SerializeToString()),
            ("POST", b"\xff\xff"),
            ("GET", b""),
        ):
            refused = connection.request(method, "/message", body)
            assert refused.status in (400, 500), refused
    with connect() as connection, Stream(connection, common.ContactData(), ["linux"]) as stream:
        stream.send(common.ContactData(messages=[message("sink", 100, "Streamed", info)]))
        assert stream.receive().ack_index == 1


def message(service: str, number: int, kind: str, data: Message) -> common.Message:
    made = common.Message(message_type=kind, source_message_id=b"message %08d" % number)
    made.source.service_name = made.destination.service_name = service
    made.data.Pack(data)
    return made
