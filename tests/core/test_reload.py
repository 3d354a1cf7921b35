"""What a reload touches: each service at most once, and none whose configuration is the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.reload import ServicePlan, SettingsPlan, plan_services, plan_settings

NAMES = st.sampled_from("ABCDEF")
CONFIGURATIONS = st.sampled_from([b"1", b"2", b"3"])
INSTALLED = st.dictionaries(NAMES, CONFIGURATIONS)
WANTED = st.lists(st.tuples(NAMES, CONFIGURATIONS))


class ServicePlanTests(SynchronousTestCase):
    def test_new_changed_removed_and_unchanged(self) -> None:
        plan = plan_services(
            {"kept": b"1", "gone": b"1", "other": b"1"}, [("new", b"1"), ("other", b"2"), ("kept", b"1")]
        )
        self.assertEqual(plan, ServicePlan(stop=("gone",), replace=("other",), start=("new",), keep=("kept",)))

    def test_of_two_with_one_name_the_later_counts(self) -> None:
        plan = plan_services({"A": b"2"}, [("A", b"1"), ("A", b"2")])
        self.assertEqual(plan.keep, ("A",))

    def test_what_cannot_be_read_stays(self) -> None:
        plan = plan_services({"A": b"1", "B": b"1"}, [("B", b"2")], ["A", "B"])
        self.assertEqual(plan, ServicePlan(stop=(), replace=("B",), start=(), keep=("A",)))

    @given(INSTALLED, WANTED, st.sets(NAMES))
    def test_each_service_has_one_fate_and_the_result_is_what_is_wanted(
        self, installed: dict[str, bytes], wanted: list[tuple[str, bytes]], spared: set[str]
    ) -> None:
        plan = plan_services(installed, wanted, spared)
        fates = plan.stop + plan.replace + plan.start + plan.keep
        self.assertEqual(sorted(fates), sorted(installed.keys() | dict(wanted).keys()))
        after = dict(installed)
        for name in plan.stop:
            del after[name]
        for name in plan.replace + plan.start:
            after[name] = dict(wanted)[name]
        expected = {name: one for name, one in installed.items() if name in spared} | dict(wanted)
        self.assertEqual(after, expected)
        for name in plan.replace:
            self.assertNotEqual(installed[name], dict(wanted)[name])
        again = plan_services(after, wanted, spared)
        self.assertEqual((again.stop, again.replace, again.start), ((), (), ()), "a second time nothing is left to do")


class SettingsPlanTests(SynchronousTestCase):
    def test_each_changed_setting_by_what_it_takes(self) -> None:
        old = {"servers": 1, "state_file": 1, "warnings": 1, "labels": 1}
        new = {"servers": 2, "state_file": 2, "warnings": 2, "labels": 1}
        plan = plan_settings(old, new, elsewhere={"warnings"}, restart={"state_file"})
        self.assertEqual(plan, SettingsPlan(connection=("servers",), restart=("state_file",)))

    @given(st.dictionaries(NAMES, st.integers(0, 2)), st.sets(NAMES), st.sets(NAMES))
    def test_the_same_settings_take_nothing(self, settings: dict[str, int], one: set[str], other: set[str]) -> None:
        plan = plan_settings(settings, dict(settings), elsewhere=one, restart=other)
        self.assertEqual(plan, SettingsPlan((), ()))
