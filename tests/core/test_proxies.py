"""client-https 2: which proxy, by configuration and by environment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.proxies import Proxy, environment_proxy, is_exempt, parse_proxy


class UrlTests(SynchronousTestCase):
    def test_what_a_url_says(self) -> None:
        self.assertEqual(parse_proxy("http://proxy.example"), Proxy("http", "proxy.example", 80))
        self.assertEqual(parse_proxy("https://proxy.example"), Proxy("https", "proxy.example", 443))
        self.assertEqual(parse_proxy("socks5://[::1]"), Proxy("socks5", "::1", 1080))
        self.assertEqual(
            parse_proxy("HTTP://us%40er:se%3Asame@Proxy.example:3128/"),
            Proxy("http", "proxy.example", 3128, "us@er", "se:same"),
        )

    def test_a_password_is_never_shown(self) -> None:
        proxy = parse_proxy("http://user:sesame@[2001:db8::1]:3128")
        self.assertEqual(str(proxy), "http://[2001:db8::1]:3128")
        self.assertNotIn("sesame", repr(proxy))
        for broken in ("ftp://user:sesame@h", "http://user:sesame@", "http://user:sesame@h:bad", "http://sesame@h:0"):
            self.assertNotIn("sesame", str(self.assertRaises(ValueError, parse_proxy, broken)))

    @given(st.text(max_size=40))
    def test_any_text_is_a_proxy_or_an_error(self, text: str) -> None:
        for candidate in (text, f"http://{text}"):
            try:
                proxy = parse_proxy(candidate)
            except ValueError:
                continue
            self.assertTrue(proxy.host)
            self.assertTrue(0 < proxy.port < 65536)


class EnvironmentTests(SynchronousTestCase):
    def proxy(self, host: str = "fleet.example", port: int = 443, **environment: str) -> str:
        return str(environment_proxy(environment, host, port))

    def test_either_spelling_and_upper_case_first(self) -> None:
        self.assertEqual(self.proxy(), "None")
        self.assertEqual(self.proxy(https_proxy="http://low:1"), "http://low:1")
        self.assertEqual(self.proxy(https_proxy="http://low:1", HTTPS_PROXY="http://up:2"), "http://up:2")
        self.assertEqual(self.proxy(HTTP_PROXY="http://other:1"), "None")

    def test_a_scheme_may_be_missing_and_socks5h_is_socks5(self) -> None:
        self.assertEqual(self.proxy(HTTPS_PROXY="proxy.example:3128"), "http://proxy.example:3128")
        self.assertEqual(self.proxy(HTTPS_PROXY="socks5h://proxy.example"), "socks5://proxy.example:1080")

    def test_a_broken_one_is_named_and_not_quoted(self) -> None:
        error = self.assertRaises(ValueError, self.proxy, HTTPS_PROXY="ftp://user:sesame@h")
        self.assertIn("HTTPS_PROXY in the environment", str(error))
        self.assertNotIn("sesame", str(error))

    def test_loopback_is_never_reached_through_it(self) -> None:
        for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1"):
            self.assertEqual(self.proxy(host, HTTPS_PROXY="http://proxy:1"), "None", host)

    def test_no_proxy(self) -> None:
        self.assertEqual(self.proxy(HTTPS_PROXY="http://proxy:1", NO_PROXY="fleet.example"), "None")
        self.assertEqual(self.proxy(HTTPS_PROXY="http://proxy:1", no_proxy="fleet.example"), "None")
        self.assertEqual(self.proxy(HTTPS_PROXY="http://proxy:1", NO_PROXY="other.example"), "http://proxy:1")


class ExemptTests(SynchronousTestCase):
    def test_gos_rules(self) -> None:
        for no_proxy, host, port, expected in (
            ("*", "fleet.example", 443, True),
            ("", "fleet.example", 443, False),
            ("example", "fleet.example", 443, True),
            ("fleet.example", "fleet.example", 443, True),
            ("fleet.example", "FLEET.example.", 443, True),
            ("FLEET.EXAMPLE ", "fleet.example", 443, True),
            ("fleet.example", "a.fleet.example", 443, True),
            ("fleet.example", "myfleet.example", 443, False),
            (".fleet.example", "fleet.example", 443, False),
            (".fleet.example", "a.fleet.example", 443, True),
            ("*.fleet.example", "a.fleet.example", 443, True),
            ("*.fleet.example", "fleet.example", 443, False),
            ("fleet.example:443", "fleet.example", 443, True),
            ("fleet.example:443", "fleet.example", 8443, False),
            ("fleet.example:99999999999999999999", "fleet.example", 443, False),
            ("other, fleet.example", "fleet.example", 443, True),
            ("10.0.0.0/8", "10.1.2.3", 443, True),
            ("10.0.0.0/8", "11.1.2.3", 443, False),
            ("10.0.0.0/8", "ten.example", 443, False),
            ("10.1.2.3", "10.1.2.3", 443, True),
            ("10.1.2.3:443", "10.1.2.3", 443, True),
            ("10.1.2.3:444", "10.1.2.3", 443, False),
            ("2001:db8::/32", "2001:db8::1", 443, True),
            ("2001:db8::1", "2001:db8::1", 443, True),
            ("[2001:db8::1]:443", "2001:db8::1", 443, True),
            ("[2001:db8::1]:443", "2001:db8::1", 444, False),
            ("3", "10.1.2.3", 443, False),
        ):
            self.assertIs(is_exempt(no_proxy, host, port), expected, (no_proxy, host, port))

    @given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 65535))
    def test_any_text_has_an_answer(self, no_proxy: str, host: str, port: int) -> None:
        self.assertIsInstance(is_exempt(no_proxy, host, port), bool)
