"""Looks that begin later miss nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.clearance import LOOKING_SHARE, MARGIN_NS, RESCAN, Clearance

SECOND = 10**9
START = 1000 * SECOND
A, B = frozenset("a"), frozenset("b")


class ClearanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clearance = Clearance()
        self.now = 0.0

    def look(self, full: frozenset[str], found: bool = False, took: float = 0.0) -> int:
        """A look in the next second.  From when on it looked, in seconds; 0: at everything."""
        self.now += 1
        since_ns = self.clearance.since(full, self.now)
        began_ns = START + int(self.now) * SECOND
        self.clearance.note(full, since_ns, began_ns, self.now + took, took, found)
        self.now += took
        return (since_ns + MARGIN_NS - START) // SECOND if since_ns else 0

    def test_with_room_for_all_everything_is_looked_at(self) -> None:
        self.assertEqual([self.look(frozenset()) for _ in range(3)], [0, 0, 0])

    def test_after_a_look_that_found_nothing_only_what_came_since(self) -> None:
        self.assertEqual([self.look(A) for _ in range(3)], [0, 1, 2])

    def test_nor_when_one_more_is_full(self) -> None:
        self.look(A)
        self.assertEqual(self.look(A | B), 1)

    def test_a_service_that_has_room_again_gets_what_it_has_missed(self) -> None:
        self.look(A | B)
        self.assertEqual(self.look(A), 0)
        self.assertEqual(self.look(A), 2)

    def test_as_long_as_there_is_more_everything_is(self) -> None:
        self.assertEqual([self.look(A, found=True) for _ in range(3)], [0, 0, 0])

    def test_what_was_believed_is_checked_every_minute(self) -> None:
        found = [self.look(A) for _ in range(int(2.5 * RESCAN))]
        self.assertEqual(found.count(0), 3)

    def test_a_tenth_of_the_time_is_enough(self) -> None:
        """Even when services change all the time; others are looked for nevertheless."""
        looks = [self.look((A, B)[number % 2], took=0.0) for number in range(2)]
        self.assertEqual(looks, [0, 0])
        self.look(A | B)
        whole = 0
        for number in range(200):
            since_ns = self.clearance.since((A, B)[number % 2], self.now + 1)
            whole += not since_ns
            self.look((A, B)[number % 2], took=0.0 if since_ns else 3.0)
        self.assertLess(whole * 3.0, self.now / LOOKING_SHARE)

    @given(
        st.lists(
            st.tuples(
                st.frozensets(st.sampled_from("abc")),
                st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=2),
                st.floats(0, 2),
            ),
            max_size=40,
        )
    )
    def test_nothing_is_missed(self, steps: list[tuple[frozenset[str], list[tuple[str, float]], float]]) -> None:
        """Whatever becomes due when, and whatever services are full.

        A look at everything leaves nothing that it could have taken; and so does one when all have room.
        """
        clearance, due, now = Clearance(), [], 0.0
        for full, new, took in steps:
            due += [(service, START + int((now + delay) * SECOND)) for service, delay in new]
            began_ns = START + int(now * SECOND)
            since_ns = clearance.since(full, now)
            taken = [one for one in due if one[0] not in full and since_ns <= one[1] <= began_ns]
            due = [one for one in due if one not in taken]
            clearance.note(full, since_ns, began_ns, now + took, took if not since_ns else 0.0, bool(taken))
            if not since_ns:
                self.assertFalse([one for one in due if one[0] not in full and one[1] <= began_ns])
            now += took + 1
        end_ns = START + int((now + 10) * SECOND)
        since_ns = clearance.since(frozenset(), now + 10)
        self.assertFalse([one for one in due if not since_ns <= one[1] <= end_ns])
