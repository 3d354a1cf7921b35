from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.addresses import parse_host_port, parse_listen, show
from fleetspeak.errors import ConfigError


class ListenTests(SynchronousTestCase):
    def test_the_usual_forms(self) -> None:
        for text, expected in {
            ":443": ("", 443),
            "localhost:1234": ("localhost", 1234),
            "0.0.0.0:9090": ("0.0.0.0", 9090),
            "[::]:443": ("::", 443),
            "[]:1": ("", 1),
            "127.0.0.1:0": ("127.0.0.1", 0),
        }.items():
            self.assertEqual(parse_listen(text), expected)

    def test_others_say_what_was_expected(self) -> None:
        for text in ("", "443", "localhost", "localhost:", "::1:443", "a:b:1", "host:-1", "host:65536", "host:x"):
            with self.assertRaisesRegex(ConfigError, "address"):
                parse_listen(text)

    @given(st.text(max_size=30))
    def test_any_text_is_an_address_or_one_clear_error(self, text: str) -> None:
        try:
            host, port = parse_listen(text)
        except ConfigError:
            return
        self.assertEqual(parse_listen(show(host, port)), (host, port))


class HostPortTests(SynchronousTestCase):
    def test_the_usual_forms(self) -> None:
        self.assertEqual(parse_host_port("fleet.example:443"), ("fleet.example", 443))
        self.assertEqual(parse_host_port("[2001:db8::1]:443"), ("2001:db8::1", 443))

    def test_host_and_port_are_both_needed(self) -> None:
        with self.assertRaisesRegex(ConfigError, "which host"):
            parse_host_port(":443")
        with self.assertRaisesRegex(ConfigError, "no usable port"):
            parse_host_port("fleet.example:0")
