"""The small pieces stores are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import InvalidRecord, NotFound
from fleetspeak.ids import ClientId
from fleetspeak.records import Claim
from fleetspeak.store import checks
from fleetspeak.store.allotment import MAX_CLAIM_BYTES, Allotment
from fleetspeak.store.outcome import only
from fleetspeak.store.sql import statements
from fleetspeak.store.sql.sqlite import DIALECT

CLIENT = ClientId(b"12345678")


class OnlyTests(SynchronousTestCase):
    def test_result(self) -> None:
        self.assertEqual(self.successResultOf(only(succeed([7]))), 7)

    def test_error(self) -> None:
        self.failureResultOf(only(succeed([NotFound("gone")])), NotFound)


class AllotmentTests(SynchronousTestCase):
    services = st.sampled_from(["a", "b", "c"])

    @settings(max_examples=150, deadline=None)
    @given(
        st.integers(0, 10),
        st.none() | st.dictionaries(services, st.integers(0, 3)),
        st.lists(st.tuples(services, st.integers(0, MAX_CLAIM_BYTES // 2)), max_size=30),
    )
    def test_limits(self, limit: int, tokens: dict[str, int] | None, shown: list[tuple[str, int]]) -> None:
        """Never more than the limit, the tokens, or the bytes; and nobody is refused for less."""
        allotment = Allotment(Claim(CLIENT, limit, tokens))
        taken: list[tuple[str, int]] = []
        full = False
        for service, size in shown:
            used = sum(one == service for one, _ in taken)
            allowed = tokens is None or used < tokens.get(service, 0)
            room = len(taken) < limit and not full
            too_large = bool(taken) and sum(size for _, size in taken) + size > MAX_CLAIM_BYTES
            took = allotment.take(service, size)
            self.assertEqual(took, room and allowed and not too_large)
            full = full or (room and allowed and too_large)
            if took:
                taken.append((service, size))
            if room and not allowed:
                self.assertIn(service, allotment.refused)
        self.assertEqual(allotment.has_room, len(taken) < limit and not full)

    def test_what_is_given_back_can_be_taken_again(self) -> None:
        allotment = Allotment(Claim(CLIENT, 2, {"a": 1, "b": 1}))
        self.assertTrue(allotment.take("a", MAX_CLAIM_BYTES))
        self.assertFalse(allotment.take("a", 1))
        allotment.give_back("a", MAX_CLAIM_BYTES)
        self.assertEqual(allotment.refused, set())
        self.assertTrue(allotment.take("a", MAX_CLAIM_BYTES - 1))
        self.assertTrue(allotment.take("b", 1))
        self.assertFalse(allotment.has_room)

    def test_a_single_message_is_never_too_large(self) -> None:
        allotment = Allotment(Claim(CLIENT))
        self.assertTrue(allotment.take("a", 3 * MAX_CLAIM_BYTES))
        self.assertFalse(allotment.take("a", 1))


class CheckTests(SynchronousTestCase):
    @given(st.text(max_size=20))
    def test_contact_ids(self, text: str) -> None:
        """Any text is a row, or refused."""
        try:
            row = checks.contact_row(text)
        except InvalidRecord:
            return
        self.assertEqual(row, int(text, 16) if text else None)

    @given(st.integers(0, 2**63 - 1))
    def test_contact_ids_there_and_back(self, row: int) -> None:
        self.assertEqual(checks.contact_row(checks.contact_id_of(row)), row)

    @given(st.text())
    def test_short_reasons_are_left_alone(self, reason: str) -> None:
        self.assertEqual(checks.cut_reason(reason), reason)

    def test_long_reasons(self) -> None:
        for character in ("x", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{EURO SIGN}", "\N{GRINNING FACE}"):
            cut = checks.cut_reason(character * checks.MAX_REASON)
            self.assertEqual(len(cut), checks.MAX_REASON // len(character.encode()))
            self.assertEqual(cut, character * len(cut))


class Recorder:
    """A connection that notes statements."""

    dialect = DIALECT

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[Any]]] = []

    def run(self, sql: str, parameters: Any = ()) -> int:
        self.seen.append((sql, list(parameters)))
        return sql.count("(?")

    def rows(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        self.seen.append((sql, list(parameters)))
        return [(key,) for key in dict.fromkeys(parameters)]

    def insert_numbered(self, sql: str, parameters: Any, rows: int, column: str) -> list[int]:
        self.seen.append((sql, list(parameters)))
        return list(parameters)


class StatementTests(SynchronousTestCase):
    """Rows are cut up into few statements of few different texts, and none is lost."""

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3 * statements.MAX_ROWS))
    def test_insert(self, rows: int) -> None:
        db = Recorder()
        flat = list(range(2 * rows))
        self.assertEqual(statements.insert(db, "t", ("a", "b"), flat), rows)
        self.assertEqual([value for _, parameters in db.seen for value in parameters], flat)
        for sql, parameters in db.seen:
            self.assertEqual(sql.count("?"), len(parameters))
            self.assertEqual(len(parameters).bit_count(), 1)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3 * statements.MAX_ROWS))
    def test_numbered(self, rows: int) -> None:
        flat = list(range(100, 100 + rows))
        self.assertEqual(statements.insert_numbered(Recorder(), "t", "n", ("a",), flat), flat)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3 * statements.MAX_ROWS))
    def test_lists_of_keys(self, count: int) -> None:
        db = Recorder()
        keys = list(range(count))
        self.assertEqual([key for (key,) in statements.rows_in(db, "k IN ({keys})", (), keys)], keys)
        for sql, parameters in db.seen:
            self.assertEqual(sql.count("?"), len(parameters))
            self.assertEqual(len(parameters).bit_count(), 1)
