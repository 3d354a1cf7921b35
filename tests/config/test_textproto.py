"""Unreadable or wrong configuration: file, line, column, what was expected, and never a secret."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import textproto
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client, components, grpcservice, server

SECRET = "MHcCAQEEIMODqzzzzzzzzzzzzz"


class ParseTests(SynchronousTestCase):
    def test_an_any_is_expanded_by_its_type(self) -> None:
        parsed = textproto.parse(
            'services { name: "greeter" factory: "GRPC"\n'
            "  config: { [type.googleapis.com/fleetspeak.grpcservice.Config] "
            '{ target: "localhost:1" insecure: true } } }',
            "services.textproto",
            server.ServerConfig,
        )
        config = grpcservice.Config()
        self.assertTrue(parsed.services[0].config.Unpack(config))
        self.assertEqual((config.target, config.insecure), ("localhost:1", True))

    def test_the_dialects_of_text_format_are_all_read(self) -> None:
        parsed = textproto.parse(
            "# a comment\nadmin_config: < listen_address: 'localhost:' \"9000\" >;\n"
            "stats_config {}, proxy_protocol: true",
            "components",
            components.Config,
        )
        self.assertEqual(parsed.admin_config.listen_address, "localhost:9000")

    def test_unknown_fields_are_passed_over_only_when_asked(self) -> None:
        text = "from_the_future { a: 1 } max_poll_delay_seconds: 7"
        parsed = textproto.parse(text, "f", client.CommunicatorConfig, ignore_unknown=True)
        self.assertEqual(parsed.max_poll_delay_seconds, 7)
        with self.assertRaises(ConfigError):
            textproto.parse(text, "f", client.CommunicatorConfig)


class ErrorTests(SynchronousTestCase):
    def assert_error(self, text: str, expected: str, message_class: type = components.Config) -> None:
        with self.assertRaises(ConfigError) as caught:
            textproto.parse(text, "c.textproto", message_class)
        self.assertEqual(str(caught.exception), expected)

    def test_a_misspelt_field(self) -> None:
        self.assert_error(
            'admin_config {\n  listen_adress: "x"\n}',
            "c.textproto:2:3: fleetspeak.components.AdminConfig has no field listen_adress; expected one of "
            "listen_address; did you mean listen_address?",
        )

    def test_an_unknown_service_type(self) -> None:
        self.assert_error(
            "services {\n config { [type.googleapis.com/grr.Nothing] { a: 1 } } }",
            "c.textproto:2:32: the type grr.Nothing is not known here; check its spelling, and that the package which "
            "brings this service is installed",
            server.ServerConfig,
        )

    def test_a_line_break_inside_a_string(self) -> None:
        self.assert_error(
            'https_config {\n  key: "-----BEGIN\n' + SECRET + '\n"\n}',
            "c.textproto:2:8: the string has no closing quote on its line; put each line in quotes, or write \\n for a "
            "line break",
        )

    def test_a_value_of_another_kind(self) -> None:
        self.assert_error("proxy_protocol: perhaps", "c.textproto:1:17: expected true or false")
        self.assert_error("required_label: 3", "c.textproto:1:17: expected a string in quotes")
        poll = client.CommunicatorConfig
        self.assert_error("max_poll_delay_seconds: often", "c.textproto:1:25: expected an integer", poll)
        self.assert_error(
            "max_poll_delay_seconds: 5000000000",
            "c.textproto:1:25: the number is out of range for this field",
            poll,
        )
        self.assert_error(
            "compression: ZIP",
            "c.textproto:1:14: not a value of fleetspeak.CompressionAlgorithm; expected one of COMPRESSION_NONE, "
            "COMPRESSION_DEFLATE",
            poll,
        )

    def test_a_bracket_too_few_or_too_many(self) -> None:
        self.assert_error("admin_config {", "c.textproto:1:14: expected }")
        self.assert_error(
            "admin_config {}\n}", "c.textproto:2:1: unexpected }; expected a field name, or the end of the file"
        )

    def test_a_field_given_twice(self) -> None:
        self.assert_error(
            'required_label: "a" required_label: "b"', "c.textproto:1:37: required_label is given twice; expected once"
        )

    def test_deep_nesting_is_an_error_too(self) -> None:
        with self.assertRaisesRegex(ConfigError, "nested too deeply"):
            textproto.parse("a {" * 100_000, "f", client.CommunicatorConfig, ignore_unknown=True)

    def test_no_error_quotes_a_key(self) -> None:
        broken = [
            f'https_config {{ key: "-----BEGIN\n{SECRET}" }}',
            f'https_config {{ key: "-----BEGIN" \n{SECRET} }}',
            f"https_config {{ key: {SECRET} }}",
            f"https_config {{ key: '{SECRET} }}",
            f'https_config {{ key: "{SECRET}\\xff" }}',
            f'https_config {{ certificates: "a" "{SECRET}" / }}',
            SECRET,
            f"[{SECRET}]: 1",
        ]
        for text in broken:
            with self.assertRaises(ConfigError) as caught:
                textproto.parse(text, "f", components.Config)
            self.assertNotIn(SECRET[:6], str(caught.exception))

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "https_config",
                    "{",
                    "}",
                    "<",
                    ">",
                    ":",
                    '"x"',
                    "'",
                    "3",
                    "-",
                    "[a.b/c.D]",
                    "[",
                    "]",
                    "key",
                    "\n",
                    "#",
                    ",",
                    "x",
                ]
            )
            | st.text(max_size=3),
            max_size=12,
        ).map(" ".join),
        st.booleans(),
    )
    def test_any_text_is_a_message_or_one_clear_error(self, text: str, ignore_unknown: bool) -> None:
        try:
            textproto.parse(text, "f", components.Config, ignore_unknown=ignore_unknown)
        except ConfigError as error:
            self.assertRegex(str(error), r"\Af:\d+:\d+: .+")


class ReadTests(SynchronousTestCase):
    def _file(self, content: bytes) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return path

    def test_the_files_name_is_in_the_error(self) -> None:
        path = self._file(b"\n\nnope: 1")
        with self.assertRaisesRegex(ConfigError, f"{path}:3:1: "):
            textproto.read(path, components.Config)

    def test_a_file_that_is_not_text(self) -> None:
        path = self._file(b"# fine\n\xff\xfe")
        with self.assertRaisesRegex(ConfigError, f"{path}:2: not UTF-8"):
            textproto.read(path, components.Config)

    def test_a_file_without_end_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "not a configuration file"):
            textproto.read(Path("/dev/zero"), components.Config)

    def test_a_missing_file_stays_an_oserror(self) -> None:
        with self.assertRaises(FileNotFoundError):
            textproto.read(Path(self.mktemp()), components.Config)
