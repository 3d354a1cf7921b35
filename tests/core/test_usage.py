"""When usage is sampled and what the samples come to (client-core section 10, vector resource_usage.json)."""

from __future__ import annotations

from itertools import pairwise

from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.usage import (
    SHORTEST_PERIOD,
    Sample,
    SamplingRules,
    UsageError,
    UsageMeter,
    aggregate,
    sampling_rules,
)
from fleetspeak.errors import ConfigError
from tests import vectors


def quiet(time: float) -> Sample:
    """A sample of a process that does nothing."""
    return Sample(time, 0, 0, 4096, 3)


def reports_at(rules: SamplingRules, seconds: float) -> list[float]:
    """When reports are made, if samples are taken in time, up to then."""
    meter, now, reports = UsageMeter(rules), 0.0, []
    while (now := now + meter.next_wait()) <= seconds:
        if meter.add(quiet(now)) is not None:
            reports.append(now)
    return reports


class Schedule(SynchronousTestCase):
    def test_item_41_size_2_and_period_2_report_after_5_seconds_and_then_every_4(self) -> None:
        self.assertEqual([5, 9, 13, 17], reports_at(SamplingRules(2, 2.0), 20))

    def test_item_100_size_2_and_period_1_report_at_2_and_4_seconds(self) -> None:
        self.assertEqual([2, 4], reports_at(SamplingRules(2, 1.0), 5))

    def test_the_defaults_report_after_601_seconds_and_then_every_600(self) -> None:
        self.assertEqual([601, 1201, 1801], reports_at(SamplingRules(), 2000))

    def test_the_waits_are_doubled_until_they_have_reached_the_period(self) -> None:
        meter = UsageMeter(SamplingRules())
        self.assertEqual([1, 2, 4, 8, 16, 30, 30], [meter.next_wait() for _ in range(7)])
        self.assertEqual([0.5, 0.5], [UsageMeter(SamplingRules(2, 0.5)).next_wait() for _ in range(2)])

    @settings(max_examples=50)
    @given(st.integers(2, 50), st.floats(SHORTEST_PERIOD, 100))
    def test_from_the_second_report_on_they_are_a_size_of_periods_apart(self, size: int, period: float) -> None:
        reports = reports_at(SamplingRules(size, period), 4 * (size + 8) * period)
        self.assertGreaterEqual(len(reports), 3)
        for one, other in pairwise(reports[1:]):
            self.assertAlmostEqual(size * period, other - one)

    def test_rules_of_a_configuration(self) -> None:
        self.assertEqual(SamplingRules(20, 30.0), sampling_rules(0, 0))
        self.assertEqual(SamplingRules(2, 0.03), sampling_rules(2, 0.03))
        self.assertEqual(SamplingRules(20, SHORTEST_PERIOD), sampling_rules(0, 1e-9))
        for size in (1, -1):
            error = self.assertRaises(ConfigError, sampling_rules, size, 0)
            self.assertIn(f"sample size {size} invalid - must be at least 2 (for rate computation)", str(error))


class Aggregation(SynchronousTestCase):
    def test_the_examples_of_the_vector(self) -> None:
        for example in vectors.load("resource_usage")["aggregation"]:
            meter = UsageMeter(SamplingRules(example["sample_size"], 0.03))
            samples = [
                Sample(
                    sample["t_ms"] / 1000,
                    sample["user_cpu_ms"],
                    sample["system_cpu_ms"],
                    sample["rss_bytes"],
                    sample["num_fds"],
                )
                for sample in example["samples"]
            ]
            reports = [meter.add(sample) for sample in samples]
            self.assertEqual([None] * (len(samples) - 1), reports[:-1])
            assert reports[-1] is not None
            got = MessageToDict(reports[-1], preserving_proto_field_name=True)
            for name, value in example["aggregate"].items():
                self.assertAlmostEqual(value, float(got[name]), msg=name)

    def test_errors(self) -> None:
        first = Sample(1.0, 10, 10, 1, 1)
        for second in (Sample(2.0, 9.99, 10, 1, 1), Sample(2.0, 10, 9.99, 1, 1), Sample(1.0, 11, 11, 1, 1), quiet(0.5)):
            self.assertRaises(UsageError, aggregate, [first, second])
        self.assertRaises(UsageError, aggregate, [first])
        aggregate([first, Sample(2.0, 10 - 1e-5, 10, 1, 1)])

    def test_after_an_error_the_window_begins_anew_with_the_configured_size(self) -> None:
        meter = UsageMeter(SamplingRules(2, 4.0))  # the first report would take 4 samples
        meter.add(quiet(1))
        self.assertRaises(UsageError, meter.add, quiet(1))
        self.assertIsNone(meter.add(quiet(2)))
        self.assertIsNotNone(meter.add(quiet(3)))

    @settings(max_examples=100)
    @given(
        st.integers(2, 5),
        st.lists(
            st.tuples(
                st.floats(1e-6, 10) | st.floats(-1, 0), st.floats(-1, 1e4), st.floats(-1, 1e4), st.integers(0, 2**40)
            ),
            max_size=40,
        ),
    )
    def test_any_samples_end_in_reports_within_their_bounds_or_errors(
        self, size: int, steps: list[tuple[float, float, float, int]]
    ) -> None:
        """And every report holds exactly the samples since the last report or error."""
        meter = UsageMeter(SamplingRules(size, 0.5))
        time = user = system = 0.0
        window: list[Sample] = []
        for seconds, more_user, more_system, rss in steps:
            time, user, system = time + seconds, user + more_user, system + more_system
            window.append(Sample(time, user, system, rss, 1))
            try:
                report = meter.add(window[-1])
            except UsageError:
                window = []
                continue
            self.assertEqual(len(window) == size, report is not None)
            if report is not None:
                self.assertLessEqual(
                    report.mean_user_cpu_rate, report.max_user_cpu_rate + 1e-6 * abs(report.max_user_cpu_rate) + 1e-6
                )
                self.assertLessEqual(
                    report.mean_system_cpu_rate,
                    report.max_system_cpu_rate + 1e-6 * abs(report.max_system_cpu_rate) + 1e-6,
                )
                self.assertEqual(max(sample.rss for sample in window), report.max_resident_memory)
                self.assertLessEqual(report.mean_resident_memory, report.max_resident_memory * 1.000001)
                window = []
