"""server-https 4.7: the tokens of one connection."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.tokens import MAX_NAME, MAX_SERVICES, MAX_TOKENS, TokenLedger
from tests.core.machines import explore


class TokenLedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ledger = TokenLedger()

    def test_without_accounting_there_is_no_limit(self) -> None:
        self.assertIsNone(self.ledger.limits())
        self.ledger.start({})
        self.ledger.spend({"a": 1})
        self.assertIsNone(self.ledger.limits())

    def test_the_first_contact_starts_it(self) -> None:
        self.ledger.start({"a": 5, "b": 0})
        self.ledger.spend({"a": 2, "unknown": 1})
        self.assertEqual(self.ledger.limits(), {"a": 3})

    def test_any_later_record_starts_it_even_with_nothing(self) -> None:
        self.assertFalse(self.ledger.grant({}))
        self.assertEqual(self.ledger.limits(), {})

    def test_a_grant_says_whether_messages_may_have_waited_for_it(self) -> None:
        self.ledger.start({"a": 1, "b": 0})
        self.assertFalse(self.ledger.grant({"a": 1, "b": 0}))
        self.assertTrue(self.ledger.grant({"b": 1}))
        self.assertTrue(self.ledger.grant({"new": 1}))
        self.ledger.spend({"a": 2})
        self.assertTrue(self.ledger.grant({"a": 1}))

    def test_a_grant_during_a_claim_counts_as_one_for_a_service_without_tokens(self) -> None:
        """The claim may use up all it was told of, and then nothing else would wake the stream for the rest."""
        self.ledger.start({"a": 32})
        self.assertEqual(self.ledger.offer(), {"a": 32})
        self.assertTrue(self.ledger.grant({"a": 32}))
        self.ledger.spend({"a": 32})
        self.assertFalse(self.ledger.grant({"a": 32}))
        self.assertEqual(self.ledger.limits(), {"a": 64})

    def test_it_never_wraps_around(self) -> None:
        self.ledger.start({"a": 2**64 - 1})
        self.ledger.grant({"a": 2**64 - 1})
        self.assertEqual(self.ledger.limits(), {"a": 2**64 - 1})

    def test_it_never_goes_below_nothing(self) -> None:
        self.ledger.start({"a": 1})
        self.ledger.spend({"a": 100})
        self.assertEqual(self.ledger.limits(), {})
        self.ledger.grant({"a": 2})
        self.assertEqual(self.ledger.limits(), {"a": 2})

    def test_a_client_cannot_fill_the_memory_with_names(self) -> None:
        for number in range(MAX_SERVICES + 10):
            self.ledger.grant({f"service {number}": 1})
        self.ledger.grant({"x" * (MAX_NAME + 1): 1})
        limits = self.ledger.limits()
        assert limits is not None
        self.assertEqual(len(limits), MAX_SERVICES)

    def test_no_sequence_of_steps_breaks_it(self) -> None:
        explore(_AnyUse)


_NAMES = st.sampled_from("abc")
_AMOUNTS = st.one_of(st.integers(0, 200), st.integers(2**64 - 200, 2**64 - 1))


class _AnyUse(RuleBasedStateMachine):
    """The ledger beside unbounded numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = TokenLedger()
        self.model: dict[str, int] = {}
        self.offered: dict[str, int] = {}

    @rule(tokens=st.dictionaries(_NAMES, _AMOUNTS))
    def grant(self, tokens: dict[str, int]) -> None:
        opened = any(
            count and self.model.get(name, 0) - self.offered.get(name, 0) <= 0 for name, count in tokens.items()
        )
        assert self.ledger.grant(tokens) == opened
        for name, count in tokens.items():
            self.model[name] = min(MAX_TOKENS, self.model.get(name, 0) + count)

    @rule()
    def claim(self) -> None:
        self.offered = self.ledger.offer() or {}
        assert self.offered == {name: count for name, count in self.model.items() if count}
        assert all(0 < count <= MAX_TOKENS for count in self.offered.values())

    @rule(counts=st.dictionaries(_NAMES, st.integers(0, 300)))
    def spend(self, counts: dict[str, int]) -> None:
        self.ledger.spend(counts)
        self.offered = {}
        for name in self.model.keys() & counts.keys():
            self.model[name] = max(0, self.model[name] - counts[name])
