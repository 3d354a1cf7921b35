from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.flow import BEACON_EVERY, INBOX_SIZE, FlowCounters
from tests.core.machines import explore


class FlowCountersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.flow = FlowCounters()
        self.flow.add_service("system")
        self.flow.add_service("NOOPService")

    def _take(self, name: str, count: int) -> list[int]:
        """`count` messages come and are processed.  Returns those after which a beacon was due."""
        due = []
        for number in range(1, count + 1):
            self.flow.accepted(name)
            if self.flow.processed(name):
                due.append(number)
        return due

    def test_every_service_is_listed_also_with_nothing(self) -> None:
        """client-tests 76 and 134."""
        self.assertEqual(self.flow.absolute(), {"system": 100, "NOOPService": 100})
        self.assertEqual(self.flow.increments(), {"system": 0, "NOOPService": 0})

    def test_a_service_that_blocks_is_granted_what_its_inbox_has_left(self) -> None:
        """client-tests 48: five come, the service has taken one of them."""
        for _ in range(5):
            self.flow.accepted("NOOPService")
        self.flow.processed("NOOPService")
        self.assertEqual(self.flow.absolute()["NOOPService"], 96)
        for _ in range(4):
            self.flow.processed("NOOPService")
        self.assertEqual(self.flow.absolute()["NOOPService"], 100)

    def test_later_records_of_a_stream_grant_what_was_freed(self) -> None:
        """client-tests 70: of 35 at least 32 are granted without any message, and never more than 35."""
        self.flow.absolute()
        self.assertEqual(self._take("NOOPService", 35), [32])
        self.assertEqual(self.flow.increments(), {"system": 0, "NOOPService": 35})
        self.assertEqual(self.flow.increments(), {"system": 0, "NOOPService": 0})

    def test_a_beacon_is_due_at_each_multiple(self) -> None:
        self.assertEqual(self._take("system", 100), [BEACON_EVERY, 2 * BEACON_EVERY, 3 * BEACON_EVERY])

    def test_a_service_that_is_new_to_the_stream_is_granted_everything(self) -> None:
        self.flow.absolute()
        self.flow.add_service("New")
        self.assertEqual(self.flow.increments(), {"system": 0, "NOOPService": 0, "New": 100})

    def test_a_restart_during_a_stream_grants_only_what_was_used(self) -> None:
        """client-tests 136."""
        self.flow.absolute()
        for _ in range(10):
            self.flow.accepted("NOOPService")
        self.flow.remove_service("NOOPService")
        self.flow.add_service("NOOPService")
        self.assertEqual(self.flow.increments()["NOOPService"], 10)

    def test_a_service_that_was_away_when_the_stream_began_is_new_to_it(self) -> None:
        self.flow.absolute()
        self.flow.remove_service("NOOPService")
        self.assertEqual(self.flow.absolute(), {"system": 100})
        self.flow.add_service("NOOPService")
        self.assertEqual(self.flow.increments()["NOOPService"], 100)

    def test_a_message_is_processed_at_most_once_and_only_of_a_known_service(self) -> None:
        for _ in range(BEACON_EVERY):
            self.assertFalse(self.flow.processed("system"))
        self.flow.accepted("unknown")
        self.assertFalse(self.flow.processed("unknown"))
        self.assertEqual(self.flow.absolute(), {"system": 100, "NOOPService": 100})

    def test_no_sequence_of_steps_breaks_it(self) -> None:
        explore(_AnyUse)


class _AnyUse(RuleBasedStateMachine):
    """A server that keeps to its tokens never finds an inbox full."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = FlowCounters()
        self.flow.add_service("s")
        self.installed = True
        self.inbox = 0
        self.tokens = 0
        self.astray = 0
        """Tokens that the server used up while the service was not there; they are back with the next stream."""

    @rule()
    def connect(self) -> None:
        granted = self.flow.absolute()
        assert ("s" in granted) == self.installed
        self.tokens, self.astray = granted.get("s", 0), 0
        if self.installed:
            assert self.tokens == INBOX_SIZE - self.inbox

    @rule()
    def record(self) -> None:
        granted = self.flow.increments()
        assert ("s" in granted) == self.installed
        self.tokens += granted.get("s", 0)
        if self.installed:
            assert self.tokens + self.inbox + self.astray == INBOX_SIZE

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, self.tokens))):
            self.tokens -= 1
            if self.installed:
                self.flow.accepted("s")
                self.inbox += 1
            else:
                self.astray += 1

    @precondition(lambda self: self.inbox)
    @rule(data=st.data())
    def process(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, self.inbox))):
            self.flow.processed("s")
            self.inbox -= 1

    @rule()
    def remove(self) -> None:
        self.flow.remove_service("s")
        self.installed = False
        self.inbox = 0

    @rule()
    def install(self) -> None:
        self.flow.add_service("s")
        self.installed = True

    @invariant()
    def the_inbox_always_has_room(self) -> None:
        assert self.inbox + (self.tokens if self.installed else 0) <= INBOX_SIZE
