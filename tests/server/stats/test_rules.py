"""The example of alarms asks for metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.stats.collector import MetricsCollector

RULES = Path(__file__).parents[3] / "doc" / "examples" / "prometheus" / "fleetspeak.rules.yml"


class RulesTests(SynchronousTestCase):
    def test_every_metric_and_every_label_is_one_of_ours(self) -> None:
        names, labels = set(), {"instance", "job", "le"}
        for reading in MetricsCollector().read():
            labels |= set(reading.labels)
            for metric in reading.metrics:
                ends = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
                names |= {metric.name + end for end in ends}
        names |= {"fleetspeak_store_queue_calls"}  # which is looked at and not counted
        labels |= {"worker"}
        rules = RULES.read_text("utf-8")
        asked = set(re.findall(r"\bfleetspeak_\w+", rules))
        self.assertGreater(len(asked), 8)
        self.assertEqual(asked - names, set())
        used = set(re.findall(r'(\w+)!?="', rules)) | {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", rules) for label in group.split(",")
        }
        self.assertEqual(used - labels, set())

    def test_what_must_be_seen_the_first_time_is_there_from_the_beginning(self) -> None:
        """An increase is seen only between two scrapes of the same series."""
        for reading in MetricsCollector().read():
            if reading.metrics[0].name == "fleetspeak_contacts_refused_total":
                self.assertIn((("key",), [0]), [(tuple(values), cell) for values, cell in reading.rows])
            if reading.metrics[0].name == "fleetspeak_metrics_values_capped_total":
                self.assertIn((("message_type",), [0]), [(tuple(values), cell) for values, cell in reading.rows])
