from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.doctor.findings import Report, failed, ok, skipped, warning


class ReportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.report = Report()
        self.report.add(ok("state", "client 0123"), skipped("proxy", "none", "fleet.example:443"))

    def test_only_failures_count(self) -> None:
        self.assertTrue(self.report.as_text().endswith("\n\nAll checks hold."))
        self.report.add(warning("certificate", "expires", "renew it", "fleet.example:443"))
        self.assertTrue(self.report.holds)
        self.assertTrue(self.report.as_text().endswith("\n\nAll checks hold, 1 warning."))
        self.report.add(failed("tls", "no", "do this", "fleet.example:443"))
        self.assertFalse(self.report.holds)
        self.assertTrue(self.report.as_text().endswith("\n\n1 problem, 1 warning."))

    def test_the_text_is_aligned_and_says_what_is_next(self) -> None:
        self.report.add(failed("name", "gone", "look for it", "fleet.example:443"))
        self.assertEqual(
            self.report.as_text().splitlines(),
            [
                "ok       state  client 0123",
                "",
                "server fleet.example:443",
                "skipped  proxy  none",
                "FAILED   name   gone",
                "                -> look for it",
                "",
                "1 problem.",
            ],
        )

    def test_what_others_said_does_not_steer_the_terminal(self) -> None:
        self.report.add(failed("proxy", "it said \x1b[2J\n\x07", "ask"))
        self.assertTrue(all(line.isprintable() for line in self.report.as_text().splitlines()))

    def test_json(self) -> None:
        self.assertEqual(
            json.loads(self.report.as_json()),
            {
                "ok": True,
                "findings": [
                    {"check": "state", "server": "", "status": "ok", "found": "client 0123", "next": ""},
                    {"check": "proxy", "server": "fleet.example:443", "status": "skipped", "found": "none", "next": ""},
                ],
            },
        )
