"""What Python writes into a statement, MariaDB reads as the same value."""

from __future__ import annotations

import random
from typing import Any

import pymysql
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.store.sql import literals
from tests.mariadb import the_server

values = st.one_of(
    st.binary(max_size=50),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
)


class LiteralTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = pymysql.connect(unix_socket=str(the_server().socket), user="root", charset="utf8mb4")
        self.addCleanup(self.connection.close)

    def read(self, sql: str, parameters: list[Any]) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(literals.statement(sql, parameters))
        return cursor.fetchall()

    @settings(max_examples=150, deadline=None)
    @given(st.lists(values, min_size=1, max_size=6), st.sampled_from(["", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"]))
    def test_what_is_written_is_read(self, given: list[Any], mode: str) -> None:
        """Whatever the session is set to; nothing can end a literal."""
        self.read(f"SET SESSION sql_mode = '{mode}'", [])
        [row] = self.read("SELECT " + ", ".join(["?"] * len(given)), given)
        self.assertEqual(list(row), given)

    def test_large_values(self) -> None:
        """They take less room, and are the same."""
        for size in (literals.LARGE - 1, literals.LARGE, literals.LARGE + 1, 3_000_001):
            value = random.Random(size).randbytes(size)
            self.assertEqual(self.read("SELECT ?, ?", [value, 1]), ((value, 1),))
        self.assertLess(len(literals.statement("?", [value])), 4_000_100)

    def test_what_no_column_holds(self) -> None:
        for value in (float("nan"), float("inf"), "\ud800"):
            self.assertRaises(literals.Unfit, literals.statement, "?", [value])

    def test_a_wrong_number_of_parameters(self) -> None:
        self.assertRaises(TypeError, literals.statement, "? ?", [1])
