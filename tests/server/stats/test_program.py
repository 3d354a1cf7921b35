"""The program with `stats_config` and `health_check_config`: server-core 9.2 and 10."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections import defaultdict
from functools import partial

from prometheus_client.parser import text_string_to_metric_families

from fleetspeak.config import owncertificate
from fleetspeak.pb import common, components
from fleetspeak.testing.wireclient import Connection, Identity, Stream
from tests.programs import Program, eventually
from tests.server.test_assembly import ServerCase, note


def samples(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and values of all samples of a page, by name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


class ProgramCase(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        paths = owncertificate.Paths.beside(self.folder / "fleetspeak.sqlite")
        certificate = owncertificate.read_or_make(paths, ["localhost"], time.time())
        self.components = components.Config()
        https = self.components.https_config
        https.listen_address, https.certificates, https.key = "127.0.0.1:0", certificate.pem, certificate.key_pem
        self.components.stats_config.address = "127.0.0.1:0"
        self.components.health_check_config.listen_address = "127.0.0.1:0"
        self.ca = paths.ca.read_text()

    def begin(self, **environment: str) -> Program:
        (self.folder / "components").write_text(str(self.components))
        return self.start(
            "--components-config=components",
            "--services-config=services",
            f"--database-path={self.folder}/fleetspeak.sqlite",
            **environment,
        )

    def fetch(self, program: Program, what: str, path: str) -> tuple[int, str]:
        url = "http://{}:{}{}".format(*self.address(program, what), path)
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class RunningTests(ProgramCase):
    def test_a_contact_is_on_the_page(self) -> None:
        program = self.begin()
        program.wait_for_line("Fleetspeak server started.")
        self.connect(program).poll(common.ContactData(messages=[note("sink", 1)]))
        status, page = self.fetch(program, "metrics endpoint", "/metrics")
        self.assertEqual(status, 200)
        told = samples(page)
        for value, name, labels in (
            (1, "fleetspeak_server_client_polls_total", {"poll_type": "POLL", "http_status_code": "200"}),
            (1, "fleetspeak_server_messages_processed_latency_count", {"service": "sink", "is_first_try": "true"}),
            (1, "fleetspeak_messages_saved_total", {"service": "sink", "for_client": "false"}),
            (1, "fleetspeak_server_datastore_operations_completed_latency_count", {"operation": "StoreMessages"}),
            (1, "fleetspeak_connections_open", {}),
            (0, "fleetspeak_store_queue_calls", {"worker": "writer"}),
            (0, "fleetspeak_service_messages_running", {"service": "sink"}),
        ):
            found = [number for labelled, number in told[name] if labels.items() <= labelled.items()]
            self.assertEqual(found, [value], msg=name)
        self.assertIn("fleetspeak_client_cache_entries", told)
        self.assertIn({"worker": "writer"}, [labels for labels, _ in told["fleetspeak_store_batch_seconds_count"]])
        self.assertEqual(self.fetch(program, "metrics endpoint", "/")[0], 404)
        self.assertEqual(self.fetch(program, "health check service", "/readyz"), (200, "ready\n"))
        self.assertEqual(self.fetch(program, "health check service", "/anything"), (200, ""))
        self.assertEqual(program.terminate(), 0)

    def connect(self, program: Program) -> Connection:
        _, port = self.address(program, "HTTPS frontend")
        connection = Connection(("localhost", port), self.ca, Identity.make())
        self.addCleanup(connection.close)
        return connection

    def test_server_core_10_a_server_that_drains_is_alive_but_not_ready(self) -> None:
        program = self.begin()
        program.wait_for_line("Fleetspeak server started.")
        stream = Stream(self.connect(program), common.ContactData())  # which the stop waits for
        self.assertEqual(self.fetch(program, "health check service", "/readyz"), (200, "ready\n"))
        program.ask_to_end()
        self.assertTrue(stream.receive().done_sending)
        self.assertEqual(self.fetch(program, "health check service", "/readyz"), (503, "the server is stopping\n"))
        self.assertEqual(self.fetch(program, "health check service", "/"), (200, ""))
        self.assertEqual(self.fetch(program, "metrics endpoint", "/metrics")[0], 200)
        stream.close()
        self.assertEqual(program.wait(), 0)

    def test_a_hostile_client_cannot_make_the_page_grow(self) -> None:
        program = self.begin()
        program.wait_for_line("Fleetspeak server started.")
        connection, sizes = self.connect(program), []
        for attempt in range(3):
            for contact in range(4):
                numbers = range((attempt * 4 + contact) * 100, (attempt * 4 + contact + 1) * 100)
                made_up = [note(("sink", f"service {n}")[n % 2], n, f"type {n} " + "x" * 100) for n in numbers]
                for one in made_up:
                    one.source.service_name = one.source_message_id.decode()
                connection.poll(common.ContactData(messages=made_up))
            count = 200 * (attempt + 1)
            page, ingested = eventually(partial(self.ingested, program, count), "all is counted")
            sizes.append(len(page))
        self.assertLess(sizes[2] / sizes[1], 1.05, msg=str(sizes))
        self.assertLessEqual(len(ingested), 502)
        self.assertIn("other", {labels["message_type"] for labels, _ in ingested})
        self.assertEqual({labels["destination_service"] for labels, _ in ingested}, {"sink"})
        self.assertEqual(program.terminate(), 0)

    def ingested(self, program: Program, count: int) -> tuple[str, list[tuple[dict[str, str], float]]] | None:
        """The page with what was ingested, once that is so much; a page counts for a second."""
        status, page = self.fetch(program, "metrics endpoint", "/metrics")
        self.assertEqual(status, 200)
        told = samples(page)["fleetspeak_messages_ingested_total"]
        return (page, told) if sum(value for _, value in told) == count else None

    def test_without_an_address_there_is_no_listener_and_nothing_is_counted(self) -> None:
        self.components.stats_config.address = ""
        program = self.begin()
        program.wait_for_line("Fleetspeak server started.")
        self.assertEqual(program.lines_matching("metrics endpoint"), [])


class FailingTests(ProgramCase):
    def test_an_address_that_is_taken_stops_the_start(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        self.components.stats_config.address = f"127.0.0.1:{listening.getsockname()[1]}"
        program = self.begin()
        self.assertNotEqual(program.wait(), 0)
        [line] = program.lines_matching("Unable to initialize Fleetspeak server: ")
        self.assertRegex(line, "failed to initialize metrics endpoint: cannot listen on 127.0.0.1:.*in use")

    def test_a_missing_library_is_named_with_what_to_install(self) -> None:
        (self.folder / "hidden").mkdir()
        (self.folder / "hidden" / "prometheus_client.py").write_text("raise ImportError('no such library')")
        program = self.begin(PYTHONPATH=str(self.folder / "hidden"))
        self.assertEqual(program.wait(), 1)
        [line] = program.lines_matching("pip install")
        self.assertIn("stats_config needs prometheus-client (no such library); install it with: pip install", line)
        self.assertEqual(program.lines_matching("Traceback"), [])

    def test_the_library_is_not_needed_without_metrics(self) -> None:
        (self.folder / "hidden").mkdir()
        (self.folder / "hidden" / "prometheus_client.py").write_text("raise ImportError('no such library')")
        self.components.ClearField("stats_config")
        program = self.begin(PYTHONPATH=str(self.folder / "hidden"))
        program.wait_for_line("Fleetspeak server started.")
