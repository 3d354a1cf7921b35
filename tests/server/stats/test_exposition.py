"""The page that Prometheus reads: server-core 9.2."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.core.series import Distribution, Metric, Reading
from fleetspeak.errors import ConfigError
from fleetspeak.pb import common
from fleetspeak.records import ClientPoll
from fleetspeak.server.probes import ProbeEndpoint
from fleetspeak.server.stats.collector import MetricsCollector
from fleetspeak.server.stats.endpoint import Scrape, make_endpoint
from fleetspeak.server.stats.exposition import LEAST_AGE, Exposition, write


class Threads:
    """Threads that run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], bytes], Deferred[bytes]]] = []

    def __call__(self, work: Callable[[], bytes]) -> Deferred[bytes]:
        done: Deferred[bytes] = Deferred()
        self.waiting.append((work, done))
        return done

    def run(self) -> None:
        work, done = self.waiting.pop()
        try:
            result = work()
        except Exception:
            done.errback()
        else:
            done.callback(result)


class TextTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = MetricsCollector()
        self.collector.client_poll(ClientPoll("POLL", 200, seconds=0.02))
        self.collector.message_sent(common.Message(message_type='a "b"\\\n'), None)

    def text(self) -> str:
        return write(self.collector.read()).decode()

    def test_prometheus_understands_it(self) -> None:
        families = {family.name: family for family in text_string_to_metric_families(self.text())}
        polls = families["fleetspeak_server_client_polls"]
        ((name, labels, value, *_),) = polls.samples
        self.assertEqual((polls.type, name, value), ("counter", "fleetspeak_server_client_polls_total", 1))
        self.assertEqual(labels, {"http_status_code": "200", "poll_type": "POLL", "cache_hit": "false"})
        self.assertEqual(families["fleetspeak_server_client_polls_operation_time_latency"].type, "histogram")

    def test_label_values_are_escaped(self) -> None:
        self.assertIn('message_type="a \\"b\\"\\\\\\n"', self.text())

    def test_counters_of_bytes_carry_no_total_and_are_counters_all_the_same(self) -> None:
        for which in ("ingested", "sent", "saved"):
            name = f"fleetspeak_messages_{which}_payload_bytes_size"
            self.assertIn(f"# TYPE {name} counter\n", self.text())
            self.assertNotIn(f"{name}_total", self.text())
            self.assertIn(f"# TYPE fleetspeak_messages_{which}_total counter\n", self.text())

    def test_there_are_no_created_series(self) -> None:
        self.assertNotIn("_created", self.text())

    def test_bounds_are_written_as_go_does(self) -> None:
        metric = Metric("h", "", "histogram", (0.005, 1.0, 2.5, 1e6, 2.5e7))
        text = write([Reading((), [metric], [((), [Distribution(metric.bounds)])])]).decode()
        self.assertEqual(re.findall('le="([^"]*)"', text), ["0.005", "1", "2.5", "1e+06", "2.5e+07", "+Inf"])

    def test_the_default_registrys_process_metrics_are_there(self) -> None:
        threads = Threads()
        page = Exposition(self.collector.read, threads, Clock().seconds).page()
        threads.run()
        text = self.successResultOf(page).decode()
        for name in (
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_start_time_seconds",
        ):
            self.assertIn(f"\n{name} ", text)


class SharingTests(SynchronousTestCase):
    """Writing does not hold up the reactor, whoever asks how often."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = Threads()
        self.read = 0
        self.exposition = Exposition(self.readings, self.threads, self.clock.seconds)

    def readings(self) -> list[Reading]:
        self.read += 1
        return [Reading((), [Metric("number_total", "")], [((), [self.read])])]

    def test_all_is_written_in_a_thread_from_a_copy(self) -> None:
        page = self.exposition.page()
        self.assertNoResult(page)
        self.read = 77
        self.threads.run()
        self.assertIn(b"number_total 1.0\n", self.successResultOf(page))

    def test_a_flood_of_scrapes_is_one_page_a_second(self) -> None:
        pages = [self.exposition.page() for _ in range(100)]
        self.threads.run()
        for page in pages:
            self.successResultOf(page)
        self.successResultOf(self.exposition.page())
        self.assertEqual(self.read, 1)
        self.clock.advance(LEAST_AGE)
        self.assertNoResult(self.exposition.page())

    def test_what_cannot_be_written_is_logged_and_told(self) -> None:
        wrong = [Reading(("a",), [Metric("x", "")], [((), [1])])]
        page = Exposition(lambda: wrong, self.threads, self.clock.seconds).page()
        self.threads.run()
        self.failureResultOf(page, ValueError)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class ScrapeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = MemoryReactorClock()
        self.threads = Threads()
        collector = MetricsCollector()
        exposition = Exposition(collector.read, self.threads, self.memory.seconds)
        endpoint = ProbeEndpoint(
            "metrics endpoint", ("127.0.0.1", 2112), lambda *a, **k: Scrape(exposition, *a, **k), 5, self.memory
        )
        endpoint.start()
        self.factory = self.memory.tcpServers[0][1]
        self.factory.doStart()

    def send(self, request: bytes) -> StringTransport:
        self.protocol = self.factory.buildProtocol(None)
        transport = StringTransport()
        self.protocol.makeConnection(transport)
        self.protocol.dataReceived(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        return transport

    def test_server_core_9_2_get_metrics_is_answered_in_the_text_format(self) -> None:
        transport = self.send(b"GET /metrics?x=1")
        self.assertEqual(transport.value(), b"")
        self.threads.run()
        head, _, body = transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
        self.assertIn(b"Content-Type: text/plain; version=0.0.4; charset=utf-8", head)
        self.assertIn(b"Content-Length: %d" % len(body), head)
        self.assertIn(b"# TYPE fleetspeak_messages_sent_total counter\n", body)

    def test_server_core_9_2_all_else_is_404(self) -> None:
        for request in (b"GET /", b"GET /metrics/", b"GET /metricsx", b"POST /metrics", b"GET /debug/pprof"):
            self.assertTrue(self.send(request).value().startswith(b"HTTP/1.1 404 "), request)

    def test_a_page_that_cannot_be_written_is_500(self) -> None:
        transport = self.send(b"GET /metrics")
        self.threads.waiting.pop()[1].errback(RuntimeError("broken"))
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 500 "))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_goes_away_meanwhile_does_no_harm(self) -> None:
        transport = self.send(b"GET /metrics")
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.threads.run()
        self.assertEqual(transport.value(), b"")

    def test_who_does_not_read_is_cut_off(self) -> None:
        """Its connection is closed when it has been silent for a while; nothing waits for it."""
        transport = self.send(b"GET /metrics")
        self.threads.run()
        self.assertFalse(transport.disconnecting)
        others = [self.factory.buildProtocol(None) for _ in range(5)]
        self.assertEqual(others.index(None), 4, "there are only so many such")
        self.memory.advance(61)
        self.assertTrue(transport.disconnecting)
        self.memory.advance(16)  # it still has not read what was written
        self.assertTrue(transport.disconnected)


class RealTests(TestCase):
    async def test_over_tcp_from_a_thread(self) -> None:
        collector = MetricsCollector()
        endpoint = make_endpoint(collector, ("127.0.0.1", 0), reactor)
        endpoint.start()
        self.addCleanup(endpoint.stop)
        collector.rows_pruned("messages", 3)
        url = f"http://127.0.0.1:{endpoint.port}/metrics"
        with await deferToThread(urlopen, url) as response:
            body = await deferToThread(response.read)
        self.assertIn(b'fleetspeak_rows_pruned_total{table="messages"} 3.0\n', body)

    async def test_a_bind_failure_stops_the_start_with_one_clear_error(self) -> None:
        taken = reactor.listenTCP(0, Factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        with self.assertRaisesRegex(ConfigError, f"failed to initialize metrics endpoint: .*:{port}: .*in use"):
            make_endpoint(MetricsCollector(), ("127.0.0.1", port), reactor).start()
