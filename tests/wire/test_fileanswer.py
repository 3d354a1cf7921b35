"""Which file, and which part of it: server-https.md 5."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire import filerequest
from fleetspeak.wire.fileanswer import Answer, Asked, answer, parse_path

MODIFIED = 1_700_000_000 * 10**9 + 500_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"
SIZE = 100
ETAG = f'"{MODIFIED:x}-64"'


class PathTests(SynchronousTestCase):
    def test_escapes_are_undone_twice(self) -> None:
        for path, names in (
            (b"/files/system/RevokedCertificates", ("system", "RevokedCertificates")),
            (b"/files/FRR/a%2520b", ("FRR", "a b")),
            (b"/files/FRR/a%252Fb", ("FRR", "a/b")),
            (b"/files/FRR/a%20b", ("FRR", "a b")),
            (b"/files/FRR/a+b", ("FRR", "a+b")),
            (b"files/FRR/", ("FRR", "")),
            (b"/files/FRR/%25C3%25A4", ("FRR", "ä")),
        ):
            self.assertEqual(parse_path(path), names)

    def test_what_is_no_path_of_a_file(self) -> None:
        for path in (b"/files/", b"/files/a", b"/files/a/b/c", b"/files/a/b%2Fc", b"/file/a/b", b"//files/a/b"):
            self.assertIn("unable to parse files URI", str(self.assertRaises(ProtocolError, parse_path, path)))
        for path in (b"/files/a/%", b"/files/a/%2", b"/files/a/%zz", b"/files/a/%25zz", b"/files/a/%FF"):
            self.assertIn("unable to parse path component", str(self.assertRaises(ProtocolError, parse_path, path)))

    @given(st.text(max_size=20), st.text(max_size=20))
    def test_whatever_a_client_asks_for_arrives(self, service: str, name: str) -> None:
        self.assertEqual(parse_path(filerequest.path(service, name).encode()), (service, name))

    @given(st.binary(max_size=40))
    def test_any_bytes(self, path: bytes) -> None:
        try:
            parse_path(b"/files/" + path)
        except ProtocolError as error:
            self.assertTrue(str(error).isascii())


class AnswerTests(SynchronousTestCase):
    def ask(self, size: int = SIZE, **asked: str) -> tuple[int, int, int]:
        found = answer(Asked(**asked), MODIFIED, size)
        return found.status, found.first, found.length

    def header(self, found: Answer, name: str) -> str | None:
        return dict(found.headers).get(name)

    def test_the_whole(self) -> None:
        found = answer(Asked(), MODIFIED, SIZE)
        self.assertEqual(
            found, Answer(200, 0, SIZE, (("Accept-Ranges", "bytes"), ("ETag", ETAG), ("Last-Modified", DATE)))
        )
        self.assertEqual(self.header(answer(Asked(), 0, SIZE), "Last-Modified"), None)

    def test_a_range(self) -> None:
        for text, given_ in (
            ("bytes=0-", (206, 0, 100)),
            ("bytes=40-", (206, 40, 60)),
            ("bytes=40-49", (206, 40, 10)),
            ("bytes=99-1000", (206, 99, 1)),
            ("bytes=-10", (206, 90, 10)),
            ("bytes=-1000", (206, 0, 100)),
            ("bytes=100-", (416, 0, 0)),
            ("bytes=-0", (416, 0, 0)),
            # Not understood, or several: the whole.
            ("bytes=-", (200, 0, 100)),
            ("bytes=5-2", (200, 0, 100)),
            ("bytes=0-1,5-6", (200, 0, 100)),
            ("lines=0-1", (200, 0, 100)),
            ("bytes=" + "9" * 19 + "-", (200, 0, 100)),
        ):
            self.assertEqual(self.ask(range=text), given_, text)
        self.assertEqual(self.header(answer(Asked(range="bytes=40-49"), MODIFIED, SIZE), "Content-Range"),
                         "bytes 40-49/100")  # fmt: skip
        self.assertEqual(self.header(answer(Asked(range="bytes=100-"), MODIFIED, SIZE), "Content-Range"), "bytes */100")
        self.assertEqual(self.ask(0, range="bytes=0-"), (200, 0, 0))

    def test_if_range(self) -> None:
        for validator in (ETAG, DATE):
            self.assertEqual(self.ask(range="bytes=40-", if_range=validator), (206, 40, 60))
        for validator in ('"another"', "W/" + ETAG, EARLIER, LATER, "nonsense"):
            self.assertEqual(self.ask(range="bytes=40-", if_range=validator), (200, 0, 100), validator)

    def test_if_modified_since(self) -> None:
        self.assertEqual(self.ask(if_modified_since=EARLIER)[0], 200)
        for date in (DATE, LATER):
            self.assertEqual(self.ask(if_modified_since=date), (304, 0, 0))
        self.assertEqual(self.ask(if_modified_since="nonsense")[0], 200)
        self.assertEqual(answer(Asked(if_modified_since=LATER), 0, SIZE).status, 200)

    def test_if_unmodified_since(self) -> None:
        self.assertEqual(self.ask(if_unmodified_since=EARLIER), (412, 0, 0))
        for date in (DATE, LATER, "nonsense"):
            self.assertEqual(self.ask(if_unmodified_since=date)[0], 200)

    def test_tags(self) -> None:
        for tags in ("*", ETAG, f'"x", {ETAG}'):
            self.assertEqual(self.ask(if_none_match=tags)[0], 304)
            self.assertEqual(self.ask(if_match=tags)[0], 200)
        self.assertEqual(self.ask(if_none_match='"x"', if_modified_since=LATER)[0], 200)
        self.assertEqual(self.ask(if_match='"x"')[0], 412)

    @given(st.from_regex(r"bytes=[0-9]{0,5}-[0-9]{0,5}", fullmatch=True) | st.text(max_size=20), st.integers(0, 300))
    def test_no_range_leaves_the_file(self, text: str, size: int) -> None:
        found = answer(Asked(range=text), MODIFIED, size)
        self.assertGreaterEqual(found.first, 0)
        self.assertLessEqual(found.first + found.length, size)
        if found.status == 206:
            self.assertEqual(
                filerequest.parse_content_range(self.header(found, "Content-Range") or ""),
                filerequest.ContentRange(found.first, found.first + found.length - 1, size),
            )
