"""Messages of a process that are on their way, whatever becomes of its connections."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.inflight import InFlight

_IDS = st.sampled_from([b"", b"a", b"b", b"c"])
_STEPS = st.lists(st.tuples(st.sampled_from(["begin", "arrived", "dropped"]), _IDS, st.integers(0, 2)))


class InFlightTests(SynchronousTestCase):
    def test_the_connection_that_asked_last_is_told_once(self) -> None:
        told: list[tuple[int, bytes]] = []
        in_flight = InFlight()
        self.assertTrue(in_flight.begin(b"id", lambda id: told.append((1, id))))
        self.assertFalse(in_flight.begin(b"id", lambda id: told.append((2, id))))
        in_flight.arrived(b"id")
        in_flight.arrived(b"id")
        self.assertEqual([(2, b"id")], told)
        self.assertTrue(in_flight.begin(b"id", lambda _: None))

    def test_what_was_dropped_is_sent_again(self) -> None:
        in_flight = InFlight()
        in_flight.begin(b"id", self.fail)
        in_flight.dropped(b"id")
        in_flight.arrived(b"id")
        self.assertTrue(in_flight.begin(b"id", self.fail))

    @settings(max_examples=200)
    @given(_STEPS)
    def test_each_arrival_is_told_to_the_last_who_asked(self, steps: list[tuple[str, bytes, int]]) -> None:
        in_flight = InFlight()
        on_the_way: dict[bytes, int] = {}
        told: list[tuple[int, bytes]] = []
        for step, message_id, connection in steps:
            if step == "begin":
                new = in_flight.begin(message_id, lambda id, c=connection: told.append((c, id)))  # type: ignore[misc]
                self.assertEqual(not message_id or message_id not in on_the_way, new)
                if message_id:
                    on_the_way[message_id] = connection
            elif step == "arrived":
                before = list(told)
                in_flight.arrived(message_id)
                asked = on_the_way.pop(message_id, None)
                self.assertEqual(before + ([(asked, message_id)] if asked is not None else []), told)
            else:
                in_flight.dropped(message_id)
                on_the_way.pop(message_id, None)
            self.assertEqual(len(on_the_way), len(in_flight))
