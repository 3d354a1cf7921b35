"""Command lines of the Go programs (client-core.md 1, server-core.md 12)."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.goflags import FlagSet


def flags() -> FlagSet:
    made = FlagSet("program", "does things")
    made.string("config", "", "a file")
    made.strings("server", "where to")
    made.boolean("std_forward", "forward")
    made.integer("v", 0, "verbosity")
    return made


class FlagSetTests(SynchronousTestCase):
    def parse(self, *words: str) -> dict[str, Any]:
        return flags().parse(words)

    def refuse(self, *words: str) -> str:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            exited = self.assertRaises(SystemExit, self.parse, *words)
        self.assertEqual(exited.code, 2)
        self.assertIn("Usage of program", printed.getvalue())
        return printed.getvalue().splitlines()[0]

    def test_one_dash_or_two_and_both_forms_of_values(self) -> None:
        for words in (["-config=a"], ["--config=a"], ["-config", "a"], ["--config", "a"]):
            self.assertEqual(self.parse(*words)["config"], "a")
        self.assertEqual(self.parse("-config=a=b")["config"], "a=b")
        self.assertEqual(self.parse("-config", "-v")["config"], "-v")
        self.assertEqual(self.parse("-config=")["config"], "")

    def test_booleans_take_a_value_only_behind_an_equals_sign(self) -> None:
        self.assertIs(self.parse()["std_forward"], False)
        for word in ("-std_forward", "--std_forward=true", "-std_forward=1", "-std-forward=T"):
            self.assertIs(self.parse(word)["std_forward"], True)
        self.assertIs(self.parse("-std_forward=false")["std_forward"], False)
        self.assertIn("unexpected argument: false", self.refuse("-std_forward", "false"))

    def test_the_last_of_several_counts_unless_all_of_them_do(self) -> None:
        self.assertEqual(self.parse("-v=1", "-v", "2")["v"], 2)
        self.assertEqual(self.parse("-server=a", "--server", "b")["server"], ["a", "b"])
        self.assertEqual(self.parse()["server"], [])

    def test_two_dashes_end_the_flags(self) -> None:
        self.assertEqual(self.parse("-v=1", "--")["v"], 1)
        self.assertIn("unexpected argument: -v", self.refuse("--", "-v"))

    def test_what_cannot_be_read_says_so_and_ends_with_2(self) -> None:
        self.assertEqual(self.refuse("-nonsense"), "flag provided but not defined: -nonsense")
        self.assertEqual(self.refuse("-config"), "flag needs an argument: -config")
        self.assertIn('invalid value "x" for flag -v', self.refuse("-v=x"))
        self.assertIn("expected true or false", self.refuse("-std_forward=maybe"))
        self.assertEqual(self.refuse("-"), "unexpected argument: -")

    def test_help_tells_about_all_of_them_and_ends_with_0(self) -> None:
        for word in ("-help", "--help", "-h"):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                self.assertEqual(self.assertRaises(SystemExit, self.parse, word).code, 0)
            for name in ("-config", "-server", "-std_forward", "-v"):
                self.assertIn(name, printed.getvalue())
