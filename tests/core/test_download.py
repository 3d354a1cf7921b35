"""Fetching a file piece by piece: every answer means one thing, or is refused."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.download import Content, Head, Kept, StartOver, Unchanged, Version, headers, judge
from fleetspeak.errors import FileUnavailable, FleetspeakError, ProtocolError, TooLarge

MODIFIED, DATE = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
SECONDS = 1704067200
VERSION = Version(10, SECONDS, MODIFIED)
KEPT = Kept(VERSION, 4)
WHOLE = Head(200, 10, last_modified=MODIFIED, date=DATE)
REST = Head(206, 6, "bytes 4-9/10", last_modified=MODIFIED, date=DATE)


class AskingTests(SynchronousTestCase):
    def test_the_first_time(self) -> None:
        self.assertEqual(headers(None, None), [])
        self.assertEqual(headers(SECONDS, None), [("If-Modified-Since", MODIFIED)])

    def test_for_the_rest_of_the_same_version(self) -> None:
        self.assertEqual(headers(None, KEPT), [("Range", "bytes=4-"), ("If-Range", MODIFIED)])


class JudgingTests(SynchronousTestCase):
    def test_the_whole(self) -> None:
        self.assertEqual(judge(WHOLE, None, 10), Content(0, VERSION))

    def test_the_rest(self) -> None:
        self.assertEqual(judge(REST, KEPT, 10), Content(4, VERSION))

    def test_a_server_that_does_not_know_ranges_or_has_another_version_begins_anew(self) -> None:
        newer = "Mon, 01 Jan 2024 12:00:00 GMT"
        self.assertEqual(
            judge(replace(WHOLE, last_modified=newer, length=20), KEPT, 20),
            Content(0, Version(20, SECONDS + 12 * 3600, newer)),
        )

    def test_not_newer(self) -> None:
        for kept in (None, KEPT):
            self.assertEqual(judge(Head(304, 0), kept, 10), Unchanged())

    def test_a_range_beyond_the_end(self) -> None:
        self.assertEqual(judge(Head(416, 0, "bytes */3"), KEPT, 10), StartOver())
        self.assertRaises(FileUnavailable, judge, Head(416, 0), None, 10)

    def test_other_statuses(self) -> None:
        for status in (204, 301, 401, 404, 500):
            error = self.assertRaises(FileUnavailable, judge, Head(status, 0), None, 10)
            self.assertEqual((str(error), error.status), (f"failed with http response code: {status}", status))

    def test_parts_that_were_not_asked_for(self) -> None:
        for wrong in (
            replace(REST, content_range="bytes 3-9/10", length=7),
            replace(REST, content_range="bytes 4-8/10", length=5),
            replace(REST, content_range="bytes 4-10/11", length=7),
            replace(REST, content_range=""),
            replace(REST, length=5),
            replace(REST, last_modified=DATE),
        ):
            self.assertRaises(ProtocolError, judge, wrong, KEPT, 100)
        self.assertRaises(ProtocolError, judge, REST, None, 100)

    def test_one_byte_more_than_the_limit(self) -> None:
        self.assertRaises(TooLarge, judge, WHOLE, None, 9)
        self.assertRaises(TooLarge, judge, REST, KEPT, 9)

    def test_an_encoding_that_nobody_asked_for(self) -> None:
        self.assertRaises(ProtocolError, judge, replace(WHOLE, content_encoding="gzip"), None, 10)

    def test_what_can_be_told_from_another_version(self) -> None:
        for head, validator in (
            (replace(WHOLE, etag='"v1"'), '"v1"'),
            (replace(WHOLE, etag='W/"v1"'), MODIFIED),
            (replace(WHOLE, date=MODIFIED), ""),  # it might change again within this second
            (replace(WHOLE, date=""), ""),
            (replace(WHOLE, last_modified=""), ""),
        ):
            verdict = judge(head, None, 10)
            assert isinstance(verdict, Content)
            self.assertEqual(verdict.version.validator, validator)

    @given(
        st.builds(
            Head,
            st.sampled_from([200, 206, 304, 416, 404]),
            st.none() | st.integers(0, 20),
            st.sampled_from(["", "bytes 4-9/10", "bytes 0-9/10", "bytes 4-4/10"]) | st.text(max_size=20),
            st.sampled_from(["", "gzip"]),
            st.sampled_from(["", '"v"', 'W/"v"']),
            st.sampled_from(["", MODIFIED, DATE]) | st.text(max_size=20),
            st.sampled_from(["", DATE]) | st.text(max_size=20),
        ),
        st.none() | st.integers(1, 12).map(lambda size: Kept(VERSION, size)),
    )
    def test_any_answer_continues_what_is_there_or_replaces_it_or_is_refused(
        self, head: Head, kept: Kept | None
    ) -> None:
        try:
            verdict = judge(head, kept, 15)
        except FleetspeakError:
            return
        if isinstance(verdict, Content):
            self.assertIn(verdict.first, (0, kept.size if kept else 0))
            self.assertLessEqual(verdict.version.total or 0, 15)
