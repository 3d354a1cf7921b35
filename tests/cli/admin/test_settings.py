"""Options, environment, configuration file; watching; and times."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.admin import program, settings, times
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.output import printable
from fleetspeak.cli.admin.settings import Settings
from fleetspeak.cli.admin.times import Times
from fleetspeak.pb import admin, operator

from .doubles import ToolTestCase, refuse, run_tool


class SettleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def settle(self, *words: str, after: tuple[str, ...] = (), **environment: str) -> Settings:
        flags = settings.flags("")
        first, _ = flags.parse_leading(words)
        second, _ = flags.take_from(after)
        return settings.settle((first, second), {"HOME": str(self.folder), **environment})

    def config(self, text: str) -> str:
        path = self.folder / "admin.toml"
        path.write_text(text)
        return str(path)

    def test_defaults(self) -> None:
        self.assertEqual(self.settle(), Settings(admin_addr="localhost:6061", timeout=30.0))

    def test_what_counts(self) -> None:
        config = self.config('admin_addr = "file:1"\ntimeout = 5\n')
        self.assertEqual(self.settle("--config", config).admin_addr, "file:1")
        self.assertEqual(self.settle(FLEETSPEAK_ADMIN_CONFIG=config).timeout, 5.0)
        variables = {"FLEETSPEAK_ADMIN_CONFIG": config, "FLEETSPEAK_ADMIN_ADDR": "variable:1"}
        self.assertEqual(self.settle(**variables).admin_addr, "variable:1")
        self.assertEqual(self.settle("-admin_addr=flag:1", **variables).admin_addr, "flag:1")
        self.assertEqual(self.settle("-admin_addr=flag:1", after=("--admin-addr", "late:1")).admin_addr, "late:1")

    def test_the_file_at_its_own_place(self) -> None:
        (self.folder / ".config" / "fleetspeak").mkdir(parents=True)
        (self.folder / ".config" / "fleetspeak" / "admin.toml").write_text(
            'tls_ca = "ca.pem"\ntls_cert = "/etc/x.pem"\ntls_key = "/etc/x-key.pem"\nlocal = true\n'
        )
        found = self.settle()
        self.assertEqual(found.tls_ca, self.folder / ".config" / "fleetspeak" / "ca.pem")
        self.assertEqual(found.tls_cert, Path("/etc/x.pem"))
        self.assertTrue(found.local)
        self.assertTrue(found.tls)
        self.assertFalse(self.settle("-tls=false").tls)
        self.assertFalse(self.settle(FLEETSPEAK_ADMIN_TLS="false").tls)

    def test_whatever_names_a_certificate_means_tls(self) -> None:
        self.assertTrue(self.settle("-tls").tls)
        self.assertTrue(self.settle("-tls_ca", "x").tls)
        self.assertTrue(self.settle(FLEETSPEAK_ADMIN_TLS_CA="x").tls)
        self.assertFalse(self.settle("-token_file", "x").tls)

    def test_files_that_cannot_be_used(self) -> None:
        for text, problem in (
            ("admin_addr =", "is not TOML"),
            ('adress = "x"', "no such setting: adress; expected one of admin_addr, tls"),
            ("json = true", "no such setting: json"),
            ('tls = "maybe"', "tls: expected true or false"),
            ("admin_addr = [1]", "admin_addr: expected a text"),
            ('timeout = "soon"', "timeout: a duration is"),
        ):
            with self.assertRaisesRegex(CommandFailed, problem):
                self.settle("--config", self.config(text))
        with self.assertRaisesRegex(CommandFailed, "there is no such file"):
            self.settle("--config=/nowhere")
        with self.assertRaisesRegex(CommandFailed, "Is a directory"):
            self.settle("--config=/")

    def test_values_that_cannot_be_used(self) -> None:
        with self.assertRaisesRegex(CommandFailed, "FLEETSPEAK_ADMIN_TIMEOUT: a duration is"):
            self.settle(FLEETSPEAK_ADMIN_TIMEOUT="x")
        with self.assertRaisesRegex(CommandFailed, "must be more than 0"):
            self.settle("-timeout=0")
        with self.assertRaisesRegex(CommandFailed, "at least 0.1"):
            self.settle("-watch=0")
        outcome = run_tool("-timeout=soon", "listclients")
        self.assertEqual(outcome.status, 2)
        self.assertIn('invalid value "soon" for flag -timeout: a duration is', outcome.err)

    def test_options_behind_the_command(self) -> None:
        flags = settings.flags("")
        values, rest = flags.take_from(
            ["ID", "--json", "-v", "--timeout=3s", "--local=false", "--other", "--", "--json"]
        )
        self.assertEqual((values["json"], values["timeout"], values["local"]), (True, 3.0, False))
        self.assertEqual(rest, ["ID", "-v", "--other", "--", "--json"])


class WatchTests(ToolTestCase):
    def watch(self, rounds: int, *words: str, terminal: bool = False) -> str:
        """Watch until Ctrl-C in the last pause."""
        pauses = [None] * (rounds - 1) + [KeyboardInterrupt]
        with mock.patch.object(program.time, "sleep", side_effect=pauses) as sleep:
            outcome = self.run_tool("--watch", "2", *words, terminal=terminal)
        self.assertEqual(outcome.status, 0, outcome.err)
        self.assertEqual([call.args for call in sleep.call_args_list], [(2.0,)] * rounds)
        self.errors = outcome.err
        return outcome.out

    def test_lists_are_shown_again(self) -> None:
        self.assertEqual(self.watch(3, "listclients"), "\n".join(["No clients found.\n"] * 3))
        self.assertEqual(len(self.server.calls), 3)

    def test_on_a_terminal_each_takes_the_place_of_the_one_before(self) -> None:
        self.assertEqual(self.watch(2, "listclients", terminal=True).count("\033[2J"), 2)

    def test_a_terminal_is_cleared_when_there_is_something_to_show(self) -> None:
        replies = [operator.ListClientsResponse(), None]

        def reply(request: object, context: grpc.ServicerContext) -> object:
            return replies.pop(0) or refuse(grpc.StatusCode.UNAVAILABLE, "going down")(request, context)

        self.server.replies["ListClients"] = reply
        self.assertEqual(self.watch(2, "clients", "list", terminal=True).count("\033[2J"), 1)

    def test_for_programs(self) -> None:
        self.assertEqual(self.watch(2, "messages", "count", "0" * 16, "--json"), '{"pending": 0}\n' * 2)

    def test_a_server_that_is_away_for_a_while(self) -> None:
        replies = [admin.ListClientsResponse(), None, admin.ListClientsResponse()]

        def reply(request: object, context: grpc.ServicerContext) -> object:
            return replies.pop(0) or refuse(grpc.StatusCode.UNAVAILABLE, "going down")(request, context)

        self.server.replies["ListClients"] = reply
        self.assertEqual(self.watch(3, "listclients").count("No clients found."), 2)
        self.assertIn("going down", self.errors)

    def test_what_fails_at_first_fails(self) -> None:
        self.server.replies["ListClients"] = refuse(grpc.StatusCode.UNAVAILABLE, "going down")
        self.assertIn("going down", self.fail_to("--watch=1", "listclients"))

    def test_an_interrupted_command(self) -> None:
        with mock.patch.object(program, "_once", side_effect=KeyboardInterrupt):
            self.assertEqual(self.run_tool("listclients").status, 130)


class TimesTests(SynchronousTestCase):
    NOW = 1_700_000_000.0

    def at(self, text: str) -> float:
        return times.parse(text, self.NOW).ToNanoseconds() / 1e9 - self.NOW

    def test_points_in_time(self) -> None:
        for text, seconds in (
            ("now", 0),
            ("90s", -90),
            ("1h30m", -5400),
            ("7d", -604800),
            ("2023-11-14T22:13:20Z", 0),
            ("2023-11-14 22:13:20.5", 0.5),
            ("2023-11-14T23:13:20+01:00", 0),
            ("2023-11-15", 6400),
        ):
            self.assertEqual(self.at(text), seconds, text)
        self.assertEqual(times.parse("2h", self.NOW, ahead=True).seconds, 1_700_007_200)

    def test_what_is_none(self) -> None:
        for text in ("", "yesterday", "5", "-5s", "1x", "2023-13-01", "99999999d", "9" * 400 + "s"):
            with self.assertRaisesRegex(CommandFailed, "is no time"):
                times.parse(text, self.NOW)

    def test_durations(self) -> None:
        for text, seconds in (("5", 5), ("0.5", 0.5), ("500ms", 0.5), ("1m30s", 90), ("1w", 604800)):
            self.assertEqual(times.parse_duration(text), seconds)
        for text in ("", "-1", "nan", "inf", "1 m", "x", "1e99"):
            with self.assertRaisesRegex(CommandFailed, "is no duration"):
                times.parse_duration(text)

    @given(st.text(max_size=20))
    def test_any_text_is_a_time_or_one_clear_error(self, text: str) -> None:
        for parse in (lambda text: times.parse(text, self.NOW), times.parse_duration):
            try:
                parse(text)
            except CommandFailed as error:
                self.assertIn("is no", str(error))

    def test_forms(self) -> None:
        time = Timestamp(seconds=1_700_000_000, nanos=123_999_000)
        self.assertEqual(Times().upstream(time), "22:13:20.123 2023.11.14")
        self.assertEqual(Times().show(time), "2023-11-14 22:13:20.123Z")
        self.assertEqual(Times().in_full(time), "2023-11-14 22:13:20.123999 +0000 UTC")
        self.assertEqual(Times().in_full(Timestamp(seconds=1)), "1970-01-01 00:00:01 +0000 UTC")
        self.assertEqual(times.as_json(time), "2023-11-14T22:13:20.123999Z")

    def test_local_times(self) -> None:
        moment = Timestamp(seconds=1_700_000_000)
        self.addCleanup(time.tzset)
        with mock.patch.dict("os.environ", TZ="Asia/Kolkata"):
            time.tzset()
            self.assertEqual(Times(local=True).show(moment), "2023-11-15 03:43:20.000+05:30")
            self.assertEqual(Times(local=True).upstream(moment), "03:43:20.000 2023.11.15")
            self.assertEqual(Times(local=True).in_full(moment), "2023-11-15 03:43:20 +0530 IST")
            self.assertEqual(times.as_json(moment), "2023-11-14T22:13:20Z")

    @given(st.integers(), st.integers())
    def test_any_time_of_a_server_is_shown(self, seconds: int, nanos: int) -> None:
        moment = Timestamp(seconds=seconds % (1 << 63) - (1 << 62), nanos=nanos % (1 << 31))
        for local in (False, True):
            self.assertTrue(Times(local).show(moment))
            self.assertTrue(Times(local).upstream(moment))
            self.assertTrue(Times(local).in_full(moment))
        times.as_json(moment)

    @given(st.text())
    def test_nothing_that_a_terminal_obeys_is_printed(self, text: str) -> None:
        self.assertTrue(printable(text).isprintable())
