"""Requests for files: paths, dates and ranges."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire.filerequest import (
    ContentRange,
    format_date,
    parse_content_range,
    parse_date,
    path,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def as_server_reads(target: str) -> tuple[str, str]:
    """What a server makes of a path: decode it, split it, decode the parts (server-https, section 5)."""
    [empty, files, service, name] = unquote(target, errors="strict").split("/")
    assert (empty, files) == ("", "files")
    return unquote(service, errors="strict"), unquote(name, errors="strict")


class PathTests(SynchronousTestCase):
    def test_plain_names_look_normal(self) -> None:
        self.assertEqual(path("system", "RevokedCertificates"), "/files/system/RevokedCertificates")

    def test_item_66_a_space_and_a_slash_are_escaped_twice(self) -> None:
        self.assertEqual(path("FRR", "a b"), "/files/FRR/a%2520b")
        self.assertEqual(path("FRR", "a/b"), "/files/FRR/a%252Fb")
        self.assertEqual(as_server_reads(path("FRR", "a b/c")), ("FRR", "a b/c"))

    @given(NAMES, NAMES)
    def test_item_66_every_name_comes_back_from_the_servers_double_unescape(self, service: str, name: str) -> None:
        target = path(service, name)
        self.assertEqual(as_server_reads(target), (service, name))
        self.assertTrue(target.isascii())
        self.assertFalse(set(target) & set(" ?#\r\n"))

    def test_what_go_leaves_as_it_is(self) -> None:
        self.assertEqual(path("s", "-_.~$&+=:@"), "/files/s/-_.~$&+=:@")

    def test_names_of_dots_are_no_steps_in_the_path(self) -> None:
        self.assertEqual(path("s", ".."), "/files/s/%252E%252E")
        self.assertEqual(as_server_reads(path("s", "..")), ("s", ".."))


class DateTests(SynchronousTestCase):
    def test_a_date_is_in_gmt(self) -> None:
        self.assertEqual(format_date(1704067200.9), "Mon, 01 Jan 2024 00:00:00 GMT")
        self.assertEqual(parse_date("Mon, 01 Jan 2024 00:00:00 GMT"), 1704067200)

    @given(st.integers(0, 253402300799))
    def test_every_second_comes_back(self, second: int) -> None:
        self.assertEqual(parse_date(format_date(second)), second)

    def test_times_that_no_date_can_say_are_the_nearest_ones(self) -> None:
        self.assertEqual(parse_date(format_date(-5)), 0)
        self.assertEqual(parse_date(format_date(1e18)), 253402300799)

    @given(st.text())
    def test_any_text_is_a_date_or_none(self, text: str) -> None:
        self.assertIsInstance(parse_date(text), int | None)


class ContentRangeTests(SynchronousTestCase):
    def test_all_is_known(self) -> None:
        self.assertEqual(parse_content_range("bytes 2-5/10"), ContentRange(2, 5, 10))

    def test_what_is_refused(self) -> None:
        for text in ("", "bytes */10", "bytes 2-5/*", "bytes 5-2/10", "bytes 2-10/10", "lines 1-2/3", "bytes 1-٣/9"):
            self.assertRaises(ProtocolError, parse_content_range, text)

    @given(st.text())
    def test_any_text_is_a_range_or_one_clear_error(self, text: str) -> None:
        try:
            given = parse_content_range(text)
        except ProtocolError:
            return
        self.assertTrue(given.first <= given.last < given.total)
