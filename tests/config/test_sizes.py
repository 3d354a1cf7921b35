"""Sizes as people write them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.sizes import parse_size
from fleetspeak.errors import ConfigError


class Sizes(SynchronousTestCase):
    def test_with_and_without_units(self) -> None:
        for text, size in {
            "0": 0,
            "1000": 1000,
            "12b": 12,
            "64MiB": 64 << 20,
            "64 mb": 64 << 20,
            "1k": 1024,
            "1.5G": 3 << 29,
            " 2TiB ": 2 << 40,
        }.items():
            self.assertEqual(size, parse_size(text), text)

    def test_others_are_refused(self) -> None:
        for text in ("", "MiB", "-1", "1 2", "1e9", "64 MiBs", "0x10", "9" * 30, "1iB", "\u0663"):
            self.assertRaises(ConfigError, parse_size, text)
