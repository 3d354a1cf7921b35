"""What is pruned when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core import retention
from fleetspeak.core.retention import MAX_ROWS, MIN_ROWS, Pass, finished, parse_keep, wait
from fleetspeak.errors import ConfigError
from fleetspeak.records import Prunable, Prune, Pruned

HOUR, DAY = 3600, 86_400
NOW = 1_800_000_000 * 10**9
ALL = {kind: 7 * DAY for kind in Prunable if kind is not Prunable.MESSAGES_OF_CLIENTS}


class AgeTests(SynchronousTestCase):
    def test_ages(self) -> None:
        keep = parse_keep(["messages=7d", "contacts=36h", "resource-usage=2w", "pending-messages=365d"])
        self.assertEqual(
            keep,
            {
                Prunable.MESSAGES: 7 * DAY,
                Prunable.CONTACTS: 36 * HOUR,
                Prunable.RESOURCE_USAGE: 14 * DAY,
                Prunable.PENDING_MESSAGES: 365 * DAY,
            },
        )
        self.assertEqual(parse_keep([]), {})

    def test_what_is_none(self) -> None:
        for text in (
            "messages",
            "messages=",
            "messages=7",
            "messages=0d",
            "messages=-7d",
            "messages=7d ",
            "messages=999999d",
            "messages=\u0667d",
            "messages-of-clients=7d",
            "files=7d",
            "=7d",
            "",
        ):
            with self.assertRaises(ConfigError) as caught:
                parse_keep([text])
            self.assertIn(text, str(caught.exception))
        with self.assertRaises(ConfigError):
            parse_keep(["messages=7d", "messages=8d"])


class PassTests(SynchronousTestCase):
    def kinds(self, keep: dict[Prunable, int], state: str = "") -> list[tuple[Prunable, int]]:
        """What a pass asks for when there is nothing, and how old that would be in seconds."""
        current = Pass(keep, state)
        asked = []
        while (request := current.next(NOW)) is not None:
            asked.append((request.kind, (NOW - request.before_ns) // 10**9))
            current.done(Pruned({}, None), 0.001)
        return asked

    def test_order(self) -> None:
        self.assertEqual(
            [kind for kind, _ in self.kinds(ALL)],
            ["contacts", "resource-usage", "messages", "pending-messages", "broadcasts", "clients", "audit"],
        )
        self.assertEqual(self.kinds({}), [])
        self.assertEqual(
            self.kinds({Prunable.CONTACTS: 2 * DAY, Prunable.MESSAGES: DAY}),
            [("messages", DAY), ("contacts", 2 * DAY)][::-1],
        )

    def test_pending_messages_only_when_asked(self) -> None:
        every_other = {kind: age for kind, age in ALL.items() if kind is not Prunable.PENDING_MESSAGES}
        self.assertNotIn(Prunable.PENDING_MESSAGES, [kind for kind, _ in self.kinds(every_other)])

    def test_messages_of_clients(self) -> None:
        """They go with their clients, unless all messages of that age do anyway."""
        clients, messages = Prunable.CLIENTS, Prunable.MESSAGES
        of_clients = (Prunable.MESSAGES_OF_CLIENTS, 90 * DAY)
        self.assertEqual(self.kinds({clients: 90 * DAY}), [(clients, 90 * DAY), of_clients])
        self.assertEqual(self.kinds({clients: 90 * DAY, messages: 91 * DAY})[-1], of_clients)
        self.assertEqual(self.kinds({clients: 90 * DAY, messages: 90 * DAY})[-1], (clients, 90 * DAY))

    def test_goes_on_from_a_state(self) -> None:
        current = Pass(ALL)
        for pruned in (Pruned({}, None), Pruned({}, None), Pruned({"messages": 3}, "message_id=beef")):
            current.next(NOW)
            current.done(pruned, 0.01)
        state = current.state()
        self.assertTrue(state.startswith("at messages message_id=beef; keep contacts=604800 "))
        next_one = Pass(ALL, state).next(NOW)
        assert next_one is not None
        self.assertEqual((next_one.kind, next_one.position), (Prunable.MESSAGES, "message_id=beef"))
        self.assertEqual(len(self.kinds(ALL, state)), 5)
        self.assertEqual(len(self.kinds({**ALL, Prunable.CLIENTS: HOUR}, state)), 8, "with other ages it begins anew")

    def test_states_that_are_none(self) -> None:
        for state in (
            "",
            "at",
            "at ",
            "at nothing",
            "at clients-of",
            "finished 1",
            "\x00",
            "at messages",
            "at messages p; keep messages=1",
        ):
            self.assertEqual(len(self.kinds(ALL, state)), len(ALL), state)

    def test_no_progress_is_no_endless_loop(self) -> None:
        current = Pass(ALL)
        for _ in range(len(ALL)):
            request = current.next(NOW)
            assert request is not None
            current.done(Pruned({}, request.position), 0.01)
        self.assertIsNone(current.next(NOW))

    def test_parts_of_a_steady_length(self) -> None:
        """A row takes so long here: the part comes to be of as many rows as there is time for."""
        for seconds_a_row in (1e-6, 5e-5, 2e-4):
            current = Pass({Prunable.MESSAGES: 7 * DAY})
            for _ in range(40):
                request = current.next(NOW)
                assert request is not None
                current.done(Pruned({"messages": request.rows}, "p"), request.rows * seconds_a_row)
            expected = min(MAX_ROWS, retention.TARGET / seconds_a_row)
            self.assertLess(expected * 0.5, request.rows)
            self.assertLess(request.rows, expected * 2.1)

    def test_pauses(self) -> None:
        """As much as `SHARE` leaves; and a busy database is left alone."""
        current = Pass({Prunable.MESSAGES: 7 * DAY})
        current.next(NOW)
        self.assertAlmostEqual(current.done(Pruned({"messages": 1}, "p"), 0.1), 0.4)
        current.next(NOW)
        self.assertEqual(current.done(Pruned({"messages": 1}, "q"), 100.0), retention.MAX_PAUSE)
        hurried = Pass({Prunable.MESSAGES: 7 * DAY}, share=1.0)
        hurried.next(NOW)
        self.assertEqual(hurried.done(Pruned({"messages": 1}, "p"), 0.1), 0.0)

    @given(
        st.dictionaries(st.sampled_from(list(ALL)), st.integers(HOUR, 1000 * DAY)),
        st.lists(
            st.tuples(st.integers(0, 5000), st.sampled_from([None, "a=1", "b=2", ""]), st.floats(0, 1e4)), max_size=80
        ),
        st.text(max_size=30),
    )
    def test_whatever_comes(
        self, keep: dict[Prunable, int], outcomes: list[tuple[int, str | None, float]], state: str
    ) -> None:
        """Ages are never shorter than asked, sizes and pauses are bounded, nothing is asked for that has no age; and a
        state gives the part that would have been next."""
        current = Pass(keep, state)
        for rows, position, seconds in outcomes:
            request = current.next(NOW)
            if request is None:
                return
            kind = Prunable.CLIENTS if request.kind is Prunable.MESSAGES_OF_CLIENTS else request.kind
            self.assertEqual(NOW - request.before_ns, keep[kind] * 10**9)
            self.assertTrue(MIN_ROWS <= request.rows <= MAX_ROWS)
            resumed = Pass(keep, current.state()).next(NOW)
            assert resumed is not None
            self.assertEqual((resumed.kind, resumed.position), (request.kind, request.position))
            pause = current.done(Pruned(Counter(messages=rows) if rows else {}, position), seconds)
            self.assertTrue(0 <= pause <= retention.MAX_PAUSE)

    def test_a_dry_run_asks_for_nothing_else(self) -> None:
        current = Pass(ALL, dry_run=True)
        for _ in range(len(ALL)):
            self.assertEqual(
                current.next(NOW), Prune(current.next(NOW).kind, NOW - 7 * DAY * 10**9, "", MAX_ROWS, True)
            )  # type: ignore[union-attr]
            current.done(Pruned({}, None), 10.0)


class TurnTests(SynchronousTestCase):
    def test_wait(self) -> None:
        """One pass of these ages in an interval, whoever makes it."""
        state, interval = finished(ALL, NOW), 100
        self.assertEqual(wait(state, ALL, NOW + 30, interval), 70)
        self.assertEqual(wait(state, ALL, NOW + 100, interval), 0)
        self.assertEqual(wait(state, ALL, NOW - 10_000, interval), 100)
        self.assertEqual(wait(state, {**ALL, Prunable.CLIENTS: HOUR}, NOW + 30, interval), 0)
        for other in ("", "at messages", "finished", "finished x messages=1"):
            self.assertEqual(wait(other, ALL, NOW, interval), 0)

    def test_a_state_fits_into_its_column(self) -> None:
        self.assertLess(len(finished(dict.fromkeys(ALL, 99999 * 7 * DAY), 2**63)), 1000)
